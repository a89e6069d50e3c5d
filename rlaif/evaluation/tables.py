"""The figures of evaluation.json as tiles and rows: of the report, and of the end of a run in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from rlaif.evaluation.verdict import judge_is_noise, label_sentences, loudest, measure_tone, measure_units
from rlaif.pages import kit, plots
from rlaif.pages.kit import Cell, Part, Row, Tile, cell, tile
from rlaif.stats import Estimate, at, estimate_at
from rlaif.words import (
    COIN,
    NONE,
    SOURCES,
    Unit,
    capital,
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
    """`changes` for a terminal."""
    table = Table(box=None, pad_edge=False, title=None)
    for title in ("", "before", "after", "interval"):
        table.add_column(title, justify="left" if title in {"", "interval"} else "right")
    for row in changes(evaluation):
        table.add_row(*row)
    return table


def changes(evaluation: Tree) -> list[tuple[str, ...]]:
    """Name, before, after, interval of the tiles and principles; before them the measures that no part of the run has
    seen, also at equal length, and after them those that some part has."""
    lines = list(_measure_lines(evaluation))
    passes = [
        (f"  passes {name}", str(before), str(after), f"{change[0]} ({change[1]})")
        for name, _, before, after, change, _ in principles(evaluation)
        if after != NONE and name != ALL_CHECKS
    ]
    return [
        *(row for seen, row in lines if not seen),
        *((found.name, found.before, found.value, found.detail) for found in tiles(evaluation)),
        *passes,
        *(row for seen, row in lines if seen),
    ]


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
        rows.append((name, by or NONE, entry["pass_rate"], estimate_at(entry, "win_rate")))
    checked = evaluation.get("all_checked")
    if checked and checked.get("checks", 0) > 1:
        rows.append((ALL_CHECKS, "code", checked, None))
    return [
        (
            name,
            by,
            percent(rate["before"]),
            percent(rate["after"]),
            cell(estimate_at(rate, "difference"), "points", 0.0, bare=True),
            cell(win),
        )
        for name, by, rate, win in rows
    ]


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

    def level(rate: Tree, when: str) -> Estimate:
        low, high = rate.get(f"{when}_interval", (None, None))
        return Estimate(value=rate[when], low=low, high=high, n=rate["difference"]["n"])

    rows = {name: (level(rate, "before"), level(rate, "after")) for name, rate in rates.items()}
    return kit.picture(plots.before_after("Share of responses that pass", rows), "Pass rates before and after")


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
    rows: list[Row] = []
    for name, entry in loudest(found):
        by, agrees = "code" if entry["checked"] else "the judge", cell(estimate_at(entry, "agrees"))
        prefers = f"{entry['prefers']:,} of {entry['pairs']:,}"
        rows.append((name, by, prefers, percent(entry["signal"]), agrees, *_sides(entry.get("measures", []))))
    prefers = f"{found['prefers']:,} of {found['pairs']:,}"
    rows.append(("The label", "all", prefers, NONE, NONE, *_sides(whole)))
    return [*LABEL_HEAD, *(f"{one['side'].capitalize()} in {one['name']}" for one in whole)], rows


def _sides(agreements: list[Tree]) -> list[Cell]:
    return [cell(estimate_at(one), zero=COIN, more=f", n {one['n']:,}") for one in agreements]
