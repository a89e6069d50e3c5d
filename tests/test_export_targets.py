"""What each target gets: golden rows in the form that its own code reads at its defaults, Parquet, what lies beside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from datasets import load_dataset

from rlaif.errors import ConfigError, DataError
from rlaif.feedback.export import FORMATS, export_preferences
from rlaif.feedback.human import read_human
from rlaif.formats import AnyForm
from rlaif.jsonl import read_objects, write_jsonl
from rlaif.records import Message, Preference, oriented, prompt_of
from rlaif.run_folder import Run
from tests.test_export import ROWS, TALK

AI = ROWS[2]
SYSTEM = (Message(role="system", content="Be brief."), *TALK)
TURNS = ROWS[6].model_copy(update={"prompt": SYSTEM, "p_chosen": 0.8})
SAID = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?"
TRAINERS = [name for name, target in FORMATS.items() if target.trains]


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


PROMPT = [
    message("system", "Be brief."),
    message("user", "Hi"),
    message("assistant", "Hello."),
    message("user", "Why?"),
]
GOLDEN: dict[str, dict[str, Any]] = {
    "openrlhf-chat": {
        "chosen": [*PROMPT, message("assistant", "Because.")],
        "rejected": [*PROMPT, message("assistant", "No.")],
        "margin": pytest.approx(0.6),
    },
    "openrlhf": {
        "chosen": f"Be brief.{SAID}\n\nAssistant: Because.",
        "rejected": f"Be brief.{SAID}\n\nAssistant: No.",
        "margin": pytest.approx(0.6),
    },
    "llamafactory": {
        "conversations": [
            {"from": "human", "value": "Hi"},
            {"from": "gpt", "value": "Hello."},
            {"from": "human", "value": "Why?"},
        ],
        "chosen": {"from": "gpt", "value": "Because."},
        "rejected": {"from": "gpt", "value": "No."},
        "system": "Be brief.",
        "p_chosen": 0.8,
    },
    "nemo-rl": {
        "context": PROMPT,
        "completions": [
            {"rank": 0, "completion": [message("assistant", "Because.")]},
            {"rank": 1, "completion": [message("assistant", "No.")]},
        ],
    },
    "nemo-rl-binary": {"prompt": PROMPT, "chosen": "Because.", "rejected": "No.", "p_chosen": 0.8},
    "axolotl": {
        "system": "Be brief.",
        "input": SAID.lstrip(),
        "chosen": "Because.",
        "rejected": "No.",
        "p_chosen": 0.8,
    },
}


@pytest.mark.parametrize("to", GOLDEN)
def test_a_row_is_as_the_trainer_reads_it(to: str) -> None:
    assert FORMATS[to].row(TURNS) == GOLDEN[to]


def test_verl_gets_what_its_managers_index() -> None:
    made = FORMATS["verl"].row(TURNS)
    assert (made["data_source"], made["prompt"], made["ability"]) == ("rlaif", PROMPT, "alignment")
    assert made["reward_model"] == {"style": "model", "ground_truth": "Because."}
    assert made["extra_info"] | {"index": 0} == {
        "index": 0, "split": "train", "prompt": PROMPT, "chosen": "Because.", "rejected": "No.", "p_chosen": 0.8
    }  # fmt: skip
    assert 0 <= made["extra_info"]["index"] < 2**31


def test_llamafactory_gets_turns_that_alternate() -> None:
    twice = (Message(role="user", content="Hi"), Message(role="user", content="Why?"))
    made = FORMATS["llamafactory"].row(TURNS.model_copy(update={"prompt": twice}))
    assert (made["conversations"], made["system"]) == ([{"from": "human", "value": "Hi\n\nWhy?"}], "")


def written(tmp_path: Path, rows: list[Preference], to: str, name: str) -> Path:
    write_jsonl(tmp_path / "preferences.jsonl", rows)
    export_preferences(tmp_path / "preferences.jsonl", to, tmp_path / name)
    return tmp_path / name


def by_text(rows: list[Preference]) -> dict[tuple[str, str], float]:
    return {(row.prompt[-1].content, row.chosen[-1].content): row.p_chosen for row in rows if row.p_chosen > 0.5}


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
@pytest.mark.parametrize("to", sorted({*TRAINERS} - {"verl"}))
def test_what_a_trainer_gets_reads_back_as_it_was(to: str, name: str, tmp_path: Path) -> None:
    """Where the form has a place for p. verl gets prompts, and a system turn is no part of a transcript."""
    rows = [row for row in ROWS if row.split == "train" and (row.prompt[0].role != "system" or to != "openrlhf")]
    data = read_human([AnyForm(path=str(written(tmp_path, rows, to, name)))], Run(tmp_path))
    found = {
        (judgment.pair.prompt[-1].content, text): p
        for judgment in data.judgments
        for text, p in ((judgment.pair.a, judgment.p_a), (judgment.pair.b, 1 - judgment.p_a))
        if p > 0.5
    }
    expected = by_text(rows)
    assert found == pytest.approx(dict.fromkeys(expected, 1.0) if to == "nemo-rl" else expected, abs=1e-12)
    assert not data.failures


@pytest.mark.parametrize("to", TRAINERS)
def test_parquet_is_the_same_table(to: str, tmp_path: Path) -> None:
    jsonl, parquet = (written(tmp_path, ROWS, to, name) for name in ("out.jsonl", "out.parquet"))
    one = load_dataset("json", data_files=str(jsonl), split="train", cache_dir=str(tmp_path / "one"))
    other = load_dataset("parquet", data_files=str(parquet), split="train", cache_dir=str(tmp_path / "other"))
    assert one.to_list() == other.to_list()
    assert (tmp_path / "out.heldout.parquet").exists()


def test_llamafactory_finds_the_file_by_its_entry(tmp_path: Path) -> None:
    info = tmp_path / "dataset_info.json"
    info.write_text(json.dumps({"mine": {"file_name": "mine.json"}}))
    written(tmp_path, ROWS, "llamafactory", "pairs.jsonl")
    entries = json.loads(info.read_text())
    assert list(entries) == ["mine", "pairs", "pairs.heldout"]
    assert entries["pairs"] == {
        "file_name": "pairs.jsonl",
        "ranking": True,
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "system": "system"},
    }
    written(tmp_path, ROWS, "llamafactory", "pairs.parquet")  # takes the name over
    assert json.loads(info.read_text())["pairs"]["file_name"] == "pairs.parquet"


@pytest.mark.parametrize("content", ["[1]", "{", "{'a': 1}"])
def test_a_dataset_info_that_is_none_is_left_alone(content: str, tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text(content)
    with pytest.raises(ConfigError, match=r"dataset_info.json: .*; the entry of pairs.jsonl belongs there"):
        written(tmp_path, ROWS, "llamafactory", "pairs.jsonl")
    assert (tmp_path / "dataset_info.json").read_text() == content
    assert not (tmp_path / "pairs.jsonl").exists()


def test_argilla_settings_declare_what_the_records_say(tmp_path: Path) -> None:
    records = [row for _, row in read_objects(written(tmp_path, ROWS, "argilla", "records.jsonl"))]
    settings = json.loads((tmp_path / "records.settings.json").read_text())
    declared = {one["name"]: one["settings"] for one in settings["metadata"]}
    assert {key for record in records for key in record["metadata"]} == declared.keys()
    for record in records:
        p = record["metadata"]["p_chosen"]  # the server takes no whole number for a float
        assert isinstance(p, float) and declared["p_chosen"]["min"] <= p <= declared["p_chosen"]["max"]
        assert record["fields"].keys() == {one["name"] for one in settings["fields"]}
        assert not record["responses"]  # of a user whom the server would have to know
    (question,) = settings["questions"]
    options = [option["value"] for option in question["settings"]["options"]]
    assert all(sorted(record["suggestions"][question["name"]]["value"]) == options for record in records)


def test_label_studio_gets_tasks_and_the_configuration_that_they_fill(tmp_path: Path) -> None:
    out = written(tmp_path, ROWS, "label-studio", "tasks.json")
    tasks = json.loads(out.read_text())
    view = ElementTree.parse(tmp_path / "tasks.xml").getroot()
    assert {one.get("value").removeprefix("$") for one in view.iter("Text")} <= tasks[0]["data"].keys()
    pairwise = view.find("Pairwise")
    for task, row in zip(tasks, [row for row in ROWS if row.p_chosen > 0.5], strict=True):
        (answer,) = task["predictions"] if row.source == "ai" else task["annotations"]
        assert not (task["annotations"] if row.source == "ai" else task["predictions"])
        (result,) = answer["result"]
        assert (result["from_name"], result["to_name"]) == (pairwise.get("name"), pairwise.get("toName"))
        side = {"left": "text1", "right": "text2"}[result["value"]["selected"]]
        assert task["data"][side] == row.chosen[-1].content
        pair = oriented(prompt_of(row), row.chosen[-1].content, row.rejected[-1].content)
        assert (task["data"]["text1"], task["data"]["text2"]) == (pair.a, pair.b)
    data = read_human([AnyForm(path=str(out))], Run(tmp_path))
    people = [row for row in ROWS if row.source == "human" and row.p_chosen > 0.5]
    assert [max(j.p_a, 1 - j.p_a) for j in data.judgments] == [row.p_chosen for row in people]
    assert [j.pair.prompt for j in data.judgments] == [row.prompt for row in people]
    assert data.counts == {"rows": 7, "unanswered": 1, "suggested": 1}


def test_what_annotation_programs_get_is_no_parquet(tmp_path: Path) -> None:
    for to, name in (("argilla", "jsonl"), ("label-studio", "json")):
        with pytest.raises(ConfigError, match=rf"x.parquet: {to} reads JSON; name a .{name} file"):
            written(tmp_path, ROWS, to, "x.parquet")


def test_the_command_says_what_lies_beside(cli: Any, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "preferences.jsonl", ROWS[:1])
    code, shown, _ = cli("export", "preferences.jsonl", "--to", "label-studio", "--out", "t.json")
    assert (code, shown.splitlines()) == (0, ["t.json: 1 rows", "t.xml: what label-studio reads beside it"])
    _, help_text, _ = cli("export", "--help")
    assert all(to in " ".join(help_text.replace("│", " ").split()) for to in FORMATS)


@pytest.mark.parametrize("seen", ["--public", "--private"])
@pytest.mark.parametrize(
    "words",
    [
        ("--to", "trl", "--out", "t.jsonl"),
        ("--what", "preferences", "--out", "t"),
        ("--push-to-hub", "me/t", "--out", "t"),
    ],
)
def test_who_sees_it_is_no_matter_where_nothing_is_sent(
    words: tuple[str, ...], seen: str, cli: Any, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "preferences.jsonl", ROWS[:1])
    code, _, said = cli("export", "preferences.jsonl", *words, seen)
    line = f"error: {seen}: is for --push-to-hub without --out; nothing is sent here, so leave it out"
    assert (code, said.strip()) == (2, line)
    assert not (tmp_path / words[-1]).exists()


@pytest.mark.parametrize("content", [b"", b"PAR1", b"[]"])
def test_a_parquet_file_that_is_none_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"x.parquet: not a Parquet file: ") as caught:
        read_human([AnyForm(path=str(tmp_path / "x.parquet"))], Run(tmp_path))
    assert "\n" not in str(caught.value)
