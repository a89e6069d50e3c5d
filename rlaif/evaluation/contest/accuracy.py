"""Reward models of several arms on the same pairs that people labelled and no arm trained on.

The first thing that labels must buy. `reward_worth.heldout_accuracy` is about one run's own held-out labels; this is
about everybody's, and people's alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

from rlaif.errors import DataError
from rlaif.evaluation.contest.power import Power, SeedSpread, clustered_error, over_seeds, power_of, spread
from rlaif.records import Record
from rlaif.stats import Bootstrap, Estimate, clustered_mean, means_by, sign_flip


class ScoredLabel(NamedTuple):
    """A pair as the reward model of one arm and seed scores it: margin = score(a) - score(b), p_human = P(a better)."""

    pair_id: str
    prompt_id: str
    arm: str
    margin: float
    p_human: float
    seed: int = 0

    @property
    def right(self) -> float:
        """1 where the margin is on the people's side, 1/2 where it is exactly 0."""
        return 0.5 if self.margin == 0 else float((self.margin > 0) == (self.p_human > 0.5))


class Accuracy(Record):
    """One arm's accuracy, all seeds together; `over_seeds` as in a win rate. People's ties are left out."""

    arm: str
    accuracy: Estimate
    seeds: SeedSpread
    over_seeds: Estimate | None
    pairs: int
    prompts: int
    ties_left_out: int


class Ahead(Record):
    """By how much `one` is more accurate than `other` on the pairs of both, seeds averaged, paired, by prompt."""

    one: str
    other: str
    difference: Estimate
    p_value: float
    pairs: int
    power: Power | None


def accuracies(rows: Iterable[ScoredLabel], bootstrap: Bootstrap) -> dict[str, Accuracy]:
    """Each arm's, arms by name. DataError for a pair that two rows label differently, and for no decided pair."""
    arms = _by_arm(rows)
    return {arm: _accuracy(arm, found, bootstrap) for arm, found in arms.items()}


def differences(rows: Iterable[ScoredLabel], bootstrap: Bootstrap) -> list[Ahead]:
    """Every pair of arms once. DataError where two share no decided pair."""
    return [_ahead(one, other, bootstrap) for one, other in combinations(_by_arm(rows).items(), 2)]


def _by_arm(rows: Iterable[ScoredLabel]) -> dict[str, list[ScoredLabel]]:
    arms: dict[str, list[ScoredLabel]] = {}
    labels: dict[str, float] = {}
    for row in sorted(rows):
        if labels.setdefault(row.pair_id, row.p_human) != row.p_human:
            raise DataError(
                f"pair {row.pair_id}: p_human is {labels[row.pair_id]} in one row and {row.p_human} in another"
            )
        arms.setdefault(row.arm, []).append(row)
    for arm, found in arms.items():
        if all(row.p_human == 0.5 for row in found):
            raise DataError(f"arm '{arm}': no pair on which people decided ({len(found)} rows)")
    return arms


def _accuracy(arm: str, rows: Sequence[ScoredLabel], bootstrap: Bootstrap) -> Accuracy:
    decided = [row for row in rows if row.p_human != 0.5]
    right, prompts = [row.right for row in decided], [row.prompt_id for row in decided]
    found = clustered_mean(right, prompts, *bootstrap)
    seeds = spread(right, [row.seed for row in decided])
    clusters = len(set(prompts))
    return Accuracy(
        arm=arm,
        accuracy=found,
        seeds=seeds,
        over_seeds=over_seeds(found, clustered_error(right, prompts), clusters, [seeds], bootstrap.confidence),
        pairs=len({row.pair_id for row in decided}),
        prompts=clusters,
        ties_left_out=len({row.pair_id for row in rows if row.p_human == 0.5}),
    )


def _ahead(
    one: tuple[str, Sequence[ScoredLabel]], other: tuple[str, Sequence[ScoredLabel]], bootstrap: Bootstrap
) -> Ahead:
    decided = [[row for row in rows if row.p_human != 0.5] for _, rows in (one, other)]
    first, second = (means_by([row.pair_id for row in rows], [row.right for row in rows]) for rows in decided)
    shared = sorted(first.keys() & second.keys())
    if not shared:
        raise DataError(f"arms '{one[0]}' and '{other[0]}' have no decided pair in common")
    prompt_of = {row.pair_id: row.prompt_id for row in one[1]}
    prompts = [prompt_of[pair] for pair in shared]
    gaps = [first[pair] - second[pair] for pair in shared]
    return Ahead(
        one=one[0],
        other=other[0],
        difference=clustered_mean(gaps, prompts, *bootstrap, bounds=(-1.0, 1.0)),
        p_value=sign_flip(gaps, prompts, bootstrap.seed),
        pairs=len(shared),
        power=power_of(gaps, prompts, bootstrap.confidence),
    )
