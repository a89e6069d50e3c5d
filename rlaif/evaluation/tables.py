"""The figures of evaluation.json as tiles and rows: of the report, and of the end of a run in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from rlaif.evaluation.verdict import judge_is_noise, measure_tone, measure_units
from rlaif.pages import kit, plots
from rlaif.pages.kit import Cell, Part, Row, Tile, cell, tile
from rlaif.stats import Estimate, at, estimate_at
from rlaif.words import (
    COIN,
    NONE,
    SOURCES,
    Side,
    Unit,
    capital,
    direction,
    figure,
    number,
    percent,
    span,
    tone,
    with_interval,
)

Tree = Mapping[str, Any]


def tiles(evaluation: Tree) -> list[Tile]:
    """The few figures that a reader wants first; what was not measured has no tile."""
    rate = estimate_at(evaluation, "policy.win_rate_vs_reference")
    accuracy, missing = estimate_at(evaluation, "reward_model.heldout_accuracy"), at(evaluation, "reward_model.note")
    return [
        *_change_tile("Pass all checks", at(evaluation, "all_checked"), "share"),
        *tile("Win rate against the reference", rate, "share", None if judge_is_noise(evaluation) else COIN),
        *tile("Judge: same choice in both orders", estimate_at(evaluation, "judge.order_consistency"), "share", COIN),
        *tile("Reward model, held-out accuracy", accuracy, "share", COIN),
        *([Tile("Reward model", NONE, missing)] if missing else []),
        *tile("KL, nats per response", estimate_at(evaluation, "policy.kl"), "number"),
        *_change_tile("Response length, tokens", at(evaluation, "policy.response_tokens"), "number"),
    ]


def _change_tile(name: str, change: Tree | None, unit: Unit) -> list[Tile]:
    if not change:
        return []
    difference = estimate_at(change, "difference")
    detail = with_interval(difference, "points" if unit == "share" else "signed")
    colour = tone(difference, 0.0) if unit == "share" else ""
    return [Tile(name, figure(change["after"], unit), detail, colour, figure(change["before"], unit))]


def terminal(evaluation: Tree) -> Table:
    """The tiles and principles for a terminal; before them the measures that no part of the run has seen, also at
    equal length, and after them those that some part has."""
    table = Table(box=None, pad_edge=False, title=None)
    for title in ("", "before", "after", "interval"):
        table.add_column(title, justify="left" if title in {"", "interval"} else "right")
    lines = list(_measure_lines(evaluation))
    for row in (row for seen, row in lines if not seen):
        table.add_row(*row)
    for found in tiles(evaluation):
        table.add_row(found.name, found.before, found.value, found.detail)
    for name, _, before, after, change, _ in principles(evaluation):
        if after != NONE and name != ALL_CHECKS:
            table.add_row(f"  passes {name}", str(before), str(after), f"{change[0]} ({change[1]})")
    for row in (row for seen, row in lines if seen):
        table.add_row(*row)
    return table


def _measure_lines(evaluation: Tree) -> Iterator[tuple[bool, tuple[str, ...]]]:
    """Whether some part of the run has seen the measure, and a row."""
    for entry in evaluation.get("measures", ()):
        seen, (level, by) = bool(entry.get("seen")), measure_units(entry)
        change, equal = (estimate_at(entry, place) for place in ("difference", "equal_length"))
        name = f"  {entry['name']}" if seen else capital(entry["name"])
        detail = [with_interval(change, by)] if span(change, by) != NONE else []
        detail += [without] if (without := _without(entry)) else []
        yield seen, (name, figure(entry["before"], level), figure(entry["after"], level), "; ".join(detail))
        if span(equal, by) != NONE:
            yield seen, ("  at equal length", "", "", with_interval(equal, by))


def _without(entry: Tree) -> str:
    count = sum(entry.get("without_value", {}).values())
    return f"{count:,} responses without a value" if count else ""


# ---------------------------------------------------------------------------------------------- principles

ALL_CHECKS = "All checks together"


def principles(evaluation: Tree) -> list[Row]:
    """One row per principle: pass rates where code decides, the judge's preference where it was asked."""
    rows = []
    for name, entry in evaluation.get("principles", {}).items():
        by = " and ".join(w for w, on in (("code", entry["checked"]), ("the judge", entry.get("judged"))) if on)
        rows.append(_principle(name, by or NONE, entry["pass_rate"], estimate_at(entry, "win_rate")))
    checked = evaluation.get("all_checked")
    if checked and checked.get("checks", 0) > 1:
        rows.append(_principle(ALL_CHECKS, "code", checked, None))
    return rows


def _principle(name: str, by: str, rate: Tree, win: Estimate | None) -> Row:
    change = cell(estimate_at(rate, "difference"), "points", 0.0, bare=True)
    return name, by, percent(rate["before"]), percent(rate["after"]), change, cell(win)


def measures(evaluation: Tree) -> list[Row]:
    """One row per measure, with its change at equal length."""
    rows: list[Row] = []
    for entry in evaluation.get("measures", ()):
        level, by = measure_units(entry)
        about = [f"seen by {entry['seen']}"] if entry.get("seen") else []
        about += [without] if (without := _without(entry)) else []
        found = (estimate_at(entry, place) for place in ("difference", "equal_length"))
        changes = [cell(one, by)._replace(tone=measure_tone(entry, one)) for one in found]
        name = Cell(capital(entry["name"]), "; ".join(about))
        rows.append((name, figure(entry["before"], level), figure(entry["after"], level), *changes))
    return rows


# --------------------------------------------------------------------------------- the judge, the reward model


def judge(consistency: Tree) -> list[Row]:
    """One row per principle that the judge was asked about in both orders, and one for all together."""
    found = dict(consistency.get("by_principle", {}))
    if len(found) > 1:
        found["All together"] = consistency
    return [
        (
            name,
            cell(estimate_at(entry)),
            *(percent(at(entry, f"{which}.value")) for which in ("both_first", "both_second", "undecided")),
            number(entry.get("swap_gap")),
            f"{entry['n']:,}",
        )
        for name, entry in found.items()
    ]


def worth(evaluation: Tree) -> list[Row]:
    """What the reward model is worth on held-out labels: name, value, interval, pairs; empty where not measured."""
    entry = evaluation.get("reward_model") or {}
    rows = _worth("Agrees with held-out labels", entry, "heldout_accuracy")
    by_source = at(entry, "heldout_accuracy.by_source") or {}
    for source, found in by_source.items() if len(by_source) > 1 else ():
        rows += _worth(f"with {SOURCES.get(source, source)} labels", found)
    for band in entry.get("by_strength") or ():
        rows += _worth(f"where the label is {percent(band['from'])} to {percent(band['to'])} sure", band)
    for one in at(entry, "calibration.bins") or ():
        rows += _worth(f"where it says {percent(one['from'])} to {percent(one['to'])}, labels agree by", one)
    rows += _worth("Calibration error (ECE)", entry, "calibration.ece")
    rows += _worth("Members all prefer the same: agrees", entry, "ensemble.agree")
    rows += _worth("Members differ: agrees", entry, "ensemble.disagree")
    rows += _worth("Members' spread of a margin", entry, "ensemble.disagreement", "number")
    for name, found in (entry.get("heads") or {}).items():
        rows += _worth(f"Head of {name}: agrees with that principle", found)
    error = entry.get("rating_error") or {}
    rows += _worth("Off a held-out rating by", error, "", "number")
    without = {**error, "value": error.get("without"), "low": None}
    return rows + _worth("One score for all would be off by", without, "", "number")


def _worth(name: str, tree: Any, place: str = "", unit: Unit = "share") -> list[Row]:
    found = estimate_at(tree, place)
    if found is None:
        return []
    return [(name, figure(found.value, unit), span(found, unit).replace(NONE, ""), f"{found.n:,}")]


# ------------------------------------------------------------------------------------ sections of the report


def principles_part(evaluation: Tree) -> list[Part]:
    """Pass rates before and after, and whom the judge prefers."""
    rows = principles(evaluation)
    responses, prompts = (at(evaluation, f"heldout.{of}") or 0 for of in ("responses", "prompts"))
    head = ("Principle", "Decided by", "Before", "After", "Change, points", "Judge prefers the policy")
    return kit.section(
        "Principles, before and after",
        f"Checked principles are decided by code, so their pass rates are exact for these {responses} responses to "
        f"{prompts} held-out prompts; the intervals say what other prompts could have given. A judged principle only "
        "says which of two responses it prefers.",
        _principle_plot(evaluation),
        kit.table(head, rows, left=(1,), totals=sum(row[0] == ALL_CHECKS for row in rows)),
    )


def _principle_plot(evaluation: Tree) -> Part:
    rates = {name: entry["pass_rate"] for name, entry in evaluation.get("principles", {}).items()}
    rates = {name: rate for name, rate in rates.items() if rate.get("difference")}
    if evaluation.get("all_checked") and len(rates) > 1:
        rates["all checks together"] = evaluation["all_checked"]
    if not rates:
        return None
    rows = {name: (_level(rate, "before"), _level(rate, "after")) for name, rate in rates.items()}
    return kit.picture(plots.before_after("Share of responses that pass", rows), "Pass rates before and after")


def _level(rate: Tree, when: str) -> Estimate:
    low, high = rate.get(f"{when}_interval", (None, None))
    return Estimate(value=rate[when], low=low, high=high, n=rate["difference"]["n"])


def measures_part(evaluation: Tree) -> list[Part]:
    """The measures before, after, and at equal length."""
    return kit.section(
        "Measures that no part of the run has seen",
        "Neither constitution nor judge nor reward looks at these, except where a row says so: they can confirm or "
        "contradict what the run says of itself. At equal length: of each two responses the longer is cut after as "
        "many words as the shorter has.",
        kit.table(("Measure", "Before", "After", "Change", "Change at equal length"), measures(evaluation)),
    )


# ------------------------------------------------------------------------------------------------ the labels

LABEL_HEAD = ("Principle", "Decided by", "Prefers a side", "Share of the signal", "Label agrees")
LOUDEST = 3
"""Of so many judged principles the sentences speak; the table has all."""


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
