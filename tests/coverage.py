"""How often intervals hold the truth in simulated worlds: a quick look for every change, the full count is slow."""

from __future__ import annotations

import pytest
from scipy.stats import binom


def in_worlds(few: int, many: int) -> pytest.MarkDecorator:
    """The test with few `worlds`, and with many where slow tests run."""
    return pytest.mark.parametrize("worlds", [few, pytest.param(many, marks=pytest.mark.slow)])


def least(worlds: int, level: float = 0.95) -> int:
    """Fewer sound intervals of this level hold the truth one time in 200 by chance."""
    return int(binom.ppf(0.005, worlds, level))
