"""Games of two arms on a prompt, and who wins against whom: win rates with ties stated, clustered by prompt.

Every function sees games sorted and every pair of arms from one side, so that neither the order of rows nor which arm
is called `one` can change a digit. Nothing here corrects for length (`length.py`) or joins many pairs on one scale
(`league.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from rlaif.errors import DataError, did_you_mean
from rlaif.evaluation.contest.power import Power, SeedSpread, clustered_error, over_seeds, power_of, seeds_apart, spread
from rlaif.records import Record
from rlaif.stats import Bootstrap, Estimate, clustered_mean, sign_flip

Scale = Literal["choice", "probability"]
"""What a game is worth. choice: win 1, tie 1/2, loss 0. probability: p itself, as AlpacaEval 2 counts."""


class Game(NamedTuple):
    """One response of arm `one` and one of arm `other` to the same prompt, as one judge, or person, saw them.

    `p_one` is the probability that `one` has the better one; exactly 0.5 is a tie, identical texts included. Seeds
    are those the arms were trained with.
    """

    prompt_id: str
    one: str
    other: str
    p_one: float
    words_one: int
    words_other: int
    judge: str
    one_seed: int = 0
    other_seed: int = 0

    def swapped(self) -> Game:
        """The same game told from the other side."""
        prompt_id, one, other, p_one, words_one, words_other, judge, one_seed, other_seed = self
        return Game(prompt_id, other, one, 1 - p_one, words_other, words_one, judge, other_seed, one_seed)

    def worth(self, scale: Scale = "choice") -> float:
        """What `one` gets out of it."""
        return self.p_one if scale == "probability" else 0.5 if self.p_one == 0.5 else float(self.p_one > 0.5)

    @property
    def pair(self) -> tuple[str, str]:
        return self.one, self.other


class Contest(NamedTuple):
    """Checked games of one judge; in each, `one` comes before `other` by name. Made by `contest`."""

    games: tuple[Game, ...]
    arms: tuple[str, ...]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The pairs of arms that met, each once."""
        return sorted({game.pair for game in self.games})

    def between(self, one: str, other: str) -> tuple[Game, ...]:
        """The games of these two arms, the first by name as `one`; DataError where they never met."""
        self.known(one)
        self.known(other)
        games = tuple(game for game in self.games if game.pair in {(one, other), (other, one)})
        if not games:
            raise DataError(f"arms '{one}' and '{other}' never met: there is no game of these two")
        return games

    def known(self, arm: str) -> None:
        """DataError for an arm that plays no game."""
        if arm not in self.arms:
            raise DataError(f"no game of arm '{arm}'{did_you_mean(arm, self.arms)}")


def contest(games: Iterable[Game]) -> Contest:
    """Games ready for every function of this package. DataError for none, an impossible one, or several judges.

    Judges are kept apart: the mean of a strict and a lenient one is the opinion of nobody.
    """
    rows = list(games)
    if not rows:
        raise DataError("no games to compare arms by")
    for number, game in enumerate(rows, 1):
        place = f"game {number} (prompt {game.prompt_id}, {game.one} against {game.other})"
        if game.one == game.other:
            raise DataError(f"{place}: an arm cannot play against itself")
        if not 0 <= game.p_one <= 1:
            raise DataError(f"{place}: p_one must lie in [0, 1] (got {game.p_one!r})")
        if min(game.words_one, game.words_other) < 0:
            raise DataError(f"{place}: words must not be negative (got {game.words_one} and {game.words_other})")
    judges = sorted({game.judge for game in rows})
    if len(judges) > 1:
        raise DataError(f"games of {len(judges)} judges ({', '.join(judges)}): compare by one at a time")
    turned = sorted(game if game.one < game.other else game.swapped() for game in rows)
    return Contest(tuple(turned), tuple(sorted({arm for game in turned for arm in game.pair})))


def prompts_of(games: Sequence[Game]) -> list[str]:
    """Each game's cluster."""
    return [game.prompt_id for game in games]


# ------------------------------------------------------------------------------------------------ who wins


class WinRate(Record):
    """How often `one` wins against `other`, ties counting half.

    rate             with its interval over prompts: these policies, other prompts
    mean_p           the mean of the judge's probabilities themselves
    wins, ties, losses, prompts   ties are exact 0.5s, identical texts included
    p_value          of "the arms are alike": see `sign_flip`
    one_seeds, other_seeds        the rate seed by seed
    over_seeds       with its interval over prompts and seeds: this method again; None where all arms have one seed
    power            the smallest distance from 50 % that so many prompts show; None where nothing varies
    """

    one: str
    other: str
    rate: Estimate
    mean_p: Estimate
    wins: int
    ties: int
    losses: int
    prompts: int
    p_value: float
    one_seeds: SeedSpread
    other_seeds: SeedSpread
    over_seeds: Estimate | None
    power: Power | None

    @property
    def games(self) -> int:
        return self.wins + self.ties + self.losses

    @property
    def tie_share(self) -> float:
        return self.ties / self.games

    def swapped(self) -> WinRate:
        """The same from the other arm's side: every rate w becomes 1 - w."""
        turned = {
            "one": self.other,
            "other": self.one,
            "rate": self.rate.opposite(1.0),
            "mean_p": self.mean_p.opposite(1.0),
            "wins": self.losses,
            "losses": self.wins,
            "one_seeds": self.other_seeds.swapped(),
            "other_seeds": self.one_seeds.swapped(),
            "over_seeds": self.over_seeds and self.over_seeds.opposite(1.0),
        }
        return self.model_copy(update=turned)


def win_rate(played: Contest, one: str, other: str, bootstrap: Bootstrap) -> WinRate:
    """The win rate of `one` against `other`. DataError for an arm without games and for two that never met."""
    games = played.between(one, other)
    worth, prompts = [game.worth() for game in games], prompts_of(games)
    rate = clustered_mean(worth, prompts, *bootstrap)
    sides = [spread(worth, [game.one_seed for game in games]), spread(worth, [game.other_seed for game in games])]
    counted = sides if seeds_apart([(game.one_seed, game.other_seed) for game in games]) else sides[:1]
    clusters = len(set(prompts))
    found = WinRate(
        one=games[0].one,
        other=games[0].other,
        rate=rate,
        mean_p=clustered_mean([game.p_one for game in games], prompts, *bootstrap),
        wins=sum(game.p_one > 0.5 for game in games),
        ties=sum(game.p_one == 0.5 for game in games),
        losses=sum(game.p_one < 0.5 for game in games),
        prompts=clusters,
        p_value=sign_flip([w - 0.5 for w in worth], prompts, bootstrap.seed),
        one_seeds=sides[0],
        other_seeds=sides[1],
        over_seeds=over_seeds(rate, clustered_error(worth, prompts), clusters, counted, bootstrap.confidence),
        power=power_of(worth, prompts, bootstrap.confidence),
    )
    return found if found.one == one else found.swapped()


def all_against_all(played: Contest, bootstrap: Bootstrap) -> list[WinRate]:
    """Each pair of arms that met, once; the other side is `swapped()`."""
    return [win_rate(played, one, other, bootstrap) for one, other in played.pairs]
