"""Published data sets and the general column map: golden rows, exchanged sides, odd inputs, one door for all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from rlaif.audits.gold import read_gold
from rlaif.errors import DataError
from rlaif.feedback.human import read_human, read_labels
from rlaif.formats import AnyForm, Form, HumanFile
from rlaif.formats.datasets import DATASETS
from rlaif.formats.sheet import HumanData
from rlaif.run_folder import Run

FORM: TypeAdapter[Form] = TypeAdapter(Form)


def file(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def guessed(tmp_path: Path, *rows: dict[str, Any]) -> HumanData:
    return read_human([AnyForm(path=file(tmp_path / "f.jsonl", list(rows)))], Run(tmp_path))


def mapped(tmp_path: Path, *rows: dict[str, Any], **form: Any) -> HumanData:
    read = FORM.validate_python({"kind": "columns", **form})
    return read_human([HumanFile(path=file(tmp_path / "f.jsonl", list(rows)), form=read)], Run(tmp_path))


def talk(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def reply(text: str, rank: int | None, *replies: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"text": text, "role": "assistant", "rank": rank, "replies": list(replies), **more}


def asked(text: str, *replies: dict[str, Any]) -> dict[str, Any]:
    return {"text": text, "role": "prompter", "replies": list(replies)}


def arena(a: list[str], b: list[str], winner: str, **more: Any) -> dict[str, Any]:
    return {"conversation_a": talk(*a), "conversation_b": talk(*b), "winner": winner, "judge": "kim", **more}


WON = {"winner_model_a": 0, "winner_model_b": 0, "winner_tie": 0}
# By data set: a row, whether x (1), y (0) or neither is the better one, and the prompt's last turn.
ROWS: dict[str, tuple[dict[str, Any], float, str]] = {
    "helpsteer2_preference": (
        {
            "prompt": "Hi<extra_id_1>Assistant\nHello.<extra_id_1>User\nWhy?",
            "response_1": "x",
            "response_2": "y",
            "preference_strength": 2,
        },
        1 / 6,
        "Why?",
    ),
    "helpsteer3": (
        {"context": talk("Why?"), "response1": "x", "response2": "y", "overall_preference": -3},
        1,
        "Why?",
    ),
    "pku_saferlhf": (
        {"prompt": "Why?", "response_0": "x", "response_1": "y", "better_response_id": 1, "safer_response_id": 0},
        0,
        "Why?",
    ),
    "nectar": (
        {
            "prompt": "\n\nHuman: Why?\n\nAssistant: ",
            "answers": [{"answer": "y", "rank": 4.0, "model": "m"}, {"answer": "x", "rank": 2.0, "model": "n"}],
        },
        1,
        "Why?",
    ),
    "arena": (arena(["Why?", "x"], ["Why?", "y"], "tie (bothbad)", turn=1), 0.5, "Why?"),
    "arena_55k": (
        {"prompt": '["Why?"]', "response_a": '["x"]', "response_b": '["y"]', **WON, "winner_model_b": 1},
        0,
        "Why?",
    ),
    "alpaca_eval": (
        {"instruction": "Why?", "output_1": "x", "output_2": "y", "preference": 1.25, "annotator": "gpt"},
        0.75,
        "Why?",
    ),
    "oasst": (
        {"message_tree_id": "t", "prompt": asked("Why?", reply("y", 2), reply("x", 0), reply("z", None))},
        1,
        "Why?",
    ),
    "webgpt": (
        {"question": {"full_text": "Why?"}, "answer_0": "x", "score_0": -0.5, "answer_1": "y", "score_1": 0.5},
        0.25,
        "Why?",
    ),
    "summarize_from_feedback": (
        {
            "info": {"post": "Long.", "title": "T", "subreddit": "s", "article": None},
            "summaries": [{"text": " x"}, {"text": " y"}],
            "choice": 0,
            "worker": "w",
        },
        1,
        "SUBREDDIT: r/s\n\nTITLE: T\n\nPOST: Long.\n\nTL;DR:",
    ),
    "stack_exchange_paired": ({"question": "Why?", "response_j": "x", "response_k": "y"}, 1, "Why?"),
    "label_studio_min": (
        {
            "prompt": "Why?",
            "text1": "x",
            "text2": "y",
            "pw": [{"selected": "right"}],
            "annotation_id": 3,
            "annotator": 7,
            "lead_time": 1.5,
        },
        0,
        "Why?",
    ),
    "nemo_rl": (
        {
            "context": talk("Why?"),
            "completions": [{"rank": rank, "completion": [talk("", text)[1]]} for rank, text in ((1, "y"), (0, "x"))],
        },
        1,
        "Why?",
    ),
}
COMPARED = {
    "orca": {"system": "Be kind.", "question": "Why?", "chosen": "x", "rejected": "y"},
    "alpaca": {"instruction": "Why?", "input": "", "chosen": "x", "rejected": "y"},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "Why?"}],
        "chosen": {"from": "gpt", "value": "x"},
        "rejected": {"from": "gpt", "value": "y"},
    },
    "rewardbench 2": {"prompt": "Why?", "chosen": ["x"], "rejected": ["y"], "num_correct": 1},
}


def exchanged(value: Any) -> Any:
    """The same row with x and y in each other's place."""
    if isinstance(value, dict):
        return {key: exchanged(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [exchanged(inner) for inner in value]
    swap = {"x": "y", "y": "x", " x": " y", " y": " x", '["x"]': '["y"]', '["y"]': '["x"]'}
    return swap.get(value, value) if isinstance(value, str) else value


@pytest.mark.parametrize("name", ROWS)
def test_a_data_set_is_told_by_its_columns(name: str, tmp_path: Path) -> None:
    row, p_x, prompt = ROWS[name]
    (judgment,) = (data := guessed(tmp_path, row)).judgments
    assert (judgment.pair.prompt[-1].content, judgment.p_of("x")) == (prompt, pytest.approx(p_x))
    assert not data.failures
    (other,) = guessed(tmp_path, exchanged(row)).judgments
    assert other.p_of("y") == pytest.approx(p_x) and other.pair.id == judgment.pair.id
    source = HumanFile(path=str(tmp_path / "f.jsonl"), form=FORM.validate_python({"kind": "dataset", "name": name}))
    assert read_human([source], Run(tmp_path)).judgments == [other]
    assert read_gold([tmp_path / "f.jsonl"]).judgments[0].p_a == other.p_a
    assert read_labels(tmp_path / "f.jsonl") == [other]


def test_every_data_set_of_the_table_has_a_row_here() -> None:
    assert {*ROWS, "helpsteer"} == DATASETS.keys()


@pytest.mark.parametrize("name", COMPARED)
def test_comparisons_know_the_prompt_by_its_other_names(name: str, tmp_path: Path) -> None:
    source = HumanFile(path=file(tmp_path / "f.jsonl", [COMPARED[name]]))
    (judgment,) = read_human([source], Run(tmp_path)).judgments
    assert (judgment.pair.prompt[-1].content, judgment.p_of("x")) == ("Why?", 1)
    assert len(judgment.pair.prompt) == (2 if name == "orca" else 1)


def test_helpsteer_is_gold(tmp_path: Path) -> None:
    rows = [
        {"prompt": "q", "response": text, "helpfulness": mark, "correctness": 1, "coherence": 1, "verbosity": 0}
        for text, mark in (("x", 4), ("y", 0), ("z", 0))
    ]
    assert sorted(judgment.p_of("x") for judgment in guessed(tmp_path, *rows).judgments) == [1, 1]


def test_who_answered_is_kept(tmp_path: Path) -> None:
    names = {"nectar": "gpt-4", "arena": "kim", "alpaca_eval": "gpt", "summarize_from_feedback": "w"}
    for name, who in {**names, "label_studio_min": "7"}.items():
        assert guessed(tmp_path, ROWS[name][0]).judgments[0].annotator == who
    listed = arena(["q", "x"], ["q", "y"], "model_a", judge=["gpt-4", "pair"])
    assert guessed(tmp_path, listed | {"judge": ["gpt-4", "pair"]}).judgments[0].annotator == "gpt-4 pair"


def test_several_answers_are_all_pairs(tmp_path: Path) -> None:
    both = {"prompt": "q", "chosen": ["x", "y"], "rejected": ["u", "v", "w"]}
    assert len(guessed(tmp_path, both).judgments) == 6
    tree = asked(
        "q", reply("x", 1, asked("r", reply("u", 0), reply("v", 1, deleted=True), reply("w", 2))), reply("y", 0)
    )
    data = guessed(tmp_path, {"message_tree_id": "t", "prompt": tree})
    assert [len(judgment.pair.prompt) for judgment in data.judgments] == [1, 3]
    assert data.judgments[1].p_of("u") == 1


def test_conversations_that_had_parted_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        arena(["q", "x", "r", "u"], ["q", "y", "r", "v"], "model_a", turn=1),
        arena(["q", "x", "r", "u"], ["q", "y", "r", "v"], "model_b", turn=2),
        arena(["q", "x", "r", "u"], ["q", "x", "r", "v"], "model_b"),
    ]
    data = guessed(tmp_path, *rows)
    assert [len(judgment.pair.prompt) for judgment in data.judgments] == [1, 3]
    assert data.counts == {"rows": 3, "diverged": 1} and not data.failures
    assert "1 rows compare conversations that had parted" in capsys.readouterr().out


BASE = {"prompt": "q", "response_a": "x", "response_b": "y"}


@pytest.mark.parametrize(
    ("form", "label", "p"),
    [
        ({}, "a", 1),
        ({}, " Tie ", 0.5),
        ({}, "response_b", 0),
        ({"values": {"L": "a", "R": "b"}}, "r", 0),
        ({"values": {"1": "a", "2": "b"}}, 2, 0),
        ({"values": {"true": "a", "false": "b"}}, True, 1),
        ({"scale": [-3, 3]}, -3, 1),
        ({"scale": [3, -3]}, 3, 1),
        ({"scale": [-3, 3]}, 0, 0.5),
        ({"scale": [1, 7]}, "7", 0),
        ({"scale": [0, 100]}, 25, 0.75),
    ],
)
def test_a_label_means_what_the_form_says(form: dict[str, Any], label: Any, p: float, tmp_path: Path) -> None:
    (judgment,) = mapped(tmp_path, BASE | {"label": label}, **form).judgments
    assert judgment.p_of("x") == pytest.approx(p)
    (other,) = mapped(tmp_path, BASE | {"response_a": "y", "response_b": "x", "label": label}, **form).judgments
    assert other.p_of("y") == pytest.approx(p)


def test_columns_lie_inside_others_and_labels_in_several(tmp_path: Path) -> None:
    row = {"q": {"text": "Why?"}, "answers": [{"t": "x"}, {"t": "y"}], "l": 0, "r": 0, "even": 1, "who": {"id": 3}}
    names = {"prompt": "q.text", "response_a": "answers.0.t", "response_b": "answers.1.t", "annotator": "who.id"}
    label = {"l": "a", "r": "b", "even": "tie"}
    (judgment,) = mapped(tmp_path, row, **names, label=label).judgments
    assert (judgment.p_a, judgment.annotator, judgment.pair.prompt[0].content) == (0.5, "3", "Why?")
    for marks, reason in (({"l": 1}, "contradict"), ({"even": 0}, "none of the label's columns is 1")):
        data = HumanData.empty()
        with pytest.raises(DataError, match=reason):
            data = mapped(tmp_path, row | marks, **names, label=label)
        assert not data.judgments


@pytest.mark.parametrize(
    ("form", "label", "message"),
    [
        ({}, "c", r"f.jsonl:2: label: must be one of a, b, tie, response_a, response_b \(got c\): off the scale; say "),
        ({}, 1, r"f.jsonl:2: label: must be one of"),
        ({"scale": [-3, 3]}, 4, r"f.jsonl:2: label: must be a number from -3 to 3 \(got 4\): .*from -3 to 4: declare"),
        ({"scale": [-3, 3], "whole": True}, 1.5, r"f.jsonl:2: label: must be a point from -3 to 3"),
        ({"scale": [-3, 3]}, "high", r"f.jsonl:2: label: must be a number \(got"),
        ({"scale": [-3, 3]}, float("nan"), r"f.jsonl:2: label: must be a number"),
        ({"scale": [-3, 3]}, True, r"f.jsonl:2: label: must be a number"),
        ({"label": "lable"}, "a", r"f.jsonl:1: no key 'lable'; did you mean 'label'"),
        ({"prompt": "prompt.text"}, "a", r"f.jsonl:1: no key 'prompt.text'"),
        ({"response_a": "response_a.9"}, "a", r"f.jsonl:1: no key 'response_a.9'"),
    ],
)
def test_what_means_nothing_is_one_line_with_its_place(
    form: dict[str, Any], label: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        mapped(tmp_path, BASE | {"label": -3 if "scale" in form else "a"}, BASE | {"label": label}, **form)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label", [None, "", "  "])
def test_a_missing_label_is_a_failure(label: Any, tmp_path: Path) -> None:
    data = mapped(tmp_path, BASE | {"label": "a"}, BASE | {"label": label})
    assert [failure.reason for failure in data.failures] == ["label is missing"] and len(data.judgments) == 1


@pytest.mark.parametrize(
    ("figures", "reason"), [({"score_a": 1, "score_b": 5}, "own figures"), ({"winner": "b"}, "own figures")]
)
def test_figures_that_contradict_the_label_are_a_failure(figures: dict[str, Any], reason: str, tmp_path: Path) -> None:
    data = mapped(tmp_path, BASE | {"label": "a"}, BASE | {"label": "a"} | figures)
    assert len(data.judgments) == 1 and reason in data.failures[0].reason


def test_csv_and_empty_cells(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("prompt,left,right,vote\nq,x,y,2\nr,x,y,\n")
    form = {"kind": "columns", "response_a": "left", "response_b": "right", "label": "vote", "scale": [1, 2]}
    source = HumanFile(path=str(tmp_path / "f.csv"), form=FORM.validate_python(form))
    data = read_human([source], Run(tmp_path))
    assert [judgment.p_of("x") for judgment in data.judgments] == [0]
    assert [failure.reason for failure in data.failures] == ["vote is missing"]
    columns = [*WON, "prompt", "response_a", "response_b"]
    cells = '0,1,0,"[""Why?"", ""And?""]","[""s"", ""x""]","[""s"", ""y""]"'
    (tmp_path / "train.csv").write_text(f"{','.join(columns)}\n{cells}\n")
    (judgment,) = read_human([AnyForm(path=str(tmp_path / "train.csv"))], Run(tmp_path)).judgments
    assert (judgment.p_of("x"), len(judgment.pair.prompt)) == (0, 3)


@pytest.mark.parametrize(
    "form",
    [
        {"scale": [1, 1]},
        {"scale": [1, 2], "values": {"l": "a"}},
        {"scale": [1, 2], "label": None},
        {"values": {"l": "a"}, "label": {"x": "a"}},
        {"values": {"l": "left"}},
        {"response_a": "r", "response_b": "r"},
    ],
)
def test_a_map_that_says_two_things_is_refused(form: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FORM.validate_python({"kind": "columns", **form})


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("helpsteer3", {"overall_preference": None}, "overall_preference is missing"),
        ("nectar", {"answers": "x"}, "answers is no list of objects"),
        ("nectar", {"answers": [{"answer": "x", "rank": "first"}]}, "a rank is no whole number"),
        ("nectar", {"answers": [{"answer": "x", "rank": 1.5}, {"answer": "y", "rank": 2}]}, "no whole number"),
        ("nectar", {"answers": [{"answer": "x", "rank": True}, {"answer": "y", "rank": 2}]}, "no whole number"),
        ("nectar", {"answers": [{"answer": "x", "rank": -1}, {"answer": "y", "rank": 2}]}, "no whole number"),
        ("arena", {"conversation_a": talk("Why?")}, "conversation_a does not end with an assistant turn"),
        ("arena", {"conversation_a": [{"role": "tool", "content": "4"}]}, "a turn of a tool"),
        ("arena_55k", {"response_a": '["\\ud800"]'}, "half of a surrogate pair"),
        ("arena_55k", {"response_a": '["x", "z"]'}, "not equally many"),
        ("arena_55k", {"response_a": "[null]"}, "a message has no content"),
        ("oasst", {"prompt": "Why?"}, "prompt is no list of objects"),
        ("summarize_from_feedback", {"info": {}}, "neither post nor article"),
        ("label_studio_min", {"pw": []}, "no side is selected"),
    ],
)
def test_an_odd_row_is_a_failure_and_the_others_stay(
    name: str, changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    row = ROWS[name][0]
    data = guessed(tmp_path, row, row | changes, row)
    assert len(data.judgments) == 2 and reason in data.failures[0].reason
    assert data.counts["failed"] == 1


@pytest.mark.parametrize("value", [-4, 4, 1.5])
def test_one_answer_off_the_signed_scale_refuses_the_file(value: float, tmp_path: Path) -> None:
    row = ROWS["helpsteer3"][0]
    with pytest.raises(DataError, match=r"f.jsonl:2: overall_preference: must be a point from -3 to 3"):
        guessed(tmp_path, row, row | {"overall_preference": value})


def test_an_unknown_name_and_unknown_columns_are_said(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="no known data set; did you mean 'helpsteer3'"):
        FORM.validate_python({"kind": "dataset", "name": "helpstear3"})
    source = HumanFile(path=file(tmp_path / "f.jsonl", [BASE]), form=FORM.validate_python({"kind": "dataset"}))
    with pytest.raises(DataError, match=r"f.jsonl:1: no known data set has these columns .*kind: columns"):
        read_human([source], Run(tmp_path))
