"""How a figure is said, the same on every page and screen: '81%', '+49 points', '40 to 58', '-' for none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Unit = Literal["share", "points", "number", "signed"]
"""share: 0.81 is '81%'. points: a difference of shares, '+49 points'. signed: a difference of numbers."""

COIN = 0.5
"""What tossing one would get: where a share begins to say something."""
NONE = "\u2013"
MINUS = "\u2212"


def number(value: float | None, signed: bool = False) -> str:
    """About three significant digits: 1,234 / 61.3 / 0.042."""
    if value is None:
        return NONE
    size = abs(value)
    digits = 0 if size >= 100 or size == 0 else 1 if size >= 10 else 2 if size >= 0.1 else 3
    text = f"{size:,.{digits}f}"
    sign = MINUS if value < 0 and float(text.replace(",", "")) else "+" if signed and value > 0 else ""
    return sign + text


def percent(share: float | None) -> str:
    """A share as a whole percentage; 100% and 0% only where exact, so that 99.7% does not read as all."""
    if share is None:
        return NONE
    if 0.995 <= share < 1 or 0 < share < 0.005:
        return f"{100 * share:.1f}%"
    return f"{100 * share:.0f}%"


def points(difference: float | None) -> str:
    """A difference of shares in percentage points, without the unit, always signed."""
    if difference is None:
        return NONE
    rounded = round(100 * difference)
    return f"{MINUS if rounded < 0 else '+' if rounded > 0 else ''}{abs(rounded)}"


def figure(value: float | None, unit: Unit) -> str:
    """The value in its unit."""
    if value is None:
        return NONE
    if unit == "share":
        return percent(value)
    if unit == "points":
        return f"{points(value)} points"
    return number(value, signed=unit == "signed")


def span(estimate: Mapping[str, Any] | None, unit: Unit) -> str:
    """An estimate's interval as '40 to 58', or '-' where there is none."""
    if estimate is None or estimate.get("low") is None or estimate.get("high") is None:
        return NONE
    low, high = estimate["low"], estimate["high"]
    if unit == "points":
        return f"{points(low).lstrip('+')} to {points(high).lstrip('+')}"
    if unit == "share":
        return f"{percent(low).rstrip('%')} to {percent(high)}"
    return f"{number(low)} to {number(high)}"


def with_interval(estimate: Mapping[str, Any], unit: Unit) -> str:
    """'74% (66 to 81%)'."""
    interval = span(estimate, unit)
    return figure(estimate["value"], unit) + (f" ({interval})" if interval != NONE else "")


def duration(seconds: float) -> str:
    """'0.4 s', '48 s', '12 min', '3 h 05 min'."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def direction(difference: Mapping[str, Any] | None, zero: float = 0.0) -> Literal["up", "down", "unclear"]:
    """Which side of `zero` the whole interval lies on."""
    if difference is None or difference.get("low") is None or difference.get("high") is None:
        return "unclear"
    return "up" if difference["low"] > zero else "down" if difference["high"] < zero else "unclear"
