"""Files of rows: JSONL, one JSON array, CSV and Parquet, told by the file's name. No form is known here."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

from rlaif.errors import DataError
from rlaif.files import read_file
from rlaif.jsonl import check_text, read_items, read_text

LONGEST_CELL = 2**31 - 1
"""The library's own limit of 131,072 characters is less than a long response."""


def read_table(path: Path, keep: Set[str] = frozenset()) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of each row. An empty cell of a CSV file is an absent one, but in the columns to `keep`.

    DataError, with the place, for a file that is missing, damaged or of another kind than its name says.
    """
    if ".csv" in path.suffixes:
        return csv_items(path, keep)
    return _parquet_items(path) if path.suffix == ".parquet" else read_items(path)


def csv_items(path: Path, keep: Set[str] = frozenset()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a CSV file with a header, placed at the line on which each begins.

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
                yield place, _typed(dict(zip(header, cells, strict=True)), place, keep)
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not CSV: {error}") from None


def _typed(cells: dict[str, str], place: str, keep: Set[str]) -> dict[str, Any]:
    row: dict[str, Any] = {key: cell for key, cell in cells.items() if cell.strip() or key in keep}
    if "tags" in row:
        row["tags"] = [tag.strip() for tag in row["tags"].split(";") if tag.strip()]
    for key in {"seconds", "p_chosen"} & row.keys():
        try:
            row[key] = float(row[key])
        except ValueError:
            raise DataError(f"{place}: {key}: must be a number (got {row[key]!r})") from None
    return row


def _parquet_items(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows in batches. Where only some rows of a file have a key, the others have it as null."""
    import pyarrow as pa  # noqa: PLC0415  (half a second, and only such files need it)
    from pyarrow import parquet  # noqa: PLC0415

    try:
        table, number = parquet.ParquetFile(io.BytesIO(read_file(path))), 0
        for batch in table.iter_batches(1000):
            for row in batch.to_pylist():
                number += 1
                place = f"{path} row {number}"
                check_text(row, place)
                yield place, row
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file: {str(error).splitlines()[0]}") from None
    except TypeError as error:  # what JSON has no word for: bytes, times
        raise DataError(f"{path}: cannot be read as rows of JSON: {error}") from None
