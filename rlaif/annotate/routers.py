"""The order in which judged pairs should go to people; and what a judgment itself tells of how far it can be believed,
which routers and a fitted predictor of its errors go by.

Every order is of pair ids, the first being the most worth a person's time, ties decided by a seeded hash. A budget
takes its beginning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any, NamedTuple

import numpy as np

from rlaif.errors import DataError
from rlaif.feedback.labelled import decided, match
from rlaif.feedback.pairs import choice
from rlaif.feedback.verdict import log_odds
from rlaif.records import Judgment, PrincipleJudgment, content_id

BY_CHANCE = 0.2
"""The share of a budget that is spent at random."""
FEWEST, FEWEST_OF_EACH = 30, 5
"""Labelled pairs that a predictor learns from; and of right and of wrong judgments among them."""
FOLDS = 5

Worth = tuple[float, float]
"""What counts first, and what decides among equals; more is more urgent."""


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


WORTHS: dict[str, Callable[[Judgment], Worth]] = {
    "random": lambda judgment: (0, 0.0),
    "uncertainty": lambda judgment: (0, closeness(judgment)),
    "swap_gap": lambda judgment: (0, swap_gap(judgment)),
    "disagreement": lambda judgment: (disagreement(judgment), closeness(judgment)),
}
"""By chance (only those labels also say how good the judge is); the label nearest to even first; where the judge's
probability depends most on which response it reads first; where a panel, or the principles, are most evenly divided."""


def ordered(judgments: Sequence[Judgment], worth: Callable[[Judgment], Worth], seed: int) -> list[str]:
    """Greatest worth first; a pair that was judged twice counts as its first judgment."""
    ranked: dict[str, Worth] = {}
    for judgment in judgments:
        ranked.setdefault(judgment.pair.id, worth(judgment))
    return sorted(ranked, key=lambda pair: (-ranked[pair][0], -ranked[pair][1], content_id("route", seed, pair)))


def by_hash(judgments: Sequence[Judgment], seed: int) -> list[str]:
    """A random order."""
    return ordered(judgments, WORTHS["random"], seed)


def bands(margins: Sequence[float]) -> tuple[float, float]:
    """The elbow and the knee of the sorted margins (RLTHF, arXiv 2502.13417): below the elbow the judge is probably
    wrong, above the knee right.

    The curve rises steeply, runs flat and rises steeply again. Each bend is where its half lies farthest from the chord
    of that half (Satopaa et al. 2011): the lower half farthest above, the upper half farthest below.
    """
    curve = np.sort(np.asarray(margins, dtype=float))
    if len(curve) < 4:
        return (float(curve[0]), float(curve[-1])) if len(curve) else (0.0, 0.0)
    middle = len(curve) // 2
    lower, upper = curve[: middle + 1], curve[middle:]
    above = lower - np.linspace(lower[0], lower[-1], len(lower))
    below = np.linspace(upper[0], upper[-1], len(upper)) - upper
    return float(lower[int(above.argmax())]), float(upper[int(below.argmax())])


def by_margin(judgments: Sequence[Judgment], margins: Mapping[str, float], seed: int) -> list[str]:
    """The ambiguous band first, the margin nearest to its middle leading; then the probably wrong, the most wrong
    leading; then the probably right, the least sure leading.

    `margins` by pair id: a reward model's margin for the judge's choice, the model being trained on the judge's labels.
    """
    elbow, knee = bands([margins[judgment.pair.id] for judgment in judgments])
    middle = (elbow + knee) / 2

    def worth(judgment: Judgment) -> Worth:
        margin = margins[judgment.pair.id]
        if elbow <= margin <= knee:
            return 2, -abs(margin - middle)
        return (1, -margin) if margin < elbow else (0, -margin)

    return ordered(judgments, worth, seed)


def choose(
    order: Sequence[str], at_random: Sequence[str], budget: int, share: float = BY_CHANCE
) -> tuple[list[str], list[str]]:
    """Ids of the chosen pairs, in the order in which people should see them, and those among them chosen by chance.

    The first `share` of the budget is the beginning of the random order, the rest of the router's. Both are woven
    together evenly, so that whoever stops early has some of each.
    """
    budget = min(budget, len(order))
    by_chance = list(at_random[: round(share * budget)])
    picked = [pair for pair in order if pair not in set(by_chance)][: budget - len(by_chance)]
    place = {pair: (i + 0.5) / len(some) for some in (by_chance, picked) for i, pair in enumerate(some)}
    return sorted(place, key=lambda pair: (place[pair], pair)), by_chance


class Prediction(NamedTuple):
    """P(the judge is wrong) by pair id, and how far to believe it."""

    p_wrong: dict[str, float]
    auc: float
    """Out of fold: the chance that a wrong judgment is ranked above a right one; 0.5 is a coin."""
    labelled: int
    wrong: int
    weights: dict[str, float]
    """Log-odds of an error for one standard deviation of the feature."""


def predict_errors(
    judgments: Sequence[Judgment], human: Sequence[Judgment], margins: Mapping[str, float] | None = None
) -> Prediction:
    """For every judgment, learnt where people labelled too: routing by predicted gain (HyPER, arXiv 2410.19133) reduced
    to its core, which pairs a human label would change. DataError with too few labels, or errors, to learn from.

    A logistic regression on standardised `features`. How well it does is measured out of fold, by prompt; one that does
    not beat a coin there is worth no more than a random order, and says so. `margins` by pair id, for the judge's
    choice; a pair without one counts as having the mean.
    """
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415  (with pandas a second to import)
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415
    from sklearn.model_selection import GroupKFold, cross_val_predict  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    # Sorted: a fit depends on the order of its rows by the last bits.
    known = sorted(decided(match(judgments, human)), key=lambda item: item.judgment.pair.id)
    known = [item for item in known if item.right != 0.5]
    wrong = np.array([item.right == 0 for item in known], dtype=int)
    if len(known) < FEWEST or not FEWEST_OF_EACH <= wrong.sum() <= len(known) - FEWEST_OF_EACH:
        raise DataError(
            f"route: a predictor of errors needs {FEWEST} pairs that people labelled, with {FEWEST_OF_EACH} errors of "
            f"the judge and as many hits among them (got {len(known)} with {int(wrong.sum())} errors); "
            "route a first part with --by random"
        )
    centre = float(np.mean(list(margins.values()))) if margins else 0.0

    def row(judgment: Judgment) -> dict[str, float]:
        return features(judgment, None if margins is None else margins.get(judgment.pair.id, centre))

    def table(rows: Sequence[dict[str, float]]) -> np.ndarray:
        return np.array([list(one.values()) for one in rows])

    shown = [row(item.judgment) for item in known]
    model: Any = make_pipeline(StandardScaler(), LogisticRegression(C=0.5))
    folds = [int(content_id("predictor fold", item.prompt_id), 16) % FOLDS for item in known]
    auc = 0.5
    if len(set(folds)) > 1:
        inside = GroupKFold(n_splits=len(set(folds)))
        held = cross_val_predict(model, table(shown), wrong, groups=folds, cv=inside, method="predict_proba")
        auc = float(roc_auc_score(wrong, held[:, 1]))
    model.fit(table(shown), wrong)
    p_wrong = model.predict_proba(table([row(judgment) for judgment in judgments]))[:, 1]
    weights = dict(zip(shown[0], model[-1].coef_[0].tolist(), strict=True))
    by_pair = {j.pair.id: float(p) for j, p in zip(judgments, p_wrong, strict=True)}
    return Prediction(by_pair, auc, len(known), int(wrong.sum()), weights)
