"""Human feedback of any form as judgments, edits and demonstrations.

A row that is no usable feedback (different prompts, one text twice, figures that contradict the label) is a failure
with its place; a row of another shape, or an answer off its scale, means that the file is not what the recipe says and
stops the run. Next: `sheet.py`, then a form's own module, then `mix.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rlaif.config.human import Annotations, Form, HumanSource, Judgments
from rlaif.config.sources import FileSource
from rlaif.console import say
from rlaif.errors import DataError
from rlaif.feedback.failures import check_share, told
from rlaif.feedback.human.argilla import read_argilla
from rlaif.feedback.human.comparisons import read_comparisons
from rlaif.feedback.human.edits import read_edits
from rlaif.feedback.human.label_studio import read_label_studio
from rlaif.feedback.human.opposed import read_csv, read_likert, read_shp
from rlaif.feedback.human.own import read_judgments, read_own_edits
from rlaif.feedback.human.rankings import read_rankings
from rlaif.feedback.human.ratings import read_ratings, read_thumbs
from rlaif.feedback.human.sheet import MOST_PAIRS, HumanData, Sheet
from rlaif.feedback.human.source import annotated_run, human_rows
from rlaif.feedback.human.ultrafeedback import read_ultrafeedback
from rlaif.feedback.sources import SourceRow, read_rows
from rlaif.run import Run

__all__ = ["HumanData", "Sheet", "check_human_failures", "read_form", "read_human"]

READERS: dict[str, Callable[[Iterable[SourceRow], Any, Sheet], None]] = {
    "comparisons": read_comparisons,
    "shp": read_shp,
    "ratings": read_ratings,
    "likert": read_likert,
    "thumbs": read_thumbs,
    "rankings": read_rankings,
    "ultrafeedback": read_ultrafeedback,
    "edits": read_edits,
    "argilla": read_argilla,
    "label_studio": read_label_studio,
    "csv": read_csv,
    "judgments": read_judgments,
}
"""By the form's `kind`."""
WITH_STRENGTH = ("comparisons", "shp", "csv")
"""The forms whose rows may say `p_chosen`."""


def read_human(sources: Sequence[HumanSource], run: Run, system: str | None = None) -> HumanData:
    """Everything that people said, in the order of sources and rows (of prompts, where pairs are made of several rows).

    a and b are assigned by hash, so a is not always the chosen one. `system` is put before a prompt without a system
    turn, as it is for the policy, so that AI and human labels of one pair meet. Rows that cannot be used are said on
    the screen, by cause. Raises DataError for rows of another shape, and when no row is usable.
    """
    data = HumanData.empty()
    for source in sources:
        if isinstance(source, Annotations):
            _read_annotations(source, run, system, data)
        else:
            read_form(source.form, human_rows(source), Sheet(source, system, data))
    if not data.judgments:
        raise DataError(f"human_data: not one usable pair: {told(data.failures) if data.failures else _nothing(data)}")
    if data.failures:
        say(f"  human labels: {data.counts['failed']} of {data.counts['rows']} rows failed: {told(data.failures)}")
    if drawn_from := data.counts["not_drawn"]:
        say(
            f"  human labels: {drawn_from} pairs are beyond the {MOST_PAIRS} of one prompt that are drawn, and not used"
        )
    return data


def check_human_failures(data: HumanData, limit: float) -> None:
    """DataError when surely more than `limit` of the rows cannot be used."""
    knob = "preferences.max_human_failures"
    check_share("human labels", data.counts["failed"], data.counts["rows"], data.failures, knob, limit)


def read_form(form: Form, rows: Iterable[SourceRow], sheet: Sheet) -> None:
    """Put what these rows say on the sheet. DataError for a row of another shape."""
    READERS[form.kind](_counted(rows, sheet, form.kind in WITH_STRENGTH), form, sheet)


def _counted(rows: Iterable[SourceRow], sheet: Sheet, with_strength: bool = False) -> Iterator[SourceRow]:
    for row in rows:
        if row.value.get("p_chosen") is not None and not with_strength:
            raise DataError(f"{row.place}: p_chosen: only the forms {', '.join(WITH_STRENGTH)} have one; leave it out")
        sheet.tally("rows")
        before = len(sheet.data.failures)
        yield row
        sheet.tally("failed", len(sheet.data.failures) > before)


def _nothing(data: HumanData) -> str:
    left = ", ".join(f"{what} {number}" for what, number in sorted(data.counts.items()))
    return left or "the sources are empty"


def _read_annotations(source: Annotations, run: Run, system: str | None, data: HumanData) -> None:
    theirs = annotated_run(source, run)
    if not theirs.annotations.exists():
        raise DataError(f"human_data: {theirs.folder}: no answers there yet; give some with `rlaif annotate`")
    sheet = Sheet(FileSource(path="", tags=source.tags), system, data)
    read_form(Judgments(), _rows(theirs.annotations), sheet)
    if theirs.annotation_edits.exists():
        read_own_edits(_counted(_rows(theirs.annotation_edits), sheet), sheet)


def _rows(path: Path) -> Iterator[SourceRow]:
    return read_rows(FileSource(path=str(path)))
