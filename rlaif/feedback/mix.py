"""Which source labels a pair when both a judge and humans could: the one place where hybrid runs differ.

Naive pooling of both gave no gain over human labels in RLAIF's own ablation (arXiv 2309.00267): routing by
tag, as in Constitutional AI (arXiv 2212.08073), is the policy with a published success. Next:
`pairs.to_preferences`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from rlaif.config.feedback import AiLabels, ByTag, HumanLabels, MixedLabels, MixPolicy, Weighted
from rlaif.errors import ConfigError
from rlaif.feedback.pairs import WeightedJudgment
from rlaif.records import Judgment, Pair, Prompt, content_id

Tagged = TypeVar("Tagged", Prompt, Pair)


class MixResult(NamedTuple):
    """The judgments that stay, human ones first, with their weights, and how many were left out."""

    judgments: list[WeightedJudgment]
    dropped: int


def for_the_judge(items: Sequence[Tagged], labels: AiLabels | HumanLabels | MixedLabels) -> list[Tagged]:
    """What is worth sampling and judging: with `by_tag` only what has one of the judge's tags, `mix` drops the rest.

    Raises ConfigError when nothing has one.
    """
    if not isinstance(labels, MixedLabels) or not isinstance(labels.policy, ByTag):
        return list(items)
    tags = set(labels.policy.ai)
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
                which change what is left of the judge's labels afterwards (`hybrid/overlap.py`)
    weighted    all stay (a pair may then give two rows), weighted by source
    by_tag      human judgments of pairs with a tag in `policy.human` and AI judgments of pairs with one in
                `policy.ai` stay; a pair with both kinds of tag keeps both
    """
    human_weight = ai_weight = 1.0
    kept_human, kept_ai = list(human), list(ai)
    if isinstance(policy, ByTag):
        kept_human = [judgment for judgment in human if set(policy.human) & set(judgment.pair.tags)]
        kept_ai = [judgment for judgment in ai if set(policy.ai) & set(judgment.pair.tags)]
    elif isinstance(policy, Weighted):
        human_weight, ai_weight = policy.human, policy.ai
    else:
        labelled = {judgment.pair.id for judgment in human}
        kept_ai = [judgment for judgment in ai if judgment.pair.id not in labelled]
    kept = [WeightedJudgment(judgment, human_weight) for judgment in kept_human]
    kept += [WeightedJudgment(judgment, ai_weight) for judgment in kept_ai]
    return MixResult(kept, dropped=len(ai) + len(human) - len(kept))
