"""Prompts: every row format, the split by hash, and errors that name their place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.config.feedback import PromptsSection
from rlaif.config.sources import FileSource, HubSource
from rlaif.errors import ConfigError, DataError
from rlaif.feedback.prompts import PromptSplit, read_prompts
from rlaif.records import Prompt, plain

TRANSCRIPT = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant: Because."
HI_WHY = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Why?"},
]


def write(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path, rows: Sequence[Any], heldout: int = 1, **knobs: Any) -> PromptSplit:
    source = FileSource(path=str(write(path / "p.jsonl", rows)), tags=knobs.pop("tags", ()))
    return read_prompts(PromptsSection(sources=(source,), heldout=heldout, **knobs))


def everything(split: PromptSplit) -> dict[str, Prompt]:
    return {prompt.id: prompt for prompt in (*split.train, *split.heldout)}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": HI_WHY},
        {"prompt": TRANSCRIPT},
        {"prompt": TRANSCRIPT.removesuffix(" Because.")},
        {"messages": HI_WHY},
        {"messages": [*HI_WHY, {"role": "assistant", "content": "Because."}]},
        {"chosen": TRANSCRIPT, "rejected": TRANSCRIPT + " Not."},
        {"prompt": HI_WHY, "chosen": [{"role": "assistant", "content": "x"}], "rejected": []},
    ],
)
def test_formats_give_the_same_prompt(tmp_path: Path, row: dict[str, Any]) -> None:
    split = read(tmp_path, [row, {"prompt": "other"}])
    found = [plain(prompt.messages) for prompt in everything(split).values()]
    assert HI_WHY in found
    assert len(found) == 2


def test_plain_text_is_one_user_turn_and_passes_unharmed(tmp_path: Path) -> None:
    text = "  {{ x }} $y {z} \u2028 \x00 </s> <|im_end|>\n"
    split = read(tmp_path, [{"prompt": text}, {"prompt": "other"}])
    assert text in [prompt.messages[0].content for prompt in everything(split).values()]


def test_tags_of_row_and_source_and_repeats_are_joined(tmp_path: Path) -> None:
    rows = [{"prompt": "x", "tags": ["r"]}, {"prompt": "x", "tags": ["r2", "s"]}, {"prompt": "y"}]
    found = everything(read(tmp_path, rows, tags=("s",)))
    assert {prompt.messages[0].content: prompt.tags for prompt in found.values()} == {
        "x": ("r", "s", "r2"),
        "y": ("s",),
    }


def test_shipped_name_and_unknown_name() -> None:
    with pytest.raises(ConfigError, match="no prompt set 'everydey'"):
        read_prompts(PromptsSection(sources=(FileSource(path="everydey"),)))


@given(order=st.permutations(range(12)), extra=st.integers(0, 5))
def test_split_does_not_depend_on_order_or_repeats(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], extra: int
) -> None:
    folder = tmp_path_factory.mktemp("p")
    rows = [{"prompt": f"question {i}"} for i in range(12)]
    one = read(folder, rows, heldout=4, limit=5)
    other = read(folder, [rows[i] for i in [*order, *order[:extra]]], heldout=4, limit=5)
    assert {p.id for p in one.heldout} == {p.id for p in other.heldout}
    assert {p.id for p in one.train} == {p.id for p in other.train}
    assert (len(one.train), len(one.heldout)) == (5, 4)
    assert not {p.id for p in one.train} & {p.id for p in one.heldout}


def test_a_new_row_moves_at_most_one_prompt_out_of_the_heldout_set(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {i}"} for i in range(30)]
    before = {p.id for p in read(tmp_path, rows, heldout=10).heldout}
    for i in range(20):
        after = {p.id for p in read(tmp_path, [{"prompt": f"new {i}"}, *rows], heldout=10).heldout}
        assert len(before - after) <= 1


def test_parts_keep_file_order(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {i}"} for i in range(12)]
    split = read(tmp_path, rows, heldout=4, limit=6)
    for part in split[:2]:
        numbers = [int(p.messages[0].content.split()[1]) for p in part]
        assert numbers == sorted(numbers)


def test_source_limit_reads_the_first_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [{"prompt": str(i)} for i in range(9)])
    section = PromptsSection(sources=(FileSource(path=str(path), limit=3),), heldout=1)
    assert {p.messages[0].content for p in everything(read_prompts(section)).values()} == {"0", "1", "2"}


def test_too_few_prompts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"heldout: 2 prompts .* only 2 different ones .* lower prompts.heldout"):
        read(tmp_path, [{"prompt": "x"}, {"prompt": "y"}, {"prompt": "x"}], heldout=2)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"promt": "x"}, r"p.jsonl:2: no key 'prompt', 'messages' or 'chosen'; did you mean 'promt'\?"),
        ({"prompt": 3}, r"p.jsonl:2: prompt.* \(got 3\)"),
        ({"prompt": "x", "tag": ["y"]}, r"p.jsonl:2: unknown key 'tag'; did you mean 'tags'\?"),
        ({"prompt": "x", "tags": "y"}, r"p.jsonl:2: tags: must be a list of texts \(got 'y'\)"),
        ([1], r"p.jsonl:2: not a JSON object"),
        ({"prompt": "\ud800"}, r"p.jsonl:2: not text: half of a surrogate pair \('\\ud800'\)"),
    ],
)
def test_bad_rows_name_file_and_line(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, [{"prompt": "fine"}, row])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "  "}, "blank turn in the prompt"),
        ({"chosen": "\n\nHuman: \n\nAssistant: Hm?"}, "blank turn in the prompt"),
        ({"chosen": "no transcript"}, "not a Human/Assistant transcript"),
        ({"chosen": "\n\nAssistant: I begin.\n\nHuman: ok"}, "not a Human/Assistant transcript"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "no user turn"),
        ({"prompt": []}, "no user turn"),
    ],
)
def test_rows_without_a_prompt_are_failures(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    split = read(tmp_path, [{"prompt": "x"}, row, {"prompt": "y"}])
    assert [(f.stage, f.reason, f.id.rpartition("/")[2]) for f in split.failures] == [("prompts", reason, "p.jsonl:2")]
    assert len(everything(split)) == 2


def test_hub_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def load_dataset(path: str, **kwargs: Any) -> list[dict[str, Any]]:
        asked.update(kwargs, path=path)
        return [{"text": "x", "tags": "not ours"}, {"text": TRANSCRIPT}, {"text": HI_WHY}, {"text": "beyond"}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    source = HubSource(dataset="some/set", data_dir="base", column="text", tags=("t",), limit=3)
    split = read_prompts(PromptsSection(sources=(source,), heldout=1))
    found = everything(split).values()
    assert sorted(len(prompt.messages) for prompt in found) == [1, 3]
    assert {prompt.tags for prompt in found} == {("t",)}
    assert asked == {
        "path": "some/set",
        "name": None,
        "data_dir": "base",
        "split": "train",
        "revision": None,
    }

    with pytest.raises(DataError, match=r"some/set \[train\] row 0: no key 'txt'; did you mean 'text'\?"):
        read_prompts(PromptsSection(sources=(HubSource(dataset="some/set", column="txt"),)))


def test_hub_failure_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(path: str, **kwargs: Any) -> None:
        raise ConnectionError("Couldn't reach the Hub\nwith\ndetails")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"'some/set' \[train\] cannot be read from the hub: Couldn't") as caught:
        read_prompts(PromptsSection(sources=(HubSource(dataset="some/set"),)))
    assert "\n" not in str(caught.value)
