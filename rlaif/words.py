"""How a figure is said, the same on every page and screen: '81%', '+49 points', '40 to 58', '-' for none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rlaif.stats import Estimate

Unit = Literal["share", "fine share", "points", "fine points", "number", "signed"]
"""share: 0.81 is '81%'. points: a difference of shares, '+49 points'. signed: a difference of numbers.
The fine ones have one decimal: where shares are small, a change of two points is a large one."""
Side = Literal["up", "down", "unclear"]

COIN = 0.5
"""What tossing one would get: where a share begins to say something."""
SOURCES = {"ai": "AI", "human": "human"}
"""Where a label comes from, as in '120 AI labels'."""
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


def points(difference: float | None, digits: int = 0) -> str:
    """A difference of shares in percentage points, without the unit, always signed; 0 has no sign."""
    if difference is None:
        return NONE
    text = f"{abs(100 * difference):.{digits}f}"
    return text if not float(text) else f"{MINUS if difference < 0 else '+'}{text}"


def figure(value: float | None, unit: Unit) -> str:
    """The value in its unit."""
    if value is None:
        return NONE
    return _bare(value, unit) + {"points": " points", "fine points": " points", "fine share": "%"}.get(unit, "")


def _bare(value: float, unit: Unit) -> str:
    """Without a unit that an interval says once, at its end."""
    match unit:
        case "share":
            return percent(value)
        case "fine share":
            return f"{100 * value:.1f}"
        case "points" | "fine points":
            return points(value, 0 if unit == "points" else 1)
        case _:
            return number(value, signed=unit == "signed")


def span(estimate: Estimate | None, unit: Unit) -> str:
    """An estimate's interval as '40 to 58', or '-' where there is none."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return NONE
    low, high = (_bare(end, unit).lstrip("+") for end in (estimate.low, estimate.high))
    return f"{low.rstrip('%')} to {high}{'%' if unit == 'fine share' else ''}"


def whole_percents(estimate: Estimate | None) -> str:
    """An estimate's interval as '66% to 81%', however near an end is to 0 or 1; '-' where there is none."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return NONE
    return f"{estimate.low:.0%} to {estimate.high:.0%}"


def with_interval(estimate: Estimate | None, unit: Unit = "share") -> str:
    """'74% (66 to 81%)', or '-' for none."""
    if estimate is None:
        return NONE
    interval = span(estimate, unit)
    return figure(estimate.value, unit) + (f" ({interval})" if interval != NONE else "")


def direction(estimate: Estimate | None, zero: float = 0.0) -> Side:
    """Which side of `zero` the whole interval lies on."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return "unclear"
    return "up" if estimate.low > zero else "down" if estimate.high < zero else "unclear"


def tone(estimate: Estimate | None, zero: float = COIN) -> str:
    """The colour of a figure of which more is better: 'up', 'down', or '' where its side of `zero` is unclear."""
    return direction(estimate, zero).replace("unclear", "")


def capital(text: str) -> str:
    """With a capital letter at its start, the rest unchanged."""
    return text[:1].upper() + text[1:]


def listed(names: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def counted(number: int, thing: str) -> str:
    """'1 pair', '1,200 pairs'."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def in_points(share: float) -> str:
    """'1 point', '12 points'."""
    away = points(share).lstrip("+")
    return f"{away} point{'' if away == '1' else 's'}"


def duration(seconds: float) -> str:
    """'0.4 s', '48 s', '12 min', '3 h 05 min'."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
