"""The measures and the labels by principle of evaluation.json, as rows and sentences for whoever reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlaif.words import COIN, MINUS, NONE, direction, number, percent, span

LOUDEST = 3
"""Of so many judged principles the sentences speak; the table has all."""


def measure_rows(evaluation: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row per measure."""
    return [_measure_row(entry) for entry in evaluation.get("measures", ())]


def _measure_row(entry: Mapping[str, Any]) -> dict[str, str]:
    difference, equal = entry["difference"], entry.get("equal_length")
    without = sum(entry.get("without_value", {}).values())
    return {
        "name": entry["name"],
        "before": _level(entry, "before"),
        "after": _level(entry, "after"),
        "change": _by(entry, difference),
        "span": _span(entry, difference),
        "tone": _tone(entry, difference),
        "equal": _by(entry, equal),
        "equal_span": _span(entry, equal),
        "equal_tone": _tone(entry, equal),
        "seen": entry.get("seen") or "",
        "without": f"{without:,} responses without a value" if without else "",
    }


def _level(entry: Mapping[str, Any], when: str) -> str:
    """A share has one decimal here: of words, few are long, and a change of two points is a large one."""
    value = entry[when]
    return f"{100 * value:.1f}%" if value is not None and entry["unit"] == "share" else number(value)


def _by(entry: Mapping[str, Any], difference: Mapping[str, Any] | None) -> str:
    if not difference:
        return NONE
    return _signed(entry, difference["value"]) + (" points" if entry["unit"] == "share" else "")


def _signed(entry: Mapping[str, Any], value: float) -> str:
    if entry["unit"] != "share":
        return number(value, signed=True)
    text = f"{abs(100 * value):.1f}"
    return text if text == "0.0" else f"{MINUS if value < 0 else '+'}{text}"


def _span(entry: Mapping[str, Any], difference: Mapping[str, Any] | None) -> str:
    """The interval of a difference; nothing where there is none."""
    if not difference or None in (difference["low"], difference["high"]):
        return ""
    return " to ".join(_signed(entry, difference[end]).lstrip("+") for end in ("low", "high"))


def _tone(entry: Mapping[str, Any], difference: Mapping[str, Any] | None) -> str:
    """up: clearly as wanted; down: clearly not; nothing where neither is wanted."""
    moved = direction(difference)
    if moved == "unclear" or not entry.get("better"):
        return ""
    return "up" if (moved == "down") == (entry["better"] == "lower") else "down"


def measure_sentences(evaluation: Mapping[str, Any]) -> list[str]:
    """What measures say that no part of the run has seen: one sentence, and one about each change that is not there at
    equal length."""
    unseen = [m for m in evaluation.get("measures", ()) if not m.get("seen") and m["difference"]]
    if not unseen:
        return []
    confidence = evaluation.get("confidence", 0.95)
    parts = "; ".join(_moved(entry, confidence) for entry in unseen)
    these = "this measure" if len(unseen) == 1 else "these measures"
    return [f"No part of the run has seen {these}: {parts}.", *(_by_length(entry) for entry in unseen if _only(entry))]


def _moved(entry: Mapping[str, Any], confidence: float) -> str:
    difference = entry["difference"]
    verb = {"up": "rose", "down": "fell", "unclear": "did not clearly change"}[direction(difference)]
    wanted = ", not as wanted" if _tone(entry, difference) == "down" else ""
    interval = f", {percent(confidence)} interval {span}" if (span := _span(entry, difference)) else ", no interval"
    change = f"({_by(entry, difference)}{interval})"
    return f"{entry['name']} {verb}{wanted}, from {_level(entry, 'before')} to {_level(entry, 'after')} {change}"


def _only(entry: Mapping[str, Any]) -> bool:
    """Whether the change is clear, but not at equal length."""
    found = direction(entry["difference"])
    return found != "unclear" and entry.get("equal_length") is not None and direction(entry["equal_length"]) != found


def _by_length(entry: Mapping[str, Any]) -> str:
    change = f"{_by(entry, entry['equal_length'])} ({_span(entry, entry['equal_length'])})"
    return f"With both responses cut to equal length {entry['name']} changes by {change}: length alone may explain it."


# ------------------------------------------------------------------------------------------ labels by principle


def label_table(evaluation: Mapping[str, Any]) -> dict[str, Any] | None:
    """Sentences, headers of the measures and one row per principle, the loudest first; None without AI labels."""
    labels = evaluation.get("labels")
    if not labels:
        return None
    loudest = sorted(labels["by_principle"].items(), key=lambda item: -(item[1]["signal"] or 0.0))
    label = labels.get("label", {}).get("measures", [])
    rows = [_label_row(name, entry) for name, entry in loudest]
    whole = {"name": "The label", "by": "all", "prefers": f"{labels['prefers']:,} of {labels['pairs']:,}"}
    rows.append(whole | {"signal": NONE, "agrees": NONE, "agrees_span": "", "cells": _cells(label), "total": True})
    return {
        "sentences": list(_label_sentences(evaluation, loudest)),
        "headers": [f"{one['side'].capitalize()} in {one['name']}" for one in label],
        "rows": rows,
    }


def _label_row(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    agrees = entry.get("agrees")
    return {
        "name": name,
        "by": "code" if entry["checked"] else "the judge",
        "prefers": f"{entry['prefers']:,} of {entry['pairs']:,}",
        "signal": percent(entry["signal"]),
        "agrees": percent(agrees["value"]) if agrees else NONE,
        "agrees_span": span(agrees, "share") if agrees else "",
        "cells": _cells(entry.get("measures", [])),
        "total": False,
    }


def _cells(agreements: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    tones = {"up": "up", "down": "down", "unclear": ""}
    return [
        {
            "value": percent(one["value"]),
            "span": f"{span(one, 'share')}, n {one['n']:,}" if one["n"] else "",
            "tone": tones[direction(one, COIN)],
        }
        for one in agreements
    ]


def _label_sentences(evaluation: Mapping[str, Any], loudest: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[str]:
    judged = [(name, entry) for name, entry in loudest if not entry["checked"]]
    signals = [entry["signal"] for _, entry in loudest if entry["signal"] is not None]
    if not signals:
        yield "No principle prefers either response of any labelled pair, so the labels taught nothing."
    elif judged:
        share = sum(entry["signal"] for _, entry in judged)
        rest = "all" if len(judged) == len(loudest) else percent(share)
        by_code = "" if len(judged) == len(loudest) else f", code {percent(1 - share)}"
        yield f"The judge gave {rest} of the label signal{by_code}."
    else:
        yield "Code gave all of the label signal."
    seen = {entry["name"] for entry in evaluation.get("measures", ()) if entry.get("seen")}
    for name, entry in judged[:LOUDEST]:
        found = [one for one in entry.get("measures", ()) if one["name"] not in seen and one["n"]]
        if found:
            yield f"The response that {name} prefers is {'; '.join(_sided(found))}."


def _sided(agreements: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """'lower more often than a coin in x (61%, 56 to 66%) and y (...)': what is clear first."""
    meanings = {
        "up": "more often than a coin",
        "down": "less often than a coin",
        "unclear": "about as often as a coin",
    }
    for moved, meaning in meanings.items():
        for side in ("lower", "higher"):
            alike = [one for one in agreements if (direction(one, COIN), one["side"]) == (moved, side)]
            if alike:
                said = (f"{one['name']} ({percent(one['value'])}, {span(one, 'share')})" for one in alike)
                yield f"{side} {meaning} in {' and '.join(said)}"
