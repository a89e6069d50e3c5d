"""The files behind a source of human feedback, and the rows in them."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rlaif.config.human import Annotations, Csv, HumanFile, HumanHub, HumanSource
from rlaif.config.sources import FileSource
from rlaif.errors import DataError
from rlaif.feedback.human.signals import words_of
from rlaif.feedback.sources import SourceRow, path_of, read_rows
from rlaif.jsonl import read_text
from rlaif.run import Run

ALSO_SAID = {"annotator", "seconds", "reason", "tags", "p_chosen", "margin", "ranks"}
"""What a row may carry besides, and what is assumed where it does not."""
LONGEST_CELL = 2**31 - 1
"""The library's own limit of 131,072 characters is less than a long response."""


def source_files(source: HumanSource, run: Run) -> list[Path]:
    """What the source is read from; none where that is a hub."""
    if isinstance(source, Annotations):
        theirs = annotated_run(source, run)
        return [theirs.annotations, theirs.annotation_edits]
    return [path_of(source)] if isinstance(source, FileSource) else []


def annotated_run(source: Annotations, run: Run) -> Run:
    """The run on whose page the answers were given."""
    return Run(Path(os.path.expanduser(source.run))) if source.run else run


def human_rows(source: HumanFile | HumanHub) -> Iterator[SourceRow]:
    """The rows of a file of any kind, or of a data set; the first `limit` of them."""
    if isinstance(source, HumanHub):
        return read_rows(source)  # whose columns nobody here can spell otherwise
    is_csv = isinstance(source.form, Csv)
    rows = islice(csv_rows(path_of(source)), source.limit) if is_csv else read_rows(source)
    named = {name for name in vars(source.form).values() if isinstance(name, str)}
    return (_spelled(row, named) for row in rows)


def _spelled(row: SourceRow, named: set[str]) -> SourceRow:
    """The row. DataError where what it says besides stands under another spelling of its key, and would be lost.

    A column that the form names (`named`) may be spelled as it likes.
    """
    for key in row.value:
        ours = "_".join(words_of(key))
        if ours in ALSO_SAID and ours != key and key not in named:
            raise DataError(f"{row.place}: key {key!r} is not read; write {ours!r}")
    return row


def csv_rows(path: Path) -> Iterator[SourceRow]:
    """Rows of a CSV file with a header, placed at the line on which each begins. An empty cell is an absent one.

    `tags` is split at semicolons; `seconds` and `p_chosen` are numbers. DataError for a row with more or fewer cells
    than the header.
    """
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(io.StringIO(read_text(path).removeprefix("\ufeff"), newline=""), strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            place, line = f"{path}:{line}", reader.line_num + 1
            if header is None:
                header = [cell.strip() for cell in cells]
                if len(set(header)) < len(header):
                    twice = next(name for name in header if header.count(name) > 1)
                    raise DataError(f"{place}: column {twice!r} appears twice")
            elif len(cells) != len(header) and cells:
                raise DataError(f"{place}: {len(cells)} cells, but the header has {len(header)}")
            elif cells:
                yield SourceRow(place, _typed(dict(zip(header, cells, strict=True)), place))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not CSV: {error}") from None


def _typed(cells: dict[str, str], place: str) -> dict[str, Any]:
    required = {"prompt", "response_a", "response_b", "choice"}
    row: dict[str, Any] = {key: cell for key, cell in cells.items() if cell.strip() or key in required}
    if "tags" in row:
        row["tags"] = [tag.strip() for tag in row["tags"].split(";") if tag.strip()]
    for key in {"seconds", "p_chosen"} & row.keys():
        try:
            row[key] = float(row[key])
        except ValueError:
            raise DataError(f"{place}: {key}: must be a number (got {row[key]!r})") from None
    return row
