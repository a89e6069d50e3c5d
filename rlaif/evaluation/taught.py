"""Which principle taught what: how loud each was in the labels, and whether independent measures agree with it.

A label is the weighted mean of its principles' log-odds, so a principle's part in a label is its weighted log-odds over
the sum of the weights, and its share of the signal is the sum of those parts' sizes over the sum of all principles'. A
principle that seldom prefers a side, or weakly, taught little, however right it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rlaif.constitution import Constitution
from rlaif.evaluation.measures import Instrument
from rlaif.feedback.pairs import choice
from rlaif.feedback.verdict import log_odds
from rlaif.pages import kit
from rlaif.pages.kit import Cell, Part, Row, cell
from rlaif.records import Judgment, PrincipleJudgment
from rlaif.stats import Bootstrap, at, clustered_mean, estimate_at
from rlaif.words import COIN, NONE, Side, direction, percent, span

Tree = Mapping[str, Any]
LABEL_HEAD = ("Principle", "Decided by", "Prefers a side", "Share of the signal", "Label agrees")
LOUDEST = 3
"""Of so many judged principles the sentences speak; the table has all."""


class _Said(NamedTuple):
    """What one principle says of one labelled pair."""

    judgment: Judgment
    p_a: float
    part: float
    """Of the label's log-odds."""
    checked: bool


def labels_by_principle(
    judgments: Sequence[Judgment],
    constitution: Constitution,
    instruments: Sequence[Instrument],
    bootstrap: Bootstrap,
) -> dict[str, Any] | None:
    """What labels say, by principle and as they came out; None where no judge labelled. Of a panel's members each
    principle has an entry, `member: principle`.

    by_principle  pairs     labelled pairs to which it applies
                  prefers   in how many of them it prefers a side
                  signal    its share of the label signal, 0 to 1; None where no principle prefers anything
                  agrees    how often the label prefers the same side, over pairs in which both prefer one
                  measures  see `_agreements`
    label         the same measures, of the label itself
    """
    if not judgments:
        return None
    said: dict[str, list[_Said]] = {}
    for judgment in judgments:
        for name, one in _parts(judgment, {p.id: p.weight for p in constitution.principles}):
            said.setdefault(name, []).append(one)
    loud = {name: sum(abs(one.part) for one in rows) for name, rows in said.items()}
    total = sum(loud.values())
    return {
        "pairs": len(judgments),
        "prefers": sum(choice(judgment.p_a) != 0.5 for judgment in judgments),
        "by_principle": {
            name: {
                "checked": rows[0].checked,
                "pairs": len(rows),
                "prefers": sum(choice(one.p_a) != 0.5 for one in rows),
                "signal": loud[name] / total if total else None,
                "agrees": _agrees(rows, bootstrap),
                "measures": _agreements([(one.judgment, one.p_a) for one in rows], instruments, bootstrap),
            }
            for name, rows in said.items()
        },
        "label": {"measures": _agreements([(j, j.p_a) for j in judgments], instruments, bootstrap)},
    }


def _parts(judgment: Judgment, weights: Mapping[str, float]) -> Iterator[tuple[str, _Said]]:
    """Every principle of the judgment, or of its members, with its part in the label's log-odds."""
    whole: list[tuple[str, Sequence[PrincipleJudgment]]] = [
        (f"{member.member}: ", member.principles) for member in judgment.members
    ] or [("", judgment.principles)]
    for prefix, principles in whole:
        total = sum(weights.get(p.principle, 1.0) for p in principles) * len(whole)
        for p in principles:
            part = weights.get(p.principle, 1.0) * log_odds(p.p_a) / total
            yield f"{prefix}{p.principle}", _Said(judgment, p.p_a, part, p.checked)


def _agrees(rows: Sequence[_Said], bootstrap: Bootstrap) -> dict[str, Any] | None:
    decided = [one for one in rows if 0.5 not in (choice(one.p_a), choice(one.judgment.p_a))]
    if not decided:
        return None
    same = [float(choice(one.p_a) == choice(one.judgment.p_a)) for one in decided]
    return clustered_mean(same, [one.judgment.pair.prompt_id for one in decided], *bootstrap).model_dump()


def _agreements(
    preferred: Sequence[tuple[Judgment, float]], instruments: Sequence[Instrument], bootstrap: Bootstrap
) -> list[dict[str, Any]]:
    """For each instrument: how often the preferred response has the lower value, or the higher where that is wanted,
    over pairs with a preference whose values differ. `ties` counts pairs of equal values, `without_value` those in
    which a response has none; where no pair is left, `value` is None."""
    chosen = [_ordered(judgment, p_a) for judgment, p_a in preferred if choice(p_a) != 0.5]
    return [_agreement(instrument, chosen, bootstrap) for instrument in instruments]


def _ordered(judgment: Judgment, p_a: float) -> tuple[str, str, str]:
    """The preferred text, the other, and the prompt."""
    pair = judgment.pair if choice(p_a) == 1.0 else judgment.pair.swapped()
    return pair.a, pair.b, pair.prompt_id


def _agreement(instrument: Instrument, chosen: Sequence[tuple[str, str, str]], bootstrap: Bootstrap) -> dict[str, Any]:
    hits, clusters, ties, without = [], [], 0, 0
    for preferred, other, prompt_id in chosen:
        one, two = instrument.value(preferred), instrument.value(other)
        if one is None or two is None:
            without += 1
        elif one == two:
            ties += 1
        else:
            hits.append(float((one < two) == (instrument.side == "lower")))
            clusters.append(prompt_id)
    nothing = {"value": None, "low": None, "high": None, "n": 0}
    found = clustered_mean(hits, clusters, *bootstrap).model_dump() if hits else nothing
    return {"name": instrument.name, "side": instrument.side, **found, "ties": ties, "without_value": without}


# ------------------------------------------------------------------------------------------------ for a person


def labels_part(evaluation: Tree) -> list[Part]:
    """The section of the report; empty without AI labels."""
    head, rows = label_rows(evaluation)
    if not rows:
        return []
    reading = "Over the labelled pairs. A principle's share of the signal is the size of its weighted log-odds."
    if len(head) > len(LABEL_HEAD):
        reading += (
            " The last columns say how often the preferred response is lower, or higher, in a measure, where the two "
            "responses differ in it; a coin has 50%."
        )
    said, table = kit.paragraph(*label_sentences(evaluation)), kit.table(head, rows, left=(1,), totals=1, kind="dense")
    return kit.section("Which principle taught what", "", said, table, kit.note(reading))


def label_rows(evaluation: Tree) -> tuple[list[str], list[Row]]:
    """Which principle taught what: the head and one row per principle, the loudest first; no rows without AI labels."""
    found = evaluation.get("labels")
    if not found:
        return [], []
    whole = at(found, "label.measures") or []
    rows = [_label(name, entry) for name, entry in loudest(found)]
    prefers = f"{found['prefers']:,} of {found['pairs']:,}"
    rows.append(("The label", "all", prefers, NONE, NONE, *_sides(whole)))
    return [*LABEL_HEAD, *(f"{one['side'].capitalize()} in {one['name']}" for one in whole)], rows


def loudest(labels: Tree) -> list[tuple[str, Tree]]:
    """The principles by their share of the label signal."""
    return sorted(labels["by_principle"].items(), key=lambda item: -(item[1]["signal"] or 0.0))


def _label(name: str, entry: Tree) -> Row:
    by = "code" if entry["checked"] else "the judge"
    prefers, agrees = f"{entry['prefers']:,} of {entry['pairs']:,}", cell(estimate_at(entry, "agrees"))
    return name, by, prefers, percent(entry["signal"]), agrees, *_sides(entry.get("measures", []))


def _sides(agreements: list[Tree]) -> list[Cell]:
    return [cell(estimate_at(one), zero=COIN, more=f", n {one['n']:,}") for one in agreements]


def label_sentences(evaluation: Tree) -> Iterator[str]:
    """Who gave the signal, and which way the loudest judged principles pull in measures that the run has not seen."""
    ranked = loudest(evaluation["labels"])
    judged = [(name, entry) for name, entry in ranked if not entry["checked"]]
    signals = [entry["signal"] for _, entry in ranked if entry["signal"] is not None]
    if not signals:
        yield "No principle prefers either response of any labelled pair, so the labels taught nothing."
    elif judged:
        share = sum(entry["signal"] for _, entry in judged)
        alone = len(judged) == len(ranked)
        by_code = "" if alone else f", code {percent(1 - share)}"
        yield f"The judge gave {'all' if alone else percent(share)} of the label signal{by_code}."
    else:
        yield "Code gave all of the label signal."
    seen = {entry["name"] for entry in evaluation.get("measures", ()) if entry.get("seen")}
    for name, entry in judged[:LOUDEST]:
        found = [one for one in entry.get("measures", ()) if one["name"] not in seen and one["n"]]
        if found:
            yield f"The response that {name} prefers is {'; '.join(_pulls(found))}."


def _pulls(agreements: list[Tree]) -> Iterator[str]:
    """'lower more often than a coin in x (61%, 56 to 66%) and y (...)': what is clear first."""
    meanings: dict[Side, str] = {
        "up": "more often than a coin",
        "down": "less often than a coin",
        "unclear": "about as often as a coin",
    }
    found = [(one, estimate_at(one)) for one in agreements]
    for moved, meaning in meanings.items():
        for side in ("lower", "higher"):
            alike = [(one["name"], e) for one, e in found if e and (direction(e, COIN), one["side"]) == (moved, side)]
            said = [f"{name} ({percent(e.value)}, {span(e, 'share')})" for name, e in alike]
            if said:
                yield f"{side} {meaning} in {' and '.join(said)}"
