"""Which prompts are worth training on: rows by rules, near-duplicates, then what training may have of the rest.

Nothing is dropped but as a failure with its place and cause. Next: `rules.py`, `personal.py`, `duplicates.py`,
`coverage.py`; the caller is `rlaif/feedback/prompts.py`.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import NamedTuple

from rlaif.config.filters import Filters
from rlaif.feedback.screening.coverage import clusters_of, within_quotas
from rlaif.feedback.screening.duplicates import near_duplicates, overlaps
from rlaif.feedback.screening.personal import masked
from rlaif.feedback.screening.rules import objection
from rlaif.records import Failure, Messages, Prompt, content_id, plain


class Placed(NamedTuple):
    """A prompt, and the row that it comes from."""

    prompt: Prompt
    place: str


class Screening(NamedTuple):
    """What stays, in its order, and what became of the rest."""

    kept: tuple[Placed, ...]
    dropped: tuple[Failure, ...] = ()
    masked: tuple[tuple[str, int], ...] = ()
    """How many pieces of personal data of each kind were masked."""


@lru_cache(maxsize=4)
def screened(filters: Filters, rows: tuple[Placed, ...]) -> Screening:
    """The rows that every rule lets pass, personal data masked, the first of near-duplicates. A process that asks
    again is answered from memory."""
    kept: list[Placed] = []
    dropped: list[Failure] = []
    mask: Counter[str] = Counter()
    seen: dict[str, str] = {}
    section = filters.personal
    for row in rows:
        messages, personal = masked(row.prompt.messages, section.kinds if section else ())
        text = content_id(plain(messages))
        if found := objection(filters, row.prompt.messages):
            dropped.append(_failure(row, *found))
        elif personal and section and section.action == "drop":
            told = ", ".join(f"{kind} {count}" for kind, count in sorted(personal.items()))
            dropped.append(_failure(row, "personal data", told))
        elif text in seen:
            dropped.append(_failure(row, "the same once masked", f"as {seen[text]}"))
        else:
            seen[text] = row.place
            mask += personal
            kept.append(row._replace(prompt=row.prompt.model_copy(update={"messages": messages})))
    if filters.duplicates is not None:
        again = dict(near_duplicates([row.prompt.messages for row in kept], filters.duplicates.threshold))
        for place, (earlier, share) in again.items():
            dropped.append(_failure(kept[place], "near-duplicate", f"as {kept[earlier].place}, Jaccard {share:.2f}"))
        kept = [row for place, row in enumerate(kept) if place not in again]
    return Screening(tuple(kept), tuple(dropped), tuple(sorted(mask.items())))


@lru_cache(maxsize=4)
def for_training(filters: Filters, rows: tuple[Placed, ...], heldout: tuple[Messages, ...]) -> Screening:
    """Of rows that are not held out, in the order in which `prompts.limit` takes them, those that overlap with nothing
    held out, here or in other sets, and are within the quotas."""
    dropped: list[Failure] = []
    if filters.decontaminate is not None:
        shared = overlaps([row.prompt.messages for row in rows], heldout, filters.decontaminate)
        dropped += [_failure(rows[place], "overlaps with a held-out prompt", why) for place, why in shared.items()]
        rows = tuple(row for place, row in enumerate(rows) if place not in shared)
    if filters.coverage is not None:
        section, by_id = filters.coverage, {row.prompt.id: row for row in rows}
        clusters = clusters_of([row.prompt.messages for row in rows], section.clusters, section.seed)
        taken, refused = within_quotas([row.prompt for row in rows], clusters, section)
        dropped += [_failure(by_id[name], "beyond a quota", why) for name, why in refused.items()]
        rows = tuple(by_id[name] for name in taken)
    return Screening(rows, tuple(dropped))


def _failure(row: Placed, reason: str, detail: str) -> Failure:
    return Failure(stage="prompts", id=row.place, reason=reason, detail=detail)
