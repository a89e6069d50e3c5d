"""Labels to teach a judge by: what people said, in any form that an audit reads, or what another judge said; and which
of them it learns from, which say when to stop, and which audit it. No prompt is in two of these parts.

Rows of our own (judgments.jsonl, preferences.jsonl) are read whole, whoever labelled: soft labels, weights, and what
was said by principle. Nothing is judged here. A prompt is known by what the user and the assistant said in it: with
another system turn, or other blanks, it is the same one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from pydantic import ValidationError

from rlaif.audits.gold import GoldFile, place_of, sha256_of, source_names
from rlaif.config.training import JudgeTrainSection
from rlaif.constitution import Constitution
from rlaif.errors import DataError
from rlaif.feedback.human import source_of
from rlaif.feedback.pairs import choice, heldout_prompts
from rlaif.feedback.verdict import log_odds, sigma
from rlaif.formats import Annotations, AnyForm, HumanFile, HumanHub, LabelSource, human_rows, read_human_rows
from rlaif.formats.rows import SourceRow, Unusable
from rlaif.formats.sheet import HumanData, Sheet
from rlaif.jsonl import first_problem
from rlaif.records import Failure, Judgment, Messages, Pair, Preference, content_id, prompt_of

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
    """One label per pair, in the order of their ids: files and rows in another order teach the same."""

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
                judgment = row.record(Judgment)
                labels.append(_of_judgment(judgment, constitution))
                other += _is_of_another(judgment, constitution)
            elif row.value.keys() >= PREFERENCE:
                labels.append(_of_preference(row.record(Preference)))
            else:
                others.append(row)
        except Unusable as bad:
            failures.append(Failure(stage="gold", id=row.place, reason=bad.reason, detail=bad.detail))
    said = HumanData.empty()
    read_human_rows(source, others, Sheet(source, None, said, "gold"))
    labels += [_of_judgment(judgment, constitution) for judgment in said.judgments]
    return _Read(labels, [*failures, *said.failures], rows, other)


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
        prompt = prompt_of(given)
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


# ---------------------------------------------------------------------------------------------------------- parts


class Split(NamedTuple):
    """Each in the order of the labels."""

    train: tuple[PairLabel, ...]
    heldout: tuple[PairLabel, ...]
    audit: tuple[PairLabel, ...]


def prompt_key(prompt: Messages) -> str:
    """What a judge's record and an audit know the prompt by."""
    return content_id([(m.role, " ".join(m.content.split())) for m in prompt if m.role != "system"])


def key_of(label: PairLabel) -> str:
    """Of the label's prompt."""
    return prompt_key(label.pair.prompt)


def keys_of(labels: Collection[PairLabel]) -> set[str]:
    """Of all of them."""
    return {key_of(label) for label in labels}


def decided(labels: Collection[PairLabel]) -> list[PairLabel]:
    """Those that have a preference."""
    return [label for label in labels if choice(label.p_a) != 0.5]


def split(labels: Sequence[PairLabel], audit: Sequence[PairLabel] | None, section: JudgeTrainSection) -> Split:
    """The labels by prompt, as hashes have it; `audit` takes the place of a share of them.

    DataError for audit labels on prompts of the others, and where a part that is asked for stays empty.
    """
    keys = keys_of(labels)
    if audit is not None:
        _refuse_shared(labels, audit)
        audited: set[str] = set()
    else:
        audited = heldout_prompts(keys, section.audit_share, "judge audit") if section.audit_share else set()
    heldout = heldout_prompts(keys - audited, section.heldout_share, "judge heldout")
    found = Split(
        train=tuple(label for label in labels if key_of(label) not in audited | heldout),
        heldout=tuple(label for label in labels if key_of(label) in heldout),
        audit=tuple(audit if audit is not None else (label for label in labels if key_of(label) in audited)),
    )
    if not found.train or not found.heldout:
        least = 2 if audit is not None or not section.audit_share else 3
        raise DataError(f"judge train: labels of {len(keys)} prompts are too few: it takes {least} at least")
    for name, part in (("held-out", found.heldout), ("audit", found.audit)):
        if part and not decided(part):
            raise DataError(f"judge train: not one of the {len(part)} {name} labels has a preference")
    return found


def _refuse_shared(labels: Sequence[PairLabel], audit: Sequence[PairLabel]) -> None:
    trained = keys_of(labels)
    shared = [label for label in audit if key_of(label) in trained]
    if shared:
        first = shared[0].pair
        raise DataError(
            f"judge train: {len(keys_of(shared))} prompts of the audit labels are among those of the gold (first: "
            f"{first.prompt_id}, pair {first.id}); audit on other prompts, or leave --audit out for a share of the gold"
        )
