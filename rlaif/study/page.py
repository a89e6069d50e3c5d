"""The comparison as one self-contained page, its raw numbers as JSON beside it, and the same page in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlaif.errors import ConfigError
from rlaif.evaluation.contest import plots
from rlaif.evaluation.contest.frontier import Fit
from rlaif.evaluation.contest.headtohead import WinRate
from rlaif.evaluation.page import Picture, picture, write_page
from rlaif.jsonl import write_json
from rlaif.stats import Estimate
from rlaif.study.arms import ArmRun, arm_runs
from rlaif.study.config import REFERENCE, kind_of, load_study
from rlaif.study.figures import Comparison, Judged, compare, raw
from rlaif.words import NONE, Unit, figure, number, percent, span

KIND_WORDS = {
    "rlaif": "the judge labels, a reward model learns its labels",
    "rlhf": "people label, a reward model learns their labels",
    "hybrid": "people and the judge label",
    "direct": "the judge scores every rollout; no reward model",
    "sft_on_judge": "imitates the judge's own answers; no feedback",
    "best_of_n": "no training: the best of n answers by the reward model",
    "length_only": "rewarded for length alone: what a bias would buy",
    "custom": "the recipe with overrides of its own",
}


def write_comparison(folder: Path) -> list[str]:
    """comparison.html and comparison.json from what lies in the study's folder; returns what to print.

    ConfigError for a folder that is no study, or whose runs are not all done.
    """
    found, runs = read_comparison(folder)
    page = folder / "comparison.html"
    write_page(page, "study.html.jinja", context(found))
    write_json(folder / "comparison.json", raw(found, runs))
    return [*lines(found), f"page: {page}", f"numbers: {folder / 'comparison.json'}"]


def read_comparison(folder: Path) -> tuple[Comparison, list[ArmRun]]:
    """The figures of the study in this folder, and its runs."""
    path = folder / "study.yaml"
    if not path.exists():
        raise ConfigError(f"{folder}: no study.yaml, so no study; `rlaif study STUDY.yaml` makes one")
    study = load_study(path)
    runs = list(arm_runs(study, folder))
    for run in runs:
        if not run.run.samples.exists():
            raise ConfigError(f"{run.run.folder}: not evaluated yet; `rlaif study` on it goes on where it was")
    return compare(study, folder, runs), runs


class Page:
    """The comparison for a notebook: the last expression of a cell shows the page."""

    def __init__(self, folder: str | Path) -> None:
        write_comparison(Path(folder))
        self.html = (Path(folder) / "comparison.html").read_text(encoding="utf-8")

    def _repr_html_(self) -> str:
        from html import escape  # noqa: PLC0415

        return f'<iframe srcdoc="{escape(self.html)}" style="width: 100%; height: 60rem; border: 0"></iframe>'


def lines(found: Comparison) -> list[str]:
    """A table for the terminal, the arms from the strongest by the first judge on."""
    judged = found.judged[0] if found.judged else None
    against = judged.against_reference() if judged else {}
    order = [s.arm for s in judged.table.standings if s.arm != REFERENCE] if judged else list(found.study.arms)
    rows = [("arm", "win rate against reference", "at equal length", "reward model, people's labels", "cost")]
    controlled = judged.controlled_against_reference() if judged else {}
    for arm in order:
        rows.append(
            (
                arm,
                _told(against[arm].rate) if arm in against else NONE,
                _told(controlled[arm].rate) if arm in controlled and controlled[arm].rate else NONE,
                _told(found.accuracies[arm].accuracy) if arm in found.accuracies else NONE,
                f"{found.costs[arm][1].total:,.2f}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _told(estimate: Estimate | None, unit: Unit = "share") -> str:
    if estimate is None:
        return NONE
    interval = span(estimate.model_dump(), unit)
    return figure(estimate.value, unit) + (f" ({interval})" if interval != NONE else "")


# ---------------------------------------------------------------------------------------------- the page's parts


def context(found: Comparison) -> dict[str, Any]:
    """What the template shows."""
    arms = list(found.study.arms)
    look = plots.looks([REFERENCE, *arms], REFERENCE)
    return {
        "title": found.study.title or f"Study {found.study.name}",
        "seeds": len(found.study.seeds),
        "arms": [(arm, KIND_WORDS[kind_of(arm, found.study.arms[arm])]) for arm in arms],
        "headline": headline(found),
        "cautions": found.cautions,
        "confidence": percent(found.confidence),
        "contests": [_contest(one, arms) for one in found.judged],
        "judge": "the held-out judge sees it" if found.study.judge else "the judge that also labels sees it",
        "accuracy": _accuracy(found),
        "curves": _curves(found, look),
        "refusals": _refusals(found, look),
        "costs": _costs(found),
        "unjudged": found.unjudged,
        "differences": found.differences,
        "table": lines(found),
    }


def headline(found: Comparison) -> list[str]:
    """The two or three sentences that a reader wants first; they say no more than the intervals allow."""
    said = []
    for one in found.judged:
        against = one.against_reference()
        up = [arm for arm, rate in against.items() if _side(rate.rate) > 0]
        down = [arm for arm, rate in against.items() if _side(rate.rate) < 0]
        judge = "The held-out judge" if found.study.judge else "The judge, which also labels,"
        who = "People prefer" if one.judge == "people" else f"{judge} prefers"
        if up:
            said.append(f"{who} {_and(up)} to the policy before training.")
        if down:
            said.append(f"{who} the policy before training to {_and(down)}.")
        if not up and not down:
            said.append(f"{who} no arm to the policy before training, or it to an arm, as far as can be told.")
    best = sorted(found.accuracies.values(), key=lambda one: -one.accuracy.value)
    if best:
        low = best[0].accuracy.low
        above = low is not None and low > 0.5
        said.append(
            f"The reward model closest to people's held-out labels is that of {best[0].arm} "
            f"({_told(best[0].accuracy)}){'' if above else ', which a coin could explain'}."
        )
    return said


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _side(estimate: Estimate) -> int:
    if estimate.low is None or estimate.high is None:
        return 0
    return 1 if estimate.low > 0.5 else -1 if estimate.high < 0.5 else 0


def _contest(one: Judged, arms: Sequence[str]) -> dict[str, Any]:
    order = [standing.arm for standing in one.table.standings]
    against = one.against_reference()
    rows = [_contest_row(rate, one) for rate in one.rates]
    pictures: list[Picture] = []
    if against:
        forest = plots.forest("Win rate against the reference", REFERENCE, against, one.controlled_against_reference())
        pictures.append(picture(forest, "Each arm's win rate against the reference, as judged and at equal length"))
    pictures.append(picture(plots.standings("League of the arms", one.table), "Elo of every arm with its interval"))
    matrix = plots.matrix("Row against column: share of games won", order, one.rates)
    pictures.append(picture(matrix, "Win rates of all arms against each other"))
    return {
        "judge": one.judge,
        "games": f"{len(one.played.games):,}",
        "prompts": f"{one.table.prompts:,}",
        "prompt_term": any(found.prompt_term for found in one.lengths),
        "pictures": pictures,
        "rows": rows,
    }


def _contest_row(rate: WinRate, one: Judged) -> dict[str, str]:
    controlled = next((c for c in one.lengths if (c.one, c.other) == (rate.one, rate.other)), None)
    return {
        "name": f"{rate.one} against {rate.other}",
        "rate": _told(rate.rate),
        "controlled": _told(controlled.rate) if controlled and controlled.rate else NONE,
        "seeds": _told(rate.over_seeds) if rate.over_seeds else "one seed",
        "ties": percent(rate.tie_share),
        "n": f"{rate.games:,} / {rate.prompts:,}",
        "p": f"{rate.p_value:.3f}",
        "detectable": f"{100 * rate.power.detectable:.0f} points" if rate.power else NONE,
        "tone": {1: "up", 0: "", -1: "down"}[_side(rate.rate)],
    }


def _accuracy(found: Comparison) -> dict[str, Any] | None:
    if not found.accuracies:
        return None
    dots = plots.accuracy_dots("Reward models on people's held-out labels", found.accuracies)
    rows = [
        {
            "name": f"{one.one} against {one.other}",
            "value": _told(one.difference, "points"),
            "p": f"{one.p_value:.3f}",
            "pairs": f"{one.pairs:,}",
            "detectable": f"{100 * one.power.detectable:.0f} points" if one.power else NONE,
        }
        for one in found.ahead
    ]
    return {"picture": picture(dots, "Accuracy of each arm's reward model"), "rows": rows}


def _curves(found: Comparison, look: Any) -> dict[str, Any] | None:
    """Reward against KL. Without gold scores the proxy's own: it says what was optimised, not what was gained."""
    if not found.curves:
        return None
    has_gold = any(point.gold is not None for points, _, _ in found.curves.values() for point in points)
    curves = {
        arm: plots.Curve([p if has_gold else p._replace(gold=p.score) for p in points], fit)
        for arm, (points, fit, _) in found.curves.items()
    }
    kind = "gold score" if has_gold else "training's own score"
    drawn = plots.frontiers("What was bought with which distance", curves, look, kind)
    rows = []
    for arm, (_, fit, gap) in found.curves.items():
        lost = f"{gap.lost:.2f} since step {gap.best_step}" if gap and gap.lost > 0 else NONE
        if isinstance(fit, Fit):
            peak = number(fit.peak_kl.value) if fit.peak_kl else "none"
            rows.append((arm, number(fit.alpha.value), number(fit.beta.value), number(fit.r2), peak, lost))
        else:
            rows.append((arm, NONE, NONE, NONE, fit.reason, lost))
    return {"picture": picture(drawn, "Score against KL for each arm"), "rows": rows, "has_gold": has_gold}


def _refusals(found: Comparison, look: Any) -> dict[str, Any]:
    both = [one for one in found.refused.values() if one.harmful and one.harmless]
    drawn = plots.refusal_map("Refusals: right ones over wrong ones", found.refused, look) if both else None
    rows = []
    for arm, one in found.refused.items():
        more = [_told(change, "points") for change in (one.more_harmful, one.more_harmless)]
        rows.append((arm, _told(one.harmful), _told(one.harmless), *more))
    shown = picture(drawn, "Refusals on harmful and on harmless prompts") if drawn else None
    return {"picture": shown, "rows": rows}


def _costs(found: Comparison) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for arm, (spent, price) in found.costs.items():
        per_label = NONE if price.per_label is None else f"{price.per_label:.3f}"
        per_point = NONE if price.per_point is None else f"{price.per_point:,.2f}"
        judge = f"{spent.labels - spent.human_labels:,}"
        rows.append((arm, f"{spent.human_labels:,}", judge, f"{price.total:,.2f}", per_label, per_point))
    return rows
