"""Responses to pairs before judging, and weighted judgments to preference rows after it.

Which response is called a, which pairs are taken and on which side of the split a prompt falls are all
decided by content hashes: the order of the rows never matters. Next: `judge/` and `human.py`, which stand
between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import combinations, islice
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from rlaif.config.feedback import PreferencesSection
from rlaif.constitution import Constitution, Principle
from rlaif.errors import DataError
from rlaif.jsonl import read_jsonl, read_objects
from rlaif.patterns import Undecided
from rlaif.records import (
    TIE_ROUNDING,
    Judgment,
    Message,
    Origin,
    Pair,
    Preference,
    Prompt,
    Response,
    Source,
    content_id,
    grouped,
    oriented,
)


def choice(p: float, even: float = 0.5) -> float:
    """Which side a probability is on: 1 above even, 0 below, 0.5 at it (to within TIE_ROUNDING)."""
    return 0.5 if abs(p - even) <= TIE_ROUNDING else float(p > even)


Origins = Collection[Origin]
"""Everything that one text was written under; of a plain sample nothing."""


class WeightedJudgment(NamedTuple):
    """A judgment and the weight of its preference row in the reward model's loss."""

    judgment: Judgment
    weight: float


def any_pair(_pair: Pair) -> float:
    """All alike."""
    return 0.0


def apart_by_checks(constitution: Constitution) -> Callable[[Pair], float]:
    """How far apart the checks that apply to a pair's tags put its responses: the size of their summed weights."""

    def apart(pair: Pair) -> float:
        checks = [p for p in constitution.for_tags(pair.tags) if p.coded]
        return abs(sum(p.weight * _lead(p, pair) for p in checks))

    return apart


def _lead(principle: Principle, pair: Pair) -> int:
    """1 where only a passes the check, -1 where only b does; 0 also where code cannot tell, which labelling will
    say."""
    try:
        return principle.passes(pair.a, pair.prompt) - principle.passes(pair.b, pair.prompt)
    except Undecided:
        return 0


def make_pairs(
    prompts: Sequence[Prompt],
    responses: Iterable[Response],
    per_prompt: int | None,
    seed: int,
    worth: Callable[[Pair], float] = any_pair,
) -> list[Pair]:
    """All pairs of different responses to each prompt, or the `per_prompt` that are worth most; among equals those
    with the smallest seeded hashes.

    Equal texts count once, so no pair compares a text with itself. Responses that were written under a principle's two
    instructions make pairs across the two only (see `may_pair`). In prompt order, then by response index. A
    response to a prompt that is not among `prompts` is a DataError.
    """
    known = {prompt.id: prompt for prompt in prompts}
    in_order = sorted(responses, key=lambda response: response.index)
    for response in in_order:
        if response.prompt_id not in known:
            raise DataError(f"response {response.id} belongs to prompt {response.prompt_id}, which is not in this run")
    texts = origins_by_text(in_order)
    pairs: list[Pair] = []
    for prompt in known.values():
        found = [
            oriented(prompt, one, other, seed)
            for (one, its), (other, others) in combinations(texts.get(prompt.id, {}).items(), 2)
            if may_pair(its, others)
        ]
        best_first = sorted(found, key=lambda pair: (-worth(pair), content_id("pairs", seed, pair.id)))
        taken = {pair.id for pair in best_first[:per_prompt]}
        pairs.extend(pair for pair in found if pair.id in taken)
    return pairs


def origins_by_text(responses: Iterable[Response]) -> dict[str, dict[str, set[Origin]]]:
    """By prompt: its different texts in the order in which they come, and all that each was written under."""
    found: dict[str, dict[str, set[Origin]]] = {}
    for response in responses:
        under = found.setdefault(response.prompt_id, {}).setdefault(response.text, set())
        under |= {response.origin} if response.origin else set()
    return found


def followed(one: Origins, other: Origins) -> str | None:
    """The principle (of several the first by name) for which the first text was written, and against which the second;
    None where there is none, or where the two stand the other way round too."""
    forth, back = _principles(one, other), _principles(other, one)
    return min(forth) if forth and not back else None


def may_pair(one: Origins, other: Origins) -> bool:
    """Plain samples with each other; else only across the two sides of a principle."""
    plain = not one and not other
    return plain or followed(one, other) is not None or followed(other, one) is not None


def _principles(one: Origins, other: Origins) -> set[str]:
    against = {origin.principle for origin in other if origin.side == "against"}
    return {origin.principle for origin in one if origin.side == "for"} & against


class PreferenceResult(NamedTuple):
    """Rows, and how they became that many."""

    rows: tuple[Preference, ...]
    counts: dict[str, int]
    """judgments = repeats + ties_dropped + rows; ties_kept, train and heldout are parts of rows."""


def to_preferences(weighted: Sequence[WeightedJudgment], section: PreferencesSection) -> PreferenceResult:
    """One row for each pair and source, in the order in which these first come: the likelier response is chosen, its
    probability is the soft label.

    Repeated judgments of one pair by one source are averaged, so annotators who contradict each other make a
    tie. Ties are dropped, or kept with their own p; where p is exactly even, a hash says which side is
    written as chosen. A prompt is held out when the hash of its id, as a fraction, is below `heldout_share`;
    only if that leaves a side empty does its nearest prompt change sides (a single prompt trains).
    """
    groups = grouped(weighted, lambda item: (item.judgment.pair.id, item.judgment.source))
    every = [_preference(group) for group in groups.values()]
    is_tie = [row.is_tie(section.tie_margin) for row in every]
    kept = [row for row, tie in zip(every, is_tie, strict=True) if not tie or section.ties == "keep"]
    rows = with_heldout(kept, heldout_prompts({row.prompt_id for row in kept}, section.heldout_share))
    counts = {
        "judgments": len(weighted),
        "repeats": len(weighted) - len(every),
        "ties_dropped": len(every) - len(kept),
        "ties_kept": sum(is_tie) if section.ties == "keep" else 0,
    }
    return PreferenceResult(rows, counts | _by_split(rows))


def with_heldout(rows: Iterable[Preference], prompts: Collection[str]) -> tuple[Preference, ...]:
    """The rows, those of these prompts held out."""
    return tuple(row.model_copy(update={"split": "heldout"}) if row.prompt_id in prompts else row for row in rows)


def _by_split(rows: Sequence[Preference]) -> dict[str, int]:
    heldout = sum(row.split == "heldout" for row in rows)
    return {"rows": len(rows), "train": len(rows) - heldout, "heldout": heldout}


def read_preferences(path: Path) -> list[Preference]:
    """The rows of a file. DataError, naming the line, for what no such file has: one pair twice from one source, and a
    response that is preferred to itself."""
    rows = read_jsonl(path, Preference)
    seen: set[tuple[str, Source]] = set()
    for index, row in enumerate(rows):
        twice = (row.pair_id, row.source) in seen
        if twice or row.chosen == row.rejected:
            line = next(islice(read_objects(path), index, None))[0]
            problem = f"pair {row.pair_id} ({row.source}) is there twice" if twice else "chosen and rejected are equal"
            raise DataError(f"{path}:{line}: {problem}; delete the row")
        seen.add((row.pair_id, row.source))
    return rows


def join(rows: Sequence[Preference], earlier: Sequence[Preference], never: Collection[str]) -> PreferenceResult:
    """This round's rows and those of earlier rounds (`preferences.include`), the newer label first where a pair has one
    from the same source in each.

    `never`: ids of prompts that no training may see. A prompt that is held out in either set is held out in both, so
    no reward model is measured on what an earlier one learned from. DataError where that leaves nothing to train on.
    """
    taken = {(row.pair_id, row.source) for row in rows}
    allowed = [row for row in earlier if row.prompt_id not in never]
    fresh = list({(r.pair_id, r.source): r for r in reversed(allowed) if (r.pair_id, r.source) not in taken}.values())
    every = [*rows, *reversed(fresh)]
    joined = with_heldout(every, {row.prompt_id for row in every if row.split == "heldout"})
    if not any(row.split == "train" for row in joined):
        raise DataError("preferences.include: with these files every prompt is held out; nothing is left to train on")
    counts = {
        "included": len(fresh),
        "included_repeats": len(allowed) - len(fresh),
        "included_on_evaluation_prompts": len(earlier) - len(allowed),
    }
    return PreferenceResult(joined, counts | _by_split(joined))


def _preference(group: Sequence[WeightedJudgment]) -> Preference:
    """The mean of repeated judgments, whichever way round each of them holds the pair; of the training split."""
    judgment = group[0].judgment
    pair = judgment.pair
    p_a = fmean(other.judgment.p_of(pair.a) for other in group)
    if abs(p_a - 0.5) <= TIE_ROUNDING:
        p_a = 0.5
        a_first = content_id("tie", pair.prompt_id, pair.a) < content_id("tie", pair.prompt_id, pair.b)
    else:
        a_first = p_a > 0.5
    chosen, rejected = (pair.a, pair.b) if a_first else (pair.b, pair.a)
    return Preference(
        prompt=pair.prompt,
        chosen=(Message(role="assistant", content=chosen),),
        rejected=(Message(role="assistant", content=rejected),),
        p_chosen=max(p_a, 1 - p_a),
        source=judgment.source,
        weight=fmean(item.weight for item in group),
        split="train",
        prompt_id=pair.prompt_id,
        pair_id=pair.id,
        tags=pair.tags,
    )


def heldout_prompts(prompt_ids: set[str], share: float, salt: str = "split") -> set[str]:
    """The prompts whose hash, as a fraction, is below the share; where that leaves a side empty its nearest prompt
    changes sides. None of a single one."""
    fraction = {prompt_id: int(content_id(salt, prompt_id), 16) / 16**16 for prompt_id in prompt_ids}
    ranked = sorted(prompt_ids, key=lambda prompt_id: (fraction[prompt_id], prompt_id))
    heldout = {prompt_id for prompt_id in ranked if fraction[prompt_id] < share}
    if len(ranked) < 2:
        return set()
    if not heldout:
        return {ranked[0]}
    return heldout if len(heldout) < len(ranked) else set(ranked[:-1])
