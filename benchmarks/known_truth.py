"""Does the method find the truth where the truth is known? Arms of a synthetic world, SIMULATED people and judges.

    python -m benchmarks.known_truth [--repetitions 100] [--share 0.2] [--prompts 60] [--first 0] [--json FILE]

Every repetition is a world of its own (benchmarks/world): new prompts, new labels, all arms trained again, then a
study of 60 new prompts by a held-out judge. It is done with a biased judge of preferences (0.4 log-odds a word for
length, blind to one kind of bad word) and with an unbiased one. For each arm the table has

    true        its true win rate against the policy before training, by enumeration: mean over repetitions
    to rlaif    the true rate less rlaif's, with the 95 % t interval over repetitions, and the share of repetitions
                in which it is above 0
    covered     in how many repetitions the study's 95 % interval holds the true win rate of that repetition's
                policies, and half its mean width
    fooled      the same for a contest that is judged by the biased kind of judge: raw, and at equal length. Those
                intervals are about what that judge thinks, so they may miss the truth; this shows how often

and below it, how far the league has the arms in their true order (`truth.order_of`). About two seconds of one core a
repetition and judge; with OMP_NUM_THREADS=1 it leaves the other cores alone and is no slower.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest
from scipy.stats import t as student_t

from benchmarks.world.labels import BIASED, UNBIASED, Traits
from benchmarks.world.policies import Size, budget_of, train_arms
from benchmarks.world.truth import Draw, Order, hold, order_of, true_rates
from rlaif.console import bar
from rlaif.evaluation.contest.games import win_rate
from rlaif.evaluation.contest.league import league
from rlaif.evaluation.contest.length import length_controlled
from rlaif.jsonl import write_json
from rlaif.stats import Bootstrap, Estimate

JUDGES = {"biased": BIASED, "unbiased": UNBIASED}
REFERENCE = "reference"


class Repetition(NamedTuple):
    """One world with one judge of preferences."""

    true: dict[str, float]
    """Of each arm against the reference."""
    over_rlaif: dict[str, float]
    """Of each arm against rlaif itself."""
    study: dict[str, Estimate]
    fooled: dict[str, Estimate]
    at_equal_length: dict[str, Estimate | None]
    order: Order


def repeat(traits: Traits, size: Size, prompts: int, seed: int) -> Repetition:
    """Train, enumerate, hold the contest twice."""
    world, _, policies, new = train_arms(traits, seed, size)
    rates = true_rates(world, policies, new)
    bootstrap = Bootstrap(1000, seed=seed)
    played = hold(world, policies, new, Draw(seed, prompts))
    table = league(played, Bootstrap(50), REFERENCE)
    arms = [arm for arm in policies if arm != REFERENCE]
    by_biased = hold(world, policies, new, Draw(seed, prompts, traits=BIASED))
    return Repetition(
        true={arm: rates[arm, REFERENCE] for arm in arms},
        over_rlaif={arm: rates[arm, "rlaif"] for arm in arms},
        study={arm: win_rate(played, arm, REFERENCE, bootstrap).rate for arm in arms},
        fooled={arm: win_rate(by_biased, arm, REFERENCE, bootstrap).rate for arm in arms},
        at_equal_length={arm: length_controlled(by_biased, arm, REFERENCE, bootstrap).rate for arm in arms},
        order=order_of(played, table, rates),
    )


# ------------------------------------------------------------------------------------------------------ tables


def covered(found: Sequence[Estimate | None], true: Sequence[float]) -> int:
    """In how many repetitions the interval holds the truth; one without bounds does not."""
    return sum(
        one is not None and one.low is not None and one.high is not None and one.low <= value <= one.high
        for one, value in zip(found, true, strict=True)
    )


def half_width(found: Sequence[Estimate]) -> float:
    """Half the mean width, in points."""
    return 50 * float(np.mean([one.high - one.low for one in found if one.high is not None and one.low is not None]))


def gain(differences: Sequence[float]) -> str:
    """Mean with the 95 % t interval, in points, and the share above 0."""
    found = 100 * np.asarray(differences)
    if not found.any():
        return ""
    half = student_t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / math.sqrt(len(found))
    return f"{found.mean():+6.2f} ± {half:4.2f}  {np.mean(found > 0):4.0%}"


def report(judge: str, done: Sequence[Repetition]) -> None:
    """One table a judge of preferences."""
    n = len(done)
    print(f"\n{judge} judge of preferences, {n} repetitions; per cent and points.")
    print(f"Every arm spends {budget_of(Size().responses, Size().best_of):.3f} nats: best of {Size().best_of}.\n")
    print(f"{'arm':<18}{'true':>7}{'to rlaif':>15}{'':>9}{'covered':>10}{'±':>6}{'fooled: raw':>14}{'length':>8}")
    for arm in sorted(done[0].true, key=lambda arm: -float(np.mean([one.true[arm] for one in done]))):
        true = [one.true[arm] for one in done]
        study = [one.study[arm] for one in done]
        print(
            f"{arm:<18}{100 * np.mean(true):>7.1f}"
            f"{gain([one.true[arm] - one.true['rlaif'] for one in done]):>24}"
            f"{covered(study, true):>10}{half_width(study):>6.1f}"
            f"{covered([one.fooled[arm] for one in done], true):>14}"
            f"{covered([one.at_equal_length[arm] for one in done], true):>8}"
        )
    hits = sum(covered([one.study[arm] for one in done], [one.true[arm] for one in done]) for arm in done[0].true)
    tried = n * len(done[0].true)
    print(f"\nintervals that hold the truth: {hits} of {tried} = {hits / tried:.1%}")
    orders = [one.order for one in done]
    taus = [order.tau for order in orders]
    clear, wrong = sum(order.clear for order in orders), sum(order.wrong for order in orders)
    most = binomtest(wrong, clear).proportion_ci(0.95).high if clear else 1.0
    share = clear / sum(order.pairs for order in orders)
    print(f"league: Kendall's tau with the true order {np.mean(taus):.3f} (least {min(taus):.2f})")
    print(f"  {clear} pairs of arms ({share:.0%}) are truly farther apart than the study's resolution;")
    print(f"  {wrong} of them are the wrong way round (95 % interval up to {most:.2%})")
    for arm in [arm for arm in done[0].true if arm.startswith("hybrid")]:
        direct = [one.over_rlaif[arm] - 0.5 for one in done]
        print(f"  {arm + ' against rlaif itself, true win rate less 50:':<66}{gain(direct)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--share", type=float, default=0.2, help="of the pairs that hybrid arms have from people")
    parser.add_argument("--prompts", type=int, default=60, help="of a study")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    options = parser.parse_args()
    size = Size(share=options.share)
    found = {}
    for judge, traits in JUDGES.items():
        seeds = range(options.first, options.first + options.repetitions)
        with bar(judge, len(seeds), "repetitions") as advance:
            done = []
            for seed in seeds:
                done.append(repeat(traits, size, options.prompts, seed))
                advance(1)
        report(judge, done)
        found[judge] = done
    if options.json:
        rows = {
            judge: [{k: _plain(v) for k, v in one._asdict().items()} for one in done] for judge, done in found.items()
        }
        write_json(options.json, rows)


def _plain(value: object) -> object:
    """Records as JSON."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, Estimate):
        return value.model_dump()
    return value._asdict() if isinstance(value, Order) else value


if __name__ == "__main__":
    main()
