"""Human feedback of any form as judgments, edits and demonstrations.

A row that is no usable feedback (different prompts, one text twice) is a failure with its place; a row of another
shape means that the file is not what the recipe says and stops the run. Next: `comparisons.py`, then `mix.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rlaif.config.sections import Annotations, HumanSource
from rlaif.errors import DataError
from rlaif.feedback.human.comparisons import judgment_of
from rlaif.feedback.human.source import annotated_run
from rlaif.feedback.sources import Unusable, read_rows, tags_of
from rlaif.jsonl import read_jsonl
from rlaif.records import Demonstration, Edit, Failure, Judgment
from rlaif.run import Run


class HumanData(NamedTuple):
    """Judgments in the order of the rows, and the rows that gave none (`id` is the place, `file:line`)."""

    judgments: list[Judgment]
    edits: list[Edit]
    demonstrations: list[Demonstration]
    failures: list[Failure]


def read_human(sources: Sequence[HumanSource], run: Run, system: str | None = None) -> HumanData:
    """Everything that people said, in the order of sources and rows.

    a and b are assigned by hash, so a is not always the chosen one. `system` is put before a prompt without a system
    turn, as it is for the policy, so that AI and human labels of one pair meet. Raises DataError for rows of another
    shape, and when no row is usable.
    """
    data = HumanData([], [], [], [])
    for source in sources:
        if isinstance(source, Annotations):
            _read_annotations(source, run, data)
        else:
            for row in read_rows(source):
                row.require("chosen", "rejected")
                try:
                    data.judgments.append(judgment_of(row, tags_of(row, source), system))
                except Unusable as bad:
                    data.failures.append(Failure(stage="human", id=row.place, reason=bad.reason, detail=bad.detail))
    if not data.judgments:
        first = f": {data.failures[0].id}: {data.failures[0].reason}" if data.failures else ", the sources are empty"
        raise DataError(f"human_data: not one usable pair{first}")
    return data


def _read_annotations(source: Annotations, run: Run, data: HumanData) -> None:
    theirs = annotated_run(source, run)
    if not theirs.annotations.exists():
        raise DataError(f"human_data: {theirs.folder}: no answers there yet; give some with `rlaif annotate`")
    data.judgments.extend(read_jsonl(theirs.annotations, Judgment))
