"""Labels to teach a judge by: what people said, in any form that an audit reads, or what another judge said.

Rows of our own (judgments.jsonl, preferences.jsonl) are read whole, whoever labelled: soft labels, weights, and what
was said by principle. Nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from rlaif.audits.gold import GoldFile, place_of, sha256_of, source_names
from rlaif.constitution import Constitution
from rlaif.errors import DataError
from rlaif.feedback.human import source_of
from rlaif.feedback.verdict import log_odds, sigma
from rlaif.formats import Annotations, AnyForm, HumanFile, HumanHub, LabelSource, human_rows, read_human_rows
from rlaif.formats.rows import SourceRow, Unusable
from rlaif.formats.sheet import HumanData, Sheet
from rlaif.jsonl import dumps, first_problem
from rlaif.records import Failure, Judgment, Pair, Preference, Prompt, content_id

Row = TypeVar("Row", bound=BaseModel)
JUDGMENT = {"pair", "p_a", "source"}
PREFERENCE = {"pair_id", "p_chosen", "source", "weight"}


class PairLabel(NamedTuple):
    """What is said of one pair, a and b assigned by hash."""

    pair: Pair
    p_a: float
    weight: float = 1.0
    by_principle: tuple[tuple[str, float], ...] = ()
    """p(a) of each principle of which something is said, as the person or the judge gave it."""


class PairLabels(NamedTuple):
    """One label a pair, in the order of their ids: files and rows in another order teach the same."""

    labels: tuple[PairLabel, ...]
    failures: tuple[Failure, ...]
    """Rows without a usable label; `id` is file:line."""
    files: tuple[GoldFile, ...]
    repeated: int
    """Rows about a pair that an earlier row had labelled."""
    contradicted: int
    """Pairs that were labelled both ways: their p is the mean."""
    other_constitution: int
    """Judgments made by another constitution: what they say by principle is not used."""


def read_labels(given: Sequence[Path | str], constitution: Constitution) -> PairLabels:
    """All labels of these files or sources. A pair labelled several times has the mean p, and the mean weight.

    DataError for a source without a single usable pair.
    """
    found: dict[str, list[PairLabel]] = {}
    failures: list[Failure] = []
    files = []
    repeated = others = 0
    sources = [_with_rows(source_of(one)) for one in given]
    for source, name in zip(sources, source_names(sources), strict=True):
        said, failed, rows, other = _read(source, constitution)
        if not said:
            first = f"; first: {failed[0].id}: {failed[0].reason}" if failed else ""
            raise DataError(f"{place_of(source)}: not one usable pair with a label in {rows} rows{first}")
        pairs = len({label.pair.id for label in said} - found.keys())
        for label in said:
            repeated += label.pair.id in found
            found.setdefault(label.pair.id, []).append(label)
        failures += failed
        others += other
        files.append(GoldFile(name, sha256_of(source, map(repr, said)), rows, len(failed), pairs))
    return PairLabels(
        labels=tuple(_merged(found[pair_id]) for pair_id in sorted(found)),
        failures=tuple(failures),
        files=tuple(files),
        repeated=repeated,
        contradicted=sum(min(ps) < 0.5 < max(ps) for ps in ([label.p_a for label in some] for some in found.values())),
        other_constitution=others,
    )


class _Read(NamedTuple):
    labels: list[PairLabel]
    failures: list[Failure]
    rows: int
    other_constitution: int


def _with_rows(source: LabelSource) -> HumanFile | HumanHub | AnyForm:
    """The answers given on a page are judgments in a file."""
    return AnyForm(path=str(place_of(source)), tags=source.tags) if isinstance(source, Annotations) else source


def _read(source: HumanFile | HumanHub | AnyForm, constitution: Constitution) -> _Read:
    labels: list[PairLabel] = []
    failures: list[Failure] = []
    others: list[SourceRow] = []
    rows = other = 0
    for row in human_rows(source):
        rows += 1
        try:
            if row.value.keys() >= JUDGMENT:
                judgment = _record(row, Judgment)
                labels.append(_of_judgment(judgment, constitution))
                other += _is_of_another(judgment, constitution)
            elif row.value.keys() >= PREFERENCE:
                labels.append(_of_preference(_record(row, Preference)))
            else:
                others.append(row)
        except Unusable as bad:
            failures.append(Failure(stage="gold", id=row.place, reason=bad.reason, detail=bad.detail))
    said = HumanData.empty()
    read_human_rows(source, others, Sheet(source, None, said, "gold"))
    labels += [_of_judgment(judgment, constitution) for judgment in said.judgments]
    return _Read(labels, [*failures, *said.failures], rows, other)


def _record(row: SourceRow, kind: type[Row]) -> Row:
    try:
        return kind.model_validate_json(dumps(row.value))
    except ValidationError as error:
        raise DataError(f"{row.place}: {first_problem(error)}") from None


def _of_judgment(judgment: Judgment, constitution: Constitution) -> PairLabel:
    pair, turned = _pair(judgment.pair)
    own = {} if _is_of_another(judgment, constitution) else _by_principle(judgment)
    by_principle = tuple((principle, 1 - p_a if turned else p_a) for principle, p_a in own.items())
    return PairLabel(pair, 1 - judgment.p_a if turned else judgment.p_a, 1.0, by_principle)


def _by_principle(judgment: Judgment) -> dict[str, float]:
    """p(a) of each principle that was judged; of a panel that takes the mean, the mean of its members' log-odds."""
    if judgment.principles or judgment.provenance is None or judgment.provenance.judge != "panel(mean)":
        return {said.principle: said.p_a for said in judgment.principles if not said.checked}
    found: dict[str, list[float]] = {}
    for said in (said for member in judgment.members for said in member.principles if not said.checked):
        found.setdefault(said.principle, []).append(log_odds(said.p_a))
    return {principle: sigma(fmean(values)) for principle, values in found.items()}


def _is_of_another(judgment: Judgment, constitution: Constitution) -> bool:
    return judgment.provenance is not None and judgment.provenance.constitution_hash != constitution.hash


def _of_preference(row: Preference) -> PairLabel:
    texts = [side[-1].content for side in (row.chosen, row.rejected)]
    given = Pair(id=row.pair_id, prompt_id=row.prompt_id, prompt=row.prompt, tags=row.tags, a=texts[0], b=texts[1])
    pair, turned = _pair(given)
    return PairLabel(pair, 1 - row.p_chosen if turned else row.p_chosen, row.weight)


def _pair(given: Pair) -> tuple[Pair, bool]:
    """The pair as its content alone has it, and whether a and b were exchanged for that."""
    if given.a == given.b:
        raise Unusable("the two responses are the same text", given.a)
    try:
        prompt = Prompt(id=given.prompt_id, messages=given.prompt, tags=given.tags)
    except ValidationError as error:
        raise Unusable("the prompt is none", first_problem(error)) from None
    pair = Pair.of(prompt, given.a, given.b)
    turned = content_id(pair.id, pair.a) > content_id(pair.id, pair.b)
    return (pair.swapped() if turned else pair), turned


def _merged(labels: Sequence[PairLabel]) -> PairLabel:
    """One label of all those of a pair: the mean p, over all and by principle, the mean weight and every tag."""
    pair = labels[0].pair
    tags = tuple(dict.fromkeys(tag for label in labels for tag in label.pair.tags))
    said: dict[str, list[float]] = {}
    for principle, p_a in (each for label in labels for each in label.by_principle):
        said.setdefault(principle, []).append(p_a)
    return PairLabel(
        pair=pair.model_copy(update={"tags": tags}),
        p_a=fmean(label.p_a for label in labels),
        weight=fmean(label.weight for label in labels),
        by_principle=tuple((principle, fmean(ps)) for principle, ps in sorted(said.items())),
    )
