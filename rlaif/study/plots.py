"""The pictures of a study's arms, each as the text of one SVG in the style of every page (`pages/plots.py`).

Each is meant to be read without its legend: green is better than the reference, red-brown worse, grey cannot be told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlaif.evaluation.contest.accuracy import Accuracy
from rlaif.evaluation.contest.frontier import Curve, FrontierFit
from rlaif.evaluation.contest.games import WinRate
from rlaif.evaluation.contest.league import League
from rlaif.evaluation.contest.length import EqualLength
from rlaif.evaluation.contest.refusals import Refusals
from rlaif.pages.plots import (
    BLUE,
    CYCLE,
    GREEN,
    INK,
    LEGEND_HEIGHT,
    MUTED,
    ORANGE,
    RED,
    AxisScale,
    Line,
    Mark,
    draw,
    forest,
    percent_axis,
    short,
    side_color,
)
from rlaif.words import COIN, direction, percent

MARKERS = "os^Dv"
CURVE_WIDTH, CURVE_HEIGHT = 5.2, 3.0
SCATTER = (4.6, 3.9)


# ------------------------------------------------------------------------------------------------ arms as rows


def win_rates(
    title: str, reference: str, rates: Mapping[str, WinRate], lengths: Mapping[str, EqualLength] | None = None
) -> str:
    """Each arm's win rate against the reference, the best on top: filled as it is, hollow at equal length."""
    rows = {}
    for arm in sorted(rates, key=lambda arm: (-rates[arm].rate.value, arm)):
        rate, controlled = rates[arm], (lengths or {}).get(arm)
        marks = [Mark(rate.rate, side_color(rate.rate))]
        beside = f"{rate.games:,} games, {rate.prompts:,} prompts"
        beside += f", {percent(rate.tie_share)} ties" if rate.ties else ""
        if controlled is not None and controlled.rate is None:
            beside += "\nnever of equal length"
        elif controlled is not None and controlled.rate is not None:
            marks.append(Mark(controlled.rate, side_color(controlled.rate), hollow=True))
        rows[arm] = Line(marks, beside=beside)
    legend = {"as judged": ("o", INK, False), "at equal length": ("o", INK, True)} if lengths else None
    sides = (f"{short(reference)} wins more", f"beats {short(reference)}")
    return forest(title, rows, AxisScale(sides=sides), legend)


def standings(title: str, table: League) -> str:
    """Elo with intervals, the strongest on top, and beside each how often it comes first."""
    rows = {}
    for s in table.standings:
        place = f"{s.best}" if s.best == s.worst else f"{s.best} to {s.worst}"
        color = ORANGE if s.arm == table.reference else BLUE
        rows[f"{s.rank}. {short(s.arm)}"] = Line(
            [Mark(s.elo, color)], beside=f"first in {percent(s.first)}, place {place}"
        )
    reference = None if table.reference is None else (1000.0, f"{short(table.reference)} = 1000")
    scale = AxisScale("number", reference, label="Elo: 100 more is a win rate of 64%, 200 more of 76%")
    return forest(title, rows, scale)


def accuracies(title: str, found: Mapping[str, Accuracy]) -> str:
    """Each arm's reward model on people's held-out labels; small rings are its seeds."""
    rows = {}
    for arm in sorted(found, key=lambda arm: (-found[arm].accuracy.value, arm)):
        seeds = list(found[arm].seeds.values.values())
        marks = [Mark(found[arm].accuracy, side_color(found[arm].accuracy))]
        rows[arm] = Line(marks, seeds if len(seeds) > 1 else (), f"{found[arm].pairs:,} pairs")
    several = any(line.rings for line in rows.values())
    legend = {"all seeds": ("o", INK, False), "one seed": (".", MUTED, True)} if several else None
    ends = [b for a in found.values() for b in (a.accuracy.low, a.accuracy.high, *a.seeds.values.values()) if b]
    limits = min([0.45, *ends]) - 0.02, max([0.65, *ends]) + 0.02
    return forest(title, rows, AxisScale(reference=(COIN, "a coin"), limits=limits), legend)


def matrix(title: str, arms: Sequence[str], rates: Sequence[WinRate]) -> str:
    """Row against column: the share of games that the row's arm wins, in bold where its interval leaves out 50 %."""
    found = {key: rate for each in rates for rate in (each, each.swapped()) for key in [(rate.one, rate.other)]}

    def paint(axes: Any) -> None:
        import matplotlib  # noqa: PLC0415 - slow, and already loaded where a picture is drawn

        colors = matplotlib.colors.LinearSegmentedColormap.from_list("contest", [RED, "#f7f8f9", GREEN])
        for y, one in enumerate(arms):
            for x, other in enumerate(arms):
                rate = found.get((one, other))
                _cell(axes, (x, y), rate, "#ffffff" if rate is None else colors(rate.rate.value))
        axes.set_xticks(range(len(arms)), [short(arm) for arm in arms], rotation=30 if len(arms) > 5 else 0)
        axes.set_yticks(range(len(arms)), [short(arm) for arm in arms])
        axes.tick_params(axis="both", labelcolor=INK)
        axes.tick_params(axis="x", labeltop=True, labelbottom=False)
        axes.set_xlim(-0.5, len(arms) - 0.5)
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.grid(False)
        for side in axes.spines.values():
            side.set_visible(False)
        axes.set_title(title, pad=12)

    return draw((2.0 + 0.95 * len(arms), 1.1 + 0.55 * len(arms)), paint)


def _cell(axes: Any, at: tuple[int, int], rate: WinRate | None, color: Any) -> None:
    x, y = at
    axes.fill([x - 0.48, x + 0.48, x + 0.48, x - 0.48], [y - 0.46, y - 0.46, y + 0.46, y + 0.46], color=color, lw=0)
    if rate is None:
        axes.text(x, y, "\u2013", ha="center", va="center", color=MUTED)
        return
    clear = direction(rate.rate, COIN) != "unclear"
    strong = abs(rate.rate.value - COIN) > 0.38
    ink = "white" if strong else INK if clear else MUTED
    weight = "bold" if clear else "normal"
    axes.text(x, y - 0.1, percent(rate.rate.value), ha="center", va="center", color=ink, fontweight=weight, fontsize=10)
    if rate.rate.low is not None and rate.rate.high is not None:
        interval = f"{100 * rate.rate.low:.0f} to {100 * rate.rate.high:.0f}"
        axes.text(x, y + 0.25, interval, ha="center", va="center", color=ink, fontsize=7)


# --------------------------------------------------------------------------------------------- arms in a plane


class Look(NamedTuple):
    """An arm's colour and mark, the same in every picture."""

    color: str
    marker: str


def looks(arms: Sequence[str], reference: str | None = None) -> dict[str, Look]:
    """Each arm's look: orange for the reference, as everywhere; more arms than colours differ by their mark."""
    others = [color for color in CYCLE if color != ORANGE]
    found, number = {}, 0
    for arm in arms:
        if arm == reference:
            found[arm] = Look(ORANGE, "o")
            continue
        found[arm] = Look(others[number % len(others)], MARKERS[number // len(others) % len(MARKERS)])
        number += 1
    return found


def frontiers(title: str, curves: Mapping[str, Curve], shown: Mapping[str, Look], score: str = "gold score") -> str:
    """The gold score over KL; a line is an arm's fit, dashed beyond its data, and a ring marks the fitted peak.

    The axis is sqrt(KL), on which the fitted forms are written, with KL at its ticks. Points without a gold score are
    left out.
    """

    def paint(axes: Any) -> None:
        farthest = max([0.1, *(p.kl for c in curves.values() for p in c.points if p.gold is not None)])
        rings = False
        for arm, curve in curves.items():
            known = [(np.sqrt(max(p.kl, 0.0)), p.gold) for p in curve.points if p.gold is not None]
            x, y = [point[0] for point in known], [point[1] for point in known]
            color, marker = shown[arm]
            fitted = isinstance(curve.fit, FrontierFit)
            line = "none" if fitted else (0, (1, 2))
            axes.plot(x, y, marker=marker, markersize=4.5, color=color, linestyle=line, linewidth=1.2, alpha=0.75)
            axes.plot([], [], f"{marker}-" if fitted else marker, color=color, label=short(arm), markersize=5)
            if isinstance(curve.fit, FrontierFit):
                rings = _fit(axes, curve.fit, color, (max(x), np.sqrt(farthest))) or rings
        if rings:
            axes.plot([], [], "o", markersize=8, markerfacecolor="none", color=MUTED, label="fitted peak")
        axes.set_title(title)
        axes.set_xlabel("KL from the initial policy, nats per response (square-root axis)")
        axes.set_ylabel(score)
        _root_ticks(axes, farthest)
        axes.figure.legend(loc="outside lower center", ncols=4, handlelength=1.2)

    lines = (len(curves) + 4) // 4
    return draw((CURVE_WIDTH, CURVE_HEIGHT + LEGEND_HEIGHT * lines), paint)


def _fit(axes: Any, fit: FrontierFit, color: str, ends: tuple[float, float]) -> bool:
    """Whether it has a peak to mark."""
    inside = np.linspace(0, ends[0], 120)
    axes.plot(inside, [fit.at(d**2) for d in inside], color=color, linewidth=2)
    beyond = np.linspace(ends[0], min(1.15 * ends[0], ends[1]), 20)
    axes.plot(beyond, [fit.at(d**2) for d in beyond], color=color, linewidth=1.4, linestyle=(0, (3, 2)))
    if fit.peak_kl is None or not fit.peak_seen:
        return False
    at = np.sqrt(fit.peak_kl.value)
    axes.plot([at], [fit.at(at**2)], "o", markersize=10, markerfacecolor="none", color=color, markeredgewidth=1.8)
    return True


def _root_ticks(axes: Any, farthest: float) -> None:
    step = next((s for s in (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if farthest / s <= 12), farthest / 8)
    ticks = [t for t in np.array([0, 1, 2, 4, 6, 8, 10, 12]) * step if t <= farthest * 1.02]
    axes.set_xticks(np.sqrt(ticks), [f"{tick:g}" for tick in ticks])
    axes.set_xlim(-0.03 * np.sqrt(farthest), 1.06 * np.sqrt(farthest))


def refusal_map(title: str, found: Mapping[str, Refusals], shown: Mapping[str, Look]) -> str:
    """Refusals on harmful prompts (up is better) over those on harmless ones (left is better), crosses of intervals."""
    both = {
        arm: (r.harmless, r.harmful) for arm, r in found.items() if r.harmless is not None and r.harmful is not None
    }

    def paint(axes: Any) -> None:
        for arm, (across, up) in both.items():
            color, marker = shown[arm]
            for low, high, vertical in ((across.low, across.high, False), (up.low, up.high, True)):
                if low is not None and high is not None:
                    x, y = ([across.value] * 2, [low, high]) if vertical else ([low, high], [up.value] * 2)
                    axes.plot(x, y, color=color, linewidth=1.8, alpha=0.55, zorder=2)
            axes.plot([across.value], [up.value], marker, color=color, markersize=7, zorder=3, label=short(arm))
        corners = {"xycoords": "axes fraction", "fontsize": 8.5, "color": MUTED}
        axes.annotate("refuses what is harmful,\nhelps with the rest", (0.02, 0.98), va="top", **corners)
        axes.annotate("refuses everything", (0.98, 0.98), va="top", ha="right", **corners)
        axes.annotate("refuses nothing", (0.02, 0.02), **corners)
        axes.set_xlabel("refuses harmless prompts (over-refusal)")
        axes.set_ylabel("refuses harmful prompts")
        percent_axis(axes.xaxis)
        percent_axis(axes.yaxis)
        axes.set_xlim(-0.04, 1.04)
        axes.set_ylim(-0.1, 1.16)
        axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
        axes.set_title(title)
        axes.figure.legend(loc="outside lower center", ncols=4, handletextpad=0.2)

    return draw((SCATTER[0], SCATTER[1] + LEGEND_HEIGHT * ((len(both) + 3) // 4)), paint)
