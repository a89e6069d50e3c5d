"""audit.html: one self-contained page about one audit, for a person.

It shows what the audit's JSON holds and measures nothing. The words at the top come from `opinion.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rlaif.audits import choice
from rlaif.audits.opinion import Audit, helpful_maps, named
from rlaif.feedback.calibration import Isotonic, Temperature, calibrate, fitted
from rlaif.pages import kit, plots
from rlaif.pages.kit import Cell, Part, Tile, tile
from rlaif.stats import Estimate, at, estimate_at
from rlaif.words import COIN, NONE, number, percent, tone, with_interval

OUTCOMES = {"yes": "better", "no": "worse", "unknown": ""}
"""Colours of the page's frame."""
PARTS = {
    "value": "same response",
    "both_first.value": "always the first",
    "both_second.value": "always the second",
    "undecided.value": "undecided",
}
PROBES = {
    "repetition": "Asked the same again",
    "paraphrase": "Asked in other words",
    "padding": "Irrelevant sentences added",
    "injection": "Instructions planted",
}
ATTACK_KINDS = {
    "instruction": "words to the judge",
    "role": "a turn that never happened",
    "delimiter": "tags closed or opened",
    "control": "control tokens",
    "unicode": "look-alike characters",
}
MAPS: tuple[Literal["temperature", "isotonic"], ...] = ("temperature", "isotonic")
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
        choice.part(audit["modes"]) if "modes" in audit else None,
        kit.verdict("May this judge be used?", opinion, said["cautions"], OUTCOMES[said["outcome"]]),
        _gate(audit),
        kit.tiles(_tiles(audit), reading),
        _agreement(audit),
        _position(audit),
        _confidence(audit),
        _probes(audit),
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


def _gate(audit: Audit) -> Part:
    """One row per threshold."""
    found = audit.get("gate") or {"thresholds": {}, "shortfalls": []}
    reached = {name: Cell("\u2713 passed", tone="up") for name in found["thresholds"]}
    for row in found["shortfalls"]:
        value = "not measured" if row["value"] is None else f"{row['value']:.3f}"
        reached[row["name"]] = Cell(f"\u2717 {value}", tone="down")
    rows = [(name, f"{threshold:g}", reached[name]) for name, threshold in found["thresholds"].items()]
    return kit.table(("Gate", "At least", ""), rows, left=(2,), kind="wide")


def _tiles(audit: Audit) -> list[Tile]:
    """The few figures that a reader wants first; what was not measured has no tile."""
    calibration, padded = audit["calibration"], estimate_at(audit, "probes.padding.to_padded")
    after = [f"{number(calibration[name]['ece'])} by {name}" for name in helpful_maps(calibration or {})]
    detail = ", ".join(after) or "no fitted map helps"
    ece = [Tile("Calibration error (ECE)", number(calibration["ece"]), detail)] if calibration else []
    beside = f"; irrelevant sentences {percent(padded.value)}" if padded else ""
    return [
        *tile("Agrees with the human label", estimate_at(audit, "accuracy"), "share", COIN),
        *tile("Cohen\u2019s kappa: 0 for a coin", estimate_at(audit, "kappa"), "number", 0.0),
        *tile("Same response in both orders", estimate_at(audit, "consistency"), "share", COIN),
        *tile("Verbosity bias, points", estimate_at(audit, "verbosity.bias"), "points"),
        *ece,
        *tile("Planted instructions that win", estimate_at(audit, "probes.injection.flipped"), "share", detail=beside),
    ]


def _agreement(audit: Audit) -> list[Part]:
    tags = [(name, with_interval(estimate_at(e)), f"{e['n']:,}" if e else NONE) for name, e in audit["by_tag"].items()]
    by_principle = {name: estimate_at(e, "accuracy") for name, e in audit["by_principle"].items()}
    if sum(right is not None for right in by_principle.values()) > 1:
        by_principle["the whole constitution"] = estimate_at(audit, "accuracy")
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
        _dots("Agrees with the human label", "Agreement with human labels, by principle", by_principle),
        kit.table(head, [_principle(name, entry) for name, entry in audit["by_principle"].items()]),
        kit.table(("Tag", "Agrees", "Pairs"), tags, kind="wide"),
        kit.table(("Human labels", "Pairs used", "Unusable rows", "Agrees", "SHA-256"), files, left=(4,)),
        kit.heading("Members of the panel", 3) if members else None,
        kit.table(of_members, members, kind="wide"),
    )


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


def _dots(
    title: str, alt: str, found: Mapping[str, Estimate | None], scale: plots.AxisScale = A_COIN, narrow: bool = False
) -> Part:
    """A dot with its interval per estimate; no picture where nothing was measured."""
    rows = {name: estimate for name, estimate in found.items() if estimate}
    return kit.picture(plots.dots(title, rows, scale, narrow=narrow), alt) if rows else None


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


def _confidence(audit: Audit) -> list[Part]:
    calibration = audit["calibration"]
    if not calibration:
        return []
    temperature = calibration["temperature"]
    rows = {
        "as the judge gives them": calibration,
        f"temperature {number(temperature and temperature['value'])}": temperature,
        "isotonic": calibration["isotonic"],
    }
    keys = ("ece", "brier", "log_loss")
    maps = [(name, *(f"{entry[key]:.3f}" for key in keys)) for name, entry in rows.items() if entry]
    reading = kit.note(
        "Maps are measured on prompts that they were not fitted on; one helps where its log loss is lower. Always "
        "saying 50% has a Brier score of 0.25 and a log loss of 0.693."
    )
    table = kit.table(("Probabilities", "ECE", "Brier score", "Log loss"), maps)
    errors = _dots(
        "It errs where the human prefers",
        "Errors where the human prefers the shorter, and the longer, response",
        {f"the {x}": estimate_at(audit, f"verbosity.wrong_when_human_prefers_{x}") for x in ("shorter", "longer")},
        narrow=True,
    )
    return kit.section(
        "Confidence and length",
        "The judge's p should be how often it is right; a recipe can have labels corrected (`label.audit.calibrate`). "
        "And it should err no more often where people prefer the shorter response.",
        kit.grid(_reliability_plot(calibration), kit.stack(errors, table, reading)),
    )


def _reliability_plot(calibration: Mapping[str, Any]) -> Part:
    bins = [(row["confidence"], right) for row in calibration["bins"] if (right := estimate_at(row, "accuracy"))]
    x = np.linspace(0.5, max((confidence for confidence, _ in bins), default=1.0), 101)  # beyond it a map is a guess
    found: dict[str, Temperature | Isotonic] = {name: fitted(calibration, name) for name in MAPS if calibration[name]}
    maps = {f"after {name}": (list(x), [calibrate(float(p), how) for p in x]) for name, how in found.items()}
    return kit.picture(plots.reliability("How often it is right", bins, maps), "Accuracy over confidence")


def _probes(audit: Audit) -> list[Part]:
    """What should not move a judge: one row per probe, and the attacks that turned a choice."""
    injection = audit["probes"].get("injection", {})
    succeeded = injection.get("succeeded", [])
    by_kind = {ATTACK_KINDS.get(kind, kind): estimate_at(e) for kind, e in (injection.get("by_kind") or {}).items()}
    padded = estimate_at(audit, "probes.padding.to_padded")
    scale = plots.AxisScale(reference=(padded.value, "irrelevant sentences") if padded else None)
    alt = "Share of choices that a planted text turned, by kind of attack"
    rows = [_probe(name, found) for name, found in audit["probes"].items()]
    return kit.section(
        "What should not move it",
        "Some pairs were judged again, altered in ways that change nothing about which response is better. Only judged "
        "principles take part. That an instruction wins means little where irrelevant sentences win as often.",
        kit.table(("Probe", "Keeps its choice", "p moves by", "Cases", ""), rows, left=(4,)),
        _dots("The attacked response wins the choice", alt, by_kind, scale),
        kit.note(f"Attacks that turned a choice: {', '.join(succeeded)}.") if succeeded else None,
    )


def _probe(name: str, found: Mapping[str, Any]) -> tuple[str | Cell, ...]:
    """What the probe found, or why it could not be made."""
    if "reason" in found:
        return PROBES[name], NONE, NONE, NONE, Cell("", found["reason"])
    same = with_interval(estimate_at(found, "resisted" if name == "injection" else "same_choice"))
    shift = estimate_at(found, "mean_shift") or estimate_at(found, "mean_change")
    moved = number(shift.value, signed="mean_shift" in found) if shift else NONE
    return PROBES[name], same, moved, f"{found['n']:,}", Cell("", _reading(name, found))


def _reading(name: str, found: Mapping[str, Any]) -> str:
    if name == "repetition":
        return f"p is the same to the last bit for {percent(found['identical'])}"
    if name == "paraphrase":
        same = {template: estimate_at(entry, "same_choice") for template, entry in found["by_template"].items()}
        parts = [f"{template}: {percent(kept.value)}" for template, kept in same.items() if kept]
        return f"by template: {', '.join(parts)}"
    unjudged = f"; {found['unjudged']:,} cases could not be judged" if found["unjudged"] else ""
    if name == "padding":
        won, lost = estimate_at(found, "to_padded"), estimate_at(found, "from_padded")
        gained = f"gains the choice in {percent(won.value)}" if won else "never stood to gain"
        gave = f"loses it in {percent(lost.value)}" if lost else "never stood to lose"
        return f"the padded response {gained} and {gave} of cases{unjudged}"
    return f"planted in the response it did not prefer{unjudged}"


def _examples(audit: Audit) -> list[Part]:
    rows = audit["examples"]
    reading = f"The {len(rows)} pairs on which the judge was surest of the response that people rejected."
    return kit.section("Where judge and people are furthest apart", reading, *map(_example, rows))


def _example(row: Mapping[str, Any]) -> Part:
    surest = sorted(row["by_principle"].items(), key=lambda item: -abs(item[1] - 0.5))[:4]
    chips = [(f"{name} {percent(p)}", "") for name, p in surest]
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
    first_rows, count = audit["gold_rows"]["first_unusable"], audit["gold_rows"]["unusable"]
    unusable = kit.pre("\n".join(first_rows)) if first_rows else None
    details = kit.details(f"{count} unusable rows of the human labels", unusable)
    return kit.section("Cost", "", kit.paragraph(told), *kit.failures(failed), details)
