"""The report's and the comparison's plots, each as the text of one SVG.

Colours are Okabe and Ito's, which people with any colour vision can tell apart; blue is always the policy
(after), orange the reference (before). matplotlib is imported on the first plot. Equal numbers give equal
bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np

from rlaif.words import Unit, points

BLUE, ORANGE, GREEN, PURPLE, SKY, RED = "#0072B2", "#D98200", "#00805F", "#A6548A", "#4A9FD0", "#C24E00"
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY)
INK, MUTED, GRID = "#1f2933", "#66727f", "#e3e7eb"
STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": "#b8c1ca",
    "axes.labelcolor": MUTED,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    # Text as outlines: the same on every machine, and no font is needed.
    "svg.fonttype": "path",
    "svg.hashsalt": "rlaif",
}
CURVE_SIZE = (3.8, 2.4)
LEGEND_HEIGHT = 0.25
ROWS_WIDTH = 9.4


class Interval(NamedTuple):
    """A point with its interval, or without one."""

    value: float
    low: float | None = None
    high: float | None = None


def draw(size: tuple[float, float], paint: Callable[[Any], None]) -> str:
    """One SVG of one set of axes, in the page's style whatever the user's own matplotlib settings are."""
    import matplotlib  # noqa: PLC0415 - slow, and most commands never plot
    from matplotlib.figure import Figure  # noqa: PLC0415

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        # A Figure made directly has no window and no global state, unlike pyplot's.
        figure = Figure(figsize=size, layout="constrained")
        paint(figure.subplots())
        data = io.StringIO()
        figure.savefig(data, format="svg", metadata={"Date": None})
    text = data.getvalue()
    return text[text.index("<svg") :]


def curves(
    title: str, steps: Sequence[float], series: Mapping[str, Sequence[float | None]], share: bool = False
) -> str:
    """Lines over steps: each value faintly, their running mean strongly. `share` fixes the axis to 0-100%."""

    def paint(axes: Any) -> None:
        for color, (name, values) in zip(cycle(CYCLE), series.items(), strict=False):
            known = [(step, value) for step, value in zip(steps, values, strict=True) if value is not None]
            x, y = [step for step, _ in known], [value for _, value in known]
            smooth = running_mean(y)
            if smooth != y:
                axes.plot(x, y, color=color, alpha=0.3, linewidth=1)
            marker = "o" if len(y) < 12 else None
            axes.plot(x, smooth, color=color, linewidth=2, marker=marker, markersize=4, label=name)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)
        if share:
            percent_axis(axes.yaxis)
            axes.set_ylim(-0.03, 1.03)
        if len(series) > 1:
            axes.legend(loc="best", ncols=2 if len(series) > 3 else 1, handlelength=1.2)

    return draw(CURVE_SIZE, paint)


def running_mean(values: Sequence[float]) -> list[float]:
    """The mean over a centred window, a tenth of the curve, shorter at its ends; short curves unchanged."""
    half = len(values) // 20
    if half == 0:
        return list(values)
    return [float(np.mean(values[max(0, i - half) : i + half + 1])) for i in range(len(values))]


def dots(
    title: str,
    rows: Mapping[str, Interval],
    reference: tuple[float, str] | None = None,
    unit: Unit = "share",
    narrow: bool = False,
) -> str:
    """One dot with its interval a row, top to bottom, and a dashed line at what `reference` names.

    Shares lie on a fixed axis from 0 to 100%; `narrow` plots fit two or three beside each other.
    """

    def paint(axes: Any) -> None:
        for y, estimate in enumerate(rows.values()):
            _dot(axes, y, estimate, BLUE)
        rows_axis(axes, list(rows))
        axes.set_title(title)
        if unit == "share":
            percent_axis(axes.xaxis)
            axes.set_xlim(-0.02, 1.02)
        elif unit == "points":
            axes.xaxis.set_major_formatter(lambda value, _: points(value))
        if reference is not None:
            reference_line(axes, reference)

    return draw((CURVE_SIZE[0] if narrow else ROWS_WIDTH, height(len(rows))), paint)


def before_after(title: str, rows: Mapping[str, tuple[Interval, Interval]]) -> str:
    """Two dots with intervals a row: hollow orange before, blue after, and the way between them."""

    def paint(axes: Any) -> None:
        for y, (before, after) in enumerate(rows.values()):
            axes.plot([before.value, after.value], [y, y], color="#c9d1d9", linewidth=1.2, zorder=1)
            _dot(axes, y - 0.13, before, ORANGE, hollow=True)
            _dot(axes, y + 0.13, after, BLUE)
        axes.plot([], [], "o", color=ORANGE, markerfacecolor="white", markeredgewidth=1.6, label="before")
        axes.plot([], [], "o", color=BLUE, label="after")
        axes.figure.legend(loc="outside lower center", ncols=2, handletextpad=0.2)
        rows_axis(axes, list(rows))
        percent_axis(axes.xaxis)
        axes.set_xlim(-0.02, 1.02)
        axes.set_title(title)

    return draw((ROWS_WIDTH, height(len(rows)) + LEGEND_HEIGHT), paint)


def shares(title: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    """One bar a row, cut into named shares that add up to 1."""
    parts = list(dict.fromkeys(name for row in rows.values() for name in row))

    def paint(axes: Any) -> None:
        for y, row in enumerate(rows.values()):
            left = 0.0
            for color, part in zip(cycle((BLUE, ORANGE, PURPLE, "#c9d1d9")), parts, strict=False):
                width = row.get(part, 0.0)
                axes.barh(y, width, left=left, height=0.62, color=color, label=part if y == 0 else None)
                if width > 0.06:
                    where = {"ha": "center", "va": "center", "fontsize": 8.5}
                    axes.text(left + width / 2, y, f"{100 * width:.0f}%", color="white", **where)
                left += width
        axes.figure.legend(loc="outside lower center", ncols=4, handlelength=0.9)
        rows_axis(axes, list(rows))
        percent_axis(axes.xaxis)
        axes.set_xlim(0, 1)
        axes.set_title(title)

    return draw((ROWS_WIDTH, height(len(rows)) + LEGEND_HEIGHT), paint)


def reliability(
    title: str, bins: Sequence[tuple[float, Interval]], maps: Mapping[str, tuple[Sequence[float], Sequence[float]]]
) -> str:
    """How often the judge is right (dots with intervals) over how sure it is, both from 0.5 up.

    On the dashed line it is right as often as it says. `maps` are curves from what it says to what a fitted map makes
    of it: the nearer a curve runs to the dots, the better the map.
    """

    def paint(axes: Any) -> None:
        axes.plot([0.5, 1], [0.5, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="as sure as right")
        for color, (name, (x, y)) in zip((GREEN, PURPLE), maps.items(), strict=False):
            axes.plot(x, y, color=color, linewidth=1.6, label=name)
        for confidence, found in bins:
            if found.low is not None and found.high is not None:
                axes.plot([confidence] * 2, [found.low, found.high], color=BLUE, linewidth=2, alpha=0.65)
        axes.plot([x for x, _ in bins], [found.value for _, found in bins], "o", color=BLUE, label="this judge")
        axes.figure.legend(loc="outside lower center", ncols=2, handlelength=1.2)
        axes.set_title(title)
        axes.set_xlabel("p of the response it prefers")
        percent_axis(axes.xaxis)
        percent_axis(axes.yaxis)
        axes.set_xlim(0.49, 1.01)
        axes.set_ylim(-0.02, 1.02)

    return draw((CURVE_SIZE[0], 3.6), paint)


def _dot(axes: Any, y: float, estimate: Interval, color: str, hollow: bool = False) -> None:
    if estimate.low is not None and estimate.high is not None:
        axes.plot([estimate.low, estimate.high], [y, y], color=color, linewidth=2, alpha=0.65, zorder=2)
    fill = "white" if hollow else color
    axes.plot([estimate.value], [y], "o", color=color, markerfacecolor=fill, markeredgewidth=1.6, zorder=3)


def rows_axis(axes: Any, names: Sequence[str]) -> None:
    """Names of rows down the left side, the first on top."""
    axes.set_yticks(range(len(names)), [name if len(name) <= 32 else name[:31] + "\u2026" for name in names])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(len(names) - 0.4, -0.75)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)


def percent_axis(axis: Any) -> None:
    """Shares written as percentages."""
    axis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    axis.get_major_locator().set_params(nbins=5)


def reference_line(axes: Any, reference: tuple[float, str]) -> None:
    """A dashed line at a value, with its name."""
    value, name = reference
    axes.axvline(value, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    where = {"xycoords": ("data", "axes fraction"), "xytext": (4, 0), "textcoords": "offset points"}
    axes.annotate(name, (value, 1), **where, va="top", fontsize=8.5, color=MUTED)


def height(rows: int) -> float:
    """Inches for a picture of so many rows."""
    return 0.85 + 0.36 * rows
