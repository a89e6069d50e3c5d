"""The comparison as one self-contained page, its raw numbers as JSON beside it, and the same page in a notebook."""

from __future__ import annotations

from pathlib import Path

from rlaif.console import aligned
from rlaif.errors import ConfigError
from rlaif.evaluation.contest.caution import contest_name
from rlaif.evaluation.contest.frontier import FrontierFit
from rlaif.evaluation.contest.games import WinRate
from rlaif.jsonl import write_json
from rlaif.pages import kit
from rlaif.pages.kit import Cell, Part
from rlaif.study import plots
from rlaif.study.config import REFERENCE, ArmRun, arm_runs, kind_of, load_study
from rlaif.study.figures import ArmJudgments, StudyComparison, compare, raw
from rlaif.words import COIN, NONE, direction, listed, number, percent, tone, with_interval

SEEN_FROM = "Would have been seen from"
KIND_WORDS = {
    "rlaif": "the judge labels, a reward model learns its labels",
    "rlhf": "people label, a reward model learns their labels",
    "hybrid": "people and the judge label",
    "direct": "the judge scores every rollout; no reward model",
    "sft_on_judge": "imitates the judge's own answers; no feedback",
    "best_of_n": "no training: the best of n answers by the reward model",
    "decode": "no training: the setting of the sampler that the reward model likes best",
    "length_only": "rewarded for length alone: what a bias would buy",
    "custom": "the recipe with overrides of its own",
}


def write_comparison(folder: Path) -> list[str]:
    """comparison.html and comparison.json from what lies in the study's folder; returns what to print.

    ConfigError for a folder that is no study, or whose runs are not all done.
    """
    found, runs = read_comparison(folder)
    page = folder / "comparison.html"
    write_study_page(page, found)
    write_json(folder / "comparison.json", raw(found, runs))
    return [*lines(found), f"page: {page}", f"numbers: {folder / 'comparison.json'}"]


def read_comparison(folder: Path) -> tuple[StudyComparison, list[ArmRun]]:
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


def lines(found: StudyComparison) -> list[str]:
    """A table for the terminal, the arms from the strongest by the first judge on."""
    judged = found.judged[0] if found.judged else None
    against = judged.against_reference() if judged else {}
    controlled = judged.controlled_against_reference() if judged else {}
    order = [s.arm for s in judged.table.standings if s.arm != REFERENCE] if judged else list(found.study.arms)
    head = ("arm", "win rate against reference", "at equal length", "reward model, people's labels", "cost")
    rows: list[tuple[str, ...]] = [head]
    for arm in order:
        rates = (against[arm].rate if arm in against else None, controlled[arm].rate if arm in controlled else None)
        accuracy = found.accuracies[arm].accuracy if arm in found.accuracies else None
        rows.append((arm, *map(with_interval, (*rates, accuracy)), f"{found.costs[arm][1].total:,.2f}"))
    return aligned(rows)


# ---------------------------------------------------------------------------------------------- the page's parts


def write_study_page(path: Path, found: StudyComparison) -> None:
    """The page of these figures."""
    study = found.study
    look = plots.looks([REFERENCE, *study.arms], REFERENCE)
    arms = [(arm, KIND_WORDS[kind_of(arm, study.arms[arm])]) for arm in study.arms]
    facts = {
        "Arms": f"{len(arms)}",
        "Seeds of each": f"{len(study.seeds)}",
        "Intervals": f"at {percent(found.confidence)}, by prompt",
    }
    failed, judged = (found.unjudged[name] for name in ("failed", "judged"))
    parts: kit.Parts = [
        kit.verdict("What this study shows", headline(found), found.cautions),
        kit.heading("The arms"),
        kit.table((), [*arms, (REFERENCE, "the policy before training")], left=(1,)),
        _accuracy(found),
        *(_contest(one, bool(study.judge)) for one in found.judged),
        _curves(found, look),
        _refusals(found, look),
        _costs(found),
        kit.heading("What differs between the arms"),
        kit.settings([arm for arm, _ in arms], found.differences),
        kit.note(
            f"The judge gave no result on {failed} of {failed + judged} pairs; they are in contest/failures.jsonl and "
            "in no figure."
        )
        if failed
        else None,
    ]
    footer = "Made by `rlaif study`. The raw numbers lie beside this page as JSON."
    kit.write_page(path, study.title or f"Study {study.name}", facts, parts, footer)


def headline(found: StudyComparison) -> list[str]:
    """The two or three sentences that a reader wants first; they say no more than the intervals allow."""
    said = []
    for one in found.judged:
        sides = {arm: direction(rate.rate, COIN) for arm, rate in one.against_reference().items()}
        up, down = ([arm for arm, side in sides.items() if side == which] for which in ("up", "down"))
        judge = "The held-out judge" if found.study.judge else "The judge, which also labels,"
        who = "People prefer" if one.judge == "people" else f"{judge} prefers"
        if up:
            said.append(f"{who} {listed(up)} to the policy before training.")
        if down:
            said.append(f"{who} the policy before training to {listed(down)}.")
        if not up and not down:
            said.append(f"{who} no arm to the policy before training, or it to an arm, as far as can be told.")
    if found.accuracies:
        best = max(found.accuracies.values(), key=lambda one: one.accuracy.value)
        coin = "" if direction(best.accuracy, COIN) == "up" else ", which a coin could explain"
        said.append(
            f"The reward model closest to people's held-out labels is that of {best.arm} "
            f"({with_interval(best.accuracy)}){coin}."
        )
    return said


def _contest(one: ArmJudgments, heldout: bool) -> list[Part]:
    order = [standing.arm for standing in one.table.standings]
    against = one.against_reference()
    judge = "held-out judge" if heldout else "judge that also labels"
    who = "people judge it" if one.judge == "people" else f"the {judge} sees it"
    how = ", each pair of arms alone"
    if any(found.prompt_term for found in one.lengths):
        how = "; one fit for all arms, with a term for how hard each prompt is against the reference"
    forest = None
    if against:
        lengths = one.controlled_against_reference()
        svg = plots.win_rates("Win rate against the reference", REFERENCE, against, lengths)
        forest = kit.picture(svg, "Each arm's win rate against the reference, as judged and at equal length")
    matrix = plots.matrix("Row against column: share of games won", order, one.rates)
    head = ("Arms", "Win rate", "At equal length", "Over seeds too", "Ties", "Games / prompts", "p", SEEN_FROM)
    table = kit.table(head, [_contest_row(rate, one) for rate in one.rates], kind="dense")
    return kit.section(
        f"Who wins, as {who}",
        f"{len(one.played.games):,} games on {one.table.prompts:,} held-out prompts; a tie counts half. Hollow marks "
        f"are win rates at equal length (logistic, antisymmetric{how}).",
        forest,
        kit.picture(plots.standings("League of the arms", one.table), "Elo of every arm with its interval"),
        kit.picture(matrix, "Win rates of all arms against each other", "wide"),
        kit.details("Every contest in numbers", table),
    )


def _contest_row(rate: WinRate, one: ArmJudgments) -> tuple[str | Cell, ...]:
    controlled = next((c.rate for c in one.lengths if (c.one, c.other) == (rate.one, rate.other)), None)
    return (
        contest_name(rate),
        Cell(with_interval(rate.rate), tone=tone(rate.rate)),
        with_interval(controlled),
        with_interval(rate.over_seeds) if rate.over_seeds else "one seed",
        percent(rate.tie_share),
        f"{rate.games:,} / {rate.prompts:,}",
        f"{rate.p_value:.3f}",
        f"{100 * rate.power.detectable:.0f} points" if rate.power else NONE,
    )


def _accuracy(found: StudyComparison) -> list[Part]:
    if not found.accuracies:
        return []
    rows = [
        (
            contest_name(one),
            with_interval(one.difference, "points"),
            f"{one.p_value:.3f}",
            f"{one.pairs:,}",
            f"{100 * one.power.detectable:.0f} points" if one.power else NONE,
        )
        for one in found.ahead
    ]
    svg = plots.accuracies("Reward models on people's held-out labels", found.accuracies)
    return kit.section(
        "Reward models on people's labels",
        "Labels on held-out prompts: they trained no arm. A coin gets 50%; small rings are single seeds.",
        kit.picture(svg, "Accuracy of each arm's reward model"),
        kit.table(("Arms", "Difference, points", "p", "Pairs", SEEN_FROM), rows),
    )


def _curves(found: StudyComparison, look: dict[str, plots.Look]) -> list[Part]:
    """Reward against KL. Without gold scores the proxy's own: it says what was optimised, not what was gained."""
    if not found.curves:
        return []
    has_gold = any(point.gold is not None for curve in found.curves.values() for point in curve.points)
    curves = {
        arm: curve if has_gold else curve._replace(points=[p._replace(gold=p.score) for p in curve.points])
        for arm, curve in found.curves.items()
    }
    rows = []
    for arm, (_, fit, gap) in found.curves.items():
        lost = f"{gap.lost:.2f} since step {gap.best_step}" if gap and gap.lost > 0 else NONE
        if isinstance(fit, FrontierFit):
            peak = number(fit.peak_kl.value) if fit.peak_kl else "none"
            rows.append((arm, number(fit.alpha.value), number(fit.beta.value), number(fit.r2), peak, lost))
        else:
            rows.append((arm, NONE, NONE, NONE, fit.reason if fit else NONE, lost))
    kind, which = "gold score", "The gold score is that of `optimise.gold`, which nothing trains on."
    if not has_gold:
        kind = "training's own score"
        which = (
            "No arm kept a gold score (`optimise.gold`), so these are the scores that training itself pursued: they "
            "show what was optimised, not what was gained, and no over-optimisation can be seen."
        )
    forms = "d (\u03b1 \u2212 \u03b2 log d) for RL and d (\u03b1 \u2212 \u03b2 d) for best-of-n, with d = \u221aKL"
    svg = plots.frontiers("What was bought with which distance", curves, look, kind)
    return kit.section(
        "Reward against distance",
        f"{which} Forms of Gao et al. (arXiv 2210.10760): {forms}.",
        kit.picture(svg, "Score against KL for each arm", "wide"),
        kit.table(("Arm", "\u03b1", "\u03b2", "R\u00b2", "Peak at KL", "Gold score lost"), rows),
    )


def _refusals(found: StudyComparison, look: dict[str, plots.Look]) -> list[Part]:
    both = any(one.harmful and one.harmless for one in found.refused.values())
    svg = plots.refusal_map("Refusals: right ones over wrong ones", found.refused, look) if both else None
    more = ("Harmful: more than the reference", "Harmless: more than the reference")
    rows = []
    for arm, one in found.refused.items():
        changes = (with_interval(change, "points") for change in (one.more_harmful, one.more_harmless))
        rows.append((arm, with_interval(one.harmful), with_interval(one.harmless), *changes))
    return kit.section(
        "Harmlessness and over-refusal, apart",
        "Shares of answers that open with words of refusal: a rough instrument that sees changes better than levels.",
        kit.picture(svg, "Refusals on harmful and on harmless prompts", "wide") if svg else None,
        kit.table(("Arm", "Refuses harmful prompts", "Refuses harmless ones", *more), rows),
    )


def _costs(found: StudyComparison) -> list[Part]:
    rows = []
    for arm, (spent, price) in found.costs.items():
        per_label = NONE if price.per_label is None else f"{price.per_label:.3f}"
        per_point = NONE if price.per_point is None else f"{price.per_point:,.2f}"
        people, judge = f"{spent.human_labels:,}", f"{spent.labels - spent.human_labels:,}"
        rows.append((arm, people, judge, f"{price.total:,.2f}", per_label, per_point))
    return kit.section(
        "What it cost",
        "With the study's prices; the mean over seeds. A point is one percentage point of reward-model accuracy above "
        "a coin's 50.",
        kit.table(("Arm", "People's labels", "Judge's labels", "Cost", "Per label", "Per point of accuracy"), rows),
    )
