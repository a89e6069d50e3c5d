"""dialogue.html: judged conversations for a person, the ones that break the most first.

It shows what dialogue.json and dialogue.jsonl hold beside the conversations, and measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlaif.pages import kit
from rlaif.pages.kit import Part, Side, tile
from rlaif.records import Messages
from rlaif.stats import estimate_at
from rlaif.words import counted, number, percent

SHOWN = 20
"""Conversations, of however many."""
JudgedTalk = tuple[Messages, Mapping[str, Any]]
"""A conversation and its row of dialogue.jsonl."""


def write_dialogue_page(
    found: Mapping[str, Any], talks: Sequence[JudgedTalk], facts: Mapping[str, str], path: Path
) -> Path:
    """Write the page and return its path. `found` is what dialogue.json holds."""
    worst = sorted(talks, key=lambda talk: (-len(_broken(talk[1])), _value(talk[1])))
    parts: kit.Parts = [
        kit.verdict("Where conversations break", [_sentence(found, talks)], _cautions(found)),
        kit.tiles(_tiles(found), "In brackets and in small print: intervals, made by resampling conversations."),
        kit.section("By principle", "", _principles(found)),
        kit.section(
            "Conversations",
            f"{min(SHOWN, len(worst))} of {counted(len(worst), 'conversation')}, those that break the most first. "
            "Under a turn: what it breaks, with the probability that it follows the principle, and what it says "
            "against an earlier turn. Turns are counted from 0.",
            *(_talk(messages, row) for messages, row in worst[:SHOWN]),
        ),
    ]
    footer = "Made by `rlaif judge dialogue`; all conversations lie beside this page in dialogue.jsonl."
    return kit.write_page(path, "Conversations, turn by turn", facts, parts, footer)


def _broken(row: Mapping[str, Any]) -> list[tuple[int, str, float]]:
    """(turn, principle, value) of each break."""
    return [
        (turn["turn"], name, turn["value"])
        for name, one in row["principles"].items()
        for turn in one["turns"]
        if turn["turn"] in one["broken"]
    ]


def _value(row: Mapping[str, Any]) -> float:
    return 1.0 if row["value"] is None else float(row["value"])


def _sentence(found: Mapping[str, Any], talks: Sequence[JudgedTalk]) -> str:
    judged = [row for _, row in talks if row["value"] is not None]
    turns = {
        (row["place"], turn["turn"]) for row in judged for one in row["principles"].values() for turn in one["turns"]
    }
    broken = {(row["place"], turn) for row in judged for turn, _, _ in _broken(row)}
    most = max(found["principles"].items(), key=lambda one: one[1]["broken"], default=None)
    said = f"{len(broken)} of {counted(len(turns), 'turn')} of the assistant break a principle"
    return f"{said}, most often {most[0]} ({most[1]['broken']})." if most and broken else f"{said}."


def _cautions(found: Mapping[str, Any]) -> list[str]:
    failed, every = found["failed"], found["conversations"]
    return (
        [f"{failed} of {counted(every, 'conversation')} failed and count nowhere; see failures.jsonl."]
        if failed
        else []
    )


def _tiles(found: Mapping[str, Any]) -> list[kit.Tile]:
    claims, sure = found["claims"], found["claims"]["calibration"]
    stated = f"{percent(sure['right'])} supported, error {number(sure['ece'])}" if sure["n"] else "none with documents"
    return [
        *tile("Follows its principles", estimate_at(found, "value"), "share"),
        *tile("Likeness of neighbouring turns", estimate_at(found, "continuity.topic"), "number"),
        *tile("Names that were named before", estimate_at(found, "continuity.entities"), "share"),
        kit.Tile(
            "Claims", str(claims["all"]), f"{claims['contradictions']} contradict, {claims['corrections']} correct"
        ),
        kit.Tile("Claims with stated confidence", str(sure["n"]), stated),
    ]


def _principles(found: Mapping[str, Any]) -> Part:
    rows = [
        (
            name,
            kit.cell(estimate_at(found, f"principles.{name}.value")),
            str(one["broken"]),
            kit.cell(estimate_at(found, f"principles.{name}.consistency")),
        )
        for name, one in found["principles"].items()
    ]
    return kit.table(("Principle", "Value", "Turns that break it", "Consistency"), rows, kind="wide")


def _talk(messages: Messages, row: Mapping[str, Any]) -> Part:
    broken, ledger = _broken(row), row["ledger"]

    def chips(turn: int) -> list[tuple[str, str]]:
        found = [(f"\u2717 {name} {number(value)}", "down") for at, name, value in broken if at == turn]
        for one in ledger:
            for earlier in (ledger[other] for other in one["contradicts"] if one["turn"] == turn):
                verb, tone = ("takes back", "") if one["corrects"] else ("contradicts", "down")
                found.append((f"{verb} turn {earlier['turn']}: {earlier['text']}", tone))
        return found

    sides = [
        Side("after" if turn.role == "assistant" else "", turn.role.capitalize(), turn.content, (str(at),), chips(at))
        for at, turn in enumerate(messages)
    ]
    return kit.stack(kit.note(Path(row["place"]).name), kit.talk(sides))
