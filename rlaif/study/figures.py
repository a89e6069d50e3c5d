"""From a study's folder to every figure of its comparison. Nothing is run or asked here; next: `page.py`.

What could not be measured is absent, with its reason among the cautions: an arm without a reward model has no accuracy,
one whose run kept no gold scores no over-optimisation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlaif.config.feedback import HumanLabels
from rlaif.config.optimise import BestOfN
from rlaif.evaluation.agreement import coverage
from rlaif.evaluation.compare import recipe_differences
from rlaif.evaluation.contest import accuracy, caution, frontier, headtohead, refusals
from rlaif.evaluation.contest.accuracy import Accuracy, Ahead, ScoredLabel
from rlaif.evaluation.contest.cost import ArmCost, Spending, cost
from rlaif.evaluation.contest.frontier import FrontierFit, Gap, NoFit, Point
from rlaif.evaluation.contest.games import Contest, Game, contest
from rlaif.evaluation.contest.headtohead import WinRate
from rlaif.evaluation.contest.joint import all_at_equal_length
from rlaif.evaluation.contest.league import League, league
from rlaif.evaluation.contest.length import LengthControlled
from rlaif.evaluation.contest.refusals import ContestReply, Refusals
from rlaif.forms import SCORED, SOURCE
from rlaif.jsonl import read_rows
from rlaif.records import Failure
from rlaif.run_folder import Run
from rlaif.stages.stage import read_if_there
from rlaif.stats import Bootstrap
from rlaif.study.arms import ArmRun
from rlaif.study.config import REFERENCE, Study
from rlaif.study.contest import meetings, prompts_of, samples_of, verdicts


class ArmJudgments(NamedTuple):
    """The contest as one judge sees it: the held-out judge, or people."""

    judge: str
    played: Contest
    rates: list[WinRate]
    lengths: list[LengthControlled]
    table: League

    def against_reference(self) -> dict[str, WinRate]:
        """Every arm's win rate against the policy before training."""
        rows = [rate if rate.other == REFERENCE else rate.swapped() for rate in self.rates if REFERENCE in _ends(rate)]
        return {rate.one: rate for rate in rows}

    def controlled_against_reference(self) -> dict[str, LengthControlled]:
        """The same at equal length."""
        rows = [found for found in self.lengths if REFERENCE in _ends(found)]
        return {found.one: found for found in (one if one.other == REFERENCE else one.swapped() for one in rows)}


def _ends(found: WinRate | LengthControlled) -> tuple[str, str]:
    return found.one, found.other


class StudyComparison(NamedTuple):
    """Everything that the page shows."""

    study: Study
    confidence: float
    judged: list[ArmJudgments]
    accuracies: dict[str, Accuracy]
    ahead: list[Ahead]
    curves: dict[str, tuple[tuple[Point, ...], FrontierFit | NoFit, Gap | None]]
    """By arm, of its first seed."""
    refused: dict[str, Refusals]
    costs: dict[str, tuple[Spending, ArmCost]]
    """By arm, the mean over its seeds."""
    unjudged: dict[str, Any]
    differences: dict[str, list[str]]
    cautions: list[str]


def compare(study: Study, folder: Path, runs: Sequence[ArmRun]) -> StudyComparison:
    """All figures of a study whose runs, contest and accuracies are there."""
    section = runs[0].recipe.evaluate
    bootstrap = Bootstrap(section.bootstrap_samples, section.confidence, 0)
    said = verdicts(folder)
    judged = [
        _judged(name, games, bootstrap)
        for name, rows in said.items()
        if (rows or name == "judge") and (games := list(_games(name, study, runs, {j.pair.id: j for j in rows})))
    ]
    scored = list(_scored(folder))
    accuracies = accuracy.accuracies(scored, bootstrap) if scored else {}
    ahead = accuracy.differences(scored, bootstrap) if len(accuracies) > 1 else []
    contest_run = Run(folder / "contest")
    unjudged = coverage(said["judge"], read_if_there(contest_run.failures, Failure))
    first_seed = [run for run in runs if run.seed == study.seeds[0]]
    return StudyComparison(
        study=study,
        confidence=section.confidence,
        judged=judged,
        accuracies=accuracies,
        ahead=ahead,
        curves={run.arm: found for run in first_seed if (found := _curve(run)) is not None},
        refused=refusals.refusals(_replies(study, runs), bootstrap, REFERENCE),
        costs={arm: _cost(study, [run for run in runs if run.arm == arm], accuracies.get(arm)) for arm in study.arms},
        unjudged=unjudged,
        differences=recipe_differences([run.recipe.model_dump(mode="json") for run in first_seed]),
        cautions=_cautions(study, judged, ahead, section.confidence),
    )


# ----------------------------------------------------------------------------------------------- the contest


def _games(judge: str, study: Study, runs: Sequence[ArmRun], by_pair: dict[str, Any]) -> Iterator[Game]:
    """Every meeting that has a result: equal texts are a tie, and nobody was asked about them."""
    for prompt_id, pair, one, other in meetings(runs, prompts_of(study)):
        judgment = by_pair.get(pair.id)
        if one.text == other.text:
            p = 0.5
        elif judgment is not None:
            p = judgment.p_of(one.text)
        else:
            continue
        yield Game(prompt_id, one.arm, other.arm, p, one.words, other.words, judge, one.seed, other.seed)


def _judged(name: str, games: Sequence[Game], bootstrap: Bootstrap) -> ArmJudgments:
    played = contest(games)
    return ArmJudgments(
        judge=name,
        played=played,
        rates=headtohead.all_against_all(played, bootstrap),
        lengths=all_at_equal_length(played, bootstrap, REFERENCE),
        table=league(played, bootstrap, REFERENCE if REFERENCE in played.arms else None),
    )


# --------------------------------------------------------------------------- reward models, curves, refusals


def _scored(folder: Path) -> Iterator[ScoredLabel]:
    for row in read_rows(folder / "accuracy.jsonl", SCORED):
        yield ScoredLabel(row["pair_id"], row["prompt_id"], row["arm"], row["margin"], row["p_human"], row["seed"])


def _curve(run: ArmRun) -> tuple[tuple[Point, ...], FrontierFit | NoFit, Gap | None] | None:
    """Score against KL over training; None for arms that have no such steps."""
    rows = [row for row in run.run.read_metrics("optimise") if "kl" in row and "score" in row]
    if not rows:
        return None
    found = frontier.points(Point(row["step"], row["kl"], row["score"], row.get("gold")) for row in rows)
    with_gold = [point for point in found if point.gold is not None]
    form: frontier.Form = "best_of_n" if isinstance(run.recipe.optimise, BestOfN) else "rl"
    start = with_gold[0].gold if with_gold else found[0].score
    assert start is not None
    fit = frontier.over_optimisation(found, form, start, gold=bool(with_gold))
    return found, fit, frontier.gap(found)


def _replies(study: Study, runs: Sequence[ArmRun]) -> Iterator[ContestReply]:
    prompts, harmful = prompts_of(study), set(study.harmful_tags)
    for run in runs:
        for row in samples_of(run, prompts):
            asks_harm = bool(harmful & set(prompts[row["prompt_id"]].tags))
            for arm, text in ((REFERENCE, row["before"]), (run.arm, row["after"])):
                yield ContestReply(row["prompt_id"], arm, asks_harm, float(refusals.refuses(text)), run.seed)


# --------------------------------------------------------------------------------------------- costs, words


def _cost(study: Study, runs: Sequence[ArmRun], found: Accuracy | None) -> tuple[Spending, ArmCost]:
    spent = [_spent(run) for run in runs]
    mean = Spending(
        labels=round(sum(one.labels for one in spent) / len(spent)),
        human_labels=round(sum(one.human_labels for one in spent) / len(spent)),
        calls=round(sum(one.calls for one in spent) / len(spent)),
        prompt_tokens=round(sum(one.prompt_tokens for one in spent) / len(spent)),
        completion_tokens=round(sum(one.completion_tokens for one in spent) / len(spent)),
        seconds=sum(one.seconds for one in spent) / len(spent),
    )
    return mean, cost(mean, study.prices, found.accuracy.value if found else None)


def _spent(run: ArmRun) -> Spending:
    """What the run's labels took, as its manifest and its preferences say: every label that became a row."""
    manifest = run.run.read_manifest()["stages"]
    labelled = manifest.get("label", {})
    people = sum(row.get("source") == "human" for row in read_rows(run.run.preferences, SOURCE))
    judge = 0 if isinstance(run.recipe.preferences.labels, HumanLabels) else labelled.get("pairs", 0)
    return Spending(
        labels=judge + people,
        human_labels=people,
        calls=labelled.get("judge_calls", 0),
        prompt_tokens=labelled.get("prompt_tokens", 0),
        completion_tokens=labelled.get("completion_tokens", 0),
        seconds=labelled.get("seconds", 0.0),
    )


def _cautions(study: Study, judged: Sequence[ArmJudgments], ahead: Sequence[Ahead], confidence: float) -> list[str]:
    """What a reader must know before quoting a figure, the most important first."""
    said = []
    if study.judge is None:
        said.append("The contest was judged by the judge that also labels: it may prefer what it taught.")
    for one in judged:
        whose = "" if len(judged) == 1 else f"By {'people' if one.judge == 'people' else 'the judge'}: "
        said += [f"{whose}{words}" for words in _about_contest(one, confidence)]
    powers = [one.power for one in ahead if one.power is not None]
    if powers:
        said.append(caution.about_power(max(powers, key=lambda power: power.detectable), "reward-model accuracy"))
    intervals = sum(2 * len(one.rates) + len(one.table.standings) for one in judged) + len(ahead)
    return [*said, caution.about_many(intervals, confidence)]


def _about_contest(one: ArmJudgments, confidence: float) -> list[str]:
    said = [caution.about_contests(one.rates, confidence)]
    powers = [rate.power for rate in one.rates if rate.power is not None]
    if powers:
        said.append(caution.about_power(max(powers, key=lambda power: power.detectable)))
    return [*said, *caution.about_rates(one.rates, one.lengths), *caution.about_league(one.table)]


def raw(found: StudyComparison, runs: Sequence[ArmRun]) -> dict[str, Any]:
    """The figures as JSON: what lies beside the page."""

    def dump(value: Any) -> Any:
        if hasattr(value, "model_dump"):
            return value.model_dump(mode="json")
        if isinstance(value, tuple) and hasattr(value, "_asdict"):
            return {name: dump(part) for name, part in value._asdict().items()}
        if isinstance(value, dict):
            return {key: dump(part) for key, part in value.items()}
        return [dump(part) for part in value] if isinstance(value, list | tuple) else value

    return {
        "study": found.study.name,
        "confidence": found.confidence,
        "runs": [{"arm": run.arm, "seed": run.seed, "folder": f"arms/{run.arm}/seed-{run.seed}"} for run in runs],
        "contests": [
            {
                "judge": one.judge,
                "games": len(one.played.games),
                "win_rates": dump(one.rates),
                "length_controlled": dump(one.lengths),
                "league": dump(one.table),
            }
            for one in found.judged
        ],
        "reward_models": {"accuracy": dump(found.accuracies), "differences": dump(found.ahead)},
        "curves": {
            arm: {"points": dump(points), "fit": dump(fit), "gap": dump(gap)}
            for arm, (points, fit, gap) in found.curves.items()
        },
        "refusals": dump(found.refused),
        "costs": {arm: {"spent": dump(spent), "cost": dump(price)} for arm, (spent, price) in found.costs.items()},
        "unjudged": found.unjudged,
        "recipe_differences": found.differences,
        "cautions": found.cautions,
    }
