"""Preferences in the formats of TRL, OpenRLHF and Argilla, for `rlaif export`. A pure function per format.

The first two have no place for a tie, which is left out. How sure the rest are is in `p_chosen`, which TRL does not
read, in OpenRLHF's margin and in Argilla's metadata: read back, every label is the same. Reading is
`rlaif/formats/`'s; nothing is sent anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rlaif.errors import ConfigError, DataError, did_you_mean
from rlaif.feedback.pairs import read_preferences
from rlaif.formats.programs import PEOPLE
from rlaif.jsonl import write_jsonl
from rlaif.records import Messages, Preference, Prompt, oriented, plain
from rlaif.run_folder import Run


def trl_row(row: Preference) -> dict[str, Any]:
    """TRL's conversational preference with an explicit prompt; what DPO wants."""
    return _sides(row) | {"p_chosen": row.p_chosen}


def trl_implicit_row(row: Preference) -> dict[str, Any]:
    """TRL's conversational preference with the prompt inside both sides; what RewardTrainer wants."""
    sides = {"chosen": plain(row.prompt + row.chosen), "rejected": plain(row.prompt + row.rejected)}
    return sides | {"p_chosen": row.p_chosen}


def openrlhf_row(row: Preference) -> dict[str, Any]:
    """OpenRLHF's default keys, for `--data.apply_chat_template`; `margin` is 2 p - 1, from 0 (a tie) to 1 (sure)."""
    return _sides(row) | {"margin": 2 * row.p_chosen - 1}


def _sides(row: Preference) -> dict[str, Any]:
    return {"prompt": plain(row.prompt), "chosen": plain(row.chosen), "rejected": plain(row.rejected)}


def argilla_row(row: Preference) -> dict[str, Any]:
    """A record for `rg.Settings.for_ranking()`, which side is `response1` decided by hash: annotators see no pattern.

    The judge's label is a suggestion, with p for each side as its score; a human one is a response, with its ranks.
    A conversation of several turns is written as a Human/Assistant transcript; its system turn is in the metadata.
    """
    chosen, rejected = row.chosen[-1].content, row.rejected[-1].content
    pair = oriented(Prompt(id=row.prompt_id, messages=row.prompt, tags=row.tags), chosen, rejected)
    best, other = ("response1", "response2") if pair.a == chosen else ("response2", "response1")
    suggestions, responses = {}, {}
    if row.source == "ai":
        p = [row.p_chosen, 1 - row.p_chosen]
        suggestions = {"ranking": {"value": [best, other], "score": p, "agent": "rlaif"}}
    else:
        ranking = [{"value": best, "rank": 1}, {"value": other, "rank": 1 if row.p_chosen == 0.5 else 2}]
        responses = {"ranking": [{"value": ranking, "user_id": PEOPLE, "status": "submitted"}]}
    instruction, system = _instruction(row.prompt)
    return {
        "id": f"{row.pair_id}-{row.source}",
        "fields": {"instruction": instruction, "response1": pair.a, "response2": pair.b},
        "metadata": {"source": row.source, "split": row.split, "p_chosen": row.p_chosen} | system,
        "suggestions": suggestions,
        "responses": responses,
    }


def _instruction(prompt: Messages) -> tuple[str, dict[str, str]]:
    """The prompt as one text, and its system turn as metadata."""
    system = {"system": prompt[0].content} if prompt[0].role == "system" else {}
    turns = prompt[len(system) :]
    if len(turns) == 1:
        return turns[0].content, system
    speaker = {"user": "Human", "assistant": "Assistant"}
    return "".join(f"\n\n{speaker[turn.role]}: {turn.content}" for turn in turns), system


class ExportFormat(NamedTuple):
    """One target of an export."""

    row: Callable[[Preference], dict[str, Any]]
    trains: bool
    """Whether the file is trained on: then ties are left out, and held-out rows are in a file of their own."""


FORMATS: dict[str, ExportFormat] = {
    "trl": ExportFormat(trl_row, trains=True),
    "trl-implicit": ExportFormat(trl_implicit_row, trains=True),
    "openrlhf": ExportFormat(openrlhf_row, trains=True),
    "argilla": ExportFormat(argilla_row, trains=False),
}


class ExportCounts(NamedTuple):
    """How many preferences went where."""

    rows: int
    heldout: int = 0
    heldout_file: Path | None = None
    ties: int = 0
    """Left out."""


def export_preferences(run_or_file: Path, to: str, out: Path) -> ExportCounts:
    """Write the preferences of a run folder, or of a preferences.jsonl, as JSONL.

    Where the file is to be trained on, held-out rows go to `NAME.heldout.jsonl` beside it. ConfigError for an unknown
    format, DataError where there is nothing to write.
    """
    if to not in FORMATS:
        raise ConfigError(f"--to {to}: no such format{did_you_mean(to, FORMATS)}")
    source = Run(run_or_file).preferences if run_or_file.is_dir() else run_or_file
    if out.resolve() == source.resolve():
        raise ConfigError(f"{out}: is the source, which it would replace; name another file")
    rows = read_preferences(source)
    row_of, trains = FORMATS[to]
    kept = [row for row in rows if row.p_chosen > 0.5] if trains else rows
    train = [row for row in kept if row.split == "train"] if trains else kept
    ties = len(rows) - len(kept)
    if not train:
        raise DataError(f"{source}: no row to write ({len(rows)} rows, {ties} of them ties)")
    write_jsonl(out, map(row_of, train))
    heldout = [row for row in kept if row.split == "heldout"] if trains else []
    if not heldout:
        return ExportCounts(len(train), ties=ties)
    file = out.with_name(f"{out.stem}.heldout{out.suffix}")
    write_jsonl(file, map(row_of, heldout))
    return ExportCounts(len(train), len(heldout), file, ties)
