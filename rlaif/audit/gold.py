"""Human labels to measure a judge by, from any of the shapes in which they come.

    {chosen, rejected, ...}          HH-RLHF transcripts, TRL rows, our own preferences.jsonl
    {text_correct, text_incorrect}   the HHH evaluation of the Constitutional AI paper (arXiv 2212.08073)
    {pair, source, p_a, ...}         our own judgments.jsonl, as far as humans made it

Each row says by its keys which it is. Nothing is judged here. Next: `audit.py`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from pydantic import ValidationError

from rlaif.config.sections import FileSource
from rlaif.errors import DataError
from rlaif.feedback.human.comparisons import judgment_of
from rlaif.feedback.pairs import oriented
from rlaif.feedback.sources import SourceRow, Unusable, read_rows, tags_of
from rlaif.jsonl import dumps, first_problem
from rlaif.records import Failure, Judgment, Prompt, content_id

HHH_KEYS = ("text_correct", "text_incorrect")
CATEGORY = "category"
"""A column whose text becomes a tag."""


class GoldFile(NamedTuple):
    """One file, as the audit records it. `pairs` counts the pairs that are used, `rows` all lines."""

    name: str
    sha256: str
    rows: int
    unusable: int
    pairs: int


class Gold(NamedTuple):
    """One human judgment a pair, in the order in which the pairs first appear."""

    judgments: tuple[Judgment, ...]
    failures: tuple[Failure, ...]
    """Rows that hold no pair of human preference; `id` is file:line."""
    files: tuple[GoldFile, ...]
    file_of: dict[str, str]
    """By pair id: the name of the first file that has the pair."""
    repeated: int
    """Rows about a pair that an earlier row had labelled."""
    contradicted: int
    """Pairs that were labelled both ways: their p is the mean."""

    @property
    def left_out(self) -> int:
        """Usable pairs that the limit left out."""
        return len(self.file_of) - len(self.judgments)


def read_gold(paths: Sequence[Path], limit: int | None = None) -> Gold:
    """All human labels of these files (.jsonl or .jsonl.gz), or the `limit` pairs with the smallest hashes.

    A pair labelled several times has the mean p. No system turn is added: people saw these conversations as they are.
    A row whose conversation is no pair, and one labelled by a judge, is a failure with its place; a row of no known
    shape stops with a DataError, as does a file without a single usable pair.
    """
    if not paths:
        raise DataError("gold: name at least one file of human labels")
    labels: dict[str, list[Judgment]] = {}
    failures: list[Failure] = []
    file_of: dict[str, str] = {}
    counts: list[tuple[Path, str, int, int]] = []
    repeated = 0
    for given, name in zip(paths, _names(paths), strict=True):
        path = Path(os.path.expanduser(given))
        unusable: list[Failure] = []
        rows = list(read_rows(FileSource(path=str(path))))
        for row in rows:
            try:
                judgment = _judgment(row)
            except Unusable as bad:
                unusable.append(Failure(stage="gold", id=row.place, reason=bad.reason, detail=bad.detail))
                continue
            repeated += judgment.pair.id in labels
            labels.setdefault(judgment.pair.id, []).append(judgment)
            file_of.setdefault(judgment.pair.id, name)
        if len(unusable) == len(rows):
            first = f"; first: {unusable[0].id}: {unusable[0].reason}" if unusable else ""
            raise DataError(f"{path}: not one usable pair with a human label in {len(rows)} rows{first}")
        failures += unusable
        counts.append((path, name, len(rows), len(unusable)))
    chosen = _limited(list(labels), limit)
    used = [file_of[pair_id] for pair_id in chosen]
    return Gold(
        judgments=tuple(_merged(labels[pair_id]) for pair_id in chosen),
        failures=tuple(failures),
        files=tuple(
            GoldFile(name, hashlib.sha256(path.read_bytes()).hexdigest(), rows, unusable, used.count(name))
            for path, name, rows, unusable in counts
        ),
        file_of=file_of,
        repeated=repeated,
        contradicted=sum(min(ps) < 0.5 < max(ps) for ps in ([j.p_a for j in some] for some in labels.values())),
    )


def _names(paths: Sequence[Path]) -> list[str]:
    """The files' names, with the folder where two have the same: a path tells where, a name what."""
    names = [path.name for path in paths]
    return [f"{p.parent.name}/{p.name}" if names.count(p.name) > 1 else p.name for p in paths]


def _limited(pair_ids: list[str], limit: int | None) -> list[str]:
    if limit is None or limit >= len(pair_ids):
        return pair_ids
    kept = set(sorted(pair_ids, key=lambda pair_id: content_id("gold", pair_id))[:limit])
    return [pair_id for pair_id in pair_ids if pair_id in kept]


def _judgment(row: SourceRow) -> Judgment:
    """The row's human judgment, its pair oriented by hash. Unusable or DataError as `read_gold` says."""
    value = row.value
    if "chosen" in value or "rejected" in value:
        row.require("chosen", "rejected")
        return judgment_of(row, _tags(row))
    if any(key in value for key in HHH_KEYS):
        row.require(*HHH_KEYS)
        for key in HHH_KEYS:
            if not isinstance(value[key], str):
                raise DataError(f"{row.place}: {key}: must be a transcript (got {value[key]!r})")
        pair = {"chosen": value["text_correct"], "rejected": value["text_incorrect"]}
        return judgment_of(SourceRow(row.place, pair), _tags(row))
    if "pair" in value and "p_a" in value:
        return _own(row)
    raise DataError(
        f"{row.place}: no human label of a pair (keys: {', '.join(sorted(value)) or 'none'}); a row has chosen and "
        "rejected, or text_correct and text_incorrect, or a judgment's pair and p_a"
    )


def _own(row: SourceRow) -> Judgment:
    try:
        judgment = Judgment.model_validate_json(dumps(row.value))
        prompt = Prompt.of(judgment.pair.prompt, judgment.pair.tags)
    except ValidationError as error:
        raise DataError(f"{row.place}: {first_problem(error)}") from None
    if judgment.source != "human":
        raise Unusable("labelled by a judge, not by a human")
    if judgment.pair.a == judgment.pair.b:
        raise Unusable("a and b are the same text", judgment.pair.a)
    pair = oriented(prompt, judgment.pair.a, judgment.pair.b)
    return Judgment(pair=pair, source="human", annotator=judgment.annotator, p_a=judgment.p_of(pair.a))


def _tags(row: SourceRow) -> tuple[str, ...]:
    tags = tags_of(row, FileSource(path=row.place))
    category = row.value.get(CATEGORY)
    return tuple(dict.fromkeys([*tags, category])) if isinstance(category, str) and category else tags


def _merged(labels: Sequence[Judgment]) -> Judgment:
    """One judgment of all labels of a pair (all oriented alike): the mean p, and every tag."""
    tags = tuple(dict.fromkeys(tag for label in labels for tag in label.pair.tags))
    return Judgment(
        pair=labels[0].pair.model_copy(update={"tags": tags}),
        source="human",
        annotator=" ".join(dict.fromkeys(label.annotator for label in labels)),
        p_a=fmean(label.p_a for label in labels),
    )
