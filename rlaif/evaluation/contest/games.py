"""One comparison of two arms on a prompt, and many of them in an order that says nothing.

Everything that follows sees games sorted and every pair of arms from one side, so that neither the order of
rows nor which arm is called `one` can change a digit. Who made the games is the caller's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from rlaif.errors import DataError, did_you_mean

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
        return Game(
            self.prompt_id,
            self.other,
            self.one,
            1 - self.p_one,
            self.words_other,
            self.words_one,
            self.judge,
            self.other_seed,
            self.one_seed,
        )

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
        for arm in (one, other):
            self.known(arm)
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

    Judges are kept apart (`by_judge`): the mean of a strict and a lenient one is the opinion of nobody.
    """
    rows = list(games)
    if not rows:
        raise DataError("no games to compare arms by")
    for number, game in enumerate(rows, 1):
        _check(game, f"game {number} (prompt {game.prompt_id}, {game.one} against {game.other})")
    judges = sorted({game.judge for game in rows})
    if len(judges) > 1:
        raise DataError(f"games of {len(judges)} judges ({', '.join(judges)}): compare by one at a time")
    turned = sorted(game if game.one < game.other else game.swapped() for game in rows)
    return Contest(tuple(turned), tuple(sorted({arm for game in turned for arm in game.pair})))


def by_judge(games: Iterable[Game]) -> dict[str, list[Game]]:
    """Each judge's games, judges by name."""
    found: dict[str, list[Game]] = {}
    for game in games:
        found.setdefault(game.judge, []).append(game)
    return dict(sorted(found.items()))


def prompts_of(games: Sequence[Game]) -> list[str]:
    """Each game's cluster."""
    return [game.prompt_id for game in games]


def _check(game: Game, place: str) -> None:
    if game.one == game.other:
        raise DataError(f"{place}: an arm cannot play against itself")
    if not 0 <= game.p_one <= 1:
        raise DataError(f"{place}: p_one must lie in [0, 1] (got {game.p_one!r})")
    if min(game.words_one, game.words_other) < 0:
        raise DataError(f"{place}: words must not be negative (got {game.words_one} and {game.words_other})")
