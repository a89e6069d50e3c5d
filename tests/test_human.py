"""Human labels: HH-RLHF transcripts and TRL rows in, judgments and failures with their places out."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rlaif.config.feedback import PromptsSection
from rlaif.config.sources import FileSource
from rlaif.errors import DataError
from rlaif.feedback.human import read_human
from rlaif.feedback.prompts import read_prompts
from rlaif.formats import HumanFile, HumanHub
from rlaif.formats.sheet import HumanData
from rlaif.records import oriented, plain
from rlaif.run_folder import Run
from rlaif.stages.pairs import pairs
from rlaif.testing import small_recipe

NO_RUN = Run(Path("no-run"))
HH_DEV = Path(__file__).parents[2] / "shared" / "data" / "hh_harmless" / "dev.jsonl.gz"
ASK = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant:"
HI_WHY = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Why?"},
]
GOOD = {"chosen": ASK + " Because.", "rejected": ASK + " No."}


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def read(tmp_path: Path, *rows: dict[str, Any], **knobs: Any) -> HumanData:
    path = tmp_path / "h.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_human([HumanFile(path=str(path), **knobs)], NO_RUN)


@pytest.mark.parametrize(
    "row",
    [
        GOOD,
        {"chosen": ASK + "  Because.\n", "rejected": ASK + "No."},
        {"prompt": HI_WHY, "chosen": said("Because."), "rejected": said("No.")},
        {"prompt": HI_WHY, "chosen": "Because.", "rejected": "No."},
        {"prompt": ASK, "chosen": " Because.", "rejected": " No."},
        {"chosen": HI_WHY + said("Because."), "rejected": HI_WHY + said("No.")},
        {"prompt": "Why?", "chosen": HI_WHY + said("Because."), "rejected": HI_WHY + said("No.")},
        {"prompt": "Why?", **GOOD},
    ],
)
def test_formats_give_the_same_pair(tmp_path: Path, row: dict[str, Any]) -> None:
    (judgment,) = read(tmp_path, row).judgments
    (reference,) = read(tmp_path, GOOD).judgments
    assert judgment == reference
    assert plain(judgment.pair.prompt) == HI_WHY
    assert (judgment.source, judgment.annotator, judgment.principles) == ("human", "human", ())
    preferred = judgment.pair.a if judgment.p_a == 1 else judgment.pair.b
    assert preferred == "Because."


BARE = "Human: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant:"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": BARE, "chosen": "Because.", "rejected": "No."},
        {"prompt": "\n" + BARE, "chosen": " Because.", "rejected": "Assistant: No."},
        {"prompt": ASK.replace("\n", "\r\n"), "chosen": "Because.\r\n", "rejected": "No."},
        {"prompt": BARE.replace("\n", "\r\n"), "chosen": "\r\n\r\nAssistant: Because.", "rejected": "No."},
        {"prompt": ASK, "chosen": "\n\nAssistant: Because.", "rejected": "\n\nAssistant: No."},
        {"prompt": HI_WHY, "chosen": "\n\nAssistant: Because.", "rejected": "No."},
        {"prompt": BARE, "chosen": BARE + " Because.", "rejected": BARE + " No."},
        {key: (text + "\n").replace("\n", "\r\n") for key, text in GOOD.items()},
    ],
)
def test_transcripts_with_other_line_breaks(tmp_path: Path, row: dict[str, Any]) -> None:
    (judgment,) = read(tmp_path, row).judgments
    assert judgment == read(tmp_path, GOOD).judgments[0]


@pytest.mark.parametrize("prompt", ["Human: what is it?", "Humans\n\nAssistant: x", "Say \n\nHuman: a\n\nAssistant: b"])
def test_what_only_looks_like_a_transcript_is_one_turn(tmp_path: Path, prompt: str) -> None:
    (judgment,) = read(tmp_path, {"prompt": prompt, "chosen": "x", "rejected": "Assistant: y"}).judgments
    assert plain(judgment.pair.prompt) == [{"role": "user", "content": prompt}]
    assert {judgment.pair.a, judgment.pair.b} == {"x", "Assistant: y"}


@pytest.mark.parametrize(
    "key", ["system", "System", "system_prompt", "systemPrompt", "system_message", "System Message"]
)
@pytest.mark.parametrize("value", ["Be brief.", ["Be brief."], [{"role": "system", "content": "Be brief."}]])
def test_a_system_turn_under_any_spelling(tmp_path: Path, key: str, value: Any) -> None:
    (judgment,) = read(tmp_path, {"prompt": "q", "chosen": "x", "rejected": "y", key: value}).judgments
    assert [message.content for message in judgment.pair.prompt] == ["Be brief.", "q"]


def test_a_system_turn_that_is_none_and_two_that_disagree(tmp_path: Path) -> None:
    row = {"prompt": "q", "chosen": "x", "rejected": "y"}
    assert [
        len(one.pair.prompt) for one in read(tmp_path, *(row | {"system": none} for none in (None, " ", []))).judgments
    ]
    for wrong in (3, ["a", "b"], {"text": "a"}):
        with pytest.raises(DataError, match=r"h.jsonl:1: system: must be a text, the system turn \(got "):
            read(tmp_path, row | {"system": wrong})
    (failure,) = read(tmp_path, row, row | {"system": "a", "system_prompt": "b"}).failures
    assert failure.reason == "two different system turns"


def test_a_is_not_always_the_chosen_one_and_the_label_follows_the_text(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(40)]
    right = read(tmp_path, *rows).judgments
    swapped = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    wrong = read(tmp_path, *swapped).judgments
    assert {judgment.p_a for judgment in right} == {0.0, 1.0}
    assert [judgment.pair for judgment in right] == [judgment.pair for judgment in wrong]
    assert [judgment.p_a for judgment in right] == [1 - judgment.p_a for judgment in wrong]


def test_tags(tmp_path: Path) -> None:
    (judgment,) = read(tmp_path, {**GOOD, "tags": ["x"]}, tags=("harmful",)).judgments
    assert judgment.pair.tags == ("x", "harmful")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": ASK + " x", "rejected": "\n\nHuman: Other\n\nAssistant: y"}, "different prompts"),
        ({"chosen": ASK + " x", "rejected": ASK + " x  "}, "the same text"),
        ({"chosen": ASK + " ", "rejected": ASK + " x"}, "chosen has an empty response"),
        ({"chosen": ASK + " x", "rejected": ASK}, "rejected has an empty response"),
        (
            {"chosen": ASK + " x\n\nHuman: ok", "rejected": ASK + " y"},
            "chosen does not end with an assistant turn",
        ),
        ({"chosen": "\n\nHuman: \n\nAssistant: x", "rejected": "\n\nHuman: \n\nAssistant: y"}, "blank turn"),
        ({"chosen": "x", "rejected": "y"}, "not a Human/Assistant transcript"),
        ({"chosen": [], "rejected": []}, "chosen does not end with an assistant turn"),
        ({"prompt": "q", "chosen": said("x") + said("y"), "rejected": said("z")}, "two assistant turns"),
        ({"prompt": "q", "chosen": "x", "rejected": "y", "source": "ai"}, "labelled by a judge"),
    ],
)
def test_rows_that_are_no_pair_are_failures(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    data = read(tmp_path, GOOD, row, GOOD)
    assert len(data.judgments) == 2
    (failure,) = data.failures
    assert failure.stage == "human"
    assert failure.id.endswith("h.jsonl:2")
    assert reason in failure.reason


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"chossen": "x", "rejected": "y"}, r"h.jsonl:2: no key 'chosen'; did you mean 'chossen'\?"),
        ({"chosen": ASK + " x"}, r"h.jsonl:2: no key 'rejected'"),
        ({"chosen": 1, "rejected": 2}, r"h.jsonl:2: chosen.*\(got 1\)"),
        ({**GOOD, "p_chosen": 0.2}, r"h.jsonl:2: p_chosen: must be from 0.5 to 1 \(got 0.2\)"),
    ],
)
def test_rows_of_another_shape_stop_the_run(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, GOOD, row)


def test_no_usable_pair_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not one usable pair: .*h.jsonl:1: not a Human/Assistant transcript"):
        read(tmp_path, {"chosen": "x", "rejected": "y"})
    with pytest.raises(DataError, match="the sources are empty"):
        read(tmp_path)


def test_turns_of_one_speaker_in_a_row_are_one_message(tmp_path: Path) -> None:
    """As HH-RLHF has them: two Human turns in the prompt, a response in two Assistant turns."""
    prompt = "\n\nHuman: Find a key.\n\nHuman: Please.\n\nAssistant: "
    row = {"chosen": prompt + "Here:\n\nAssistant:  Let me see.", "rejected": prompt + "A what?"}
    (judgment,) = read(tmp_path, row).judgments
    assert plain(judgment.pair.prompt) == [{"role": "user", "content": "Find a key.\n\nPlease."}]
    assert {judgment.pair.a, judgment.pair.b} == {"Here:\n\nLet me see.", "A what?"}


def test_a_kept_tie_of_ours_stays_a_tie(tmp_path: Path) -> None:
    (judgment,) = read(tmp_path, {**GOOD, "p_chosen": 0.5, "source": "human"}).judgments
    assert judgment.p_a == 0.5


def test_hub_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.load_dataset", lambda path, **knobs: [GOOD, {**GOOD, "chosen": ASK}, GOOD])
    data = read_human([HumanHub(dataset="some/hh", data_dir="harmless-base", tags=("h",), limit=2)], NO_RUN)
    assert [judgment.pair.tags for judgment in data.judgments] == [("h",)]
    assert [failure.id for failure in data.failures] == ["some/hh [train] row 1"]


def test_a_system_turn_makes_them_the_pairs_that_the_judge_sees(tmp_path: Path) -> None:
    """Same id as the pair of the policy's prompt, so that both labels of one pair meet, and the bare prompt's id."""
    rows = [{"prompt": f"q{i}", "chosen": "yes", "rejected": "no"} for i in range(2)]
    (tmp_path / "h.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = FileSource(path=str(tmp_path / "h.jsonl"))
    as_human = HumanFile(path=source.path)
    split = read_prompts(PromptsSection(sources=(source,), heldout=1, system="Be brief."))
    prompts = {prompt.id: prompt for prompt in (*split.train, *split.heldout)}
    judgments = read_human([as_human], NO_RUN, "Be brief.").judgments
    assert [j.pair for j in judgments] == [oriented(prompts[j.pair.prompt_id], "yes", "no") for j in judgments]
    assert [j.pair.prompt[0].role for j in judgments] == ["system", "system"]
    bare = read_human([as_human], NO_RUN).judgments
    assert [j.pair.prompt_id for j in bare] == [j.pair.prompt_id for j in judgments]
    own = {"prompt": [{"role": "system", "content": "Own."}, {"role": "user", "content": "q"}]}
    (tmp_path / "h.jsonl").write_text(json.dumps({**own, "chosen": "yes", "rejected": "no"}))
    (judgment,) = read_human([as_human], NO_RUN, "Be brief.").judgments
    assert [m.content for m in judgment.pair.prompt] == ["Own.", "q"]


def test_a_file_may_lie_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "h.jsonl").write_text(json.dumps(GOOD))
    assert len(read_human([HumanFile(path="~/h.jsonl")], NO_RUN).judgments) == 1


def labelled(
    tmp_path: Path, rows: list[dict[str, Any]], filters: Any = None, **preferences: Any
) -> tuple[dict[str, Any], Run]:
    """The stage pairs on these rows of people's."""
    path = tmp_path / "human.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    labels = {"kind": "human", "human_data": [{"kind": "file", "path": str(path)}]}
    recipe = small_recipe(tmp_path, "none", 8, prompts__heldout=2, preferences={"labels": labels} | preferences)
    if filters:
        recipe = type(recipe).model_validate(
            recipe.model_dump(mode="json") | {"prompts": recipe.prompts.model_dump(mode="json") | {"filters": filters}}
        )
    run = Run(tmp_path / "run")
    return pairs(recipe, run), run


def test_labels_of_what_overlaps_with_the_held_out_prompts_are_left_out_where_it_is_asked_for(tmp_path: Path) -> None:
    rows = [{"prompt": f"Say: {i}!", "chosen": "x", "rejected": "y"} for i in range(8)]
    assert "human_heldout" not in labelled(tmp_path, rows)[0]
    facts, run = labelled(tmp_path, rows, {"decontaminate": {}})
    assert (facts["human_heldout"], facts["rows"]) == (2, 6)
    read = read_prompts(PromptsSection(sources=(FileSource(path=str(tmp_path / "prompts.jsonl")),), heldout=2))
    left = {prompt.messages[-1].content.replace(" ", ": ") + "!" for prompt in read.train}
    assert {row["prompt"][-1]["content"] for row in map(json.loads, run.preferences.read_text().splitlines())} == left


def test_failures_are_counted_by_cause_and_have_a_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = [{"prompt": f"Tell {i}", "chosen": "x", "rejected": "y"} for i in range(8)]
    same = {"prompt": "q", "chosen": "x", "rejected": "x"}
    worse = {"prompt": "q", "chosen": "x", "rejected": "y", "score_chosen": 1, "score_rejected": 2}
    heldout = [{"prompt": f"Say {i}", "chosen": "x", "rejected": "y"} for i in range(8)]
    facts, run = labelled(tmp_path, [*good, same, worse, same, *heldout])
    assert {name: value for name, value in facts.items() if name.startswith("human_")} == {
        "human_rows": 19,
        "human_failed": 3,
        "human_heldout": 2,
        "human_failures": {
            "chosen and rejected are the same text": 2,
            "the row's own figures say that rejected is better": 1,
        },
    }
    assert facts["rows"] == 14
    said = " ".join(capsys.readouterr().out.split())
    assert "human labels: 3 of 19 rows failed: chosen and rejected are the same text 2, the row's own" in said
    message = "human labels: 9 of 11 rows cannot be used .81.8%, limit 20.0%.: chosen and rejected are the same text 9"
    with pytest.raises(DataError, match=message):
        labelled(tmp_path, [*good[:2], *[same] * 9])
    assert len(run.human_failures.read_text().splitlines()) == 9, "on disk before the limit"
    assert labelled(tmp_path, [*good[:2], *[same] * 9], max_human_failures=1)[0]["rows"] == 2
    with pytest.raises(DataError, match=r"1 of 9 rows .*limit 0.0%.*raise preferences.max_human_failures$"):
        labelled(tmp_path, [*good, same], max_human_failures=0)


def test_gold_questions_have_the_same_limit(tmp_path: Path) -> None:
    bad = [{"prompt": "q", "chosen": "x", "rejected": "x"}] * 9 + [{"prompt": "Tell", "chosen": "x", "rejected": "y"}]
    (tmp_path / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bad))
    gold = {"gold": [{"kind": "file", "path": str(tmp_path / "gold.jsonl")}]}
    with pytest.raises(DataError, match="human labels: 9 of 10 rows cannot be used"):
        labelled(tmp_path, [{"prompt": "Tell", "chosen": "x", "rejected": "y"}], annotators=gold)


@pytest.mark.skipif(not HH_DEV.exists(), reason="the shared HH-RLHF sample is not beside this checkout")
def test_real_rows() -> None:
    """1,500 rows: all become pairs but two whose response is blank, and turns alternate in every prompt."""
    data = read_human([HumanFile(path=str(HH_DEV))], NO_RUN)
    assert Counter(failure.reason.partition(" ")[2] for failure in data.failures) == {"has an empty response": 2}
    assert len(data.judgments) == 1498
    assert 0.45 < sum(judgment.p_a for judgment in data.judgments) / len(data.judgments) < 0.55
    with gzip.open(HH_DEV, "rt") as file:
        first = json.loads(file.readline())
    judgment = data.judgments[0]
    chosen = judgment.pair.a if judgment.p_a == 1 else judgment.pair.b
    assert first["chosen"].endswith("Assistant: " + chosen)
    for judgment in data.judgments:
        roles = [message.role for message in judgment.pair.prompt]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
