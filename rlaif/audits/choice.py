"""Which of several modes of judging to propose: chosen on one half of the human labels, reported on the other.

Who picks the best of several by some figures has flattered those of the one that was picked: luck is part of why. So
the half of the prompts that chooses is not the half whose figures are reported. `modes.py` judges; here is the choice
(pure statistics), and what it means in plain sentences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlaif.console import aligned
from rlaif.feedback.judge.result import Cost
from rlaif.pages import kit
from rlaif.pages.kit import Cell, Part
from rlaif.records import content_id
from rlaif.stats import Bootstrap, Estimate, clustered_mean, clustered_mean_difference, estimate_at, mean_of, numbered
from rlaif.words import COIN, NONE, counted, direction, in_points, listed, percent, points, span, tone, with_interval

COLUMNS = (
    "mode",
    "agrees",
    "against the pick",
    "same in both orders",
    "judged",
    "tokens per pair",
    "requests",
    "on those that chose",
)
Block = Mapping[str, Any]
"""The audit's `modes`."""
Prompts = Mapping[str, str]
"""The prompt of each pair on which people have a preference, by the pair's id."""


class ModeTrial(NamedTuple):
    """What one mode made of the pairs on which people have a preference, by pair id: 1 where it chose as they did, 0
    where it did not, 0.5 where it was even. A pair that it could not judge is in neither half."""

    name: str
    choosing: Mapping[str, float]
    reporting: Mapping[str, float]
    cost: Cost
    """Of both halves."""


class Choice(NamedTuple):
    """What the choosing half says."""

    ranked: tuple[str, ...]
    """The modes by their agreement there, best first."""
    agreement: Mapping[str, Estimate]
    """By mode. A pair without a judgment counts half, so that all modes are measured on the same pairs."""
    lead: Estimate | None
    """How far the first is ahead of the second, paired; None where there is one mode."""
    picked: str
    close: bool
    """Whether the first two cannot be told apart."""
    rivals: bool
    """Whether the cost decided between them."""
    flattery: float
    """By how much luck raises the best agreement above its truth where all modes are equally good."""


def chooses(prompt_id: str) -> bool:
    """Whether the prompt is in the half that chooses: by its hash alone, so that no seed and no other prompt moves it
    from one half to the other."""
    return int(content_id("audit", "modes", prompt_id), 16) % 2 == 0


def choose(tried: Sequence[ModeTrial], prompts: Prompts, bootstrap: Bootstrap) -> Choice:
    """Pick a mode by the agreement on the choosing half, whose pairs and prompts these are.

    The best, or where it cannot be told from the second (the interval of their paired difference holds 0) the cheaper
    of the two. A second that cannot be told from a coin does not take the place of a first that can. The order in which
    the modes are given does not matter.
    """
    clusters = list(prompts.values())
    hits = {one.name: [one.choosing.get(pair, 0.5) for pair in prompts] for one in tried}
    agreement = {name: clustered_mean(values, clusters, *bootstrap) for name, values in hits.items()}
    ranked = sorted(tried, key=lambda one: (-agreement[one.name].value, price(one.cost), one.name))
    names = tuple(one.name for one in ranked)
    lead, close, rivals = None, False, False
    if len(ranked) > 1:
        first, second = names[:2]
        lead = clustered_mean_difference(hits[second], hits[first], clusters, bootstrap)
        close = direction(lead) == "unclear"
        rivals = close and (beats_a_coin(agreement[second]) or not beats_a_coin(agreement[first]))
    picked = min(ranked[: 2 if rivals else 1], key=lambda one: price(one.cost))
    luck = flattery([hits[name] for name in sorted(names)], clusters, bootstrap)
    return Choice(names, agreement, lead, picked.name, close, rivals, luck)


def beats_a_coin(agreement: Estimate | None) -> bool:
    """Whether the whole interval is above a half."""
    return direction(agreement, COIN) == "up"


def price(cost: Cost) -> tuple[int, int]:
    """What makes one mode cheaper than another: tokens read and written, then requests."""
    return cost.prompt_tokens + cost.completion_tokens, cost.calls


def agreement_on(hits: Mapping[str, float], prompts: Prompts, bootstrap: Bootstrap) -> Estimate | None:
    """The mean over the pairs that were judged; None without any."""
    return mean_of(((hits[pair], prompt) for pair, prompt in prompts.items() if pair in hits), bootstrap)


def difference_on(
    before: Mapping[str, float], after: Mapping[str, float], prompts: Prompts, bootstrap: Bootstrap
) -> Estimate | None:
    """The mean of after - before over the pairs that both judged; None without any."""
    both = ((pair, prompt) for pair, prompt in prompts.items() if pair in before and pair in after)
    return mean_of(((after[pair] - before[pair], prompt) for pair, prompt in both), bootstrap, (-1.0, 1.0))


def flattery(hits: Sequence[Sequence[float]], clusters: Sequence[str], bootstrap: Bootstrap) -> float:
    """E[max over modes of (mean - truth)], by resampling prompts: each resample's means, less the means as they are.

    With modes of equal truth it is what the best of them gains by luck; with unequal ones the best is less often
    picked for its luck, so it gains less. Modes that err on the same pairs add little to each other's luck.
    """
    index, values = numbered(clusters), np.asarray(hits, dtype=float)
    sums = np.array([np.bincount(index, weights=row) for row in values])
    counts = np.bincount(index).astype(float)
    k = len(counts)
    drawn = np.random.default_rng(bootstrap.seed).multinomial(k, np.full(k, 1 / k), size=bootstrap.samples)
    means = (drawn @ sums.T) / (drawn @ counts)[:, None]
    return float((means - sums.sum(axis=1) / counts.sum()).max(axis=1).mean())


# ------------------------------------------------------------------------------------------------- in words


def said(block: Block) -> dict[str, Any]:
    """`sentence` is the one to read, `reasons` say how the choice was made, `cautions` what to know of it."""
    return {"sentence": _sentence(block), "reasons": _reasons(block), "cautions": _cautions(block)}


def reason(agreement: Estimate | None) -> str:
    """Why a recipe takes the mode, for the line that says so."""
    assert agreement is not None, "a mode is proposed for its agreement"
    return f"agreement {with_interval(agreement)} on {counted(agreement.n, 'pair')} that did not choose"


def lines(block: Block) -> list[str]:
    """For the screen: the sentence, the table, and the rest."""
    rows = [[one if isinstance(one, str) else one.text for one in row] for row in table(block)]
    return [
        block["sentence"],
        *([" ".join(block["reasons"])] if block["reasons"] else []),
        *(f"  {line}" for line in (aligned([COLUMNS, *rows]) if rows else [])),
        *(f"  {line}" for line in problems(block)),
        *(f"  - {caution}" for caution in block["cautions"]),
    ]


def table(block: Block) -> list[tuple[str | Cell, ...]]:
    """The modes that could be chosen, in the order of `COLUMNS`, best first by the half that chose."""
    return [_row(row, row["name"] == block["picked"]) for row in block["rows"] if not row["problem"]]


def problems(block: Block) -> list[str]:
    """Why the others could not."""
    return [f"{row['name']} cannot be chosen: {row['problem']}" for row in block["rows"] if row["problem"]]


def part(block: Block) -> list[Part]:
    """For the page: which mode the audit proposes, and the table."""
    reading = (
        "Agreement with people, and differences in points, on the pairs that did not choose; in the last column on "
        "those that did, where a pair without a judgment counts half. Differences are on the pairs that both modes "
        "judged."
    )
    told = kit.verdict("Which mode?", [block["sentence"], " ".join(block["reasons"])], block["cautions"])
    rows = kit.table([column.capitalize() for column in COLUMNS], table(block))
    return [told, *([rows, kit.note(reading)] if rows else []), *map(kit.note, problems(block))]


def _row(row: Mapping[str, Any], picked: bool) -> tuple[str | Cell, ...]:
    apart, agrees = estimate_at(row, "difference"), estimate_at(row, "agreement")
    against = f"{points(apart.value)} ({span(apart, 'points')})" if apart else "picked" if picked else NONE
    tokens, calls = map(_amount, _price(row)) if row["cost"] else (NONE, NONE)
    same, chose = (with_interval(estimate_at(row, place)) for place in ("consistency", "choosing"))
    agreement = Cell(with_interval(agrees), tone=tone(agrees))
    return row["name"], agreement, against, same, percent(row["coverage"]), tokens, calls, chose


def _sentence(block: Block) -> str:
    fit = [row for row in block["rows"] if not row["problem"]]
    if not fit:
        return f"No mode is proposed: none of {_list(block['rows'])} can judge these pairs."
    picked = next(row for row in block["rows"] if row["name"] == block["picked"])
    found = estimate_at(picked, "agreement")
    agrees = f"it judged none of the {counted(block['reporting']['pairs'], 'pair')} that did not choose"
    if found:
        agrees = f"on {counted(found.n, 'pair')} that did not choose it agrees with people on {with_interval(found)}"
    if block["beats_a_coin"]:
        return f"Proposed: {picked['name']}. {_capital(agrees)}."
    others = [row for row in fit if direction(estimate_at(row, "agreement"), COIN) == "up"]
    if not others:
        which = f"none of {_list(fit)} beats" if len(fit) > 1 else f"{picked['name']} does not beat"
        return f"No mode is proposed: {which} a coin. Of {picked['name']}, which the choosing half picked: {agrees}."
    does = f"{_list(others)} {'does' if len(others) == 1 else 'do'}"
    return (
        f"No mode is proposed: {picked['name']}, which the choosing half picked, does not beat a coin on the other: "
        f"{agrees}. There {does}, but that half may not choose; more human labels would tell."
    )


def _reasons(block: Block) -> list[str]:
    """How the choosing half picked."""
    ranked = [row for row in block["rows"] if row["choosing"]]
    if not ranked:
        return []
    pairs = counted(block["choosing"]["pairs"], "pair")
    first = ranked[0]
    if len(ranked) == 1:
        return [f"{_capital(first['name'])} is the only mode that could be chosen."]
    second, lead = ranked[1], estimate_at(block, "lead")
    assert lead is not None, "it is measured where two were ranked"
    of_first, of_second = (f"{row['name']} ({percent(row['choosing']['value'])})" for row in (first, second))
    ends = span(lead, "points")
    if not block["close"]:
        return [f"On the {pairs} that chose, {of_first} led, {in_points(lead.value)} ahead of {of_second} ({ends})."]
    apart = f"{of_first} and {of_second} cannot be told apart on so few pairs ({points(lead.value)} points, {ends}, "
    apart += f"on the {pairs} that chose)"
    if not block["rivals"]:
        return [f"{apart}; {second['name']} alone could be a coin, so {first['name']} stands."]
    if _price(first) == _price(second):
        return [f"{apart}; they cost the same, so {first['name']} stands."]
    picked, other = (first, second) if first["name"] == block["picked"] else (second, first)
    (tokens, calls), (others_tokens, others_calls) = (map(_amount, _price(row)) for row in (picked, other))
    return [
        f"{apart}; the cheaper is taken: per pair {tokens} tokens in {calls} requests, against {others_tokens} in "
        f"{others_calls}."
    ]


def _price(row: Mapping[str, Any]) -> tuple[float, float]:
    return row["cost"]["prompt_tokens"] + row["cost"]["completion_tokens"], row["cost"]["calls"]


def _amount(value: float) -> str:
    """1,234 / 80 / 2.5."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}".removesuffix(".0")


def _cautions(block: Block) -> list[str]:
    fit = sum(not row["problem"] for row in block["rows"])
    if not fit:
        return []
    flattered = (
        f"{fit} modes were compared: the best of them on the half that chose is flattered by up to about "
        f"{100 * block['flattery']:.1f} points, which is what luck adds where all are equally good. The other half did "
        "not choose, so its figures are not flattered."
    )
    rest = (
        "All else in this audit is measured on the half that did not choose. Whoever tries further modes after reading "
        "it chooses by it, and needs other labels to report."
    )
    return [flattered, rest] if fit > 1 else [rest]


def _list(rows: list[Mapping[str, Any]]) -> str:
    return listed([str(row["name"]) for row in rows])


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"
