"""audit.html: one self-contained page about one audit, for a person.

It shows what the audit's JSON holds and measures nothing. The words at the top come from `opinion.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlaif.audit import proposal, tables
from rlaif.audit.gate import estimate
from rlaif.audit.opinion import named
from rlaif.evaluation import plots
from rlaif.evaluation.page import Picture, picture, write_page
from rlaif.feedback.calibration import Isotonic, Temperature, calibrate, fitted
from rlaif.words import COIN, number, percent

TONES = {"yes": "better", "no": "worse", "unknown": ""}
"""Colours of the page's frame by outcome."""
PARTS = {
    "value": "same response",
    "both_first": "always the first",
    "both_second": "always the second",
    "undecided": "undecided",
}
ATTACK_KINDS = {
    "instruction": "words to the judge",
    "role": "a turn that never happened",
    "delimiter": "tags closed or opened",
    "control": "control tokens",
    "unicode": "look-alike characters",
}


def write_audit_page(audit: Mapping[str, Any], path: Path) -> Path:
    """Write the page and return its path."""
    judge, constitution = named(audit)
    said = audit["opinion"]
    context = {
        "title": f"Audit of {judge}",
        "facts": _facts(audit, constitution),
        "outcome": TONES[said["outcome"]],
        "said": said,
        "modes": audit.get("modes"),
        "mode_columns": proposal.COLUMNS,
        "mode_rows": proposal.table(audit["modes"]) if "modes" in audit else [],
        "mode_problems": proposal.problems(audit["modes"]) if "modes" in audit else [],
        "gate": tables.gate(audit),
        "tiles": tables.tiles(audit),
        "confidence": percent(audit["confidence"]),
        "gold": [tables.gold_row(row) for row in audit["gold"]],
        "gold_rows": audit["gold_rows"],
        "principles": tables.principles(audit),
        "principle_plot": _principle_plot(audit),
        "tags": tables.accuracies(audit["by_tag"]),
        "position_plot": _position_plot(audit),
        "swap_gap": number((audit["consistency"] or {}).get("swap_gap")),
        "reliability_plot": _reliability_plot(audit),
        "verbosity_plot": _verbosity_plot(audit),
        "maps": tables.maps(audit),
        "probes": tables.probes(audit),
        "attack_plot": _attack_plot(audit),
        "succeeded": audit["probes"].get("injection", {}).get("succeeded", []),
        "members": audit["reliability"],
        "examples": [_example(row) for row in audit["examples"]],
        "coverage": audit["coverage"],
        "failures": tables.failures(audit),
        "cost": _cost(audit),
        "provenance": _provenance(audit),
        "percent": percent,
    }
    write_page(path, "audit.html.jinja", context)
    return path


def _facts(audit: Mapping[str, Any], constitution: str) -> dict[str, str]:
    judges = ", ".join(f"{row['name']} @ {row['revision'][:16]}" for row in audit["judges"])
    return {
        "Constitution": constitution,
        "Aggregation": audit["audited"]["aggregation"]["kind"],
        "Judge": judges,
        "Human labels": f"{audit['pairs']:,} pairs, {audit['prompts']:,} prompts",
    }


def _principle_plot(audit: Mapping[str, Any]) -> Picture | None:
    rows = {name: _interval(entry["accuracy"]) for name, entry in audit["by_principle"].items() if entry["accuracy"]}
    if audit["accuracy"] and len(rows) > 1:
        rows["the whole constitution"] = _interval(audit["accuracy"])
    if not rows:
        return None
    svg = plots.dots("Agrees with the human label", rows, (COIN, "a coin"))
    return picture(svg, "Agreement with human labels, by principle")


def _interval(found: Mapping[str, Any]) -> plots.Interval:
    return plots.Interval(found["value"], found["low"], found["high"])


def _position_plot(audit: Mapping[str, Any]) -> Picture | None:
    found = {name: entry["consistency"] for name, entry in audit["by_principle"].items() if entry["consistency"]}
    if not audit["consistency"]:
        return None
    if len(found) > 1:
        found["all together"] = audit["consistency"]
    rows = {name: {words: _value(entry, part) for part, words in PARTS.items()} for name, entry in found.items()}
    return picture(plots.shares("Shown in both orders, it prefers", rows), "Choices in both orders, by principle")


def _value(entry: Mapping[str, Any], part: str) -> float:
    return float(entry[part] if part == "value" else entry[part]["value"])


def _reliability_plot(audit: Mapping[str, Any]) -> Picture | None:
    calibration = audit["calibration"]
    if not calibration:
        return None
    bins = [(row["confidence"], _interval(row["accuracy"])) for row in calibration["bins"]]
    surest = max((confidence for confidence, _ in bins), default=1.0)
    x = np.linspace(0.5, surest, 101)  # beyond it a map is a guess
    maps = {}
    for name, how in _fitted(calibration).items():
        maps[f"after {name}"] = (list(x), [calibrate(float(p), how) for p in x])
    return picture(plots.reliability("How often it is right", bins, maps), "Accuracy over confidence")


def _fitted(calibration: Mapping[str, Any]) -> dict[str, Temperature | Isotonic]:
    return {name: fitted(calibration, name) for name in ("temperature", "isotonic") if calibration[name]}


def _verbosity_plot(audit: Mapping[str, Any]) -> Picture | None:
    found = audit["verbosity"]
    if not found:
        return None
    rows = {
        "the shorter": _interval(found["wrong_when_human_prefers_shorter"]),
        "the longer": _interval(found["wrong_when_human_prefers_longer"]),
    }
    svg = plots.dots("It errs where the human prefers", rows, (COIN, "a coin"), narrow=True)
    return picture(svg, "Errors where the human prefers the shorter, and the longer, response")


def _attack_plot(audit: Mapping[str, Any]) -> Picture | None:
    found = audit["probes"].get("injection", {}).get("by_kind")
    if not found:
        return None
    rows = {ATTACK_KINDS.get(kind, kind): _interval(entry) for kind, entry in found.items()}
    padded = estimate(audit, "probes.padding.to_padded")
    reference = (padded["value"], "irrelevant sentences") if padded else None
    svg = plots.dots("The attacked response wins the choice", rows, reference)
    return picture(svg, "Share of choices that a planted text turned, by kind of attack")


def _example(row: Mapping[str, Any]) -> dict[str, Any]:
    strongest = sorted(row["by_principle"].items(), key=lambda item: -abs(item[1] - 0.5))[:4]
    return {
        "prompt": row["prompt"],
        "human": row["human_prefers"],
        "judge": row["judge_prefers"],
        "p": percent(row["p_judge"]),
        "principles": [f"{name} {percent(p)}" for name, p in strongest],
    }


def _cost(audit: Mapping[str, Any]) -> str:
    each, probes, total = audit["cost"], audit["probe_cost"], audit["total_cost"]
    if not total["calls"]:
        return "The judge was not called."
    told = (
        f"{total['calls']:,} requests in all, {total['prompt_tokens']:,} tokens read and "
        f"{total['completion_tokens']:,} written; {probes['calls']:,} of the requests were the probes'."
    )
    if each:
        told += f" A pair costs {number(each['calls'])} requests and {number(each['prompt_tokens'])} tokens read."
    return f"{told} Replies that the cache held are counted too."


def _provenance(audit: Mapping[str, Any]) -> dict[str, str]:
    parts: dict[str, Mapping[str, Any] | Sequence[Any]] = {
        "What was audited, as a recipe must match it": audit["audited"] | {"subject": audit["subject"]},
        "Files of human labels": audit["gold"],
        "Rows of these files": audit["gold_rows"],
    }
    return {name: json.dumps(value, indent=2, ensure_ascii=False) for name, value in parts.items()}
