"""The door of human feedback: sources of any form in, judgments, edits and demonstrations out.

Next: `rlaif/formats/`, what each form reads, then `mix.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from rlaif.config.base import Section, written
from rlaif.config.sources import FileSource
from rlaif.console import say
from rlaif.errors import ConfigError, DataError
from rlaif.feedback.failures import check_share, told
from rlaif.files import parts_of
from rlaif.formats import (
    Annotations,
    AnyForm,
    HumanSource,
    LabelSource,
    counted,
    human_rows,
    read_form,
    read_human_rows,
)
from rlaif.formats.judgments import Judgments, read_own_edits
from rlaif.formats.ratings import Thumbs
from rlaif.formats.rows import SourceRow, path_of, read_rows
from rlaif.formats.sheet import MOST_PAIRS, HumanData, Sheet
from rlaif.records import Judgment
from rlaif.run_folder import Run

ASK_JUDGES = "; form: {kind: ..., judges: true} reads suggestions and predictions, too"


class _Place(Section):
    """A place for a source, as a recipe has it in `human_data`."""

    source: HumanSource


def source_of(given: Path | str, option: str = "--gold") -> LabelSource:
    """What `--gold` names: a file of any form, or the folder of its parts; the folder of a run, whose people answered
    on its page; or a source written as in a recipe: `{kind: file, path: x.jsonl, form: {kind: likert, points: 7}}`."""
    text = str(given)
    if text.lstrip().startswith("{"):
        source: HumanSource = written(text, _Place, option)
        if isinstance(source, Annotations) and source.run is None:
            raise ConfigError(f"{option} {text}: name the run whose page it was (run: FOLDER)")
        return source
    folder = Path(text).expanduser()
    return Annotations(run=text) if folder.is_dir() and parts_of(folder) == [folder] else AnyForm(path=text)


class NoPair(DataError):
    """Every row is in order, and no two of them make a pair."""


def read_human(
    sources: Sequence[LabelSource], run: Run, system: str | None = None, what: str = "human_data", judges: bool = False
) -> HumanData:
    """Everything that people said, in the order of sources and rows (of prompts, where pairs are made of several rows).

    a and b are assigned by hash, so a is not always the chosen one. `system` is put before a prompt without a system
    turn, as it is for the policy, so that AI and human labels of one pair meet. With `judges` also what judges said in
    judgments of ours, as it is. Rows that cannot be used are said on the screen, by cause. Raises DataError for rows of
    another shape, and, naming `what`, when no row is usable.
    """
    data = HumanData.empty()
    for source in sources:
        read_source(source, run, system, data, judges=judges)
    if not data.judgments:
        counts = ", ".join(f"{name} {number}" for name, number in sorted(data.counts.items()))
        reason = told(data.failures) if data.failures else counts or "the sources are empty"
        reason += ASK_JUDGES if data.counts["suggested"] else ""
        raise (DataError if data.failures else NoPair)(f"{what}: not one usable pair: {reason}")
    if data.failures:
        say(f"  human labels: {data.counts['failed']} of {data.counts['rows']} rows failed: {told(data.failures)}")
    if drawn_from := data.counts["not_drawn"]:
        say(
            f"  human labels: {drawn_from} pairs are beyond the {MOST_PAIRS} of one prompt that are drawn, and not used"
        )
    if suggested := data.counts["suggested"]:
        say(f"  human labels: {suggested} rows have no person's answer, and a judge's is not read{ASK_JUDGES}")
    if alone := data.counts["unpaired"]:
        say(f"  human labels: {alone} rows or ratings are in no pair, and not used")
    if parted := data.counts["diverged"]:
        say(f"  human labels: {parted} rows compare conversations that had parted before, and are not used")
    return data


def read_labels(given: Path | str) -> list[Judgment]:
    """All labels of a file or source, whoever gave them; of a run: its people's and its judge's.

    DataError for what is missing, empty or of another shape.
    """
    source = source_of(given)
    run = Run(Path(given))
    sources: list[LabelSource] = [source]
    if isinstance(source, Annotations) and run.folder.is_dir():
        files = [file for file in (run.annotations, run.judgments) if file.exists()]
        if not files:
            raise DataError(f"{given}: a run without labels: neither {run.annotations.name} nor {run.judgments.name}")
        sources = [AnyForm(path=str(file)) for file in files]
    return read_human(sources, run, what=str(given), judges=True).judgments


def read_source(
    source: LabelSource, run: Run, system: str | None, data: HumanData, stage: str = "human", judges: bool = False
) -> None:
    """Add what one source says to the data; its failures are of the stage. Nothing is shown."""
    if not isinstance(source, Annotations):
        read_human_rows(source, human_rows(source), Sheet(source, system, data, stage, judges))
        return
    theirs = annotated_run(source, run)
    if not any(file.exists() for file in source_files(source, run)):
        raise DataError(f"human_data: {theirs.folder}: no answers there yet; give some with `rlaif annotate`")
    sheet = Sheet(FileSource(path="", tags=source.tags), system, data, stage)
    if theirs.annotations.exists():
        read_form(Judgments(), _rows(theirs.annotations), sheet)
    if theirs.annotation_edits.exists():
        read_own_edits(counted(_rows(theirs.annotation_edits), sheet), sheet)
    if theirs.annotation_thumbs.exists():
        read_form(Thumbs(), _rows(theirs.annotation_thumbs), sheet)


def check_human_failures(data: HumanData, limit: float) -> None:
    """DataError when surely more than `limit` of the rows cannot be used."""
    knob = "preferences.max_human_failures"
    check_share("human labels", data.counts["failed"], data.counts["rows"], data.failures, knob, limit)


def _rows(path: Path) -> Iterator[SourceRow]:
    return read_rows(FileSource(path=str(path)))


def source_files(source: LabelSource, run: Run) -> list[Path]:
    """What the source is read from; none where that is a hub."""
    if isinstance(source, Annotations):
        theirs = annotated_run(source, run)
        thumbs = [theirs.annotation_thumbs] if theirs.annotation_thumbs.exists() else []  # which came later
        return [theirs.annotations, theirs.annotation_edits, *thumbs]
    return [path_of(source)] if isinstance(source, FileSource) else []


def annotated_run(source: Annotations, run: Run) -> Run:
    """The run on whose page the answers were given."""
    return Run(Path(os.path.expanduser(source.run))) if source.run else run
