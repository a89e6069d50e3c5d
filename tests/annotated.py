"""A tiny run to annotate, and answers as the page sends them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from rlaif.annotate.desk import DeskItem, Questions, read_questions
from rlaif.annotate.store import PageAnswer
from rlaif.config import dump_recipe, load_recipe
from rlaif.jsonl import write_atomic, write_jsonl
from rlaif.records import Message, Pair, Prompt
from rlaif.run_folder import Run

CONSTITUTION = """\
schema: rlaif/constitution/v1
id: two-things
version: 1.0.0
title: Two things to look for
principles:
  - id: kind
    compare: Which response is kinder?
  - id: sums
    compare: Which response adds up?
    tags: [maths]
  - id: brief
    check: {kind: max_words, limit: 9}
"""
NUMBERS = itertools.count()


def pair(question: str, a: str = "Good.", b: str = "Bad.", tags: tuple[str, ...] = ()) -> Pair:
    return Pair.of(Prompt.of((Message(role="user", content=question),), tags), a, b)


def pairs(count: int, word: str = "Question") -> list[Pair]:
    return [pair(f"{word} {i}?", f"Good {word} {i}.", f"Bad {word} {i}.") for i in range(count)]


def make_run(folder: Path, rows: list[Pair], recipe: bool = False) -> Run:
    run = Run(folder)
    folder.mkdir(exist_ok=True)
    write_jsonl(run.route, rows)
    if recipe:
        (folder / "two.yaml").write_text(CONSTITUTION)
        made = load_recipe("quickstart", [f"constitution={folder / 'two.yaml'}"])
        write_atomic(run.recipe, dump_recipe(made).encode())
    return run


def questions(run: Run) -> Questions:
    return read_questions(run, None, None, True)


def given(item: DeskItem | Pair, annotator: str = "Ada", choice: str = "a", **more: Any) -> PageAnswer:
    values = {
        "id": f"answer-{next(NUMBERS):06d}",
        "pair_id": item.pair_id if isinstance(item, DeskItem) else item.id,
        "annotator": annotator,
        "choice": choice,
        "shown_first": item.shown_first if isinstance(item, DeskItem) else "a",
        "seconds": 2.5,
        **more,
    }
    return PageAnswer.model_validate(values)


def good(item: DeskItem) -> str:
    """Which of the item's responses is the good one."""
    return "a" if item.a.startswith("Good") else "b"
