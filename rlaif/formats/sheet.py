"""What the readers of all forms write on, the values that they take from a row, and the scales of a file's answers. No
form is known here."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from random import Random
from typing import Any, NamedTuple, TypeVar

from rlaif.config.sources import DataSource
from rlaif.errors import DataError, shown
from rlaif.formats.given import prompt_from
from rlaif.formats.rows import (
    SourceRow,
    Unusable,
    after_system,
    bare_response,
    message_list,
    prompt_value,
    with_system,
)
from rlaif.records import Answer, Demonstration, Edit, Failure, Judgment, Prompt, Source, oriented

Item = TypeVar("Item")
MOST_PAIRS = 10_000
"""Of what is compared with each other at once: 142 responses give so many. More teach little more of one prompt."""
NOBODY = "human"
"""The annotator of a row that does not say who it was."""


class HumanData(NamedTuple):
    """What people said, and what became of every row that was read."""

    judgments: list[Judgment]
    edits: list[Edit]
    demonstrations: list[Demonstration]
    failures: list[Failure]
    """Rows and parts of rows that cannot be used; `id` is the place, `file:line`."""
    counts: Counter[str]
    """`rows`, `failed` (rows with a failure), and what is in order and no label all the same: `closer_than_gap`,
    `below_min_ratio`, `same_text` and `not_drawn` (in pairs), `unpaired` (rows, completions or ratings that are in no
    pair), `diverged` (rows whose two conversations had parted before their last turn), `discarded`, `cancelled`,
    `not_submitted` and `unanswered` (answers and records of annotation programs), and of the last those that hold a
    judge's label: `suggested`."""

    @classmethod
    def empty(cls) -> HumanData:
        """Nothing yet."""
        return cls([], [], [], [], Counter())


class Attribution(NamedTuple):
    """Who said it, and how."""

    annotator: str = NOBODY
    seconds: float | None = None
    reason: str = ""
    shown_first: str | None = None
    """The text that stood first; None where nobody knows."""
    source: Source = "human"


class Sheet(NamedTuple):
    """One source while it is read."""

    source: DataSource
    """Whose tags the pairs get."""
    system: str | None
    """Put before prompts without a system turn."""
    data: HumanData
    stage: str = "human"
    """Of the failures."""
    judges: bool = False
    """Whether judgments of a judge count, too; they are kept as they are."""

    @contextmanager
    def attempt(self, place: str) -> Iterator[None]:
        """What turns out unusable inside is a failure with this place."""
        try:
            yield
        except Unusable as bad:
            self.data.failures.append(Failure(stage=self.stage, id=place, reason=bad.reason, detail=bad.detail))

    def prompt(self, row: SourceRow, key: str) -> Prompt:
        """The row's prompt with its tags and what it is given. Unusable when it holds no user turn or a blank one."""
        messages = after_system(row, prompt_value(row.value[key], row.place, key))
        return self.addressed(prompt_from(row, messages, self.source))

    def addressed(self, prompt: Prompt) -> Prompt:
        """The prompt after the system turn, if it has none of its own."""
        return with_system(prompt, self.system)

    def label(self, prompt: Prompt, one: str, other: str, p_one: float, said: Attribution) -> None:
        """A judgment of two responses, which of them is a decided by hash. Unusable if they are the same text."""
        if one == other:
            raise Unusable("the two responses are the same text", one)
        pair = oriented(prompt, one, other)
        answer = None
        if said.seconds is not None or said.reason or said.shown_first is not None:
            first = {None: None, pair.a: "a", pair.b: "b"}[said.shown_first]
            answer = Answer.model_validate({"shown_first": first, "seconds": said.seconds, "reason": said.reason})
        p_a = p_one if pair.a == one else 1 - p_one
        self.data.judgments.append(
            Judgment(pair=pair, source=said.source, annotator=said.annotator, p_a=p_a, answer=answer)
        )

    def tally(self, what: str, number: int = 1) -> None:
        """So many more in `data.counts`; a count of nothing is not kept."""
        if number:
            self.data.counts[what] += number


def response_text(row: SourceRow, key: str) -> str:
    """A response given as a text or as a list of one assistant message. Unusable when it is blank."""
    return as_response(row.value[key], row.place, key)


def as_response(value: Any, place: str, key: str) -> str:
    """As `response_text`, of any value; `key` names it in what is said of it."""
    if isinstance(value, list | dict):
        messages = message_list(value, place, key)
        if [message.role for message in messages] != ["assistant"]:
            raise Unusable(f"{key} is not one assistant turn", f"{len(messages)} messages")
        value = messages[0].content
    elif isinstance(value, str):
        value = bare_response(value)
    if value is None:
        raise Unusable(f"{key} is missing")
    if not isinstance(value, str):
        raise DataError(f"{place}: {key}: must be a text (got {value!r})")
    if not value.strip():
        raise Unusable(f"{key} has an empty response")
    return value.strip()


def as_number(value: Any, place: str, key: str, low: float = -math.inf, high: float = math.inf) -> float:
    """A number. Unusable when it is missing or out of range; DataError, naming `key`, for what is no finite number."""
    if value is None:
        raise Unusable(f"{key} is missing")
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise DataError(f"{place}: {key}: must be a number (got {shown(value)})")
    if not low <= value <= high:
        raise Unusable(f"{key} is not between {low:g} and {high:g}", f"{key} = {value!r}")
    return float(value)


def said_by(row: SourceRow, column: str = "annotator") -> Attribution:
    """Who gave the row's answer, in which time and why, as far as the row has these columns."""
    seconds = row.value.get("seconds")
    reason = row.value.get("reason")
    if isinstance(reason, list) and all(isinstance(part, str) for part in reason):
        reason = "; ".join(reason)
    if reason is not None and not isinstance(reason, str):
        raise DataError(f"{row.place}: reason: must be a text (got {shown(reason)})")
    return Attribution(
        annotator=name_of(row.value.get(column), row.place, column),
        seconds=None if seconds is None else as_number(seconds, row.place, "seconds", low=0),
        reason=reason or "",
    )


def name_of(value: Any, place: str, key: str) -> str:
    """An annotator's name: a text or a number; `human` where there is none."""
    if value is None or value == "":
        return NOBODY
    name = str(value).strip()
    if isinstance(value, bool) or not isinstance(value, str | int) or not name:
        raise DataError(f"{place}: {key}: must be a text or a number (got {value!r})")
    return name


def some_pairs(items: Sequence[Item], key: str, sheet: Sheet) -> Iterator[tuple[Item, Item]]:
    """All pairs, or of more than `MOST_PAIRS` as many, drawn by the key; the others are counted as `not_drawn`."""
    total = math.comb(len(items), 2)
    if total <= MOST_PAIRS:
        yield from combinations(items, 2)
        return
    sheet.tally("not_drawn", total - MOST_PAIRS)
    for number in sorted(Random(key).sample(range(total), MOST_PAIRS)):  # the pairs by their second item, then first
        second = (1 + math.isqrt(1 + 8 * number)) // 2
        yield items[number - math.comb(second, 2)], items[second]


class Scale:
    """The answers of one file, as they are read. `check` is due after the last."""

    def __init__(self, words: str) -> None:
        """`words` say what an answer has to be: `a or b`."""
        self.words = words
        self.answers = 0
        self.off: list[str] = []
        """The answers that are off it, with their places and keys."""

    def holds(self, on_it: bool, value: Any, place: str, key: str) -> None:
        """One answer, and whether it is on the scale. Unusable if it is not: `check` stops the run."""
        self.answers += 1
        if not on_it:
            self.off.append(f"{place}: {key}: must be {self.words} (got {str(value)[:80]})")
            raise Unusable(f"{key} is off the scale", str(value))

    def check(self, hint: str = "") -> None:
        """DataError, with the first place and `hint`, if any answer was off the scale."""
        if self.off:
            others = f", as {len(self.off)} of {self.answers} values are" if len(self.off) > 1 else ""
            raise DataError(f"{self.off[0]}: off the scale{others}{hint}")


class NumberScale(Scale):
    """From `low` to `high`; `whole`: points only."""

    def __init__(self, low: float, high: float, whole: bool = False) -> None:
        super().__init__(f"{'a point' if whole else 'a number'} from {low:g} to {high:g}")
        self.low, self.high, self.whole = low, high, whole
        self.least, self.most = math.inf, -math.inf
        """Of all answers so far."""

    def read(self, value: Any, place: str, key: str) -> float:
        """The value as a number on the scale. Unusable when it is missing, DataError when it is no number."""
        number = as_number(value, place, key)
        self.least, self.most = min(self.least, number), max(self.most, number)
        self.holds(self.low <= number <= self.high and (not self.whole or number.is_integer()), value, place, key)
        return number
