"""`rlaif prompts card`: what was planted in a set stands on its card, and nothing of this machine or a person does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import DatasetCard

from rlaif.share import prompt_card
from rlaif.signals.language import likeliest
from rlaif.testing import small_recipe

ROWS: list[Any] = [
    {"prompt": "How long do I have to boil an egg so that it is still soft?", "tags": ["cooking"]},
    {"prompt": "How long do I have to boil an egg, so that it is still soft?", "tags": ["cooking"]},
    {"prompt": "How long do I have to boil an egg so that it is still soft?", "tags": ["eggs"]},
    {"prompt": "Wie lange muss ich ein Ei kochen, damit es noch weich ist?", "tags": []},
    {"prompt": "Please write to jane@example.org about the | price of my new kitchen table."},
    {"prompt": "short one"},
    {"prompt": " "},
    {"messages": [
        {"role": "user", "content": "Which river is the longest of all?"},
        {"role": "assistant", "content": "The Nile, or the Amazon."},
        {"role": "user", "content": "Why is it not known for certain which of them is longer?"},
    ]},
]  # fmt: skip


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    monkeypatch.chdir(tmp_path)
    few = ("en", "de", "fr")  # all 75 take seconds
    monkeypatch.setattr(prompt_card, "likeliest", lambda text: likeliest(text, few))
    return tmp_path


def test_what_is_in_a_set_stands_on_its_card(rows: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    code, out, error = cli("prompts", "card", str(rows / "set.jsonl"), "--licence", "mit")
    assert (code, out) == (0, "card: set-card.md\nfigures: set-card.json\n"), error
    found = json.loads(Path("set-card.json").read_text())
    assert (found["train"] + found["heldout"], found["repeats"], found["near_duplicates"]) == (6, 1, 1)
    assert found["failures"] == {"blank turn in the prompt": 1}
    assert found["dropped_rows"] == {"blank turn in the prompt": ["set.jsonl:7"]}
    assert (found["personal"], found["masked"]) == ({"email": 1}, {})
    assert found["tags"] == {"cooking": 2, "eggs": 1}
    assert found["turns"] == {"1": 5, "3": 1}
    assert (found["words"]["shortest"], found["words"]["longest"]) == (2, 24)
    assert found["languages"]["de"] == 1
    assert found["sources"][0] | {"digest": ""} == {"source": "set.jsonl", "licence": "mit", "digest": ""}
    card = Path("set-card.md").read_text()
    assert DatasetCard(card).data.license == "mit"
    assert "| email | 1 |" in card
    for text in (card, Path("set-card.json").read_text()):
        assert str(rows) not in text
        assert "jane" not in text
    cli("prompts", "card", str(rows / "set.jsonl"), "--licence", "mit", "--out", "again.md")
    assert Path("again.md").read_text() == card


def test_a_recipe_is_shown_as_it_would_train(
    rows: Path, cli: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        prompt_card, "clusters_of", lambda conversations, clusters: [n % 2 for n in range(len(conversations))]
    )
    recipe = small_recipe(rows, "nobody", prompts=2).model_dump(mode="json")
    filters = {"quality": {"min_words": 3}, "personal": {}, "duplicates": {}}
    source = {"kind": "file", "path": str(rows / "set.jsonl")}
    recipe["prompts"] |= {"sources": [source], "heldout": 1, "filters": filters}
    (rows / "mine.yaml").write_text(yaml.safe_dump(recipe))
    code, _, error = cli("prompts", "card", "mine.yaml", "prompts.system=Be brief.", "--clusters", "2")
    assert code == 0, error
    found = json.loads(Path("mine-card.json").read_text())
    assert found["dropped"] == {"too few words": 1, "near-duplicate": 1}
    assert (found["near_duplicates"], found["personal"], found["masked"]) == (0, {}, {"email": 1})
    assert (found["train"], found["heldout"]) == (3, 1)
    assert [size for size, _ in found["clusters"]] == [2, 2]
    assert "| near-duplicate | 1 | set.jsonl:2 |" in Path("mine-card.md").read_text()


def test_a_name_that_is_none_is_one_line(rows: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    assert "no prompt set 'everydy'; did you mean 'everyday'?" in cli("prompts", "card", "everydy")[2]
    before = (rows / "set.jsonl").read_text()
    for out in ("set.jsonl", "card.json", "card"):
        code, _, error = cli("prompts", "card", str(rows / "set.jsonl"), "--out", str(rows / out))
        assert (code, error.count("\n")) == (2, 1) and "a card is Markdown; name it as " in error
    assert (rows / "set.jsonl").read_text() == before
    code, _, error = cli("prompts", "card", "everyday", "prompts.limit=3")
    assert (code, error.count("\n")) == (2, 1)
