"""The forms of human feedback, one class each: knobs, keys and reader. Here is their list, and where they come from.

Every form may carry `annotator` (who it was, a text or a number; none = one nameless `human`), `seconds` (how long the
answer took) and `reason`. A prompt is a text, an HH-RLHF transcript or a message list. A row that is no usable feedback
(different prompts, one text twice, figures that contradict the label) is a failure with its place; a row of another
shape, or an answer off its scale, means that the file is not what the recipe says and stops the run. Next: `format.py`,
`sheet.py`, then a form, then `feedback/human.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from rlaif.config.base import Section
from rlaif.config.sources import FileSource, HubSource
from rlaif.errors import DataError
from rlaif.formats.argilla import Argilla
from rlaif.formats.choices import Csv, Likert, Shp
from rlaif.formats.columns import Columns
from rlaif.formats.comparisons import Comparisons
from rlaif.formats.datasets import Dataset, dataset_of
from rlaif.formats.format import Format
from rlaif.formats.judgments import Edits, Judgments
from rlaif.formats.label_studio import LabelStudio
from rlaif.formats.rankings import Rankings
from rlaif.formats.ratings import Ratings, Thumbs, UltraFeedback
from rlaif.formats.rows import SourceRow, read_rows, tags_of
from rlaif.formats.sheet import Sheet
from rlaif.formats.signals import words_of

Form = Annotated[
    Judgments
    | Dataset
    | Comparisons
    | Shp
    | UltraFeedback
    | Argilla
    | LabelStudio
    | Edits
    | Csv
    | Likert
    | Rankings
    | Ratings
    | Thumbs
    | Columns,
    Field(discriminator="kind"),
]
"""All forms. Where a row names none the first whose keys it has counts."""
FORMATS: dict[str, type[Format]] = {form.model_fields["kind"].default: form for form in get_args(get_args(Form)[0])}
CATEGORY = "category"
"""A column whose text becomes a tag, where no form is declared."""
ALSO_SAID = {"annotator", "seconds", "reason", "tags", "p_chosen", "margin", "ranks"}
"""What a row may carry besides, and what is assumed where it does not."""


class HumanFile(FileSource):
    """A file of human feedback: JSONL, one JSON array, or CSV, plain or .gz."""

    form: Form = Comparisons()


class HumanHub(HubSource):
    """A data set of human feedback, read through `datasets`."""

    form: Form = Comparisons()


class Annotations(Section):
    """What people answered on `rlaif annotate`'s page, and what they edited there."""

    kind: Literal["annotations"] = "annotations"
    run: str | None = None
    """The folder of the run whose page it was; none = this run."""
    tags: tuple[str, ...] = ()


HumanSource = Annotated[HumanFile | HumanHub | Annotations, Field(discriminator="kind")]


class AnyForm(FileSource):
    """A file that no recipe describes: each row says by its keys which form it has, and that form's defaults hold.

    A text in a row's column `category` is a tag.
    """


LabelSource = HumanFile | HumanHub | Annotations | AnyForm


def kind_of(row: Mapping[str, Any]) -> str | None:
    """The `kind` of the form whose keys the row has; None if it has no form's."""
    return next((kind for kind, form in FORMATS.items() if any(keys <= row.keys() for keys in form.KEYS)), None)


def read_form(form: Format, rows: Iterable[SourceRow], sheet: Sheet) -> None:
    """Put what these rows say on the sheet. DataError for a row of another shape."""
    form.read(counted(rows, sheet, form.HAS_STRENGTH), sheet)


def counted(rows: Iterable[SourceRow], sheet: Sheet, has_strength: bool = False) -> Iterator[SourceRow]:
    """The rows, while the sheet counts them and those that failed."""
    for row in rows:
        if row.value.get("p_chosen") is not None and not has_strength:
            kinds = ", ".join(kind for kind, form in FORMATS.items() if form.HAS_STRENGTH)
            raise DataError(f"{row.place}: p_chosen: only the forms {kinds} have one; leave it out")
        sheet.tally("rows")
        before = len(sheet.data.failures)
        yield row
        sheet.tally("failed", len(sheet.data.failures) > before)


def human_rows(source: HumanFile | HumanHub | AnyForm) -> Iterator[SourceRow]:
    """The rows of a file of any kind, or of a data set; the first `limit` of them."""
    if isinstance(source, HumanHub):
        return read_rows(source)  # whose columns nobody here can spell otherwise
    if isinstance(source, AnyForm):
        rows = Csv().rows(source) if ".csv" in Path(source.path).suffixes else read_rows(source)
        return (_with_category(_spelled(row, set()), source) for row in rows)
    named = {name for name in vars(source.form).values() if isinstance(name, str)}
    return (_spelled(row, named) for row in source.form.rows(source))


def read_human_rows(source: HumanFile | HumanHub | AnyForm, rows: Iterable[SourceRow], sheet: Sheet) -> None:
    """Put on the sheet what rows of the source say. Where each row says its own form, all rows of one form are read
    together, wherever they stand: some pairs need several rows, and some files several rows to say their scale."""
    if not isinstance(source, AnyForm):
        read_form(source.form, rows, sheet)
        return
    by_form: dict[tuple[str, str | None], list[SourceRow]] = {}
    try:
        for row in rows:
            kind = kind_of(row.value)
            if kind is None:
                keys = ", ".join(sorted(row.value)) or "none"
                raise DataError(
                    f"{row.place}: no human label of a pair (keys: {keys}); the forms are {', '.join(FORMATS)}"
                )
            by_form.setdefault((kind, dataset_of(row.value) if kind == "dataset" else None), []).append(row)
    finally:  # where a row has no form, what is wrong with the rows before it is said first
        for (kind, name), some in by_form.items():
            read_form(FORMATS[kind].model_validate({"name": name} if name else {}), some, sheet)


def _with_category(row: SourceRow, source: AnyForm) -> SourceRow:
    category = row.value.get(CATEGORY)
    if not isinstance(category, str) or not category:
        return row
    tags = tags_of(row, source.model_copy(update={"tags": ()}))
    return SourceRow(row.place, row.value | {"tags": list(dict.fromkeys([*tags, category]))})


def _spelled(row: SourceRow, named: set[str]) -> SourceRow:
    """The row. DataError where what it says besides stands under another spelling of its key, and would be lost.

    A column that the form names (`named`) may be spelled as it likes.
    """
    for key in row.value:
        ours = "_".join(words_of(key))
        if ours in ALSO_SAID and ours != key and key not in named:
            raise DataError(f"{row.place}: key {key!r} is not read; write {ours!r}")
    return row
