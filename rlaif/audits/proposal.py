"""What a comparison of modes means, in plain sentences: which mode is proposed, and what its being picked has cost.

The figures are in `modes.py` and `choice.py`; nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlaif.console import aligned
from rlaif.pages.kit import Cell
from rlaif.stats import Estimate, estimate_at
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
    picked = _picked(block)
    agrees = _agrees(picked, block)
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


def _agrees(row: Mapping[str, Any], block: Block) -> str:
    found = estimate_at(row, "agreement")
    if not found:
        return f"it judged none of the {counted(block['reporting']['pairs'], 'pair')} that did not choose"
    return f"on {counted(found.n, 'pair')} that did not choose it agrees with people on {with_interval(found)}"


def _picked(block: Block) -> Mapping[str, Any]:
    return next(row for row in block["rows"] if row["name"] == block["picked"])


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
    if not block["close"]:
        return [
            f"On the {pairs} that chose, {of_first} led, {in_points(lead.value)} ahead of {of_second} "
            f"({span(lead, 'points')})."
        ]
    apart = f"{of_first} and {of_second} cannot be told apart on so few pairs ({points(lead.value)} points, "
    apart += f"{span(lead, 'points')}, on the {pairs} that chose)"
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
    found = []
    if fit > 1:
        found.append(
            f"{fit} modes were compared: the best of them on the half that chose is flattered by up to about "
            f"{100 * block['flattery']:.1f} points, which is what luck adds where all are equally good. The other "
            "half did not choose, so its figures are not flattered."
        )
    found.append(
        "All else in this audit is measured on the half that did not choose. Whoever tries further modes after reading "
        "it chooses by it, and needs other labels to report."
    )
    return found


def _list(rows: list[Mapping[str, Any]]) -> str:
    return listed([str(row["name"]) for row in rows])


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"
