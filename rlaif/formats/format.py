"""What every form of human feedback is: its knobs, the keys that give it away, and its reader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

from rlaif.config.base import Section
from rlaif.config.sources import DataSource
from rlaif.errors import DataError, did_you_mean
from rlaif.formats.rows import SourceRow, read_rows
from rlaif.formats.sheet import Sheet


class Format(Section):
    """One form. A new one is a module with a subclass, and a name in the union of `formats/__init__.py`."""

    kind: str
    KEYS: ClassVar[tuple[set[str], ...]] = ()
    """Any of these sets of keys tells that a row has this form; the first form that fits counts."""
    HAS_STRENGTH: ClassVar[bool] = False
    """Whether its rows may say `p_chosen`."""

    def rows(self, source: DataSource) -> Iterator[SourceRow]:
        """The rows of a source of this form, the first `limit` of them."""
        return read_rows(source)

    def read(self, rows: Iterable[SourceRow], sheet: Sheet) -> None:
        """Put what the rows say on the sheet. DataError for a row of another shape."""
        raise NotImplementedError

    def require(self, row: SourceRow, *keys: str) -> None:
        """DataError unless the row has all keys; it names the form that the row looks like, or the nearest key."""
        from rlaif.formats import kind_of  # noqa: PLC0415 (the list of forms holds this class)

        for key in keys:
            if key not in row.value:
                other = kind_of(row.value)
                hint = did_you_mean(key, row.value)
                if other is not None and other != self.kind:
                    hint = f"; these keys look like form.kind={other}"
                raise DataError(f"{row.place}: no key {key!r}{hint}")
