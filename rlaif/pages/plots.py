"""The plots of every page, each as the text of one SVG.

Colours are Okabe and Ito's, which people with any colour vision can tell apart. Blue is always the policy (after),
orange the reference (before); in contests green is better than the reference, red worse, grey cannot be told.
matplotlib is imported on the first plot. Equal numbers give equal bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np

from rlaif.stats import Estimate
from rlaif.words import COIN, Unit, direction, points

BLUE, ORANGE, GREEN, PURPLE, SKY, RED = "#0072B2", "#D98200", "#00805F", "#A6548A", "#4A9FD0", "#C24E00"
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY)
INK, MUTED, GRID, GREY = "#1f2933", "#66727f", "#e3e7eb", "#8b959f"
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
HALF_ROW = 0.13


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


class Mark(NamedTuple):
    """A dot with its interval; a ring where `hollow`."""

    estimate: Estimate
    color: str = BLUE
    hollow: bool = False


class Line(NamedTuple):
    """A row of a forest: marks below each other, small rings under them, small words to the right."""

    marks: Sequence[Mark]
    rings: Sequence[float] = ()
    beside: str = ""


class AxisScale(NamedTuple):
    """The axis across a forest. Shares lie on a fixed one from 0 to 100% unless `limits` are given."""

    unit: Unit = "share"
    reference: tuple[float, str] | None = None
    """A dashed line at a value, with its name."""
    sides: tuple[str, str] | None = None
    """What lies to the left and to the right of a coin's 50%."""
    label: str = ""
    limits: tuple[float, float] | None = None


A_COIN = AxisScale(reference=(COIN, "a coin"))


def dots(title: str, rows: Mapping[str, Estimate], scale: AxisScale | None = None, narrow: bool = False) -> str:
    """One dot with its interval per row; `narrow` plots fit two or three beside each other."""
    return forest(title, {name: Line([Mark(estimate)]) for name, estimate in rows.items()}, scale, narrow=narrow)


def before_after(title: str, rows: Mapping[str, tuple[Estimate, Estimate]]) -> str:
    """Two dots per row: hollow orange before, blue after, and the way between them."""
    lines = {name: Line([Mark(one, ORANGE, hollow=True), Mark(two)]) for name, (one, two) in rows.items()}
    return forest(title, lines, legend={"before": ("o", ORANGE, True), "after": ("o", BLUE, False)}, joined=True)


def forest(
    title: str,
    rows: Mapping[str, Line],
    scale: AxisScale | None = None,
    legend: Mapping[str, tuple[str, str, bool]] | None = None,
    narrow: bool = False,
    joined: bool = False,
) -> str:
    """Estimates as dots with intervals, a row each, from top to bottom.

    `legend` has mark, colour and hollowness by name; `joined` draws the way from the first dot to the last.
    """
    axis = scale or AxisScale()

    def paint(axes: Any) -> None:
        for y, line in enumerate(rows.values()):
            if joined:
                ends = [line.marks[0].estimate.value, line.marks[-1].estimate.value]
                axes.plot(ends, [y, y], color="#c9d1d9", linewidth=1.2, zorder=1)
            for i, mark in enumerate(line.marks):
                _mark(axes, y + HALF_ROW * (2 * i - len(line.marks) + 1), mark)
            if line.rings:
                ring = {"markersize": 4, "markerfacecolor": "none", "color": MUTED}
                axes.plot(line.rings, [y + 0.24] * len(line.rings), "o", **ring)
            if line.beside:
                where = {"xycoords": ("axes fraction", "data"), "annotation_clip": False}
                axes.annotate(line.beside, (1.01, y), **where, va="center", fontsize=8, color=MUTED)
        for name, (marker, color, hollow) in (legend or {}).items():
            fill = "white" if hollow else color
            axes.plot([], [], marker, color=color, markerfacecolor=fill, markeredgewidth=1.6, label=name)
        if legend:
            axes.figure.legend(loc="outside lower center", ncols=2, handletextpad=0.2)
        rows_axis(axes, list(rows))
        _scale(axes, axis)
        axes.set_title(title)

    tall = height(len(rows)) + (LEGEND_HEIGHT if legend else 0) + (0.25 if axis.sides or axis.label else 0)
    return draw((CURVE_SIZE[0] if narrow else ROWS_WIDTH, tall), paint)


def _mark(axes: Any, y: float, mark: Mark) -> None:
    estimate, color, hollow = mark
    if estimate.low is not None and estimate.high is not None:
        axes.plot([estimate.low, estimate.high], [y, y], color=color, linewidth=2, alpha=0.65, zorder=2)
    fill = "white" if hollow else color
    axes.plot([estimate.value], [y], "o", color=color, markerfacecolor=fill, markeredgewidth=1.6, zorder=3)


def _scale(axes: Any, scale: AxisScale) -> None:
    if scale.unit == "share":
        percent_axis(axes.xaxis)
        axes.set_xlim(*(scale.limits or (-0.02, 1.02)))
    elif scale.unit == "points":
        axes.xaxis.set_major_formatter(lambda value, _: points(value))
    else:
        axes.margins(x=0.06)
    axes.set_xlabel(scale.label)
    dashed = {"color": MUTED, "linewidth": 1, "linestyle": (0, (4, 3)), "zorder": 0}
    where = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "va": "top", "fontsize": 8.5}
    if scale.reference is not None:
        value, name = scale.reference
        axes.axvline(value, **dashed)
        axes.annotate(name, (value, 1), xytext=(4, 0), color=MUTED, **where)
    if scale.sides is not None:
        left, right = scale.sides
        axes.axvline(COIN, **dashed)
        axes.annotate(f"\u2190 {left}", (COIN, 1), xytext=(-6, 0), ha="right", color=RED, **where)
        axes.annotate(f"{right} \u2192", (COIN, 1), xytext=(6, 0), ha="left", color=GREEN, **where)


def side_color(rate: Estimate) -> str:
    """Green above a coin's 50%, red below, grey where the interval holds it or there is none."""
    return {"up": GREEN, "down": RED, "unclear": GREY}[direction(rate, COIN)]


def short(name: str) -> str:
    """The name, or as much of it as fits beside a plot."""
    return name if len(name) <= 22 else name[:21] + "\u2026"


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
    title: str, bins: Sequence[tuple[float, Estimate]], maps: Mapping[str, tuple[Sequence[float], Sequence[float]]]
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


def height(rows: int) -> float:
    """Inches for a picture of so many rows."""
    return 0.85 + 0.36 * rows
