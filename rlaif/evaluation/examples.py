"""Responses before and after training, side by side, in the order of their files: picking would mislead.

What `rlaif explain` found of them is shown as colour.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rlaif.evaluation.artefacts import Artefacts
from rlaif.pages import kit
from rlaif.pages.kit import Part
from rlaif.records import grouped
from rlaif.stats import at
from rlaif.words import number

EXAMPLES = 12


def examples(run: Artefacts) -> list[Part]:
    """One response per prompt: of the first held-out prompts, and of those of each set."""
    count = run.setting("evaluate.examples", int) or EXAMPLES
    rows = firsts(run.samples, count)
    moved = {(one["prompt_id"], one["index"], one["side"]): one for one in run.explained}
    of = run.explained[0]["of"].replace("reward_model", "reward model") if run.explained else ""

    def shown(row: Mapping[str, Any]) -> Part:
        return kit.example(row["prompt"], *(_side(row, when, moved) for when in ("before", "after")))

    sets = grouped(((name, row) for row in run.slice_samples for name in row.get("sets", ())), lambda one: one[0])
    return kit.section(
        "Before and after, side by side",
        f"The first {len(rows)} of {at(run.evaluation, 'heldout.prompts') or 0} held-out prompts as they lie in the "
        "file, not picked. Scores, where there are any, are the reward model's."
        + (f" Colour says what moved the {of}: blue up, orange down, the strongest of each text full." if of else ""),
        *(shown(row) for row in rows),
        *(
            kit.details(f"The set {name}", *map(shown, firsts((row for _, row in its), count)))
            for name, its in sets.items()
        ),
    )


def firsts(rows: Iterable[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """Of each prompt the first row, of so many prompts."""
    return [own[0] for own in grouped(rows, lambda row: row["prompt_id"]).values()][:count]


def _side(row: Mapping[str, Any], when: str, explained: Mapping[Any, Mapping[str, Any]]) -> kit.Side:
    found = explained.get((row["prompt_id"], row["index"], when))
    pieces = found["pieces"] if found and found["text"] == row[when] else ()  # of the text as it is now
    most = max((abs(value) for _, value in pieces if value), default=1.0)
    score, kl = row.get(f"score_{when}"), row.get("kl") if when == "after" else None
    facts = [f"{row[f'{when}_tokens']} tokens"]
    facts += [f"score {number(score)}"] if score is not None else []
    facts += [f"KL {number(kl)}"] if kl is not None else []
    passes = row.get(f"{when}_passes", {}).items()
    chips = [(f"\u2713 {name}", "up") if passed else (f"\u2717 {name}", "down") for name, passed in passes]
    shares = [(text, None if value is None else value / most) for text, value in pieces]
    return kit.Side(when, when.capitalize(), row[when], facts, chips, not row[f"{when}_finished"], shares)
