"""Human labels to measure a judge by, in any form that `formats/` reads.

A gold file is named without its form, so each row says by its keys which it is (`formats/`), and the
form's own settings hold: ratings are from 1 to 5. Nothing is judged here. Next: `audit.py`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence, Set
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from rlaif.errors import DataError
from rlaif.formats import FORMATS, Form, HumanFile, form_of, human_rows, read_form
from rlaif.formats.comparisons import Comparisons
from rlaif.formats.csv import Csv
from rlaif.formats.format import Format
from rlaif.formats.rows import SourceRow, tags_of
from rlaif.formats.sheet import HumanData, Sheet
from rlaif.records import Failure, Judgment, content_id

CATEGORY = "category"
"""A column whose text becomes a tag."""


class GoldFile(NamedTuple):
    """One file, as the audit records it. `pairs` counts the pairs that are used, `rows` all rows."""

    name: str
    sha256: str
    rows: int
    unusable: int
    pairs: int


class Gold(NamedTuple):
    """One human judgment a pair, in the order in which the pairs first appear."""

    judgments: tuple[Judgment, ...]
    failures: tuple[Failure, ...]
    """Rows that hold no pair of human preference; `id` is file:line."""
    files: tuple[GoldFile, ...]
    file_of: dict[str, str]
    """By pair id: the name of the first file that has the pair."""
    repeated: int
    """Rows about a pair that an earlier row had labelled."""
    contradicted: int
    """Pairs that were labelled both ways: their p is the mean."""

    @property
    def left_out(self) -> int:
        """Usable pairs that the limit left out."""
        return len(self.file_of) - len(self.judgments)

    def without(self, pair_ids: Set[str]) -> Gold:
        """The same files without these pairs."""
        judgments = tuple(judgment for judgment in self.judgments if judgment.pair.id not in pair_ids)
        used = [self.file_of[judgment.pair.id] for judgment in judgments]
        return self._replace(
            judgments=judgments,
            files=tuple(file._replace(pairs=used.count(file.name)) for file in self.files),
            file_of={pair_id: name for pair_id, name in self.file_of.items() if pair_id not in pair_ids},
        )


def read_gold(paths: Sequence[Path], limit: int | None = None) -> Gold:
    """All human labels of these files (JSONL, a JSON array, CSV), or the `limit` pairs with the smallest hashes.

    A pair labelled several times has the mean p. No system turn is added: people saw these conversations as they are.
    A row whose conversation is no pair, and one labelled by a judge, is a failure with its place; a row of no known
    shape stops with a DataError, as does a file without a single usable pair.
    """
    if not paths:
        raise DataError("gold: name at least one file of human labels")
    labels: dict[str, list[Judgment]] = {}
    failures: list[Failure] = []
    file_of: dict[str, str] = {}
    counts: list[tuple[Path, str, int, int]] = []
    repeated = 0
    for given, name in zip(paths, file_names(paths), strict=True):
        path = Path(os.path.expanduser(given))
        data = people_said(path, gold_rows(path))
        for judgment in data.judgments:
            repeated += judgment.pair.id in labels
            labels.setdefault(judgment.pair.id, []).append(judgment)
            file_of.setdefault(judgment.pair.id, name)
        if not data.judgments:
            first = f"; first: {data.failures[0].id}: {data.failures[0].reason}" if data.failures else ""
            rows = data.counts["rows"]
            raise DataError(f"{path}: not one usable pair with a human label in {rows} rows{first}")
        failures += data.failures
        counts.append((path, name, data.counts["rows"], len(data.failures)))
    chosen = _limited(list(labels), limit)
    used = [file_of[pair_id] for pair_id in chosen]
    return Gold(
        judgments=tuple(_merged(labels[pair_id]) for pair_id in chosen),
        failures=tuple(failures),
        files=tuple(
            GoldFile(name, hashlib.sha256(path.read_bytes()).hexdigest(), rows, unusable, used.count(name))
            for path, name, rows, unusable in counts
        ),
        file_of=file_of,
        repeated=repeated,
        contradicted=sum(min(ps) < 0.5 < max(ps) for ps in ([j.p_a for j in some] for some in labels.values())),
    )


def file_names(paths: Sequence[Path]) -> list[str]:
    """The files' names, with the folder where two have the same: a path tells where, a name what."""
    names = [path.name for path in paths]
    return [f"{p.parent.name}/{p.name}" if names.count(p.name) > 1 else p.name for p in paths]


def _limited(pair_ids: list[str], limit: int | None) -> list[str]:
    if limit is None or limit >= len(pair_ids):
        return pair_ids
    kept = set(sorted(pair_ids, key=lambda pair_id: content_id("gold", pair_id))[:limit])
    return [pair_id for pair_id in pair_ids if pair_id in kept]


def gold_rows(path: Path) -> Iterator[SourceRow]:
    """The rows of a file of labels; a category is a tag."""
    return map(_with_category, human_rows(_source(path)))


def people_said(path: Path, rows: Iterable[SourceRow]) -> HumanData:
    """What people say in these rows of the file, whatever their forms. Neighbouring rows of one form are read together,
    since some pairs need several rows."""
    data = HumanData.empty()
    for form, some in groupby(rows, key=_form):
        read_form(form.model_validate({}), some, Sheet(_source(path), None, data, "gold"))
    return data


def _source(path: Path) -> HumanFile:
    form: Form = Csv() if ".csv" in path.suffixes else Comparisons()
    return HumanFile(path=str(path), form=form)


def _form(row: SourceRow) -> type[Format]:
    form = form_of(row.value)
    if form is None:
        keys = ", ".join(sorted(row.value)) or "none"
        forms = ", ".join(form.model_fields["kind"].default for form in FORMATS)
        raise DataError(f"{row.place}: no human label of a pair (keys: {keys}); the forms are {forms}")
    return form


def _with_category(row: SourceRow) -> SourceRow:
    category = row.value.get(CATEGORY)
    if not isinstance(category, str) or not category:
        return row
    tags = tags_of(row, HumanFile(path=row.place))
    return SourceRow(row.place, row.value | {"tags": list(dict.fromkeys([*tags, category]))})


def _merged(labels: Sequence[Judgment]) -> Judgment:
    """One judgment of all labels of a pair (all oriented alike): the mean p, and every tag."""
    tags = tuple(dict.fromkeys(tag for label in labels for tag in label.pair.tags))
    return Judgment(
        pair=labels[0].pair.model_copy(update={"tags": tags}),
        source="human",
        annotator=" ".join(dict.fromkeys(label.annotator for label in labels)),
        p_a=fmean(label.p_a for label in labels),
    )
