"""Which source labels a pair when both a judge and humans could: the one place where hybrid runs differ.

Naive pooling of both gave no gain over human labels in RLAIF's own ablation (arXiv 2309.00267): routing by
tag, as in Constitutional AI (arXiv 2212.08073), is the policy with a published success. Where both labelled the
same pairs, people say how reliable the judge is and what its labels are worth. Only pairs that people got by chance
may say so: those that were routed to them because the judge was unsure are harder than the rest (`Routing.picked` in
`annotate/route.py`). Next: `pairs.to_preferences`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, TypeVar

from rlaif.config.feedback import (
    CalibratedMix,
    DebiasedMix,
    MixPolicy,
    ReliabilityMix,
    TagMix,
    WeightedMix,
)
from rlaif.errors import ConfigError, DataError
from rlaif.feedback.calibration import Confidences, calibrate, debias, fit_isotonic, fit_temperature, raw_p, with_p
from rlaif.feedback.labelled import LabelledJudgment, decided, match
from rlaif.feedback.pairs import WeightedJudgment, choice
from rlaif.records import Judgment, Pair, Prompt, content_id

Tagged = TypeVar("Tagged", Prompt, Pair)


class MixResult(NamedTuple):
    """The judgments that stay, human ones first, with their weights, and how many were left out."""

    judgments: list[WeightedJudgment]
    dropped: int


def for_the_judge(items: Sequence[Tagged], judged: Sequence[str] | None) -> list[Tagged]:
    """What is worth sampling and judging: what has one of these tags (`mix` drops the rest), or with None everything.

    Raises ConfigError when nothing has one.
    """
    if judged is None:
        return list(items)
    tags = set(judged)
    kept = [item for item in items if tags & set(item.tags)]
    if items and not kept:
        found = sorted({tag for item in items for tag in item.tags})
        raise ConfigError(
            f"preferences.labels.policy.ai: no prompt to label has a tag of {', '.join(sorted(tags))}; "
            f"the tags there are: {', '.join(found) or 'none'}"
        )
    return kept


def within_share(human: Sequence[Judgment], share: float) -> list[Judgment]:
    """The labels of about this share of the pairs, the same ones whatever else is labelled."""
    return [j for j in human if int(content_id("human share", j.pair.id), 16) / 16**16 < share]


def mix(ai: Sequence[Judgment], human: Sequence[Judgment], policy: MixPolicy) -> MixResult:
    """Join both sources on the pair's id, which does not depend on the orientation each source gave the pair.

    human_wins  an AI judgment of a pair that humans labelled is dropped; so it is with calibrated and reliability,
                which change what is left of the judge's labels afterwards (`believed`)
    weighted    all stay (a pair may then give two rows), weighted by source
    by_tag      human judgments of pairs with a tag in `policy.human` and AI judgments of pairs with one in
                `policy.ai` stay; a pair with both kinds of tag keeps both
    """
    human_weight = ai_weight = 1.0
    kept_human, kept_ai = list(human), list(ai)
    if isinstance(policy, TagMix):
        kept_human = [judgment for judgment in human if set(policy.human) & set(judgment.pair.tags)]
        kept_ai = [judgment for judgment in ai if set(policy.ai) & set(judgment.pair.tags)]
    elif isinstance(policy, WeightedMix):
        human_weight, ai_weight = policy.human, policy.ai
    else:
        labelled = {judgment.pair.id for judgment in human}
        kept_ai = [judgment for judgment in ai if judgment.pair.id not in labelled]
    kept = [WeightedJudgment(judgment, human_weight) for judgment in kept_human]
    kept += [WeightedJudgment(judgment, ai_weight) for judgment in kept_ai]
    return MixResult(kept, dropped=len(ai) + len(human) - len(kept))


def overlap_agreement(overlap: Sequence[LabelledJudgment]) -> float:
    """How often the judge prefers what people prefer, on the pairs on which both labelled and people have a preference:
    (k + 1/2) / (n + 1), k of n shrunk a little towards even, so that ten of ten is not certainty (Jeffreys). An even
    judge agrees by half."""
    rows = decided(overlap)
    return (sum(item.right for item in rows) + 0.5) / (len(rows) + 1)


def overlap_of(
    ai: Sequence[Judgment], human: Sequence[Judgment], picked: Collection[str] = ()
) -> list[LabelledJudgment]:
    """The judge's judgments that people labelled too, less those of pairs that a router picked for what the judge said
    of them."""
    left_out = set(picked)
    return [item for item in match(ai, human) if item.judgment.pair.id not in left_out]


def believed(
    weighted: Sequence[WeightedJudgment],
    overlap: Sequence[LabelledJudgment],
    policy: CalibratedMix | ReliabilityMix | DebiasedMix,
) -> list[WeightedJudgment]:
    """The rows with the judge's labels made worth what the overlap says; people's stay as they are.

    calibrated           p becomes what people said of such p: a temperature or an isotonic map
    reliability, smooth  p becomes the agreement a for the response that the judge prefers, however sure it was: label
                         smoothing with the error rate that was measured
    reliability, weight  (2a - 1)^2: the information about a difference of rewards in a label with that error rate,
                         relative to one without (Bradley-Terry, at a difference of 0)
    debiased             p loses the judge's taste for length, as far as people do not share it (`calibration.debias`)

    A judge that agrees no more often than a coin has its labels left out. DataError below `min_overlap`.
    """
    rows = decided(overlap)
    if len(rows) < policy.min_overlap:
        raise DataError(
            f"preferences.labels.policy: {len(rows)} pairs have a label of the judge and a person's preference, and "
            f"{policy.kind} needs {policy.min_overlap} (min_overlap); label more with `rlaif annotate`, or use "
            "kind human_wins"
        )
    people = [item for item in weighted if item.judgment.source == "human"]
    judge = [item for item in weighted if item.judgment.source == "ai"]
    if isinstance(policy, CalibratedMix):
        data = Confidences.of(rows)
        how = fit_temperature(data) if policy.map == "temperature" else fit_isotonic(data)
        return [*people, *(_believed(item, calibrate(raw_p(item.judgment), how)) for item in judge)]
    if isinstance(policy, DebiasedMix):
        without = debias([item.judgment for item in judge], rows)
        return [*people, *(item._replace(judgment=j) for item, j in zip(judge, without, strict=True))]
    a = overlap_agreement(rows)
    if a <= 0.5:
        return people
    if policy.use == "weight":
        return [*people, *(item._replace(weight=item.weight * (2 * a - 1) ** 2) for item in judge)]
    return [*people, *(_believed(item, 0.5 + (a - 0.5) * (2 * choice(item.judgment.p_a) - 1)) for item in judge)]


def _believed(item: WeightedJudgment, p_a: float) -> WeightedJudgment:
    return item._replace(judgment=with_p(item.judgment, p_a))
