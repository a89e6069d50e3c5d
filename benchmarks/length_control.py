"""Length control held against AlpacaEval 2's published table, and the coverage of its intervals on real prompts.

    python benchmarks/length_control.py FOLDER [--studies 100] [--draws 6] [--json FILE]

FOLDER is a checkout of github.com/tatsu-lab/alpaca_eval; every model counts whose annotations by
`weighted_alpaca_eval_gpt4_turbo` are in it and whose length-controlled win rate is in its leaderboard. They are split
into halves by the order of their names' hashes: the first half chooses the ridges, the second is reported.

    path        first half: mean distance from the published figure, in points, by ridge, for 3, 5, 10 and 20 arms
    distances   second half: one pair at a time (`length.py`), and jointly (`joint.py`) with so many arms
    models      second half: each model's published figure, alone, and jointly in draws of 10 arms
    by length   all models alone, the second half jointly: mean distance by the share of games where one side is longer
    coverage    simulated studies on these prompts, with the lengths of real models and difficulties as fitted to all of
                them: how many 95 % intervals hold the true rate

Distances are on AlpacaEval's scale (the mean of p); a model is about 800 games. Ten minutes of one core.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit

from rlaif.evaluation.contest.games import Game, contest
from rlaif.evaluation.contest.joint import EASE, SLOPES, Rows, all_at_equal_length, fit
from rlaif.evaluation.contest.length import EqualLength, length_controlled, length_terms
from rlaif.jsonl import write_json
from rlaif.stats import Bootstrap, Estimate

ANNOTATOR = "weighted_alpaca_eval_gpt4_turbo"
TABLE = f"src/alpaca_eval/leaderboards/data_AlpacaEval_2/{ANNOTATOR}_leaderboard.csv"
BASELINE = "baseline"
ARMS = (3, 5, 10, 20)
EASES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
SLOPE_RIDGES = (1.0, 3.0, 10.0, 30.0, 100.0)
BINS = (0.5, 0.75, 0.9, 0.96, 0.98, 1.0)


class Model(NamedTuple):
    """A model's games against the baseline, and its published length-controlled win rate."""

    name: str
    published: float
    games: list[Game]


def read(folder: Path) -> list[Model]:
    """Every model that is whole in the checkout, by name."""
    with (folder / TABLE).open(encoding="utf-8", newline="") as table:
        published = {row[""]: row["length_controlled_winrate"] for row in csv.DictReader(table)}
    found = []
    for path in sorted(folder.glob(f"results/*/{ANNOTATOR}/annotations.json")):
        name = path.parts[-3]
        rows = json.loads(path.read_text(encoding="utf-8"))
        games = [_game(name, row) for row in rows if row["preference"] is not None]
        if published.get(name) and all(row["generator_2"] != row["generator_1"] for row in rows):
            found.append(Model(name, float(published[name]) / 100, games))
    return found


def _game(name: str, row: dict[str, Any]) -> Game:
    preference = float(row["preference"])
    p = 0.5 if preference == 0 else preference - 1
    ours, baseline = (len(row[output].split()) for output in ("output_2", "output_1"))
    return Game(row["instruction"], name, BASELINE, p, ours, baseline, "gpt-4-turbo")


def halves(models: Sequence[Model]) -> tuple[list[Model], list[Model]]:
    """Two halves that nobody chose."""
    order = sorted(models, key=lambda model: hashlib.sha256(model.name.encode()).hexdigest())
    return order[: len(order) // 2], order[len(order) // 2 :]


def draws(models: Sequence[Model], arms: int, count: int) -> list[list[Model]]:
    rng = np.random.default_rng(arms)
    return [[models[i] for i in rng.choice(len(models), arms, replace=False)] for _ in range(count)]


# ------------------------------------------------------------------------------------------------------- the path


def rows_of(models: Sequence[Model], ease: float = EASE, slopes: float = SLOPES) -> Rows:
    """The models' games as the joint fit's arrays, pairs in the models' order."""
    games = [game for model in models for game in model.games]
    number = {model.name: i for i, model in enumerate(models)}
    prompts = {prompt: i for i, prompt in enumerate(sorted({game.prompt_id for game in games}))}
    return Rows(
        pair=np.array([number[game.one] for game in games]),
        prompt=np.array([prompts[game.prompt_id] for game in games]),
        terms=length_terms(games)[0],
        side=np.ones(len(games)),
        worth=np.array([game.p_one for game in games]),
        ease=ease,
        slopes=slopes,
    )


def rates_of(rows: Rows) -> np.ndarray:
    """Each pair's rate at equal length."""
    at = fit(rows)
    rates = expit(at.pairs[rows.pair] + at.prompts[rows.prompt])
    return np.bincount(rows.pair, rates) / np.bincount(rows.pair)


def path(models: Sequence[Model], count: int) -> dict[str, float]:
    """Mean distance in points for each number of arms and each pair of ridges."""
    found = {}
    for arms in ARMS:
        print(f"\n{arms} arms; rows: ridge of slopes, columns: ridge of the prompts' terms")
        print(f"{'':>7}" + "".join(f"{ease:>7}" for ease in EASES))
        drawn = draws(models, arms, max(3, count // 2))
        for slopes in SLOPE_RIDGES:
            for ease in EASES:
                off = [
                    abs(rate - model.published)
                    for some in drawn
                    for rate, model in zip(rates_of(rows_of(some, ease, slopes)), some, strict=True)
                ]
                found[f"{arms} arms, {slopes} and {ease}"] = 100 * float(np.mean(off))
            print(f"{slopes:>7}" + "".join(f"{found[f'{arms} arms, {slopes} and {ease}']:>7.2f}" for ease in EASES))
    return found


# ----------------------------------------------------------------------------------------------------- the report


class Point(NamedTuple):
    """One model's figure in one draw, or alone."""

    model: Model
    found: EqualLength

    @property
    def off(self) -> float:
        """In points."""
        assert self.found.rate is not None
        return 100 * (self.found.rate.value - self.model.published)


def holds(rate: Estimate | None, true: float) -> bool:
    return rate is not None and rate.low is not None and rate.high is not None and rate.low <= true <= rate.high


def alone(model: Model, bootstrap: Bootstrap) -> Point:
    return Point(model, length_controlled(contest(model.games), model.name, BASELINE, bootstrap, "probability"))


def jointly(models: Sequence[Model], bootstrap: Bootstrap) -> list[Point]:
    games = (game for model in models for game in model.games)
    found = all_at_equal_length(contest(games), bootstrap, BASELINE, "probability")
    by_name = {one.one: one for one in (one if one.other == BASELINE else one.swapped() for one in found)}
    return [Point(model, by_name[model.name]) for model in models]


def summary(points: Sequence[Point]) -> str:
    off = np.array([point.off for point in points])
    held = np.mean([holds(point.found.rate, point.model.published) for point in points])
    return f"{np.mean(np.abs(off)):>6.2f}{np.mean(off):>+8.2f}{np.max(np.abs(off)):>8.1f}{held:>9.0%}"


def report(first: Sequence[Model], models: Sequence[Model], count: int, bootstrap: Bootstrap) -> dict[str, Any]:
    """The tables of the second half; those who chose are shown alone too, which they did not choose by."""
    others, singles = ([alone(model, bootstrap) for model in half] for half in (first, models))
    joint = {arms: [p for some in draws(models, arms, count) for p in jointly(some, bootstrap)] for arms in ARMS}
    print(f"\n{len(models)} models that chose nothing; points from the published figure")
    print(f"{'':<10}{'mean':>6}{'signed':>8}{'worst':>8}{'inside':>9}")
    print(f"{'alone':<10}{summary(singles)}")
    for arms, points in joint.items():
        print(f"{f'{arms} arms':<10}{summary(points)}")
    print(f"\n{'model':<40}{'published':>10}{'alone':>8}{'joint':>8}{'longer':>8}  note")
    table = []
    for one in sorted([*singles, *others], key=lambda point: -point.model.published):
        mine = [p.found.rate.value for p in joint[10] if p.model is one.model and p.found.rate]
        assert one.found.rate is not None
        figures = (one.model.published, one.found.rate.value, float(np.mean(mine)) if mine else None, one.found.longer)
        table.append((one.model.name, *figures, one.found.note))
        cells = "".join(f"{'' if f is None else f'{100 * f:.1f}':>8}" for f in figures)
        print(f"{one.model.name:<40}  {cells}  {'yes' if one.found.note else ''}")
    print(f"\n{'one side longer in':<22}{'alone':>8}{'joint':>8}")
    for low, high in pairwise(BINS):
        both: tuple[list[Point], ...] = [*others, *singles], [p for a in joint.values() for p in a]
        means = [_mean_between(points, low, high) for points in both]
        print(f"{f'{low:.0%} to {high:.0%}':<22}" + "".join(f"{mean:>8.1f}" for mean in means))
    distances = {arms: float(np.mean([abs(p.off) for p in points])) for arms, points in joint.items()}
    return {"alone": float(np.mean([abs(p.off) for p in singles])), "joint": distances, "models": table}


def _mean_between(points: Sequence[Point], low: float, high: float) -> float:
    off = [abs(p.off) for p in points if low <= max(p.found.longer, 1 - p.found.longer) < high]
    return float(np.mean(off)) if off else float("nan")


# --------------------------------------------------------------------------------------------------- the coverage


class Bed(NamedTuple):
    """What simulated studies are made of: each prompt's difficulty, and real models' words on each."""

    difficulty: np.ndarray
    words: list[np.ndarray]
    """Of one model: (prompts, 2), its own and the baseline's."""
    slope: tuple[float, float]
    """Mean and standard deviation over the models."""
    scale: float


def bed(models: Sequence[Model]) -> Bed:
    """Difficulties and slopes as the joint fit to all models has them."""
    rows = rows_of(models)
    at = fit(rows)
    names = sorted({game.prompt_id for model in models for game in model.games})
    words = []
    for model in models:
        by_prompt = {game.prompt_id: (game.words_one, game.words_other) for game in model.games}
        words.append(np.array([by_prompt.get(name, (0, 0)) for name in names]))
    phi = at.pairs[len(models) :]
    scale = length_terms([game for model in models for game in model.games])[1]
    return Bed(at.prompts - at.prompts.mean(), words, (float(phi.mean()), float(phi.std())), scale)


def simulated(on: Bed, arms: int, prompts: int, seed: int) -> tuple[list[Game], list[float]]:
    """A study of some prompts drawn from all, and each arm's true rate at equal length over all of them.

    Arms differ in strength, in how much a prompt's difficulty matters to them (as in AlpacaEval 2), and in their slope.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(on.difficulty), prompts)
    games, true = [], []
    for arm, which in enumerate(rng.choice(len(on.words), arms, replace=False)):
        merit = rng.normal(-1, 0.8) + rng.normal(1, 0.2) * on.difficulty
        words = on.words[which]
        lure = rng.normal(*on.slope) * np.tanh((words[:, 0] - words[:, 1]) / on.scale)
        true.append(float(expit(merit).mean()))
        for i, prompt in enumerate(drawn):
            won = float(rng.random() < expit(merit[prompt] + lure[prompt]))
            one, other = words[prompt].tolist()
            games.append(Game(f"{i}", f"arm {arm}", BASELINE, won, one, other, "simulated"))
    return games, true


def coverage(on: Bed, studies: int) -> dict[str, list[float]]:
    """Of each kind of study: the share of intervals that hold the truth and their mean width, jointly and alone."""
    found = {}
    print(f"\n{studies} simulated studies each: share of 95 % intervals that hold the truth, mean width in points")
    print(f"{'arms':>5}{'prompts':>9}{'joint':>8}{'':>8}{'alone':>8}")
    for arms, prompts in ((2, 60), (3, 60), (5, 60), (3, 200), (5, 200), (10, 400)):
        kept: dict[str, list[Any]] = {"joint": [], "alone": []}
        for seed in range(studies):
            games, true = simulated(on, arms, prompts, seed)
            played, bootstrap = contest(games), Bootstrap(200, seed=seed)
            both = {
                "joint": all_at_equal_length(played, bootstrap, BASELINE),
                "alone": [length_controlled(played, f"arm {arm}", BASELINE, bootstrap) for arm in range(arms)],
            }
            for kind, rates in both.items():
                for one in rates:
                    if one.rate is not None:  # "arm" comes before "baseline", so it is `one`
                        assert one.rate.low is not None and one.rate.high is not None
                        kept[kind].append((holds(one.rate, true[int(one.one[4:])]), one.rate.high - one.rate.low))
        shares = [float(np.mean([part[i] for part in kept[kind]])) for kind in kept for i in (0, 1)]
        found[f"{arms} arms, {prompts} prompts"] = shares
        print(f"{arms:>5}{prompts:>9}" + "".join(f"{100 * share:>8.1f}" for share in shares), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a checkout of tatsu-lab/alpaca_eval")
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--samples", type=int, default=300, help="bootstrap resamples")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if not (given.folder / TABLE).exists():
        parser.error(f"{given.folder}: no checkout of tatsu-lab/alpaca_eval, as {TABLE} is not in it")
    models = read(given.folder)
    if len(models) < 2 * ARMS[-1]:
        parser.error(f"{given.folder}: {len(models)} models have annotations, and {2 * ARMS[-1]} are needed")
    first, second = halves(models)
    print(f"{len(models)} models; {len(first)} choose, {len(second)} are reported")
    found = {
        "path": path(first, given.draws),
        "report": report(first, second, given.draws, Bootstrap(given.samples)),
        "coverage": coverage(bed(models), given.studies),
    }
    if given.json:
        write_json(given.json, found)


if __name__ == "__main__":
    main()
