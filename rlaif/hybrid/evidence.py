"""What a judgment itself tells of how far it can be believed, and features for a predictor of its errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev

from rlaif.feedback.pairs import choice
from rlaif.feedback.verdict import log_odds
from rlaif.records import Judgment, PrincipleJudgment


def closeness(judgment: Judgment) -> float:
    """How near to even the label is: 1 at p = 0.5, 0 at certainty."""
    return 1 - 2 * abs(judgment.p_a - 0.5)


def swap_gap(judgment: Judgment) -> float:
    """The mean |p1 - p2| of everything that was asked in both orders, members of a panel included; 0 where nothing
    was."""
    gaps = [part.swap_gap for part in _parts(judgment) if part.swap_gap is not None]
    return fmean(gaps) if gaps else 0.0


def disagreement(judgment: Judgment) -> float:
    """How evenly a panel's members are divided, or without a panel the principles: 0 where all prefer the same
    response, 1 where half prefer the other. One at exactly 0.5 is half on either side; 0 with fewer than two."""
    said = [member.p_a for member in judgment.members] or [part.p_a for part in judgment.principles]
    if len(said) < 2:
        return 0.0
    share = fmean(choice(p) for p in said)
    return 2 * min(share, 1 - share)


def features(judgment: Judgment, margin: float | None) -> dict[str, float]:
    """What may go with an error. None depends on which response is called a.

    `for_longer` is 1 where the judge prefers the response with more words, -1 where it prefers the other. `margin` is a
    reward model's score of the preferred response minus the other's, where there is one.
    """
    pair = judgment.pair
    words_a, words_b = len(pair.a.split()), len(pair.b.split())
    longer = math.copysign(1.0, words_a - words_b) if words_a != words_b else 0.0
    log_ratio = abs(math.log((1 + words_a) / (1 + words_b)))
    said = [part.p_a for part in _parts(judgment)]
    preferred = 2 * choice(judgment.p_a) - 1
    found = {
        "closeness": closeness(judgment),
        "strength": abs(log_odds(judgment.p_a)),
        "swap_gap": swap_gap(judgment),
        "disagreement": disagreement(judgment),
        "spread": pstdev(said) if len(said) > 1 else 0.0,
        "for_longer": preferred * longer,
        "for_longer_by": preferred * longer * log_ratio,
        "length_difference": log_ratio,
        "length": math.log(1 + words_a + words_b),
        "prompt_length": math.log(1 + sum(len(message.content.split()) for message in pair.prompt)),
    }
    return found | ({} if margin is None else {"margin": margin})


def margins_of_choice(judgments: Sequence[Judgment], margin_a: Mapping[str, float]) -> dict[str, float]:
    """By pair id: the reward model's score of the response that the judge prefers minus the other's, from its
    score(a) - score(b) as each judgment holds the pair. Negative: the model and the judge disagree."""
    return {j.pair.id: (2 * choice(j.p_a) - 1) * margin_a[j.pair.id] for j in judgments if j.pair.id in margin_a}


def _parts(judgment: Judgment) -> list[PrincipleJudgment]:
    judged = [*judgment.principles, *(part for member in judgment.members for part in member.principles)]
    return [part for part in judged if not part.checked]
