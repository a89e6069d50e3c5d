"""What training was worth: the judge before and after, asked about the same pairs.

A pair without a judgment has no choice and is worth a half, as a coin is: training that makes a judge answer where it
gave no answer is a gain, and is told apart by the coverage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from rlaif.audits.judge_training.labels import PairLabel, decided, key_of, keys_of
from rlaif.config import Recipe
from rlaif.console import aligned
from rlaif.constitution import Constitution
from rlaif.evaluation.agreement import coverage, order_consistency
from rlaif.feedback.judge import JudgeResult, OpenJudge, judge_by_mode
from rlaif.feedback.labelled import agreement
from rlaif.feedback.pairs import choice
from rlaif.feedback.sample import Progress
from rlaif.feedback.verdict import log_odds
from rlaif.stats import Bootstrap, at, clustered_mean, clustered_mean_difference, estimate_at
from rlaif.words import percent, with_interval


class LabelAgreement(NamedTuple):
    """Of one look at the judge."""

    share: float
    """Of the labels that have a preference."""
    loss: float
    """Mean cross-entropy with all labels, in nats; ln 2 for a pair without a judgment."""
    failed: int


def ask(
    open_judge: OpenJudge,
    labels: Sequence[PairLabel],
    constitution: Constitution,
    recipe: Recipe,
    progress: Progress | None = None,
) -> JudgeResult:
    """The labels' pairs, judged as the recipe does."""
    pairs = [label.pair for label in labels]
    return judge_by_mode(open_judge, pairs, constitution, recipe.label, recipe.seed, progress)


def agreement_with(labels: Sequence[PairLabel], result: JudgeResult) -> LabelAgreement:
    """How far the judgments are from the labels (of which one at least has a preference)."""
    ps = _p_by_pair(result)
    return LabelAgreement(
        share=fmean(_right(label, ps) for label in decided(labels)),
        loss=fmean(_cross_entropy(label.p_a, log_odds(ps.get(label.pair.id, 0.5))) for label in labels),
        failed=sum(label.pair.id not in ps for label in labels),
    )


def worth(labels: Sequence[PairLabel], before: JudgeResult, after: JudgeResult, bootstrap: Bootstrap) -> dict[str, Any]:
    """Both audits and the paired difference in agreement, its interval over prompts, ready for JSON."""
    rows, clusters = decided(labels), [key_of(label) for label in decided(labels)]
    old, new = ([_right(label, ps) for label in rows] for ps in (_p_by_pair(before), _p_by_pair(after)))
    looks = {
        name: {
            "agreement": clustered_mean(right, clusters, *bootstrap).model_dump(),
            "consistency": _consistency(result, bootstrap),
            "coverage": coverage(result.judgments, result.failures),
            "loss": agreement_with(labels, result).loss,
        }
        for name, right, result in (("before", old, before), ("after", new, after))
    }
    return {
        "pairs": len(labels),
        "prompts": len(keys_of(labels)),
        "ties": len(labels) - len(rows),
        **looks,
        "difference": clustered_mean_difference(old, new, clusters, bootstrap).model_dump(),
    }


def table(found: Mapping[str, Any], confidence: float) -> list[str]:
    """The audits side by side."""
    before, after = found["before"], found["after"]
    rows: list[tuple[str, ...]] = [("", "before", "after", "difference")]
    own = [with_interval(estimate_at(look, "agreement")) for look in (before, after)]
    rows.append(("agrees with the labels", *own, with_interval(estimate_at(found, "difference"), "points")))
    if before["consistency"] or after["consistency"]:
        rows.append(
            ("same choice in both orders", *(percent(at(look, "consistency.value")) for look in (before, after)), "")
        )
    rows.append(("pairs with a judgment", *(percent(at(look, "coverage.value")) for look in (before, after)), ""))
    rows.append(("cross-entropy, nats", *(f"{look['loss']:.3f}" for look in (before, after)), ""))
    ties = f", {found['ties']} of them ties" if found["ties"] else ""
    return [
        f"Audit on {found['pairs']} pairs{ties}, of {found['prompts']} prompts that neither trained nor stopped; in "
        f"brackets {confidence:.0%} intervals, by prompt",
        *aligned(rows),
    ]


def _p_by_pair(result: JudgeResult) -> dict[str, float]:
    return {judgment.pair.id: judgment.p_a for judgment in result.judgments}


def _right(label: PairLabel, ps: Mapping[str, float]) -> float:
    return agreement(choice(ps.get(label.pair.id, 0.5)), choice(label.p_a))


def _cross_entropy(p: float, lead: float) -> float:
    """-p log sigma(lead) - (1 - p) log sigma(-lead)."""
    return float(p * np.logaddexp(0, -lead) + (1 - p) * np.logaddexp(0, lead))


def _consistency(result: JudgeResult, bootstrap: Bootstrap) -> dict[str, Any] | None:
    found = order_consistency(result.judgments, *bootstrap)
    return {key: value for key, value in found.items() if key != "by_principle"} if found else None
