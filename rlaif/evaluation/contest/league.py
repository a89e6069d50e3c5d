"""All arms on one scale: Bradley and Terry's model, with intervals and what is known about the ranks.

    P(i beats j) = sigma(theta_i - theta_j),       Elo = 1000 + 173.7 theta        (173.7 = 400 / ln 10)

A tie is half a win of each. The model holds that strength is one number: where a beats b, b beats c and c beats a it
cannot be true, and `misfit` shows the pair it describes worst.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from rlaif.errors import DataError
from rlaif.evaluation.contest.games import Contest, prompts_of
from rlaif.evaluation.contest.length import Fits, clustered_fits, length_terms
from rlaif.records import Record
from rlaif.stats import Array, Bootstrap, Estimate

MEAN_ELO = 1000.0
ELO_PER_LOGIT = 400 / float(np.log(10))
EQUAL = 1e-9
Sides = NDArray[np.intp]
"""Each game's two arms, by number (games, 2)."""


class LeaguePlace(Record):
    """An arm's place. `first` is the share of resamples in which it leads, ties shared; `best` and `worst` are the
    ranks that hold in all but (1 - confidence) of them."""

    arm: str
    rank: int
    elo: Estimate
    theta: float
    first: float
    best: int
    worst: int
    games: int


class Misfit(Record):
    """The pair whose win rate the model describes worst."""

    one: str
    other: str
    observed: float
    predicted: float


class League(Record):
    """Standings, the strongest first. `reference` has 1000 exactly; without one, the arms' mean has.

    `length_effect` is phi of `length.py`, the same for all pairs, in a league at equal length. `note` says why
    there are no intervals where a group of arms won, or lost, every game against the rest: nothing then limits its
    strength but the ridge.
    """

    standings: tuple[LeaguePlace, ...]
    reference: str | None
    misfit: Misfit
    length_effect: Estimate | None
    prompts: int
    note: str | None


def league(played: Contest, bootstrap: Bootstrap, reference: str | None = None, equal_length: bool = False) -> League:
    """The table of all arms; `equal_length` adds the length term of `length.py`.

    DataError where the arms fall into groups that never met: no scale joins them.
    """
    if reference is not None:
        played.known(reference)
    worth = np.array([game.worth() for game in played.games])
    sides = np.array([[played.arms.index(arm) for arm in game.pair] for game in played.games], dtype=np.intp)
    note = _separated(played, worth, sides)
    arms = len(played.arms)
    rows = np.arange(len(sides))
    # (games, arms): 1 for the one, -1 for the other; with a column for the length term at equal length.
    design = np.zeros((len(sides), arms + equal_length))
    design[rows, sides[:, 0]], design[rows, sides[:, 1]] = 1, -1
    if equal_length:
        design[:, arms], spread = length_terms(played.games)
        if spread == 0:
            raise DataError(
                "no league at equal length: each pair of arms has the same difference in words in all games"
            )
    fits = clustered_fits(design, worth, prompts_of(played.games), bootstrap)
    thetas = Fits(*(_anchored(fit[..., :arms], played, reference) for fit in fits))
    effect = fits.estimate(arms, bootstrap.confidence, len(sides)) if equal_length else None
    return League(
        standings=_standings(played, thetas, sides, bootstrap.confidence, note is not None),
        reference=reference,
        misfit=_misfit(played, worth, sides, expit(design @ fits.whole)),
        length_effect=effect,
        prompts=len(fits.left_out),
        note=note,
    )


def _anchored(theta: Array, played: Contest, reference: str | None) -> Array:
    """Strengths (..., arms) from the reference's, or their mean: the model knows differences only."""
    zero: Array = theta.mean(axis=-1, keepdims=True)
    if reference is not None:
        zero = np.take(theta, [played.arms.index(reference)], axis=-1)
    return theta - zero


def _standings(played: Contest, thetas: Fits, sides: Sides, confidence: float, bare: bool) -> tuple[LeaguePlace, ...]:
    # (resamples, arms): one more than the arms that are stronger there.
    ranks = 1 + np.sum(thetas.resampled[:, None, :] > thetas.resampled[:, :, None] + EQUAL, axis=2)
    leads = ranks == 1
    first = (leads / leads.sum(axis=1, keepdims=True)).mean(axis=0)
    outside = (1 - confidence) / 2
    reach = np.quantile(ranks, [outside, 1 - outside], axis=0, method="inverted_cdf")
    elos = Fits(*(MEAN_ELO + ELO_PER_LOGIT * part for part in thetas))
    found = []
    for i, arm in enumerate(played.arms):
        n = int(np.sum(sides == i))
        elo = elos.estimate(i, confidence, n)
        found.append(
            LeaguePlace(
                arm=arm,
                rank=1 + int(np.sum(thetas.whole > thetas.whole[i] + EQUAL)),
                elo=elo.model_copy(update={"low": None, "high": None}) if bare else elo,
                theta=float(thetas.whole[i]),
                first=float(first[i]),
                best=int(reach[0, i]),
                worst=int(reach[1, i]),
                games=n,
            )
        )
    return tuple(sorted(found, key=lambda standing: (standing.rank, standing.arm)))


def _separated(played: Contest, worth: Array, sides: Sides) -> str | None:
    """Ford's condition (1957): strengths are finite if, in every split of the arms, each side took a point."""
    took = np.zeros((len(played.arms),) * 2)  # points that the row's arm took from the column's
    np.add.at(took, (sides[:, 0], sides[:, 1]), worth)
    np.add.at(took, (sides[:, 1], sides[:, 0]), 1 - worth)
    groups, group = connected_components(took > 0, connection="weak")
    if groups > 1:
        members = [", ".join(np.array(played.arms)[group == g]) for g in range(groups)]
        raise DataError(f"these groups of arms never met, so no league joins them: {'; '.join(members)}")
    groups, group = connected_components(took > 0, connection="strong")
    if groups == 1:
        return None
    # Between strong components points flow one way only, so one of them gave none away.
    top = next(g for g in range(groups) if not took[group != g][:, group == g].any())
    names = ", ".join(np.array(played.arms)[group == top])
    return f"no intervals: {names} won every game against the others, so nothing in the data limits the gap"


def _misfit(played: Contest, worth: Array, sides: Sides, predicted: Array) -> Misfit:
    pair = sides[:, 0] * len(played.arms) + sides[:, 1]
    kinds, index = np.unique(pair, return_inverse=True)
    counts = np.bincount(index)
    found, said = (np.bincount(index, weights=of) / counts for of in (worth, predicted))
    # Rounded, so that of pairs that are equally off the first by name is taken whatever the order of rows.
    worst = int(np.argmax(np.round(np.abs(found - said), 12)))
    one, other = divmod(int(kinds[worst]), len(played.arms))
    return Misfit(
        one=played.arms[one], other=played.arms[other], observed=float(found[worst]), predicted=float(said[worst])
    )
