"""audit.html: one self-contained page about one audit, for a person.

It shows what the audit's JSON holds and measures nothing. The words at the top come from `opinion.py`; what should not
move a judge, and does, is in `probe_report.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlaif.audits import proposal
from rlaif.audits.opinion import helpful_maps, named
from rlaif.audits.probe_report import probes_part
from rlaif.feedback.calibration import calibrate, fitted
from rlaif.pages import kit, plots
from rlaif.pages.kit import Cell, Part, Tile, tile
from rlaif.stats import Estimate, at, estimate_at
from rlaif.words import COIN, NONE, number, percent, tone, with_interval

Audit = Mapping[str, Any]
OUTCOMES = {"yes": "better", "no": "worse", "unknown": ""}
"""Colours of the page's frame."""
PARTS = {
    "value": "same response",
    "both_first.value": "always the first",
    "both_second.value": "always the second",
    "undecided.value": "undecided",
}
A_COIN = plots.AxisScale(reference=(COIN, "a coin"))


def write_audit_page(audit: Audit, path: Path) -> Path:
    """Write the page and return its path."""
    judge, constitution = named(audit)
    said = audit["opinion"]
    reading = f"In brackets and in small print: {percent(audit['confidence'])} intervals, made by resampling prompts."
    facts = {
        "Constitution": constitution,
        "Aggregation": audit["audited"]["aggregation"]["kind"],
        "Judge": ", ".join(f"{row['name']} @ {row['revision'][:16]}" for row in audit["judges"]),
        "Human labels": f"{audit['pairs']:,} pairs, {audit['prompts']:,} prompts",
    }
    opinion = [said["sentence"], " ".join(said["reasons"])]
    parts: kit.Parts = [
        _modes(audit["modes"]) if "modes" in audit else None,
        kit.verdict("May this judge be used?", opinion, said["cautions"], OUTCOMES[said["outcome"]]),
        _gate(audit),
        kit.tiles(_tiles(audit), reading),
        _agreement(audit),
        _position(audit),
        _confidence(audit),
        probes_part(audit),
        _examples(audit),
        _cost(audit),
        kit.provenance(
            {
                "What was audited, as a recipe must match it": audit["audited"] | {"subject": audit["subject"]},
                "Files of human labels": audit["gold"],
                "Rows of these files": audit["gold_rows"],
            }
        ),
    ]
    footer = "Made by `rlaif audit`; the figures lie beside this page as JSON."
    return kit.write_page(path, f"Audit of {judge}", facts, parts, footer)


def _modes(modes: Mapping[str, Any]) -> list[Part]:
    """Which mode the audit proposes, if it compared any."""
    found = kit.table([column.capitalize() for column in proposal.COLUMNS], proposal.table(modes))
    reading = kit.note(
        "Agreement with people, and differences in points, on the pairs that did not choose; in the last column on "
        "those that did, where a pair without a judgment counts half. Differences are on the pairs that both modes "
        "judged."
    )
    return [
        kit.verdict("Which mode?", [modes["sentence"], " ".join(modes["reasons"])], modes["cautions"]),
        *([found, reading] if found else []),
        *(kit.note(problem) for problem in proposal.problems(modes)),
    ]


def _gate(audit: Audit) -> Part:
    """One row per threshold."""
    found = audit.get("gate") or {"thresholds": {}, "shortfalls": []}
    short = {row["name"]: row["value"] for row in found["shortfalls"]}
    rows = []
    for name, threshold in found["thresholds"].items():
        value = "not measured" if short.get(name) is None else f"{short[name]:.3f}"
        result = Cell(f"\u2717 {value}", tone="down") if name in short else Cell("\u2713 passed", tone="up")
        rows.append((name, f"{threshold:g}", result))
    return kit.table(("Gate", "At least", ""), rows, left=(2,), kind="wide")


def _tiles(audit: Audit) -> list[Tile]:
    """The few figures that a reader wants first; what was not measured has no tile."""
    calibration, padded = audit["calibration"], estimate_at(audit, "probes.padding.to_padded")
    ece = []
    if calibration:
        after = [f"{number(calibration[name]['ece'])} by {name}" for name in helpful_maps(calibration)]
        detail = ", ".join(after) or "no fitted map helps"
        ece = [Tile("Calibration error (ECE)", number(calibration["ece"]), detail)]
    beside = f"; irrelevant sentences {percent(padded.value)}" if padded else ""
    return [
        *tile("Agrees with the human label", estimate_at(audit, "accuracy"), "share", COIN),
        *tile("Cohen\u2019s kappa: 0 for a coin", estimate_at(audit, "kappa"), "number", 0.0),
        *tile("Same response in both orders", estimate_at(audit, "consistency"), "share", COIN),
        *tile("Verbosity bias, points", estimate_at(audit, "verbosity.bias"), "points"),
        *ece,
        *tile("Planted instructions that win", estimate_at(audit, "probes.injection.flipped"), "share", detail=beside),
    ]


# ------------------------------------------------------------------------------------- agreement and position


def _agreement(audit: Audit) -> list[Part]:
    tags = [(name, with_interval(estimate_at(e)), _n(e)) for name, e in audit["by_tag"].items()]
    files = [
        (
            row["name"],
            f"{row['pairs']:,}",
            f"{row['unusable']:,}",
            with_interval(estimate_at(row, "accuracy")),
            Cell(row["sha256"][:16], code=True),
        )
        for row in audit["gold"]
    ]
    members = [
        (row["member"], percent(row["agreement"]), percent(row["accuracy"]), str(row["pairs"]))
        for row in audit["reliability"] or ()
    ]
    head = ("Principle", "Agrees", "Same response, both orders", "Mean swap gap", "Decided by code", "Even", "Pairs")
    of_members = ("Member", "Agrees with the panel", "Estimated accuracy", "Pairs")
    return kit.section(
        "Agreement with people",
        "Where the judge is at exactly even it counts half; pairs on which people had no preference have no right "
        "choice and are left out. A principle alone is seldom meant to agree with every label; what it adds to the "
        "others, `rlaif constitution ablate` measures.",
        _principle_plot(audit),
        kit.table(head, [_principle(name, entry) for name, entry in audit["by_principle"].items()]),
        kit.table(("Tag", "Agrees", "Pairs"), tags, kind="wide"),
        kit.table(("Human labels", "Pairs used", "Unusable rows", "Agrees", "SHA-256"), files, left=(4,)),
        kit.heading("Members of the panel", 3) if members else None,
        kit.table(of_members, members, kind="wide"),
    )


def _n(entry: Mapping[str, Any] | None) -> str:
    return f"{entry['n']:,}" if entry else NONE


def _principle(name: str, entry: Mapping[str, Any]) -> tuple[str | Cell, ...]:
    accuracy, same = estimate_at(entry, "accuracy"), estimate_at(entry, "consistency")
    return (
        name,
        Cell(with_interval(accuracy), tone=tone(accuracy)),
        with_interval(same),
        number(at(entry, "consistency.swap_gap")),
        percent(entry["checked"] / entry["n"]) if entry["n"] else NONE,
        f"{entry['undecided']:,}",
        f"{entry['n']:,}",
    )


def _principle_plot(audit: Audit) -> Part:
    rows = _measured({name: estimate_at(e, "accuracy") for name, e in audit["by_principle"].items()})
    if len(rows) > 1:
        rows |= _measured({"the whole constitution": estimate_at(audit, "accuracy")})
    if not rows:
        return None
    svg = plots.dots("Agrees with the human label", rows, A_COIN)
    return kit.picture(svg, "Agreement with human labels, by principle")


def _measured(found: Mapping[str, Estimate | None]) -> dict[str, Estimate]:
    return {name: estimate for name, estimate in found.items() if estimate is not None}


def _position(audit: Audit) -> list[Part]:
    if not audit["consistency"]:
        return []
    found = {name: entry["consistency"] for name, entry in audit["by_principle"].items() if entry["consistency"]}
    if len(found) > 1:
        found["all together"] = audit["consistency"]
    rows = {name: {words: float(at(entry, place)) for place, words in PARTS.items()} for name, entry in found.items()}
    return kit.section(
        "Position",
        "Every question is asked twice, once with each response first. Where the same position wins twice, the judge "
        "did not choose between the responses. The mean swap gap (how far p moves when the order is exchanged; 0 is "
        f"best) is {number(at(audit, 'consistency.swap_gap'))}.",
        kit.picture(plots.shares("Shown in both orders, it prefers", rows), "Choices in both orders, by principle"),
    )


# ----------------------------------------------------------------------------------------- confidence and length


def _confidence(audit: Audit) -> list[Part]:
    calibration = audit["calibration"]
    if not calibration:
        return []
    rows = {"as the judge gives them": calibration}
    if calibration["temperature"]:
        rows[f"temperature {number(calibration['temperature']['value'])}"] = calibration["temperature"]
    if calibration["isotonic"]:
        rows["isotonic"] = calibration["isotonic"]
    maps = [(name, *(f"{entry[key]:.3f}" for key in ("ece", "brier", "log_loss"))) for name, entry in rows.items()]
    reading = kit.note(
        "Maps are measured on prompts that they were not fitted on; one helps where its log loss is lower. Always "
        "saying 50% has a Brier score of 0.25 and a log loss of 0.693."
    )
    table = kit.table(("Probabilities", "ECE", "Brier score", "Log loss"), maps)
    return kit.section(
        "Confidence and length",
        "The judge's p should be how often it is right; a recipe can have labels corrected (`label.audit.calibrate`). "
        "And it should err no more often where people prefer the shorter response.",
        kit.grid(_reliability_plot(calibration), kit.stack(_verbosity_plot(audit), table, reading)),
    )


def _reliability_plot(calibration: Mapping[str, Any]) -> Part:
    found = [(row["confidence"], estimate_at(row, "accuracy")) for row in calibration["bins"]]
    bins = [(confidence, accuracy) for confidence, accuracy in found if accuracy]
    surest = max((confidence for confidence, _ in bins), default=1.0)
    x = np.linspace(0.5, surest, 101)  # beyond it a map is a guess
    maps = {}
    for name in ("temperature", "isotonic"):
        if calibration[name]:
            how = fitted(calibration, name)
            maps[f"after {name}"] = (list(x), [calibrate(float(p), how) for p in x])
    return kit.picture(plots.reliability("How often it is right", bins, maps), "Accuracy over confidence")


def _verbosity_plot(audit: Audit) -> Part:
    sides = ("shorter", "longer")
    places = {f"the {side}": f"verbosity.wrong_when_human_prefers_{side}" for side in sides}
    rows = _measured({name: estimate_at(audit, place) for name, place in places.items()})
    if not rows:
        return None
    svg = plots.dots("It errs where the human prefers", rows, A_COIN, narrow=True)
    return kit.picture(svg, "Errors where the human prefers the shorter, and the longer, response")


# ------------------------------------------------------------------------------------------- examples and cost


def _examples(audit: Audit) -> list[Part]:
    rows = audit["examples"]
    reading = f"The {len(rows)} pairs on which the judge was surest of the response that people rejected."
    return kit.section("Where judge and people are furthest apart", reading, *(_example(row) for row in rows))


def _example(row: Mapping[str, Any]) -> Part:
    strongest = sorted(row["by_principle"].items(), key=lambda item: -abs(item[1] - 0.5))[:4]
    chips = [(f"{name} {percent(p)}", "") for name, p in strongest]
    judge = kit.Side("before", "The judge prefers", row["judge_prefers"], [f"p {percent(row['p_judge'])}"], chips)
    return kit.example(row["prompt"], kit.Side("after", "People prefer", row["human_prefers"]), judge)


def _cost(audit: Audit) -> list[Part]:
    each, probes, total = audit["cost"], audit["probe_cost"], audit["total_cost"]
    told = "The judge was not called."
    if total["calls"]:
        told = (
            f"{total['calls']:,} requests in all, {total['prompt_tokens']:,} tokens read and "
            f"{total['completion_tokens']:,} written; {probes['calls']:,} of the requests were the probes'."
        )
        if each:
            told += f" A pair costs {number(each['calls'])} requests and {number(each['prompt_tokens'])} tokens read."
        told += " Replies that the cache held are counted too."
    first = {row["reason"]: row["detail"][:200] for row in reversed(audit["failures"])}
    failed = [(reason, count, first.get(reason, "")) for reason, count in audit["coverage"]["reasons"].items()]
    rows = audit["gold_rows"]
    unusable = kit.pre("\n".join(rows["first_unusable"])) if rows["first_unusable"] else None
    details = kit.details(f"{rows['unusable']} unusable rows of the human labels", unusable)
    return kit.section("Cost", "", kit.paragraph(told), *kit.failures(failed), details)
