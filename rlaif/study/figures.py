"""From a study's folder to every figure of its comparison. Nothing is run or asked here; next: `page.py`.

What could not be measured is absent, with its reason among the cautions: an arm without a reward model has no accuracy,
one whose run kept no gold scores no over-optimisation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rlaif.config.feedback import HumanLabels
from rlaif.config.optimise import BestOfN
from rlaif.evaluation.agreement import coverage
from rlaif.evaluation.compare import recipe_differences
from rlaif.evaluation.contest import accuracy, caution, frontier, refusals
from rlaif.evaluation.contest.accuracy import Accuracy, Ahead, ScoredLabel
from rlaif.evaluation.contest.frontier import Curve, Point
from rlaif.evaluation.contest.games import Contest, Game, WinRate, all_against_all, contest
from rlaif.evaluation.contest.joint import all_at_equal_length
from rlaif.evaluation.contest.league import League, league
from rlaif.evaluation.contest.length import EqualLength
from rlaif.evaluation.contest.refusals import ContestReply, Refusals
from rlaif.forms import SCORED, SOURCE
from rlaif.jsonl import read_rows
from rlaif.records import Failure, Record
from rlaif.run_folder import Run
from rlaif.stages.stage import read_if_there
from rlaif.stats import Bootstrap
from rlaif.study.config import REFERENCE, ArmCost, ArmRun, Study, Usage, cost
from rlaif.study.contest import meetings, prompts_of, samples_of, verdicts


class ArmJudgments(NamedTuple):
    """The contest as one judge sees it: the held-out judge, or people."""

    judge: str
    played: Contest
    rates: list[WinRate]
    lengths: list[EqualLength]
    table: League

    def against_reference(self) -> dict[str, WinRate]:
        """Every arm's win rate against the policy before training."""
        return _against_reference(self.rates)

    def controlled_against_reference(self) -> dict[str, EqualLength]:
        """The same at equal length."""
        return _against_reference(self.lengths)


T = TypeVar("T", WinRate, EqualLength)


def _against_reference(found: Sequence[T]) -> dict[str, T]:
    """Those of the reference, by the other arm, each from that arm's side."""
    turned = [one.swapped() if one.one == REFERENCE else one for one in found]
    return {one.one: one for one in turned if one.other == REFERENCE}


class StudyComparison(NamedTuple):
    """Everything that the page shows."""

    study: Study
    confidence: float
    judged: list[ArmJudgments]
    accuracies: dict[str, Accuracy]
    ahead: list[Ahead]
    curves: dict[str, Curve]
    """By arm, of its first seed."""
    refused: dict[str, Refusals]
    costs: dict[str, ArmCosts]
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
    scored = scored_labels(folder)
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


def _cautions(study: Study, judged: Sequence[ArmJudgments], ahead: Sequence[Ahead], confidence: float) -> list[str]:
    """What a reader must know before quoting a figure, the most important first."""
    said = []
    if study.judge is None:
        said.append("The contest was judged by the judge that also labels: it may prefer what it taught.")
    for one in judged:
        whose = "" if len(judged) == 1 else f"By {'people' if one.judge == 'people' else 'the judge'}: "
        about = [
            *caution.about_contests(one.rates, confidence),
            *caution.about_rates(one.rates, one.lengths),
            *caution.about_league(one.table),
        ]
        said += [f"{whose}{words}" for words in about]
    said += caution.about_power([one.power for one in ahead], "reward-model accuracy")
    intervals = sum(2 * len(one.rates) + len(one.table.standings) for one in judged) + len(ahead)
    return [*said, caution.about_many(intervals, confidence)]


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
        rates=all_against_all(played, bootstrap),
        lengths=all_at_equal_length(played, bootstrap, REFERENCE),
        table=league(played, bootstrap, REFERENCE if REFERENCE in played.arms else None),
    )


# --------------------------------------------------------------------------- reward models, curves, refusals


def scored_labels(folder: Path) -> list[ScoredLabel]:
    """The rows of the study's accuracy.jsonl."""
    return [
        ScoredLabel(row["pair_id"], row["prompt_id"], row["arm"], row["margin"], row["p_human"], row["seed"])
        for row in read_rows(folder / "accuracy.jsonl", SCORED)
    ]


def _curve(run: ArmRun) -> Curve | None:
    """Score against KL over training; None for arms that have no such steps."""
    rows = [row for row in run.run.read_metrics("optimise") if "kl" in row and "score" in row]
    if not rows:
        return None
    found = frontier.points(Point(row["step"], row["kl"], row["score"], row.get("gold")) for row in rows)
    with_gold = [point for point in found if point.gold is not None]
    form: frontier.Form = "best_of_n" if isinstance(run.recipe.optimise, BestOfN) else "rl"
    start = with_gold[0].gold if with_gold else found[0].score
    assert start is not None
    pursued = with_gold or [point._replace(gold=point.score) for point in found]
    fit = frontier.over_optimisation(pursued, form, start)
    return Curve(found, fit, frontier.gap(found))


def _replies(study: Study, runs: Sequence[ArmRun]) -> Iterator[ContestReply]:
    prompts, harmful = prompts_of(study), set(study.harmful_tags)
    for run in runs:
        for row in samples_of(run, prompts):
            asks_harm = bool(harmful & set(prompts[row["prompt_id"]].tags))
            for arm, text in ((REFERENCE, row["before"]), (run.arm, row["after"])):
                yield ContestReply(row["prompt_id"], arm, asks_harm, float(refusals.refuses(text)), run.seed)


# --------------------------------------------------------------------------------------------- costs


class ArmCosts(NamedTuple):
    """What an arm used up, the mean over its seeds, and what that cost."""

    spent: Usage
    cost: ArmCost


def _cost(study: Study, runs: Sequence[ArmRun], found: Accuracy | None) -> ArmCosts:
    spent = [_spent(run).model_dump() for run in runs]
    mean = {name: sum(one[name] for one in spent) / len(spent) for name in Usage.model_fields}
    used = Usage(**{name: value if name == "seconds" else round(value) for name, value in mean.items()})
    return ArmCosts(used, cost(used, study.prices, found.accuracy.value if found else None))


def _spent(run: ArmRun) -> Usage:
    """What the run's labels took, as its manifest and its preferences say: every label that became a row."""
    manifest = run.run.read_manifest()["stages"]
    labelled = manifest.get("label", {})
    people = sum(row.get("source") == "human" for row in read_rows(run.run.preferences, SOURCE))
    judge = 0 if isinstance(run.recipe.preferences.labels, HumanLabels) else labelled.get("pairs", 0)
    return Usage(
        labels=judge + people,
        human_labels=people,
        calls=labelled.get("judge_calls", 0),
        prompt_tokens=labelled.get("prompt_tokens", 0),
        completion_tokens=labelled.get("completion_tokens", 0),
        seconds=labelled.get("seconds", 0.0),
    )


def raw(found: StudyComparison, runs: Sequence[ArmRun]) -> dict[str, Any]:
    """The figures as JSON: what lies beside the page."""

    def dump(value: Any) -> Any:
        if isinstance(value, Record):
            return value.model_dump(mode="json")
        if isinstance(value, tuple) and hasattr(value, "_asdict"):
            value = value._asdict()
        if isinstance(value, dict):
            return {key: dump(part) for key, part in value.items()}
        return [dump(part) for part in value] if isinstance(value, list | tuple) else value

    figures = {
        "study": found.study.name,
        "confidence": found.confidence,
        "runs": [{"arm": run.arm, "seed": run.seed, "folder": f"arms/{run.arm}/seed-{run.seed}"} for run in runs],
        "contests": [
            {
                "judge": one.judge,
                "games": len(one.played.games),
                "win_rates": one.rates,
                "length_controlled": one.lengths,
                "league": one.table,
            }
            for one in found.judged
        ],
        "reward_models": {"accuracy": found.accuracies, "differences": found.ahead},
        "curves": found.curves,
        "refusals": found.refused,
        "costs": found.costs,
        "unjudged": found.unjudged,
        "recipe_differences": found.differences,
        "cautions": found.cautions,
    }
    return {key: dump(value) for key, value in figures.items()}
