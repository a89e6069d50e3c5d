"""A little of a test for every change, and all of it where slow tests run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from scipy.stats import binom


def some(name: str | tuple[str, ...], fast: Sequence[Any], slow: Iterable[Any]) -> pytest.MarkDecorator:
    """Parametrised by both; only the first are in the fast tier."""
    rows = slow if isinstance(name, tuple) else [(value,) for value in slow]
    return pytest.mark.parametrize(name, [*fast, *(pytest.param(*row, marks=pytest.mark.slow) for row in rows)])


def seeds(count: int) -> pytest.MarkDecorator:
    """Each `seed` below the count; only 0 is in the fast tier."""
    return some("seed", [0], range(1, count))


def in_worlds(few: int, many: int) -> pytest.MarkDecorator:
    """With few simulated `worlds` in the fast tier, and with many."""
    return some("worlds", [few], [many])


def least(worlds: int, level: float = 0.95) -> int:
    """Fewer of so many sound intervals of this level hold the truth one time in 200 by chance."""
    return int(binom.ppf(0.005, worlds, level))
