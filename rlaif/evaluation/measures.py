"""How much each measure of the responses changed: paired, with intervals over prompts, and at equal length.

Training often makes answers shorter, and many measures move with length alone. So each difference is also taken at
equal length: of every pair the longer text is cut after as many words as the shorter has, and both are measured again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlaif.evaluation.instruments import Instrument, cut_to_equal_length
from rlaif.evaluation.winrate import Match
from rlaif.stats import Bootstrap, Bounds, change, clustered_mean_difference

BOUNDS: dict[str, Bounds | None] = {"share": (0.0, 1.0), "number": None}


def measure_changes(
    instruments: Sequence[Instrument], matched: Sequence[Match], bootstrap: Bootstrap
) -> list[dict[str, Any]]:
    """One entry per instrument, in order: the change over the pairs in which both responses have a value.

    `without_value` counts responses that have none. Without any pair the figures are None. `equal_length` is the
    difference at equal length; None for the number of words.
    """
    return [_entry(instrument, matched, bootstrap) for instrument in instruments]


def _entry(instrument: Instrument, matched: Sequence[Match], bootstrap: Bootstrap) -> dict[str, Any]:
    texts = [(m.before.text, m.after.text) for m in matched]
    pairs = [(instrument.value(one), instrument.value(two)) for one, two in texts]
    before, after, clusters = _known(pairs, matched)
    entry: dict[str, Any] = {
        "name": instrument.name,
        "kind": instrument.kind,
        "unit": instrument.unit,
        "better": instrument.better,
        "seen": instrument.seen,
        "without_value": {"before": sum(x is None for x, _ in pairs), "after": sum(y is None for _, y in pairs)},
    }
    bounds = BOUNDS[instrument.unit]
    if not before:
        return entry | {"before": None, "after": None, "difference": None, "equal_length": None}
    entry |= change(before, after, clusters, bootstrap, bounds)
    return entry | {"equal_length": _equal_length(instrument, texts, matched, bootstrap)}


def _equal_length(
    instrument: Instrument, texts: Sequence[tuple[str, str]], matched: Sequence[Match], bootstrap: Bootstrap
) -> dict[str, Any] | None:
    if instrument.kind == "words":
        return None
    cut = [cut_to_equal_length(one, two) for one, two in texts]
    before, after, clusters = _known([(instrument.value(one), instrument.value(two)) for one, two in cut], matched)
    if not before:
        return None
    reach = None if BOUNDS[instrument.unit] is None else (-1.0, 1.0)
    return clustered_mean_difference(before, after, clusters, bootstrap, reach).model_dump()


def _known(
    pairs: Sequence[tuple[float | None, float | None]], matched: Sequence[Match]
) -> tuple[list[float], list[float], list[str]]:
    """Values before and after and the prompt, of the pairs in which both have one."""
    both = [(x, y, m.after.prompt_id) for (x, y), m in zip(pairs, matched, strict=True) if None not in (x, y)]
    return [x for x, _, _ in both if x is not None], [y for _, y, _ in both if y is not None], [p for _, _, p in both]


def values(instruments: Sequence[Instrument], text: str) -> dict[str, float | None]:
    """What each instrument says of the text, by name."""
    return {instrument.name: instrument.value(text) for instrument in instruments}
