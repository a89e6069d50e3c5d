"""The report's figures of evaluation.json as rows of text: key figures, principles, the judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from rlaif.evaluation import plots
from rlaif.evaluation.artefacts import Artefacts
from rlaif.evaluation.measured import measure_rows
from rlaif.evaluation.page import Picture, picture
from rlaif.evaluation.verdict import judge_is_noise
from rlaif.words import COIN, NONE, Unit, direction, figure, number, percent, points, span

TONES = {"up": "up", "down": "down", "unclear": ""}


def tiles(evaluation: Mapping[str, Any]) -> list[dict[str, str]]:
    """The few figures that a reader wants first; what was not measured has no tile."""
    policy = evaluation.get("policy", {})
    consistency = evaluation.get("judge", {}).get("order_consistency")
    accuracy = evaluation.get("reward_model", {}).get("heldout_accuracy")
    noise = judge_is_noise(evaluation)
    return [
        *_change_tile("Pass all checks", evaluation.get("all_checked"), "share"),
        *_tile("Win rate against the reference", policy.get("win_rate_vs_reference"), "share", quiet=noise),
        *_tile("Judge: same choice in both orders", consistency, "share"),
        *_tile("Reward model, held-out accuracy", accuracy, "share"),
        *_no_reward_model(evaluation),
        *_tile("KL, nats per response", policy.get("kl"), "number", quiet=True),
        *_change_tile("Response length, tokens", policy.get("response_tokens"), "number"),
    ]


def _tile(name: str, estimate: Mapping[str, Any] | None, unit: Unit, quiet: bool = False) -> list[dict[str, str]]:
    """A figure with its interval; a share is coloured by its side of a coin's 50%, unless `quiet`."""
    if not estimate or estimate.get("value") is None:
        return []
    interval = span(estimate, unit)
    tone = "" if quiet else TONES[direction(estimate, COIN)]
    detail = interval if interval != NONE else "no interval"
    return [_as_tile(name, "", figure(estimate["value"], unit), detail, tone)]


def _no_reward_model(evaluation: Mapping[str, Any]) -> list[dict[str, str]]:
    note = evaluation.get("reward_model", {}).get("note")
    return [_as_tile("Reward model", "", NONE, note, "")] if note else []


def _change_tile(name: str, change: Mapping[str, Any] | None, unit: Unit) -> list[dict[str, str]]:
    if not change:
        return []
    difference = change["difference"]
    by: Unit = "points" if unit == "share" else "signed"
    detail = f"{figure(difference['value'], by)} ({span(difference, by)})"
    tone = TONES[direction(difference)] if unit == "share" else ""
    return [_as_tile(name, figure(change["before"], unit), figure(change["after"], unit), detail, tone)]


def _as_tile(name: str, before: str, value: str, detail: str, tone: str) -> dict[str, str]:
    return {"name": name, "before": before, "value": value, "detail": detail, "tone": tone}


def terminal(evaluation: Mapping[str, Any]) -> Table:
    """The same figures and principles for the end of a run in a terminal; before them the measures that no part of the
    run has seen, also at equal length, and after them those that some part has."""
    table = Table(box=None, pad_edge=False, title=None)
    for title in ("", "before", "after", "interval"):
        table.add_column(title, justify="left" if title in {"", "interval"} else "right")
    measures = measure_rows(evaluation)
    for measure in measures:
        if not measure["seen"]:
            _add_measure(table, measure)
    for tile in tiles(evaluation):
        table.add_row(tile["name"], tile["before"], tile["value"], tile["detail"])
    for row in principles(evaluation):
        if row["after"] != NONE and not row["total"]:
            table.add_row(f"  passes {row['name']}", row["before"], row["after"], f"{row['change']} ({row['span']})")
    for measure in measures:
        if measure["seen"]:
            _add_measure(table, measure)
    return table


def _add_measure(table: Table, measure: Mapping[str, str]) -> None:
    name = f"  {measure['name']}" if measure["seen"] else measure["name"][:1].upper() + measure["name"][1:]
    change = [f"{measure['change']} ({measure['span']})"] if measure["span"] else []
    without = [measure["without"]] if measure["without"] else []
    table.add_row(name, measure["before"], measure["after"], "; ".join([*change, *without]))
    if measure["equal_span"]:
        table.add_row("  at equal length", "", "", f"{measure['equal']} ({measure['equal_span']})")


# ---------------------------------------------------------------------------------------------- principles


def principles(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a principle: pass rates where code decides, the judge's preference where it was asked."""
    rows = []
    for name, entry in evaluation.get("principles", {}).items():
        by = " and ".join([w for w, on in (("code", entry["checked"]), ("the judge", entry.get("judged"))) if on])
        rows.append(_principle_row(name, by or NONE, entry["pass_rate"], entry.get("win_rate")))
    checked = evaluation.get("all_checked")
    if checked and checked.get("checks", 0) > 1:
        rows.append(_principle_row("All checks together", "code", checked, None) | {"total": True})
    return rows


def _principle_row(name: str, by: str, rate: Mapping[str, Any], win: Mapping[str, Any] | None) -> dict[str, Any]:
    difference = rate.get("difference")
    return {
        "name": name,
        "by": by,
        "before": percent(rate["before"]),
        "after": percent(rate["after"]),
        "change": points(difference["value"]) if difference else NONE,
        "span": span(difference, "points") if difference else "",
        "tone": TONES[direction(difference)],
        "win": percent(win["value"]) if win else NONE,
        "win_span": span(win, "share") if win else "",
        "total": False,
    }


def principle_plot(evaluation: Mapping[str, Any]) -> Picture | None:
    """Pass rates of the checked principles; None without any."""
    entries = {
        name: entry["pass_rate"]
        for name, entry in evaluation.get("principles", {}).items()
        if entry["pass_rate"].get("difference")
    }
    checked = evaluation.get("all_checked")
    if checked and len(entries) > 1:
        entries["all checks together"] = checked
    if not entries:
        return None
    rows = {name: (_interval(rate, "before"), _interval(rate, "after")) for name, rate in entries.items()}
    return picture(plots.before_after("Share of responses that pass", rows), "Pass rates before and after")


def _interval(rate: Mapping[str, Any], when: str) -> plots.Interval:
    return plots.Interval(rate[when], *rate.get(f"{when}_interval", (None, None)))


# ----------------------------------------------------------------------------------------------- the judge


def judge(run: Artefacts) -> dict[str, Any] | None:
    """What is known of the judge itself; None where no judge was used."""
    consistency = run.evaluation.get("judge", {}).get("order_consistency")
    coverage = run.evaluation.get("judge", {}).get("coverage") or {}
    if consistency is None and not coverage.get("judged") and not coverage.get("failed"):
        return None
    orders = "every pair in both orders" if consistency is not None else "each response alone, so there is no order"
    intro = [f"{run.setting('judge.model', str) or 'The judge'} read {orders}."]
    if coverage.get("value") is not None:
        intro.append(
            f"Of {coverage['judged'] + coverage['failed']:,} pairs, {coverage['judged']:,} have a judgment "
            f"({percent(coverage['value'])})."
        )
    if consistency is None:
        return {"intro": " ".join(intro), "rows": [], "plot": None, "reasons": _reasons(run)}
    intro.append(
        "A judge that reads the responses prefers the same one whichever is shown first. Where it does not, "
        "it preferred a position. The swap gap is how far its probability moved when the order did."
    )
    by_principle = consistency.get("by_principle", {})
    rows = [_judge_row(name, entry) for name, entry in by_principle.items()]
    if len(rows) > 1:
        rows.append(_judge_row("All together", consistency) | {"total": True})
    dots = {name: plots.Interval(e["value"], e["low"], e["high"]) for name, e in by_principle.items()}
    plot = None
    if dots:
        svg = plots.dots("Same response preferred in both orders", dots, (COIN, "a coin"))
        plot = picture(svg, "Order consistency of the judge, by principle")
    return {"intro": " ".join(intro), "rows": rows, "plot": plot, "reasons": _reasons(run)}


def _judge_row(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    shares = {o: percent((entry.get(f"both_{o}") or {}).get("value")) for o in ("first", "second")}
    return shares | {
        "name": name,
        "same": percent(entry["value"]),
        "span": span(entry, "share"),
        "undecided": percent((entry.get("undecided") or {}).get("value")),
        "gap": number(entry.get("swap_gap")),
        "n": f"{entry['n']:,}",
        "total": False,
    }


def _reasons(run: Artefacts) -> list[dict[str, Any]]:
    first: dict[str, str] = {}
    counts = Counter[str]()
    for row in run.failures:
        reason = str(row.get("reason"))
        counts[reason] += 1
        first.setdefault(reason, str(row.get("detail", ""))[:200])
    return [{"reason": r, "count": f"{n:,}", "example": first[r]} for r, n in counts.most_common()]
