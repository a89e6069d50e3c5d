"""JSONL in and out: an error names file and line, and a file on disk is either whole or absent."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

import jsonlines
from pydantic import BaseModel, TypeAdapter, ValidationError

from rlaif.errors import DataError, shown
from rlaif.files import no_link, open_file, parts_of, read_file, writing
from rlaif.processes import leads

Row = TypeVar("Row", bound=BaseModel)


def first_problem(error: ValidationError) -> str:
    """The first pydantic complaint as `field: message (got value)`."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or "row"
    return f"{where}: {problem['msg']} (got {shown(problem['input'])})"


UNPACKED = (64 * 2**20, 200, 2 * 2**30)
"""What a .gz file may hold: so many bytes, or so many times its own size where that is more, and never above the last.
Text is packed to a third, repeated rows to a hundredth; a file that is made to fill the memory, to a thousandth."""


def read_text(path: Path) -> str:
    """A file's text, unpacked if its name ends in .gz. DataError where it is missing, damaged or not UTF-8, or where
    it is packed so densely that it would fill the memory."""
    try:
        data = read_file(path)
        return (_unpacked(path, data) if path.suffix == ".gz" else data).decode()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _unpacked(path: Path, data: bytes) -> bytes:
    least, ratio, most = UNPACKED
    limit = min(max(least, ratio * len(data)), most)
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        unpacked = file.read(limit + 1)
    if len(unpacked) > limit:
        raise DataError(f"{path}: {len(data)} bytes unpack to more than {limit}: unpack it yourself if that is right")
    return unpacked


def strict_loads(text: str) -> Any:
    """JSON. ValueError for a key that an object holds twice, of which others take the last one's value."""
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"key {twice!r} appears twice")
    return found


def check_text(value: Any, place: str) -> None:
    """DataError, naming the place, where half of a surrogate pair is in it: JSON can spell one, no file can hold it."""
    try:
        dumps(value).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise DataError(f"{place}: not text: half of a surrogate pair ({half!r})") from None


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) for each non-empty line of a .jsonl or .jsonl.gz file.

    Raises DataError, naming file and line, for a missing file, bad UTF-8, bad JSON, a row that is no object, or half
    of a surrogate pair: JSON can spell one, but no file could hold what is made of it.
    """
    yield from _lines(path, read_text(path).split("\n"))


def read_items(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of each line of a JSONL file, or of each element if the file is one JSON array of objects.

    The place is `file:line`; in an array that is the line on which the element begins, and which element it is is
    added, since most programs write the whole array on one line. Raises as `read_objects` does.
    """
    for file in parts_of(path):
        text = read_text(file)
        if text.lstrip().startswith("["):
            yield from _elements(file, text)
        else:
            yield from ((f"{file}:{number}", value) for number, value in _lines(file, text.split("\n")))


def _elements(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        values = strict_loads(text)
        check_text(values, str(path))
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        raise DataError(f"{path}:{line}: not a JSON array of objects: {error}") from None
    decoder, line, counted, end = json.JSONDecoder(), 1, 0, text.index("[") + 1
    for number, value in enumerate(values, start=1):
        begin = next(i for i in range(end, len(text)) if text[i] not in ", \n\r\t")
        line, counted = line + text.count("\n", counted, begin), begin
        place = f"{path}:{line} item {number}"
        if not isinstance(value, dict):
            raise DataError(f"{place}: not a JSON object: {dumps(value)[:80]}")
        yield place, value
        end = decoder.raw_decode(text, begin)[1]


def _lines(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    # Lines end with "\n" alone: other line separators are legal inside JSON strings.
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = jsonlines.Reader([line], loads=strict_loads).read(type=dict)
            if "\\u" in line:
                check_text(value, f"{path}:{number}")
        except (jsonlines.InvalidLineError, RecursionError) as error:
            reason = str(error).partition(" (line ")[0]
            raise DataError(f"{path}:{number}: not a JSON object: {reason}") from None
        yield number, value


def read_jsonl(path: Path, kind: type[Row]) -> list[Row]:
    """All rows of the file, or of a folder's parts, as records of this kind; the first bad row raises DataError with
    file and line."""
    return [_row(part, number, value, kind) for part in parts_of(path) for number, value in read_objects(part)]


def stream_jsonl(path: Path, kind: type[Row]) -> Iterator[Row]:
    """As `read_jsonl`, one row at a time; of a file that is not packed."""
    for part in parts_of(path):
        try:
            with open_file(part) as file:
                yield from (_row(part, number, value, kind) for number, value in _lines(part, _decoded(part, file)))
        except OSError as error:
            raise DataError(f"{part}: cannot be read: {error.strerror or error}") from None


def _decoded(path: Path, lines: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode()
        except UnicodeDecodeError:
            raise DataError(f"{path}:{number}: not UTF-8 text") from None


def _row(path: Path, number: int, value: dict[str, Any], kind: type[Row]) -> Row:
    try:
        return kind.model_validate_json(json.dumps(value))
    except ValidationError as error:
        raise DataError(f"{path}:{number}: {first_problem(error)}") from None


def read_json(path: Path, form: TypeAdapter[Any]) -> Any:
    """What is in a JSON file, which must have the form; DataError, naming what is wrong and where, if not."""
    try:
        value = strict_loads(read_text(path))
        check_text(value, str(path))
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from None
    return _formed(str(path), value, form)


def read_rows(path: Path, form: TypeAdapter[Any]) -> list[dict[str, Any]]:
    """The rows of a JSONL file, each of which must have the form; none where there is no file."""
    if not os.path.lexists(path):
        return []
    return [_formed(f"{path}:{number}", value, form) for number, value in read_objects(path)]


def _formed(place: str, value: Any, form: TypeAdapter[Any]) -> Any:
    try:
        form.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise DataError(f"{place}: {first_problem(error)}") from None
    return value


def dumps(value: Any) -> str:
    """One line of JSON, keys in the order given, text unescaped."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(plain, ensure_ascii=False)


def lines_of(rows: Iterable[Any]) -> bytes:
    """The rows as lines; of rows that were written elsewhere their `lines`."""
    lines = getattr(rows, "lines", None)
    return lines if isinstance(lines, bytes) else "".join(f"{dumps(row)}\n" for row in rows).encode()


class RowWriter:
    """Rows or bytes as they come, in a hidden file that takes its name when it is whole (`finish`); closed before that,
    it is gone: a reader, or a run after a kill, sees the old file or the new one.

    For one writer at a time: what a kill left half-written is overwritten by the next run. An OSError names the file.
    Of several processes that train together only the first writes; the others hold the same data.
    """

    def __init__(self, path: Path) -> None:
        self.rows = 0
        self._whole = False
        self._path = path
        self._temporary = path.with_name(f".{path.name}.tmp")
        self._file: IO[bytes] | None = None

    def write(self, rows: Sequence[Any]) -> None:
        """Append rows."""
        self.rows += len(rows)
        self.append(lines_of(rows))

    def append(self, data: bytes) -> None:
        """Append these bytes."""
        assert not self._whole, f"{self._path} has its name already"
        if not leads():
            return
        with writing(self._path):
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._temporary.unlink(missing_ok=True)
                self._file = open(self._temporary, "wb", opener=no_link)  # noqa: SIM115 (`close` closes it)
            self._file.write(data)

    def finish(self) -> None:
        """Give the file its name. Nothing can be written afterwards."""
        self.append(b"")
        self._whole = True
        if self._file is not None:
            with writing(self._path):
                self._file.flush()
                os.fsync(self._file.fileno())
                os.replace(self._temporary, self._path)
        self.close()

    def close(self) -> None:
        """Leave nothing behind."""
        if self._file is not None:
            file, self._file = self._file, None
            with contextlib.suppress(OSError):  # of rows that nobody wants: `finish` has put the others on disk
                file.close()
            self._temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace the file's content in one step, as `RowWriter` does."""
    with contextlib.closing(RowWriter(path)) as file:
        file.append(data)
        file.finish()


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write all rows, atomically."""
    write_atomic(path, "".join(dumps(row) + "\n" for row in rows).encode())


def write_json(path: Path, value: Any) -> None:
    """Write one indented JSON document, atomically."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    write_atomic(path, (json.dumps(plain, ensure_ascii=False, indent=2) + "\n").encode())
