"""Who wins against whom: win rates with ties stated, clustered by prompt, and the spread between seeds.

Nothing here corrects for length (`length.py`) or joins many pairs on one scale (`league.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from rlaif.errors import DataError
from rlaif.evaluation.contest.games import Contest, Game, Scale, prompts_of
from rlaif.evaluation.contest.power import Power, clustered_error, power_of
from rlaif.evaluation.contest.seeds import SeedSpread, over_seeds, seeds_apart, spread
from rlaif.records import Record
from rlaif.stats import Bootstrap, Estimate, clustered_mean, clustered_mean_difference, sign_flip


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


def win_rate(played: Contest, one: str, other: str, bootstrap: Bootstrap, scale: Scale = "choice") -> WinRate:
    """The win rate of `one` against `other`. DataError for an arm without games and for two that never met."""
    games = played.between(one, other)
    found = _measured(games, bootstrap, scale)
    return found if found.one == one else found.swapped()


def against_reference(
    played: Contest, reference: str, bootstrap: Bootstrap, scale: Scale = "choice"
) -> dict[str, WinRate]:
    """Every arm that met the reference, against it, arms by name."""
    played.known(reference)
    arms = [arm for pair in played.pairs if reference in pair for arm in pair if arm != reference]
    return {arm: win_rate(played, arm, reference, bootstrap, scale) for arm in sorted(arms)}


def all_against_all(played: Contest, bootstrap: Bootstrap, scale: Scale = "choice") -> list[WinRate]:
    """Each pair of arms that met, once; the other side is `swapped()`."""
    return [win_rate(played, one, other, bootstrap, scale) for one, other in played.pairs]


def _measured(games: Sequence[Game], bootstrap: Bootstrap, scale: Scale) -> WinRate:
    worth, prompts = [game.worth(scale) for game in games], prompts_of(games)
    rate = clustered_mean(worth, prompts, *bootstrap)
    sides = [spread(worth, [game.one_seed for game in games]), spread(worth, [game.other_seed for game in games])]
    counted = sides if seeds_apart([(game.one_seed, game.other_seed) for game in games]) else sides[:1]
    clusters = len(set(prompts))
    return WinRate(
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


def lead(
    played: Contest, one: str, other: str, reference: str, bootstrap: Bootstrap, scale: Scale = "choice"
) -> Estimate:
    """How much more often `one` beats the reference than `other` does, paired by prompt: on the prompts of both alone.

    n counts prompts; a prompt's games are averaged first. DataError where they share no prompt.
    """
    first, second = (_by_prompt(played, arm, reference, scale) for arm in (one, other))
    shared = sorted(first.keys() & second.keys())
    if not shared:
        raise DataError(f"'{one}' and '{other}' met '{reference}' on no prompt in common")
    before, after = [second[prompt] for prompt in shared], [first[prompt] for prompt in shared]
    return clustered_mean_difference(before, after, shared, bootstrap)


def _by_prompt(played: Contest, arm: str, reference: str, scale: Scale) -> dict[str, float]:
    worth: dict[str, list[float]] = {}
    for game in played.between(arm, reference):
        side = game if game.one == arm else game.swapped()
        worth.setdefault(game.prompt_id, []).append(side.worth(scale))
    return {prompt: fmean(values) for prompt, values in worth.items()}
