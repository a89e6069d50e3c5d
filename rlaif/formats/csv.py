"""CSV files with a header: two responses and a choice between them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from rlaif.config.sources import DataSource, HubSource
from rlaif.errors import DataError
from rlaif.formats.format import Format
from rlaif.formats.messages import Unusable
from rlaif.formats.rows import SourceRow, path_of, read_rows
from rlaif.formats.sheet import Scale, Sheet, said_by
from rlaif.formats.signals import Columns, label_columns, with_strength
from rlaif.jsonl import read_text

LONGEST_CELL = 2**31 - 1
"""The library's own limit of 131,072 characters is less than a long response."""
CHOICES = {"a": 1.0, "1": 1.0, "b": 0.0, "2": 0.0, "tie": 0.5, "0": 0.5}
"""P(response_a is better) by what a CSV file may say in `choice`."""


class Csv(Format):
    """A CSV file: `prompt`, `response_a`, `response_b`, `choice` (a, b or tie; 1, 2 or 0), and optional columns."""

    kind: Literal["csv"] = "csv"
    KEYS = ({"response_a", "response_b", "choice"},)
    HAS_STRENGTH = True

    def rows(self, source: DataSource) -> Iterator[SourceRow]:
        """Those of a CSV file; a data set of the hub is read as any other."""
        if isinstance(source, HubSource):
            return read_rows(source)
        return islice(csv_rows(path_of(source)), source.limit)

    def read(self, rows: Iterable[SourceRow], sheet: Sheet) -> None:
        """Rows of the documented columns, from a CSV file or any other."""
        columns, scale = Columns("prompt", "response_a", "response_b"), Scale(f"one of {', '.join(CHOICES)}")
        first: dict[str, str] = {}
        for row in rows:
            self.require(row, *columns, "choice")
            with sheet.attempt(row.place):
                value = row.value["choice"]
                choice = "" if value is None else str(value).strip().lower()
                if not choice:
                    raise Unusable("choice is missing")
                scale.holds(choice in CHOICES, value, row.place, "choice")
                first.setdefault(choice, row.place)
                label_columns(row, columns, with_strength(row, CHOICES[choice]), said_by(row), sheet, "choice")
        scale.check()
        _check_code(first)


def _check_code(first: dict[str, str]) -> None:
    """DataError unless the choices, each with the place of its first row, are surely of one code."""
    if "0" in first and "1" in first and "2" not in first:
        raise DataError(
            f"{first['0']}: choice: the file has 0 (a tie) and 1 (response_a) and never 2: if 0 and 1 are its two "
            "responses, write a and b; if it has ties, write a and tie"
        )
    number = next((choice for choice in first if choice.isdigit()), None)
    word = next((choice for choice in first if not choice.isdigit()), None)
    if number is not None and word is not None:
        raise DataError(
            f"{first[number]}: choice: the file has numbers ({number}) and words ({word!r}, {first[word]}): write a, b "
            "and tie, or 1, 2 and 0"
        )


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
