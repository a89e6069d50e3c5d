"""Messages as other programs write them: read, or a failure row with its reason; one such row stops nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlaif.audits.gold import read_gold
from rlaif.config.feedback import PromptsSection
from rlaif.config.sources import FileSource, HubSource
from rlaif.errors import DataError
from rlaif.feedback.human import read_human, read_labels
from rlaif.feedback.prompts import PromptSplit, read_demonstrations, read_prompts
from rlaif.formats import HumanFile, HumanHub
from rlaif.formats.sheet import HumanData
from rlaif.records import plain
from rlaif.run_folder import Run

USER = {"role": "user", "content": "Hi?"}
NULLS = {"name": None, "tool_calls": None, "function_call": None, "audio": None, "refusal": None}


def turn(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def parts(*texts: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text, "image_url": None} for text in texts]


READ: dict[str, tuple[list[Any], list[dict[str, str]]]] = {
    "null extras": ([turn("user", "Hi?", **NULLS)], [USER]),
    "extras that say nothing of the text": ([turn("user", "Hi?", name="kim", weight=1, id="m1")], [USER]),
    "an empty list of calls": (
        [USER, turn("assistant", "Ho", tool_calls=[]), USER],
        [USER, turn("assistant", "Ho"), USER],
    ),
    "reasoning beside the text": (
        [USER, turn("assistant", "Ho", reasoning_content="Hm."), USER],
        [USER, turn("assistant", "Ho"), USER],
    ),
    "reasoning as a part": (
        [USER, turn("assistant", [{"type": "thinking", "thinking": "Hm."}, *parts("Ho")]), USER],
        [USER, turn("assistant", "Ho"), USER],
    ),
    "one part": ([turn("user", parts("Hi?"))], [USER]),
    "two parts": ([turn("user", parts("Hi", "you?"))], [turn("user", "Hi\nyou?")]),
    "parts of the responses protocol": ([turn("user", [{"type": "input_text", "text": "Hi?"}])], [USER]),
    "parts that are texts": ([turn("user", ["Hi?"])], [USER]),
    "a developer": ([turn("developer", "Be brief."), USER], [turn("system", "Be brief."), USER]),
}

FAILED: dict[str, tuple[list[Any], str]] = {
    "a tool's turn": ([USER, turn("tool", "4", tool_call_id="c"), USER], "a turn of a tool"),
    "a function's turn": ([USER, turn("function", "4", name="f"), USER], "a turn of a tool"),
    "a call": ([USER, turn("assistant", "", tool_calls=[{"id": "c"}]), USER], "a message calls a tool"),
    "an old call": ([USER, turn("assistant", None, function_call={"name": "f"}), USER], "a message calls a tool"),
    "a picture": (
        [turn("user", [{"type": "image_url", "image_url": {}}, *parts("Hi?")])],
        "a part of a message is no text",
    ),
    "a picture of the hub": ([turn("user", [{"type": "image", "text": None}])], "a part of a message is no text"),
    "a text that is null": ([turn("user", [{"type": "text", "text": None}])], "a part of a message is no text"),
    "no content": ([{"role": "user"}], "a message has no content"),
    "null content": ([turn("user", None)], "a message has no content"),
    "content that is a number": ([turn("user", 3)], "the content of a message is no text"),
    "content that is an object": ([turn("user", {"text": "Hi?"})], "the content of a message is no text"),
    "another role": ([turn("human", "Hi?")], "a message has no known role"),
    "no role": ([{"content": "Hi?"}], "a message has no known role"),
    "a role that is a list": ([turn(["user"], "Hi?")], "a message has no known role"),  # type: ignore[arg-type]
    "no object": (["Hi?"], "a message is no object"),
    "nothing in the list": ([None], "a message is no object"),
}
GOOD = [{"prompt": f"q{i}", "chosen": "x", "rejected": "y"} for i in range(4)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def human(path: Path, *rows: dict[str, Any]) -> HumanData:
    return read_human([HumanFile(path=str(write(path, list(rows))))], Run(path.parent))


def prompts(path: Path, *rows: dict[str, Any], **knobs: Any) -> PromptSplit:
    source = FileSource(path=str(write(path, list(rows))))
    return read_prompts(PromptsSection(sources=(source,), **({"heldout": 1} | knobs)))


def every(split: PromptSplit) -> list[list[dict[str, str]]]:
    return [plain(prompt.messages) for prompt in (*split.train, *split.heldout)]


@pytest.mark.parametrize("name", READ)
def test_messages_that_are_read(tmp_path: Path, name: str) -> None:
    given, meant = READ[name]
    answer = [turn("assistant", parts("x"), **NULLS)]
    beside = {"prompt": given, "chosen": answer, "rejected": [turn("assistant", "y")]}
    inside = {"chosen": given + answer, "rejected": [*given, turn("assistant", "y")]}
    for row in (beside, inside, inside | {"prompt": None}, {**beside, "chosen": answer[0]}):
        data = human(tmp_path / "h.jsonl", row)
        assert (plain(data.judgments[0].pair.prompt), data.judgments[0].p_of("x")) == (meant, 1.0)
    for row in ({"prompt": given}, {"messages": given + answer}, {"prompt": None, "messages": given}):
        assert meant in every(prompts(tmp_path / "p.jsonl", row, *GOOD))
    for row in (beside, inside):
        path = write(tmp_path / "g.jsonl", [row])
        assert plain(read_gold([path]).judgments[0].pair.prompt) == meant
        assert plain(read_labels(path)[0].pair.prompt) == meant
    demonstrations = write(tmp_path / "d.jsonl", [{"prompt": given, "completion": answer}])
    ((shown,), _) = read_demonstrations(FileSource(path=str(demonstrations)), None)
    assert (plain(shown.prompt.messages), shown.text) == (meant, "x")


@pytest.mark.parametrize("name", FAILED)
def test_messages_that_are_failures(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    given, reason = FAILED[name]
    answer = [turn("assistant", "x")]
    for row in (
        {"prompt": given, "chosen": "x", "rejected": "y"},
        {"chosen": given + answer, "rejected": [*given, turn("assistant", "y")]},
    ):
        data = human(tmp_path / "h.jsonl", *GOOD, row)
        assert [(failure.id[-9:], failure.reason) for failure in data.failures] == [("h.jsonl:5", reason)]
        assert (len(data.judgments), data.counts["failed"]) == (4, 1)
        said = " ".join(capsys.readouterr().out.split())
        assert f"human labels: 1 of 5 rows failed: {reason} 1; first: " in said and "h.jsonl:5" in said
        assert len(read_gold([tmp_path / "h.jsonl"]).failures) == 1
        assert len(read_labels(tmp_path / "h.jsonl")) == 4
    for row in ({"prompt": given}, {"messages": given + answer}):
        split = prompts(tmp_path / "p.jsonl", row, *GOOD)
        assert [(failure.id[-9:], failure.reason) for failure in split.failures] == [("p.jsonl:1", reason)]
        assert len(every(split)) == 4


@pytest.mark.parametrize(
    ("side", "reason"),
    [
        (None, "chosen is missing"),
        ([], "chosen does not end with an assistant turn"),
        ([turn("assistant", None)], "a message has no content"),
        ([turn("assistant", [])], "chosen has an empty response"),
    ],
)
def test_a_side_without_a_response_is_a_failure(tmp_path: Path, side: Any, reason: str) -> None:
    data = human(tmp_path / "h.jsonl", *GOOD, {"prompt": "q", "chosen": side, "rejected": "y"})
    assert [failure.reason for failure in data.failures] == [reason]


@pytest.mark.parametrize("end", ["assistant", "developer"])
def test_a_prompt_ends_with_a_user_turn(tmp_path: Path, end: str) -> None:
    row = {"prompt": [USER, turn(end, "Ho")], "chosen": "x", "rejected": "y"}
    for failures in (
        human(tmp_path / "h.jsonl", *GOOD, row).failures,
        prompts(tmp_path / "p.jsonl", *GOOD, row).failures,
    ):
        assert [failure.reason for failure in failures] == ["the prompt does not end with a user turn"]


def test_hub_rows_have_null_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns of structs are padded with nulls."""
    row = {"text": [turn("user", parts("Hi?"), **NULLS)], "chosen": [turn("assistant", "x", **NULLS)], "rejected": None}
    rows = [row, row | {"rejected": [turn("assistant", "y", **NULLS)], "prompt": row["text"]}]
    monkeypatch.setattr("datasets.load_dataset", lambda path, **knobs: [{**one, "prompt": row["text"]} for one in rows])
    data = read_human([HumanHub(dataset="some/set")], Run(Path("none")))
    assert (len(data.judgments), [failure.reason for failure in data.failures]) == (1, ["rejected is missing"])
    other = FileSource(path="everyday", limit=1)
    split = read_prompts(PromptsSection(sources=(HubSource(dataset="some/set", column="text"), other), heldout=1))
    assert [USER] in every(split)


# --------------------------------------------------------------------------------------------- the system turn

SYSTEM = turn("system", "Answer in French.")
TALK = [USER, turn("assistant", "Ho"), turn("user", "Why?")]
X, Y = turn("assistant", "x"), turn("assistant", "y")


def sides(*before: dict[str, Any]) -> dict[str, Any]:
    return {"chosen": [*before, X], "rejected": [*before, Y]}


@pytest.mark.parametrize(
    ("row", "meant"),
    [
        ({"prompt": [SYSTEM, USER], **sides(USER)}, [SYSTEM, USER]),
        ({"prompt": [turn("developer", "Answer in French."), USER], **sides(USER)}, [SYSTEM, USER]),
        ({"prompt": [SYSTEM, USER], **sides(SYSTEM, USER)}, [SYSTEM, USER]),
        ({"prompt": [USER], **sides(SYSTEM, USER)}, [SYSTEM, USER]),
        ({"prompt": "Hi?", **sides(SYSTEM, USER)}, [SYSTEM, USER]),
        ({"prompt": [SYSTEM, *TALK], **sides(TALK[-1])}, [SYSTEM, *TALK]),
        ({"prompt": [SYSTEM, TALK[-1]], **sides(*TALK)}, [SYSTEM, *TALK]),
        ({"prompt": "Hi?", **sides(*TALK)}, TALK),
        ({"prompt": "Hi? ", "system": "Answer in French.", "chosen": "x", "rejected": "y"}, None),
        ({"system": "Answer in French.", **sides(USER)}, [SYSTEM, USER]),
        ({"system_prompt": "Answer in French.", "prompt": "Hi?", **sides(SYSTEM, USER)}, [SYSTEM, USER]),
        ({"system": "", "prompt": "Hi?", **sides(USER)}, [USER]),
        ({"system": None, "prompt": "Hi?", **sides()}, [USER]),
    ],
)
def test_no_turn_of_a_prompt_is_lost(tmp_path: Path, row: dict[str, Any], meant: list[dict[str, str]] | None) -> None:
    (judgment,) = human(tmp_path / "h.jsonl", row).judgments
    assert plain(judgment.pair.prompt) == (meant or [SYSTEM, turn("user", "Hi? ")])
    if meant not in (TALK, [SYSTEM, *TALK]):
        assert plain(judgment.pair.prompt) in every(prompts(tmp_path / "p.jsonl", row, *GOOD))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Ho?", **sides(USER)}, "prompt and conversation disagree"),
        ({"prompt": [SYSTEM, turn("user", "Ho?")], **sides(USER)}, "prompt and conversation disagree"),
        ({"prompt": TALK, **sides(USER)}, "prompt and conversation disagree"),
        ({"prompt": [SYSTEM, USER], **sides(turn("system", "Be brief."), USER)}, "two different system turns"),
        ({"system": "Be brief.", **sides(SYSTEM, USER)}, "two different system turns"),
        ({"prompt": [SYSTEM, USER], "system": "Be brief.", **sides()}, "two different system turns"),
    ],
)
def test_a_prompt_that_disagrees_is_refused(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    data = human(tmp_path / "h.jsonl", *GOOD, row)
    assert [(failure.id[-9:], failure.reason) for failure in data.failures] == [("h.jsonl:5", reason)]


def test_a_prompt_column_stands_where_the_conversation_goes_on(tmp_path: Path) -> None:
    """As data sets of chats have them: `prompt` is the first turn of `messages`, whose system turn comes with it."""
    row = {"prompt": "Hi?", "messages": [SYSTEM, *TALK, X]}
    assert [SYSTEM, USER] in every(prompts(tmp_path / "p.jsonl", row, *GOOD))


# -------------------------------------------------------------------------------------------------- limits


def test_many_rows_that_hold_no_prompt_are_refused(tmp_path: Path) -> None:
    bad = [{"prompt": [turn("tool", "4")]}, {"prompt": " "}, {"prompt": [turn("tool", "5")]}, {"prompt": [None]}]
    with pytest.raises(
        DataError, match=r"prompts: 4 of 6 rows cannot be used \(66.7%, limit 20.0%\): a turn of a tool 2"
    ):
        prompts(tmp_path / "p.jsonl", *bad, *GOOD[:2])
    assert len(prompts(tmp_path / "p.jsonl", *bad, *GOOD[:2], max_failures=0.5).failures) == 4
    with pytest.raises(
        DataError, match=r"prompts: 1 of 3 .*mend the file, name its form, or raise prompts.max_failures$"
    ):
        prompts(tmp_path / "p.jsonl", bad[0], *GOOD[:2], max_failures=0)
