"""Arms as rows: the matrix of win rates, the forest against the reference, the league, the reward models' accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlaif.evaluation.contest.accuracy import Accuracy
from rlaif.evaluation.contest.headtohead import WinRate
from rlaif.evaluation.contest.league import League
from rlaif.evaluation.contest.length import LengthControlled
from rlaif.evaluation.plots import (
    BLUE,
    GREEN,
    INK,
    LEGEND_HEIGHT,
    MUTED,
    ORANGE,
    RED,
    ROWS_WIDTH,
    draw,
    height,
    percent_axis,
    reference_line,
    rows_axis,
)
from rlaif.stats import Estimate
from rlaif.words import COIN, percent

GREY = "#8b959f"
HALF_ROW = 0.15


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
    side = _side(rate.rate)
    strong = abs(rate.rate.value - COIN) > 0.38
    ink = "white" if strong else INK if side else MUTED
    weight = "bold" if side else "normal"
    axes.text(x, y - 0.1, percent(rate.rate.value), ha="center", va="center", color=ink, fontweight=weight, fontsize=10)
    if rate.rate.low is not None and rate.rate.high is not None:
        interval = f"{100 * rate.rate.low:.0f} to {100 * rate.rate.high:.0f}"
        axes.text(x, y + 0.25, interval, ha="center", va="center", color=ink, fontsize=7)


def forest(
    title: str, reference: str, rates: Mapping[str, WinRate], lengths: Mapping[str, LengthControlled] | None = None
) -> str:
    """Each arm's win rate against the reference, the best on top: filled as it is, hollow at equal length."""
    lengths = lengths or {}
    arms = sorted(rates, key=lambda arm: (-rates[arm].rate.value, arm))

    def paint(axes: Any) -> None:
        for y, arm in enumerate(arms):
            controlled = lengths.get(arm)
            shift = HALF_ROW if controlled is not None else 0.0
            _bar(axes, y - shift, rates[arm].rate, _color(rates[arm].rate))
            if controlled is not None and controlled.rate is not None:
                _bar(axes, y + shift, controlled.rate, _color(controlled.rate), hollow=True)
            _beside(axes, y, _about(rates[arm], controlled))
        if lengths:
            axes.plot([], [], "o", color=INK, label="as judged")
            axes.plot([], [], "o", color=INK, markerfacecolor="white", markeredgewidth=1.6, label="at equal length")
            axes.figure.legend(loc="outside lower center", ncols=2, handletextpad=0.2)
        rows_axis(axes, arms)
        percent_axis(axes.xaxis)
        axes.set_xlim(-0.02, 1.02)
        _sides(axes, f"{short(reference)} wins more", f"beats {short(reference)}")
        axes.set_title(title)

    return draw((ROWS_WIDTH, height(len(arms)) + 0.25 + (LEGEND_HEIGHT if lengths else 0.0)), paint)


def _about(rate: WinRate, controlled: LengthControlled | None) -> str:
    said = f"{rate.games:,} games, {rate.prompts:,} prompts"
    said += f", {percent(rate.tie_share)} ties" if rate.ties else ""
    return said + ("\nnever of equal length" if controlled is not None and controlled.rate is None else "")


def _sides(axes: Any, left: str, right: str) -> None:
    axes.axvline(COIN, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    where = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "va": "top", "fontsize": 8.5}
    axes.annotate(f"\u2190 {left}", (COIN, 1), xytext=(-6, 0), ha="right", color=RED, **where)
    axes.annotate(f"{right} \u2192", (COIN, 1), xytext=(6, 0), ha="left", color=GREEN, **where)


def standings(title: str, table: League) -> str:
    """Elo with intervals, the strongest on top, and beside each how often it comes first."""
    rows = {f"{s.rank}. {short(s.arm)}": s for s in table.standings}

    def paint(axes: Any) -> None:
        for y, standing in enumerate(rows.values()):
            is_reference = standing.arm == table.reference
            _bar(axes, y, standing.elo, ORANGE if is_reference else BLUE)
            place = f"{standing.best}" if standing.best == standing.worst else f"{standing.best} to {standing.worst}"
            said = f"first in {percent(standing.first)}, place {place}"
            _beside(axes, y, said)
        rows_axis(axes, list(rows))
        if table.reference is not None:
            reference_line(axes, (1000.0, f"{short(table.reference)} = 1000"))
        axes.set_xlabel("Elo: 100 more is a win rate of 64%, 200 more of 76%")
        axes.margins(x=0.06)
        axes.set_title(title)

    return draw((ROWS_WIDTH, height(len(rows)) + 0.3), paint)


def accuracy_dots(title: str, found: Mapping[str, Accuracy]) -> str:
    """Each arm's reward model on people's held-out labels; small rings are its seeds."""
    arms = sorted(found, key=lambda arm: (-found[arm].accuracy.value, arm))

    def paint(axes: Any) -> None:
        for y, arm in enumerate(arms):
            _bar(axes, y, found[arm].accuracy, _color(found[arm].accuracy))
            seeds = list(found[arm].seeds.values.values())
            if len(seeds) > 1:
                axes.plot(seeds, [y + 0.24] * len(seeds), "o", markersize=4, markerfacecolor="none", color=MUTED)
            _beside(axes, y, f"{found[arm].pairs:,} pairs")
        rows_axis(axes, arms)
        percent_axis(axes.xaxis)
        if any(len(found[arm].seeds.values) > 1 for arm in arms):
            axes.plot([], [], "o", color=INK, label="all seeds")
            axes.plot([], [], "o", markersize=4, markerfacecolor="none", color=MUTED, label="one seed")
            axes.figure.legend(loc="outside lower center", ncols=2, handletextpad=0.2)
        ends = [b for a in found.values() for b in (a.accuracy.low, a.accuracy.high, *a.seeds.values.values()) if b]
        axes.set_xlim(min([0.45, *ends]) - 0.02, max([0.65, *ends]) + 0.02)
        reference_line(axes, (COIN, "a coin"))
        axes.set_title(title)

    return draw((ROWS_WIDTH, height(len(arms)) + LEGEND_HEIGHT), paint)


def _beside(axes: Any, y: float, said: str) -> None:
    """Small words to the right of a row."""
    where = {"xycoords": ("axes fraction", "data"), "annotation_clip": False}
    axes.annotate(said, (1.01, y), **where, va="center", fontsize=8, color=MUTED)


def _bar(axes: Any, y: float, estimate: Estimate, color: str, hollow: bool = False) -> None:
    if estimate.low is not None and estimate.high is not None:
        axes.plot([estimate.low, estimate.high], [y, y], color=color, linewidth=2, alpha=0.65, zorder=2)
    fill = "white" if hollow else color
    axes.plot([estimate.value], [y], "o", color=color, markerfacecolor=fill, markeredgewidth=1.6, zorder=3)


def _side(estimate: Estimate) -> int:
    """1 above a coin's 50 %, -1 below, 0 where the interval holds it or there is none."""
    if estimate.low is None or estimate.high is None:
        return 0
    return 1 if estimate.low > COIN else -1 if estimate.high < COIN else 0


def _color(estimate: Estimate) -> str:
    return {1: GREEN, -1: RED, 0: GREY}[_side(estimate)]


def short(name: str) -> str:
    """The name, or as much of it as fits beside a plot."""
    return name if len(name) <= 22 else name[:21] + "\u2026"
