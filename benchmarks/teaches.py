"""Does the judge teach? The quickstart with its judge, with what it says shuffled, and with the opposite principle.

    python benchmarks/teaches.py --seeds 0 1 2 3 4 --out runs/teaches
    python benchmarks/teaches.py --out runs/teaches --table           # what lies there so far

Every arm samples, labels and trains as the recipe says:

    judge      the recipe as it is
    shuffled   what the judge says of a prompt's responses changes places among them: as many labels, of nothing
    opposite   the two instructions of each principle change sides

What code checks stays as it is in all arms. Then measures that no part of a run has seen say how the answers to
held-out prompts changed. A killed run goes on where it was.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from scipy.stats import t as student_t

from rlaif.config import load_recipe
from rlaif.config.judging import RateMode
from rlaif.config.measures import LongWords, Readability, Syllables, WordCount
from rlaif.constitution import Constitution, Contrast, load_constitution, write_constitution
from rlaif.evaluation.artefacts import Artefacts, read_artefacts
from rlaif.evaluation.measures import Instrument, instruments
from rlaif.feedback.judge import score
from rlaif.feedback.judge.asking import Bench
from rlaif.feedback.judge.drive import Work
from rlaif.feedback.judge.score import ScoreOutcome
from rlaif.feedback.rating import overall
from rlaif.jsonl import write_json
from rlaif.pipeline import run_recipe, stages_until
from rlaif.records import Prompt, Score, content_id
from rlaif.stats import clustered_mean

ARMS = ("judge", "shuffled", "opposite")
Answer = tuple[str, int]
Runs = dict[int, dict[Answer, float]]
MEASURES = (Readability(), LongWords(), Syllables(), WordCount())


def opposite(constitution: Constitution) -> Constitution:
    """The constitution with the instructions of each principle exchanged."""

    def turned(one: Contrast) -> Contrast:
        return Contrast.model_validate({"for": one.against, "against": one.for_})

    principles = [
        p if p.contrast is None else p.model_copy(update={"contrast": turned(p.contrast)})
        for p in constitution.principles
    ]
    return constitution.model_copy(update={"id": f"{constitution.id}-opposite", "principles": tuple(principles)})


@contextmanager
def shuffled(seed: int) -> Iterator[None]:
    """Inside, what the judge says of a prompt's responses is said of others of them; checks stay where they are."""

    usual = score.score_together

    def shuffling(
        bench: Bench[RateMode], responses: Sequence[tuple[Prompt, str]], *, each_counts: bool = True
    ) -> Work[list[ScoreOutcome]]:
        scored = yield from usual(bench, responses, each_counts=each_counts)
        scores = {one.id: one for one in scored if isinstance(one, Score)}
        order = sorted(scores)
        others = random.Random(content_id("teaches", seed, responses[0][0].id, order)).sample(order, len(order))
        changed = {}
        for own, other in zip(order, others, strict=True):
            said = {part.principle: part for part in scores[other].principles if not part.checked}
            parts = tuple(said.get(part.principle, part) for part in scores[own].principles)
            pairs = [(p, part) for part in parts for p in bench.constitution.principles if p.id == part.principle]
            value, _ = overall(pairs, score.scale_of(bench.mode, bench.section))
            changed[own] = scores[own].model_copy(update={"principles": parts, "value": value})
        return [changed[one.id] if isinstance(one, Score) else one for one in scored]

    setattr(score, "score_together", shuffling)  # noqa: B010 (a module's own name, not an attribute of ours)
    try:
        yield
    finally:
        setattr(score, "score_together", usual)  # noqa: B010


def run_arm(arm: str, seed: int, out: Path, overrides: Sequence[str]) -> None:
    recipe = load_recipe("quickstart", [f"seed={seed}", f"evaluate.seed={seed}", *overrides])
    if arm == "opposite":
        file = out / "opposite.yaml"
        write_constitution(file, opposite(load_constitution(recipe.constitution)))
        recipe = recipe.model_copy(update={"constitution": str(file)})
    folder = out / f"{arm}-{seed}"
    if arm == "shuffled":
        with shuffled(seed):
            run_recipe(recipe, folder, only=stages_until(recipe, "optimise"))
    run_recipe(recipe, folder)


def changes(run: Artefacts, value: Callable[[str], float | None]) -> dict[Answer, float]:
    """After less before, for each held-out answer of which both have a value."""
    found = [((row["prompt_id"], row["index"]), value(row["after"]), value(row["before"])) for row in run.samples]
    return {answer: after - before for answer, after, before in found if after is not None and before is not None}


class Figure(NamedTuple):
    """How much a measure changed in an arm, or how much more than in another: with one seed, or with all (None)."""

    measure: str
    unit: str
    arm: str
    seed: int | None
    value: float
    low: float | None
    high: float | None
    """95 % by prompt: of other prompts, for these very policies."""
    low_by_run: float | None
    high_by_run: float | None
    """95 % by run (t, over seeds): of policies trained again."""


def figures(out: Path, seeds: Sequence[int]) -> list[Figure]:
    """Of the runs that are done. The mean over seeds counts every run alike."""
    done = {
        arm: {
            seed: read_artefacts(folder)
            for seed in seeds
            if (folder := out / f"{arm}-{seed}").joinpath("evaluation.json").exists()
        }
        for arm in ARMS
    }
    found = []
    for one in instruments(MEASURES):
        by_arm = {arm: {seed: changes(run, one.value) for seed, run in runs.items()} for arm, runs in done.items()}
        by_arm |= {f"{ARMS[0]} less {other}": _less(by_arm[ARMS[0]], by_arm[other]) for other in ARMS[1:]}
        for arm, runs in by_arm.items():
            found += [_figure(one, arm, seed, [run]) for seed, run in runs.items() if run]
            if any(runs.values()):
                found.append(_figure(one, arm, None, [run for run in runs.values() if run]))
        for arm in ARMS:
            found += _at_equal_length(one, arm, done[arm])
    return found


def _less(these: Runs, those: Runs) -> Runs:
    """Answer by answer: both arms of a seed answer the same prompts, and begin with the same answers."""
    return {
        seed: {answer: change - those[seed][answer] for answer, change in run.items() if answer in those[seed]}
        for seed, run in these.items()
        if seed in those
    }


def _figure(one: Instrument, arm: str, seed: int | None, runs: Sequence[dict[Answer, float]]) -> Figure:
    values = [change for run in runs for change in run.values()]
    mean = clustered_mean(values, [prompt for run in runs for prompt, _ in run], 2000, 0.95, 0, None)
    value, low, high = _by_run([fmean(run.values()) for run in runs])
    return Figure(one.name, one.unit, arm, seed, value, mean.low, mean.high, low, high)


def _by_run(means: Sequence[float]) -> tuple[float, float | None, float | None]:
    """The mean over runs, and its ends."""
    value = fmean(means)
    if len(means) < 2:
        return value, None, None
    reach = float(student_t.ppf(0.975, len(means) - 1)) * stdev(means) / math.sqrt(len(means))
    return value, value - reach, value + reach


def _at_equal_length(one: Instrument, arm: str, runs: dict[int, Artefacts]) -> list[Figure]:
    """As the runs' reports have it: what is left of the change where both answers are equally long."""
    name, found = f"{one.name}, at equal length", []
    for seed, run in runs.items():
        (row,) = [row for row in run.evaluation["measures"] if row["name"] == one.name]
        if equal := row["equal_length"]:
            found.append(Figure(name, one.unit, arm, seed, equal["value"], equal["low"], equal["high"], None, None))
    if found:
        value, low, high = _by_run([figure.value for figure in found])
        found.append(Figure(name, one.unit, arm, None, value, None, None, low, high))
    return found


def table(found: Sequence[Figure], seeds: Sequence[int]) -> None:
    """One row per measure and arm."""
    by_place = {(figure.measure, figure.arm, figure.seed): figure for figure in found}
    print(f"| change of | arm | {' | '.join(f'seed {seed}' for seed in seeds)} | mean | by prompt | by run |")
    print(f"|---|---|{'---|' * (len(seeds) + 3)}")
    for measure, arm in dict.fromkeys((figure.measure, figure.arm) for figure in found):
        cells = [by_place.get((measure, arm, seed)) for seed in seeds]
        whole = by_place[measure, arm, None]
        told = [_told(cell, cell.value) if cell else "" for cell in cells]
        told.append(_told(whole, whole.value))
        for low, high in ((whole.low, whole.high), (whole.low_by_run, whole.high_by_run)):
            told.append("" if low is None else f"{_told(whole, low)} to {_told(whole, high)}")
        print(f"| {measure} | {arm} | {' | '.join(told)} |", flush=True)


def _told(figure: Figure, value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:+.1f}" if figure.unit == "share" else f"{value:+.3f}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("overrides", nargs="*", help="of the recipe, e.g. optimise.steps=4")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    options.add_argument("--out", type=Path, default=Path("runs/teaches"))
    options.add_argument("--table", action="store_true", help="run nothing")
    options.add_argument("--json", type=Path, help="a file for the figures")
    given = options.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if not given.table:
        for seed in given.seeds:
            for arm in given.arms:
                run_arm(arm, seed, given.out, given.overrides)
    found = figures(given.out, given.seeds)
    table(found, given.seeds)
    if given.json:
        write_json(given.json, [figure._asdict() for figure in found])


if __name__ == "__main__":
    main()
