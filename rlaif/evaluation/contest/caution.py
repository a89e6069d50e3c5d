"""What the figures of a comparison allow to be said, in words, and what they do not.

Twenty intervals at 95 % are expected to miss one truth between them, and whoever looks for the best arm finds
luck along with merit.
"""

from __future__ import annotations

from collections.abc import Sequence

from rlaif.evaluation.contest.headtohead import WinRate
from rlaif.evaluation.contest.league import League
from rlaif.evaluation.contest.length import LengthControlled
from rlaif.evaluation.contest.power import Power
from rlaif.stats import holm
from rlaif.words import percent

MANY_TIES = 0.3
POOR_FIT = 0.1
FEW_PROMPTS = 20


def bonferroni(confidence: float, intervals: int) -> float:
    """The confidence that each of several intervals needs for all together to have the one given."""
    return 1 - (1 - confidence) / max(1, intervals)


def contest_name(rate: WinRate) -> str:
    """'a against b'."""
    return f"{rate.one} against {rate.other}"


def about_many(intervals: int, confidence: float) -> str:
    """How many intervals may be wrong together."""
    missed = intervals * (1 - confidence)
    each = bonferroni(confidence, intervals)
    return (
        f"{intervals} intervals at {percent(confidence)} are shown; about {missed:.2g} of them can be expected to "
        f"miss the truth. For all to hold it together with {percent(confidence)}, each would have to be at "
        f"{100 * each:.4g}%."
    )


def about_contests(rates: Sequence[WinRate], confidence: float) -> str:
    """Which arms differ once all their contests are counted as one family (Holm)."""
    adjusted = dict(zip(map(contest_name, rates), holm([rate.p_value for rate in rates]), strict=True))
    decided = [rate for rate in rates if adjusted[contest_name(rate)] < 1 - confidence]
    alone = [rate for rate in rates if rate.p_value < 1 - confidence and rate not in decided]
    said = [f"Of {len(rates)} contests between arms, counted together (Holm), {_list(decided)}."]
    if alone:
        names = "; ".join(contest_name(rate) for rate in alone)
        said.append(f"Taken alone these would have been too: {names}. Among so many, that can be luck.")
    return " ".join(said)


def _list(decided: Sequence[WinRate]) -> str:
    if not decided:
        return "none is decided: no arm is shown to be better than another"
    won = [rate if rate.rate.value > 0.5 else rate.swapped() for rate in decided]
    said = "; ".join(f"{rate.one} beats {rate.other} ({percent(rate.rate.value)})" for rate in won)
    return f"{len(decided)} {'is' if len(decided) == 1 else 'are'} decided: {said}"


def about_power(power: Power, what: str = "win rate") -> str:
    """What so many prompts would have missed."""
    missed = 1 - power.power
    return (
        f"With {power.prompts} prompts, a true difference of {100 * power.detectable:.2g} points in {what} would be "
        f"missed {_one_in(missed)} at {percent(power.confidence)} confidence, and a smaller one more often: no clear "
        "difference does not mean none."
    )


def _one_in(share: float) -> str:
    return (
        f"1 time in {round(1 / share)}" if abs(1 / share - round(1 / share)) < 0.01 else f"{percent(share)} of the time"
    )


def about_rates(rates: Sequence[WinRate], lengths: Sequence[LengthControlled]) -> list[str]:
    """Ties, few prompts, one seed, length that explains a win: whichever apply."""
    return [*_about_games(rates), *_about_seeds(rates), *_about_lengths(lengths)]


def _about_games(rates: Sequence[WinRate]) -> list[str]:
    said = []
    tied = [rate for rate in rates if rate.tie_share >= MANY_TIES]
    if tied:
        worst = max(tied, key=lambda rate: rate.tie_share)
        said.append(
            f"Many games are ties, up to {percent(worst.tie_share)} ({contest_name(worst)}); they pull rates to 50%."
        )
    prompts = min((rate.prompts for rate in rates), default=FEW_PROMPTS)
    if prompts < FEW_PROMPTS:
        said.append(f"Some contests have only {prompts} prompts: intervals from so few are rough.")
    return said


def _about_seeds(rates: Sequence[WinRate]) -> list[str]:
    if not rates:
        return []
    if all(rate.over_seeds is None for rate in rates):
        return [
            "Every arm was trained with one seed: the intervals are about these policies on other prompts, and say "
            "nothing about what training again would give."
        ]
    fewest = min(len(rate.one_seeds.values) for rate in rates for rate in (rate, rate.swapped()))
    return [
        "Intervals over prompts are about these policies; those over prompts and seeds are about the method, and are "
        f"the ones to quote for it. They are wide where seeds are few (here {fewest} for some arm)."
    ]


def _about_lengths(lengths: Sequence[LengthControlled]) -> list[str]:
    never = [found for found in lengths if found.rate is None]
    far = sorted((found for found in lengths if found.rate and found.note), key=lambda found: -abs(found.longer - 0.5))
    said = [f"{found.one} against {found.other}: {found.note}." for found in [*never, *far[:1]]]
    if far[1:]:
        others = "; ".join(f"{found.one} against {found.other}" for found in far[1:])
        said.append(f"Equal length is outside most games, though less far, of these too: {others}.")
    for found in lengths:
        if found.rate is not None and (found.rate.value - 0.5) * (found.raw.value - 0.5) < 0:
            said.append(
                f"Length turns {found.one} against {found.other} round: {percent(found.raw.value)} as it is, "
                f"{percent(found.rate.value)} at equal length."
            )
    return said


def about_league(table: League) -> list[str]:
    """How sure first place is, and where one scale does not fit."""
    first = table.standings[0]
    said = []
    rivals = [s.arm for s in table.standings[1:] if s.best == 1]
    if rivals:
        said.append(
            f"{first.arm} leads the league in {percent(first.first)} of resamples; first place cannot be denied to "
            f"{', '.join(rivals)}. The best of several looks better than it is: it was picked for it."
        )
    if table.note:
        said.append(f"League: {table.note}.")
    worst = table.misfit
    if abs(worst.observed - worst.predicted) > POOR_FIT:
        said.append(
            f"One scale does not describe these arms well: {worst.one} wins {percent(worst.observed)} against "
            f"{worst.other}, the league says {percent(worst.predicted)}. Trust the contest over the table."
        )
    return said
