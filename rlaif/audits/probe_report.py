"""The part of the audit page about what should not move a judge: its probes, and the attacks that turned a choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlaif.pages import kit, plots
from rlaif.pages.kit import Cell, Part
from rlaif.stats import estimate_at
from rlaif.words import NONE, number, percent, with_interval

NAMES = {
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


def probes_part(audit: Mapping[str, Any]) -> list[Part]:
    """The section: one row per probe, and the attacks."""
    injection = audit["probes"].get("injection", {})
    succeeded = injection.get("succeeded", [])
    rows = [_row(name, found) for name, found in audit["probes"].items()]
    return kit.section(
        "What should not move it",
        "Some pairs were judged again, altered in ways that change nothing about which response is better. Only judged "
        "principles take part. That an instruction wins means little where irrelevant sentences win as often.",
        kit.table(("Probe", "Keeps its choice", "p moves by", "Cases", ""), rows, left=(4,)),
        _attack_plot(audit, injection.get("by_kind")),
        kit.note(f"Attacks that turned a choice: {', '.join(succeeded)}.") if succeeded else None,
    )


def _row(name: str, found: Mapping[str, Any]) -> tuple[str | Cell, ...]:
    """What the probe found, or why it could not be made."""
    if "reason" in found:
        return NAMES[name], NONE, NONE, NONE, Cell("", found["reason"])
    same = with_interval(estimate_at(found, "resisted" if name == "injection" else "same_choice"))
    shift = estimate_at(found, "mean_shift") or estimate_at(found, "mean_change")
    moved = number(shift.value, signed="mean_shift" in found) if shift else NONE
    return NAMES[name], same, moved, f"{found['n']:,}", Cell("", _note(name, found))


def _note(name: str, found: Mapping[str, Any]) -> str:
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


def _attack_plot(audit: Mapping[str, Any], by_kind: Mapping[str, Any] | None) -> Part:
    found = {ATTACK_KINDS.get(kind, kind): estimate_at(entry) for kind, entry in (by_kind or {}).items()}
    rows = {name: estimate for name, estimate in found.items() if estimate}
    if not rows:
        return None
    padded = estimate_at(audit, "probes.padding.to_padded")
    scale = plots.AxisScale(reference=(padded.value, "irrelevant sentences") if padded else None)
    svg = plots.dots("The attacked response wins the choice", rows, scale)
    return kit.picture(svg, "Share of choices that a planted text turned, by kind of attack")
