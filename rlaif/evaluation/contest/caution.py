"""What the figures of a comparison allow to be said, in words, and what they do not.

Twenty intervals at 95 % are expected to miss one truth between them, and whoever looks for the best arm finds
luck along with merit.
"""

from __future__ import annotations

from collections.abc import Sequence

from rlaif.evaluation.contest.accuracy import Ahead
from rlaif.evaluation.contest.games import WinRate
from rlaif.evaluation.contest.league import League
from rlaif.evaluation.contest.length import EqualLength
from rlaif.evaluation.contest.power import Power
from rlaif.stats import bonferroni, holm
from rlaif.words import percent

MANY_TIES = 0.3
POOR_FIT = 0.1
FEW_PROMPTS = 20


def contest_name(found: WinRate | EqualLength | Ahead) -> str:
    """'a against b'."""
    return f"{found.one} against {found.other}"


def about_many(intervals: int, confidence: float) -> str:
    """How many intervals may be wrong together."""
    missed = intervals * (1 - confidence)
    each = bonferroni(confidence, intervals)
    return (
        f"{intervals} intervals at {percent(confidence)} are shown; about {missed:.2g} of them can be expected to "
        f"miss the truth. For all to hold it together with {percent(confidence)}, each would have to be at "
        f"{100 * each:.4g}%."
    )


def about_contests(rates: Sequence[WinRate], confidence: float) -> list[str]:
    """Which arms differ once all their contests are counted as one family (Holm), and what these would have missed."""
    adjusted = dict(zip(map(contest_name, rates), holm([rate.p_value for rate in rates]), strict=True))
    decided = [rate for rate in rates if adjusted[contest_name(rate)] < 1 - confidence]
    alone = [rate for rate in rates if rate.p_value < 1 - confidence and rate not in decided]
    found = "none is decided: no arm is shown to be better than another"
    if decided:
        won = [rate if rate.rate.value > 0.5 else rate.swapped() for rate in decided]
        beats = "; ".join(f"{rate.one} beats {rate.other} ({percent(rate.rate.value)})" for rate in won)
        found = f"{len(decided)} {'is' if len(decided) == 1 else 'are'} decided: {beats}"
    said = f"Of {len(rates)} contests between arms, counted together (Holm), {found}."
    if alone:
        names = "; ".join(map(contest_name, alone))
        said += f" Taken alone these would have been too: {names}. Among so many, that can be luck."
    return [said, *about_power([rate.power for rate in rates])]


def about_power(powers: Sequence[Power | None], what: str = "win rate") -> list[str]:
    """What the least powerful of these would have missed; nothing where none is known."""
    known = [power for power in powers if power is not None]
    if not known:
        return []
    power = max(known, key=lambda one: one.detectable)
    missed = 1 - power.power
    times = round(1 / missed)
    often = f"1 time in {times}" if abs(1 / missed - times) < 0.01 else f"{percent(missed)} of the time"
    return [
        f"With {power.prompts} prompts, a true difference of {100 * power.detectable:.2g} points in {what} would be "
        f"missed {often} at {percent(power.confidence)} confidence, and a smaller one more often: no clear "
        "difference does not mean none."
    ]


def about_rates(rates: Sequence[WinRate], lengths: Sequence[EqualLength]) -> list[str]:
    """Ties, few prompts, one seed, length that explains a win: whichever apply."""
    return [*_about_games(rates), *_about_lengths(lengths)]


def _about_games(rates: Sequence[WinRate]) -> list[str]:
    if not rates:
        return []
    said = []
    worst = max(rates, key=lambda rate: rate.tie_share)
    if worst.tie_share >= MANY_TIES:
        said.append(
            f"Many games are ties, up to {percent(worst.tie_share)} ({contest_name(worst)}); they pull rates to 50%."
        )
    prompts = min(rate.prompts for rate in rates)
    if prompts < FEW_PROMPTS:
        said.append(f"Some contests have only {prompts} prompts: intervals from so few are rough.")
    if all(rate.over_seeds is None for rate in rates):
        said.append(
            "Every arm was trained with one seed: the intervals are about these policies on other prompts, and say "
            "nothing about what training again would give."
        )
    else:
        fewest = min(len(seeds.values) for rate in rates for seeds in (rate.one_seeds, rate.other_seeds))
        said.append(
            "Intervals over prompts are about these policies; those over prompts and seeds are about the method, and "
            f"are the ones to quote for it. They are wide where seeds are few (here {fewest} for some arm)."
        )
    return said


def _about_lengths(lengths: Sequence[EqualLength]) -> list[str]:
    never = [found for found in lengths if found.rate is None]
    far = sorted((found for found in lengths if found.rate and found.note), key=lambda found: -abs(found.longer - 0.5))
    said = [f"{contest_name(found)}: {found.note}." for found in [*never, *far[:1]]]
    if far[1:]:
        others = "; ".join(map(contest_name, far[1:]))
        said.append(f"Equal length is outside most games, though less far, of these too: {others}.")
    for found in lengths:
        if found.rate is not None and (found.rate.value - 0.5) * (found.raw.value - 0.5) < 0:
            said.append(
                f"Length turns {contest_name(found)} round: {percent(found.raw.value)} as it is, "
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
