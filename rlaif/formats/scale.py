"""What the answers of a file may be, held against all of them before any is used.

One answer that is off its scale says that the scale is another one, and then every row of the file is misread.
"""

from __future__ import annotations

import math
from typing import Any

from rlaif.errors import DataError
from rlaif.formats.messages import Unusable
from rlaif.formats.sheet import as_number


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
