"""The win rate that two arms would have if their responses were equally long (AlpacaEval 2's, arXiv 2404.04475).

Judges are drawn to length, and training finds out. The model is logistic and antisymmetric, one for each pair of
arms:

    logit P(one wins) = theta + phi tanh((words_one - words_other) / s),        the rate is sigma(theta)

with s the standard deviation of the differences. Unlike the paper's it has no term for the instruction's
difficulty: theirs is estimated from a hundred models, and a few games a prompt cannot give one. sigma(theta) is
therefore the rate over all prompts at equal length, which is what is asked for. It is an adjustment and no
experiment: if better responses are longer because they say more, that merit is taken out as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit

from rlaif.evaluation.agreement import Bootstrap, Estimate, clustered_mean
from rlaif.evaluation.contest.games import Contest, Game, Scale, prompts_of
from rlaif.evaluation.contest.headtohead import turned_round
from rlaif.evaluation.contest.resampling import Array, as_estimate, clustered_fits
from rlaif.evaluation.wording import percent
from rlaif.records import Record

RARE = 0.05
"""Where one arm is the shorter in fewer games than this, equal length is beyond the data."""


class LengthControlled(Record):
    """`one` against `other` at equal length. `rate` is None where every response of one arm is longer.

    raw          the win rate as it is, on the same games
    effect       phi: log-odds that a response gains by being far longer; above 0 the judge is drawn to length
    longer       share of games in which `one` has the longer response, equal lengths counting half
    scale        s, in words
    note         why there is no rate, or why not to lean on it; None where all is well
    """

    one: str
    other: str
    rate: Estimate | None
    raw: Estimate
    effect: Estimate | None
    longer: float
    scale: float
    note: str | None

    def swapped(self) -> LengthControlled:
        """The same from the other arm's side: every rate w becomes 1 - w, the effect of length stays."""
        turned = {
            "one": self.other,
            "other": self.one,
            "rate": self.rate and turned_round(self.rate),
            "raw": turned_round(self.raw),
            "longer": 1 - self.longer,
        }
        return self.model_copy(update=turned)


def length_controlled(
    played: Contest, one: str, other: str, bootstrap: Bootstrap, scale: Scale = "choice"
) -> LengthControlled:
    """The win rate of `one` against `other` at equal length; swapping the arms gives 1 minus it, to the last digit."""
    games = played.between(one, other)
    found = _controlled(games, bootstrap, scale)
    return found if found.one == one else found.swapped()


def longer_share(games: Sequence[Game]) -> float:
    """In what share of games `one` has more words; equal lengths count half."""
    return float(np.mean([np.sign(game.words_one - game.words_other) for game in games]) + 1) / 2


def length_terms(games: Sequence[Game]) -> tuple[Array, float]:
    """tanh of each game's difference in words over their standard deviation, and that deviation."""
    words = np.array([game.words_one - game.words_other for game in games], dtype=float)
    scale = float(words.std())
    return np.tanh(words / scale) if scale > 0 else np.zeros(len(words)), scale


def _controlled(games: Sequence[Game], bootstrap: Bootstrap, scale: Scale) -> LengthControlled:
    worth = np.array([game.worth(scale) for game in games])
    raw = clustered_mean(list(worth), prompts_of(games), *bootstrap)
    longer = longer_share(games)
    terms, deviation = length_terms(games)
    note = _note(games, longer)
    rate: Estimate | None = raw
    effect = None
    if longer in (0, 1):
        rate = None
    elif deviation > 0 and np.ptp(worth) > 0:
        rate, effect = _fitted(worth, terms, games, bootstrap)
    # Where all lengths are equal, or every game ended alike, there is nothing to correct: the raw rate stands.
    return LengthControlled(
        one=games[0].one,
        other=games[0].other,
        rate=rate,
        raw=raw,
        effect=effect,
        longer=longer,
        scale=deviation,
        note=note,
    )


def _fitted(worth: Array, terms: Array, games: Sequence[Game], bootstrap: Bootstrap) -> tuple[Estimate, Estimate]:
    design = np.column_stack([np.ones(len(games)), terms])
    fits = clustered_fits(design, worth, prompts_of(games), bootstrap)
    rates, effects = ([expit(fit[..., 0]) for fit in fits], [fit[..., 1] for fit in fits])
    rate, effect = (
        as_estimate(float(of[0]), of[1], of[2], bootstrap.confidence, len(games)) for of in (rates, effects)
    )
    return rate, effect


def _note(games: Sequence[Game], longer: float) -> str | None:
    if RARE <= longer <= 1 - RARE:
        return None
    arm = games[0].one if longer > 0.5 else games[0].other
    if longer in (0, 1):
        return f"no rate at equal length: '{arm}' is the longer in every game, so length and arm are one thing"
    return (
        f"'{arm}' has the longer response in {percent(max(longer, 1 - longer))} of the games: what happens at equal "
        "length is hardly seen in them, and the rate rests on the model's form"
    )
