"""What two texts say of each other by their origin: one was written under a principle's `for`, the other under its
`against`. `contrast_sample.py` writes them; `judge/origin.py` makes labels of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import product
from typing import NamedTuple

from rlaif.records import Origin, Pair, Response

Origins = Collection[Origin]
"""Everything that one text was written under; of a plain sample nothing."""


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


class Crossing(NamedTuple):
    """What the origins of a pair's two texts say."""

    principle: str
    text: str
    """The one that was written under the principle's `for`."""
    model: str
    """Which wrote it."""


def crossings(pairs: Iterable[Pair], responses: Iterable[Response]) -> dict[str, Crossing]:
    """What origins say of each of the pairs, by its id; nothing of pairs of plain samples."""
    origins, models = _by_text(responses)
    found = {}
    for pair in pairs:
        known = origins.get(pair.prompt_id, {})
        for text, other in ((pair.a, pair.b), (pair.b, pair.a)):
            principle = followed(known.get(text, ()), known.get(other, ()))
            if principle is not None:
                found[pair.id] = Crossing(principle, text, models[pair.prompt_id, text])
    return found


def unpaired(responses: Sequence[Response]) -> dict[str, int]:
    """Of the couples of a `for` and an `against` response to a prompt those that make no pair, by cause.

    equal_texts  both are the same text
    both_ways    other responses have the same two texts, with the sides exchanged
    """
    origins, _ = _by_text(responses)
    counts = {"equal_texts": 0, "both_ways": 0}
    sides: dict[tuple[str, str], dict[str, list[str]]] = {}
    for r in responses:
        if r.origin is not None:
            of_principle = sides.setdefault((r.prompt_id, r.origin.principle), {"for": [], "against": []})
            of_principle[r.origin.side].append(r.text)
    for (prompt_id, _), texts in sides.items():
        known = origins[prompt_id]
        for one, other in product(texts["for"], texts["against"]):
            counts["equal_texts"] += one == other
            counts["both_ways"] += one != other and not may_pair(known[one], known[other])
    return {cause: count for cause, count in counts.items() if count}


def _by_text(responses: Iterable[Response]) -> tuple[dict[str, dict[str, set[Origin]]], dict[tuple[str, str], str]]:
    """The origins of each prompt's texts, and who wrote them."""
    origins: dict[str, dict[str, set[Origin]]] = {}
    models: dict[tuple[str, str], str] = {}
    for r in responses:
        under = origins.setdefault(r.prompt_id, {}).setdefault(r.text, set())
        models.setdefault((r.prompt_id, r.text), r.model)
        if r.origin is not None:
            under.add(r.origin)
    return origins, models
