"""`rlaif conflicts RUN`: where people and the judge disagree, to be read by somebody: some are the judge's mistakes,
some are people's, and some are the constitution's."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from rlaif.annotate.publish import publish
from rlaif.annotate.routers import swap_gap
from rlaif.errors import ConfigError
from rlaif.feedback.human import read_human
from rlaif.feedback.labelled import decided, match
from rlaif.feedback.pairs import choice
from rlaif.formats import Annotations
from rlaif.jsonl import read_jsonl
from rlaif.records import Judgment, Pair, Record
from rlaif.run_folder import Run

WIDTH = 100
MOST = 400
"""Characters of a text that are shown; the file has the rest."""


class Conflict(Record):
    """A pair on which people and the judge prefer different responses."""

    pair: Pair
    p_human: float
    """P(a is better): 1 or 0."""
    p_judge: float
    swap_gap: float
    annotators: tuple[str, ...]


def conflicts(ai: Sequence[Judgment], human: Sequence[Judgment]) -> list[Conflict]:
    """The judge's surest mistakes, or people's, first."""
    people: dict[str, list[str]] = {}
    for label in human:
        people.setdefault(label.pair.id, []).append(label.annotator)
    found = [
        Conflict(
            pair=item.judgment.pair,
            p_human=item.p_human,
            p_judge=item.judgment.p_a,
            swap_gap=swap_gap(item.judgment),
            annotators=tuple(sorted(set(people[item.judgment.pair.id]))),
        )
        for item in decided(match(ai, human))
        if choice(item.judgment.p_a) not in (0.5, item.p_human)
    ]
    return sorted(found, key=lambda conflict: (-abs(conflict.p_judge - 0.5), conflict.pair.id))


def conflicts_command(folder: Path, count: int) -> list[str]:
    """What to print: the first `count`, and where all of them are. ConfigError for a run without both kinds of labels.

    A run that mixes both has them in conflicts.jsonl; of any other those of its own page are worked out.
    """
    run = Run(folder)
    found = read_jsonl(run.conflicts, Conflict) if run.conflicts.exists() else _of_the_page(run)
    if not found:
        return ["no conflicts: wherever people and the judge both preferred a response, it was the same"]
    shown = [line for conflict in found[:count] for line in (*_lines(conflict), "")]
    where = f": {run.conflicts}" if run.conflicts.exists() else ""
    return [*shown, f"{len(found)} conflicts, {min(count, len(found))} shown{where}"]


def _of_the_page(run: Run) -> list[Conflict]:
    publish(run)
    if not run.judgments.exists() or not run.annotations.exists():
        raise ConfigError(f"{run.folder}: needs labels of a judge and of people; `rlaif annotate` collects the latter")
    return conflicts(read_jsonl(run.judgments, Judgment), read_human([Annotations()], run).judgments)


def _lines(conflict: Conflict) -> list[str]:
    judge = f"{max(conflict.p_judge, 1 - conflict.p_judge):.2f}, swap gap {conflict.swap_gap:.2f}"
    people = ", ".join(conflict.annotators)
    sides = []
    for text, p_human, p_judge in (
        (conflict.pair.a, conflict.p_human, conflict.p_judge),
        (conflict.pair.b, 1 - conflict.p_human, 1 - conflict.p_judge),
    ):
        by = people if choice(p_human) == 1 else f"the judge ({judge})" if choice(p_judge) == 1 else "nobody"
        sides += [f"  preferred by {by}:", *_wrapped(text)]
    return [f"pair {conflict.pair.id}", *_wrapped(conflict.pair.prompt[-1].content, "  > "), *sides]


def _wrapped(text: str, indent: str = "    ") -> list[str]:
    cut = text if len(text) <= MOST else text[:MOST].rstrip() + " ..."
    return textwrap.wrap(" ".join(cut.split()), WIDTH, initial_indent=indent, subsequent_indent=indent)
