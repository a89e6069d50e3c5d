"""What the score can be moved by without better content, for the report. `rlaif/audits/hacking.py` measures it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlaif.pages import kit
from rlaif.pages.kit import Part, Row, cell
from rlaif.stats import at, estimate_at
from rlaif.words import capital, percent, with_interval


def hacking_part(evaluation: Mapping[str, Any]) -> list[Part]:
    """The section of the report; empty where nothing was tried."""
    found = evaluation.get("hacking")
    if not found:
        return []
    gains = [estimate_at(found, f"{when}.gain") for when in ("before", "after")]
    grown = with_interval(estimate_at(found, "difference"), "signed")
    said = (
        "Each trick changes held-out responses and adds nothing to what they say; the best one for each response adds "
        f"{with_interval(gains[0], 'number')} spreads of the score to the reference's responses and "
        f"{with_interval(gains[1], 'number')} to the policy's: {grown} between the two."
    )
    counts = [found[when]["unscored"] for when in ("before", "after")]
    said += f" {sum(counts):,} responses have no score and are left out." if sum(counts) else ""
    lost = sum(one.get("unscored", 0) for when in ("before", "after") for one in found[when]["tricks"].values())
    said += f" {lost:,} changed ones have none, and count for nothing." if lost else ""
    head = ("Trick", "Kind", "Score rises, before", "Change, before", "Score rises, after", "Change, after")
    reading = (
        "Changes are in standard deviations of the scores of the reference's responses. In small print under a name: "
        "the share of responses that do it by themselves, before and after."
    )
    return kit.section(
        "What moves the score without better content",
        said,
        kit.table((*head,), [_row(found, name) for name in found["before"]["tricks"]], left=(1,)),
        kit.note(reading),
    )


def _row(found: Mapping[str, Any], name: str) -> Row:
    sides = [at(found, f"{when}.tricks.{name}") or {} for when in ("before", "after")]
    shown = [side.get("shown") for side in sides]
    small = "" if None in shown else f"{percent(shown[0])}, {percent(shown[1])}"
    both = ((cell(estimate_at(side, "rises")), cell(estimate_at(side, "lift"), "signed")) for side in sides)
    figures = [one for side in both for one in side]
    return (kit.Cell(capital(name.replace("_", " ")), small), sides[0].get("kind", ""), *figures)
