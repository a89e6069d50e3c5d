"""The general column map: a prompt, two responses and who won, under whatever names and on whatever scale.

Most published comparisons are this form with other names: `datasets.py` has their table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from rlaif.config.sources import DataSource
from rlaif.errors import DataError, did_you_mean
from rlaif.formats.format import Format
from rlaif.formats.rows import SourceRow, Unusable, message_list, prompt_part, read_rows
from rlaif.formats.sheet import NumberScale, Scale, Sheet, said_by
from rlaif.formats.signals import Columns as Names
from rlaif.formats.signals import label_columns
from rlaif.records import Message, plain

Won = Literal["a", "b", "tie"]
P_A: dict[Won, float] = {"a": 1.0, "b": 0.0, "tie": 0.5}


class Columns(Format):
    """Any comparison: the columns of the prompt, of two responses and of a label that says which is better.

    A column inside another is named by its path: `question.full_text`, `summaries.0.text`. The label is a word
    (`values`), a number on a scale between the responses (`scale`), or several columns of which one is 1.
    """

    kind: Literal["columns"] = "columns"
    prompt: str | None = "prompt"
    """The column of the prompt. null: the responses are whole conversations, and must differ in the last turn only."""
    response_a: str = "response_a"
    """The column of the first response: a text, an assistant's message, or (with `prompt: null`) a conversation."""
    response_b: str = "response_b"
    """The column of the second."""
    label: str | dict[str, Won] | None = "label"
    """The column that says which is better; or columns with what a 1 there says, as `{won_a: a, won_b: b, even: tie}`.
    null: the first always is."""
    values: dict[str, Won] = Field(default_factory=dict)
    """What words or codes mean: `{left: a, right: b, same: tie}`. None, and no scale: `a`, `b`, `tie`, and the names of
    the responses' columns."""
    scale: tuple[float, float] | None = None
    """The number that says that the first is surely better, and the one for the second: `[-3, 3]`, `[1, 0]`. The middle
    is a tie; p is linear between."""
    whole: bool = False
    """Whether only whole numbers are on the scale."""
    annotator: str = "annotator"
    """The column that says who answered, if there is one."""

    @model_validator(mode="after")
    def _one_label(self) -> Self:
        if self.scale is not None and (self.values or not isinstance(self.label, str)):
            raise ValueError("scale: needs a label of one column, and no values")
        if self.values and not isinstance(self.label, str):
            raise ValueError("values: need a label of one column")
        if self.scale is not None and self.scale[0] == self.scale[1]:
            raise ValueError(f"scale: its ends must differ (got {self.scale[0]:g} twice)")
        if self.response_a == self.response_b:
            raise ValueError(f"response_b: must be another column than response_a (got {self.response_b!r})")
        return self

    def rows(self, source: DataSource) -> Iterator[SourceRow]:
        """Those of a file; where the label of a CSV file is empty it is missing, not the column."""
        return read_rows(source, keep=set(self._columns()))

    def _columns(self) -> tuple[str, ...]:
        label = self.label if isinstance(self.label, dict) else [self.label]
        return tuple(name for name in (self.prompt, self.response_a, self.response_b, *label) if name is not None)

    def read(self, rows: Iterable[SourceRow], sheet: Sheet) -> None:
        """A judgment per row, held against the row's own figures. A label off its scale stops the run."""
        label = _Label(self)
        for row in rows:
            flat = _flat(row, (*self._columns(), *([self.annotator] if "." in self.annotator else [])))
            with sheet.attempt(row.place):
                p_a = label.p_a(flat)
                said = said_by(flat, self.annotator)
                names = Names(self.prompt or "prompt", self.response_a, self.response_b)
                if self.prompt is None:
                    parted = _parted(flat, names)
                    if parted is None:
                        sheet.tally("diverged")
                        continue
                    flat = parted
                label_columns(flat, names, p_a, said, sheet, self.label if isinstance(self.label, str) else "")
        label.scale.check(_off(label.scale))


class _Label:
    """P(a is better) of each row, on the scale of the whole file."""

    def __init__(self, form: Columns) -> None:
        self.form, self.values = form, dict(form.values)
        if form.scale is not None:
            self.scale: Scale = NumberScale(min(form.scale), max(form.scale), form.whole)
        elif isinstance(form.label, dict):
            self.scale = NumberScale(0, 1, whole=True)
        else:
            self.values = self.values or {**{won: won for won in P_A}, form.response_a: "a", form.response_b: "b"}
            self.scale = Scale(f"one of {', '.join(self.values)}")
        self.values = {word.strip().lower(): won for word, won in self.values.items()}

    def p_a(self, row: SourceRow) -> float:
        """Unusable where the label is missing, off its scale or contradicts itself."""
        label = self.form.label
        if label is None:
            return 1.0
        if isinstance(label, dict):
            return self._of_columns(row, label)
        value = _plain(row.value[label])
        if value is None:
            raise Unusable(f"{label} is missing")
        if self.form.scale is not None:
            assert isinstance(self.scale, NumberScale)
            first, second = self.form.scale
            return (second - self.scale.read(value, row.place, label)) / (second - first)
        word = str(int(value) if isinstance(value, float) and value.is_integer() else value).strip().lower()
        self.scale.holds(word in self.values, row.value[label], row.place, label)
        return P_A[self.values[word]]

    def _of_columns(self, row: SourceRow, label: Mapping[str, Won]) -> float:
        assert isinstance(self.scale, NumberScale)
        marks = {name: _plain(row.value[name]) for name in label}
        said = {
            won
            for name, won in label.items()
            if self.scale.read(int(mark) if isinstance(mark := marks[name], bool) else mark, row.place, name) == 1
        }
        if len(said) != 1:
            reason = "none of the label's columns is 1" if not said else "the label's columns contradict each other"
            raise Unusable(reason, str(marks))
        return P_A[said.pop()]


def _plain(value: Any) -> Any:
    """The value; nothing for an empty text, and a number for a text that is one, as CSV files write it."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value if value.strip() else None


def _off(scale: Scale) -> str:
    """What to declare, where labels were off the scale."""
    if not isinstance(scale, NumberScale):
        return "; say what they mean in the form's values: {WORD: a, OTHER: b, EVEN: tie}"
    return f"; they are from {scale.least:g} to {scale.most:g}: declare the form's scale, [first is better, second is]"


def _flat(row: SourceRow, names: Iterable[str]) -> SourceRow:
    """The row with each of these under its own name, also where it lies inside another column. DataError for one that
    is not there."""
    found: dict[str, Any] = {}
    for name in names:
        value: Any = row.value
        for part in [name] if name in row.value else name.split("."):
            if isinstance(value, list) and part.isdigit() and int(part) < len(value):
                value = value[int(part)]
            elif isinstance(value, dict) and part in value:
                value = value[part]
            else:
                near = did_you_mean(part, value) if isinstance(value, dict) else ""
                raise DataError(f"{row.place}: no key {name!r}{near}")
        found[name] = value
    return SourceRow(row.place, row.value | found)


def _parted(row: SourceRow, names: Names) -> SourceRow | None:
    """The row with the prompt of both conversations, and their last turns as responses; nothing where they had parted
    before. Unusable where one ends otherwise."""
    prompts: list[list[dict[str, str]]] = []
    texts: list[Message] = []
    for name in names[1:]:
        messages = message_list(row.value[name], row.place, name)
        if not messages or messages[-1].role != "assistant":
            raise Unusable(f"{name} does not end with an assistant turn")
        if len(prompt := prompt_part(messages[:-1])) != len(messages) - 1:
            raise Unusable(f"{name} has two assistant turns at its end")
        prompts.append(plain(prompt))
        texts.append(messages[-1])
    if prompts[0] != prompts[1]:
        return None
    found = zip(names, (prompts[0], *(text.content for text in texts)), strict=True)
    return SourceRow(row.place, row.value | dict(found))
