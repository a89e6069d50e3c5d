"""`rlaif conflicts RUN`: where people and the judge disagree, to be read by somebody: some are the judge's mistakes,
some are people's, and some are the constitution's."""

from __future__ import annotations

import textwrap
from pathlib import Path

from rlaif.annotate.publish import publish
from rlaif.errors import ConfigError
from rlaif.feedback.human import read_human
from rlaif.feedback.pairs import choice
from rlaif.formats import Annotations
from rlaif.hybrid.overlap import Conflict, conflicts
from rlaif.jsonl import read_jsonl
from rlaif.records import Judgment
from rlaif.run import Run

WIDTH = 100
MOST = 400
"""Characters of a text that are shown; the file has the rest."""


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
