"""The audit page's figures as rows of text; the plots are in `report.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlaif.audit.cautions import helpful_maps
from rlaif.audit.gate import estimate
from rlaif.words import COIN, NONE, Unit, direction, figure, number, percent, points, span, with_interval

COLOURS = {"up": "up", "down": "down", "unclear": ""}
PROBE_NAMES = {
    "repetition": "Asked the same again",
    "paraphrase": "Asked in other words",
    "padding": "Irrelevant sentences added",
    "injection": "Instructions planted",
}


def tiles(audit: Mapping[str, Any]) -> list[dict[str, str]]:
    """The few figures that a reader wants first; what was not measured has no tile."""
    calibration = audit["calibration"]
    tiles = [
        *_tile("Agrees with the human label", audit["accuracy"], "share", COIN),
        *_tile("Cohen\u2019s kappa: 0 for a coin", audit["kappa"], "number", 0.0),
        *_tile("Same response in both orders", audit["consistency"], "share", COIN),
        *_tile("Verbosity bias, points", estimate(audit, "verbosity.bias"), "points"),
    ]
    if calibration:
        tiles.append(_as_tile("Calibration error (ECE)", number(calibration["ece"]), _ece_after(calibration)))
    wins = _tile("Planted instructions that win", estimate(audit, "probes.injection.flipped"), "share")
    padded = estimate(audit, "probes.padding.to_padded")
    if wins and padded:
        wins[0]["detail"] += f"; irrelevant sentences {percent(padded['value'])}"
    return tiles + wins


def _tile(name: str, found: Mapping[str, Any] | None, unit: Unit, chance: float | None = None) -> list[dict[str, str]]:
    """A figure with its interval, coloured by its side of chance where there is one."""
    if not found or found.get("value") is None:
        return []
    interval = span(found, unit)
    tone = "" if chance is None else COLOURS[direction(found, chance)]
    value = points(found["value"]) if unit == "points" else figure(found["value"], unit)
    return [_as_tile(name, value, interval if interval != NONE else "no interval", tone)]


def _as_tile(name: str, value: str, detail: str, tone: str = "") -> dict[str, str]:
    return {"name": name, "value": value, "detail": detail, "tone": tone}


def _ece_after(calibration: Mapping[str, Any]) -> str:
    after = [f"{number(calibration[name]['ece'])} by {name}" for name in helpful_maps(calibration)]
    return ", ".join(after) or "no fitted map helps"


def gate(audit: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row a threshold of the gate; empty without a gate."""
    found = audit.get("gate") or {"thresholds": {}, "shortfalls": []}
    short = {row["name"]: row["value"] for row in found["shortfalls"]}
    return [
        {
            "name": name,
            "threshold": f"{threshold:g}",
            "tone": "down" if name in short else "up",
            "result": "passed"
            if name not in short
            else "not measured"
            if short[name] is None
            else f"{short[name]:.3f}",
        }
        for name, threshold in found["thresholds"].items()
    ]


def gold_row(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "name": row["name"],
        "pairs": f"{row['pairs']:,}",
        "unusable": f"{row['unusable']:,}",
        "sha256": row["sha256"][:16],
        "accuracy": _share(row["accuracy"]),
    }


def accuracies(found: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    return {name: {"value": _share(entry), "n": f"{entry['n']:,}" if entry else NONE} for name, entry in found.items()}


def _share(entry: Mapping[str, Any] | None) -> str:
    return with_interval(entry, "share") if entry and entry.get("value") is not None else NONE


def principles(audit: Mapping[str, Any]) -> list[dict[str, str]]:
    rows = []
    for name, entry in audit["by_principle"].items():
        same = entry["consistency"]
        rows.append(
            {
                "name": name,
                "accuracy": _share(entry["accuracy"]),
                "tone": COLOURS[direction(entry["accuracy"], COIN)],
                "same": _share(same),
                "gap": number(same["swap_gap"]) if same else NONE,
                "by_code": percent(entry["checked"] / entry["n"]) if entry["n"] else NONE,
                "undecided": f"{entry['undecided']:,}",
                "n": f"{entry['n']:,}",
            }
        )
    return rows


def maps(audit: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row for the probabilities as they are, and one for each fitted map."""
    calibration = audit["calibration"]
    if not calibration:
        return []
    rows = {"as the judge gives them": calibration}
    if calibration["temperature"]:
        rows[f"temperature {number(calibration['temperature']['value'])}"] = calibration["temperature"]
    if calibration["isotonic"]:
        rows["isotonic"] = calibration["isotonic"]
    return [
        {"name": name} | {key: f"{entry[key]:.3f}" for key in ("ece", "brier", "log_loss")}
        for name, entry in rows.items()
    ]


def probes(audit: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row a probe: what it found, or why it could not be made."""
    rows = []
    for name, found in audit["probes"].items():
        row = {"name": PROBE_NAMES[name], "same": NONE, "moved": NONE, "n": NONE, "note": found.get("reason", "")}
        if "reason" not in found:
            row["same"] = _share(found["resisted"] if name == "injection" else found["same_choice"])
            shift = found.get("mean_shift") or found.get("mean_change")
            row["moved"] = number(shift["value"], signed="mean_shift" in found) if shift else NONE
            row["n"] = f"{found['n']:,}"
            row["note"] = _note(name, found)
        rows.append(row)
    return rows


def _note(name: str, found: Mapping[str, Any]) -> str:
    if name == "repetition":
        return f"p is the same to the last bit for {percent(found['identical'])}"
    if name == "paraphrase":
        parts = [
            f"{template}: {percent(entry['same_choice']['value'])}"
            for template, entry in found["by_template"].items()
            if entry
        ]
        return "by template: " + ", ".join(parts)
    unjudged = f"; {found['unjudged']:,} cases could not be judged" if found["unjudged"] else ""
    if name == "padding":
        won, lost = found["to_padded"], found["from_padded"]
        gained = f"gains the choice in {percent(won['value'])}" if won else "never stood to gain"
        gave = f"loses it in {percent(lost['value'])}" if lost else "never stood to lose"
        return f"the padded response {gained} and {gave} of cases{unjudged}"
    return f"planted in the response it did not prefer{unjudged}"


def failures(audit: Mapping[str, Any]) -> list[dict[str, str]]:
    first: dict[str, str] = {}
    for row in audit["failures"]:
        first.setdefault(row["reason"], row["detail"][:200])
    return [
        {"reason": reason, "count": f"{count:,}", "example": first.get(reason, "")}
        for reason, count in audit["coverage"]["reasons"].items()
    ]
