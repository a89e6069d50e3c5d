"""What a reward model is worth on preferences it never saw: its accuracy, and what else tells whether to trust it.

Rows are those of reward_heldout.jsonl: prompt_id, p_chosen, margin = score(chosen) - score(rejected), and where there
are several members or heads `margins` and `heads`. Every interval resamples prompts. Next: `tables.py` shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.special import expit, xlogy

from rlaif.stats import Bootstrap, Estimate, clustered_mean, interval, numbered

Row = Mapping[str, Any]

STRENGTHS = ((0.5, 0.6), (0.6, 0.75), (0.75, 0.9), (0.9, 1.0))
"""Bands of the label's own p_chosen: above the first, at most the second."""
CONFIDENCES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Edges of the reliability table."""


def reward_worth(rows: Sequence[Row], bootstrap: Bootstrap, ratings: Sequence[Row] = ()) -> dict[str, Any]:
    """Entries that stand beside `heldout_accuracy`; one that was not measured is None.

    calibration   {ece, bins}: `calibration`
    by_strength   accuracy by how sure the label is: [{from, to, value, low, high, n}]
    ensemble      {members, disagreement, agree, disagree}: `members`; None for a single model
    heads         accuracy of each principle's head on that principle's own labels; None without heads
    rating_error  how far scores are from held-out ratings: `rating_error`; None where pairs were learnt
    """
    return {
        "calibration": calibration(rows, bootstrap),
        "by_strength": [
            {"from": low, "to": high, **found}
            for low, high in STRENGTHS
            if (found := accuracy([row for row in rows if low < row["p_chosen"] <= high], bootstrap))
        ],
        "ensemble": members(rows, bootstrap),
        "heads": _heads(rows, bootstrap),
        "rating_error": rating_error(ratings, bootstrap),
    }


def heldout_accuracy(rows: Sequence[Row], bootstrap: Bootstrap) -> dict[str, Any] | None:
    """How often the reward model scores the chosen response above the rejected one, on pairs it never saw.

    Rows: prompt_id, source, p_chosen, margin = score(chosen) - score(rejected). A margin of 0 counts half.
    Kept ties (p_chosen of 0.5) have no right answer and enter only the cross-entropy, in nats per pair, -p
    log sigma(m) - (1 - p) log sigma(-m); `label_entropy` is the least that these soft labels allow.
    """
    if not rows:
        return None
    overall = accuracy(rows, bootstrap)
    sources = sorted({row["source"] for row in rows})
    by_source = {s: accuracy([r for r in rows if r["source"] == s], bootstrap) for s in sources}
    p = np.array([row["p_chosen"] for row in rows])
    margins = np.array([row["margin"] for row in rows])
    losses = p * np.logaddexp(0, -margins) + (1 - p) * np.logaddexp(0, margins)
    cross_entropy = clustered_mean(list(losses), [r["prompt_id"] for r in rows], *bootstrap, bounds=None)
    return (overall or {"value": None, "low": None, "high": None, "n": 0}) | {
        "by_source": by_source,
        "cross_entropy": cross_entropy.model_dump(),
        "label_entropy": float(-(xlogy(p, p) + xlogy(1 - p, 1 - p)).mean()),
    }


def rating_error(rows: Sequence[Row], bootstrap: Bootstrap) -> dict[str, Any] | None:
    """The mean of |score - rating|, both less their means over these rows: the zero of scores is anywhere.

    `without` is the same of a model that gives every response one score; only an error below it has learnt anything.
    Rows are those of reward_heldout_ratings.jsonl: prompt_id, rating, score. None without rows.
    """
    if not rows:
        return None
    score, rating = (np.array([row[name] for row in rows], dtype=float) for name in ("score", "rating"))
    score, rating = score - score.mean(), rating - rating.mean()
    found = clustered_mean(list(np.abs(score - rating)), [row["prompt_id"] for row in rows], *bootstrap, bounds=None)
    return {**found.model_dump(), "without": float(np.abs(rating).mean())}


def calibration(rows: Sequence[Row], bootstrap: Bootstrap) -> dict[str, Any] | None:
    """Whether sigma(|margin|), the model's confidence in the response that it prefers, is how far labels agree.

    A soft label agrees by the probability that it gives to that response. `ece` is the mean over pairs of
    |confidence - agreement| of their bin (Guo et al., arXiv 1706.04599, eq. 3): never below 0, and by chance above it.
    It means something for losses of pairs; scores that learn from ratings are no log-odds. None without rows.
    """
    if not rows:
        return None
    margin = np.array([row["margin"] for row in rows], dtype=float)
    p = np.array([row["p_chosen"] for row in rows], dtype=float)
    confidence = expit(np.abs(margin))
    agreement = np.where(margin > 0, p, np.where(margin < 0, 1 - p, 0.5))
    place = np.clip(np.digitize(confidence, CONFIDENCES) - 1, 0, len(CONFIDENCES) - 2)
    bins = []
    for i, (low, high) in enumerate(pairwise(CONFIDENCES)):
        here = np.flatnonzero(place == i)
        if here.size:
            agrees = clustered_mean(list(agreement[here]), [rows[k]["prompt_id"] for k in here], *bootstrap)
            said = float(confidence[here].mean())
            bins.append({"from": low, "to": high, "confidence": said, **agrees.model_dump()})
    # The error is |sum of gaps| summed over the bins B, per pair. It needs only sums by prompt C, so whole prompts are
    # the rows that are drawn again, each its own cluster.
    index = numbered([row["prompt_id"] for row in rows])
    prompts = int(index.max()) + 1
    gap_CB = np.zeros((prompts, len(CONFIDENCES) - 1))
    np.add.at(gap_CB, (index, place), confidence - agreement)
    pairs_C = np.bincount(index).astype(float)

    def error(weights: Any) -> Any:
        return np.abs(weights @ gap_CB).sum(-1) / (weights @ pairs_C)

    ends = interval(error, [str(prompt) for prompt in range(prompts)], bootstrap) or (None, None)
    ece = Estimate(value=float(error(np.ones(prompts))), low=ends[0], high=ends[1], n=len(rows))
    return {"ece": ece.model_dump(), "bins": bins}


def members(rows: Sequence[Row], bootstrap: Bootstrap) -> dict[str, Any] | None:
    """How far the members of an ensemble differ, and what their agreement tells.

    disagreement  the standard deviation over members of a pair's margin, its mean over pairs
    agree         accuracy of the mean margin where all members prefer the same response; None where they never do
    disagree      accuracy where they do not; None where they always agree
    """
    rows = [row for row in rows if len(row.get("margins", ())) > 1]
    if not rows:
        return None
    margins = np.array([row["margins"] for row in rows], dtype=float)
    together = np.abs(np.sign(margins).sum(1)) == margins.shape[1]
    spread = clustered_mean(list(margins.std(1)), [row["prompt_id"] for row in rows], *bootstrap, bounds=None)
    return {
        "members": margins.shape[1],
        "disagreement": spread.model_dump(),
        "agree": accuracy([row for row, same in zip(rows, together, strict=True) if same], bootstrap),
        "disagree": accuracy([row for row, same in zip(rows, together, strict=True) if not same], bootstrap),
    }


def accuracy(rows: Sequence[Row], bootstrap: Bootstrap) -> dict[str, Any] | None:
    """The share of pairs, exact ties aside, in which the margin is on the label's side; a margin of 0 counts half.

    None where there is no such pair.
    """
    decided = [row for row in rows if row["p_chosen"] != 0.5]
    if not decided:
        return None
    hits = [0.5 if r["margin"] == 0 else float((r["margin"] > 0) == (r["p_chosen"] > 0.5)) for r in decided]
    return clustered_mean(hits, [row["prompt_id"] for row in decided], *bootstrap).model_dump()


def _heads(rows: Sequence[Row], bootstrap: Bootstrap) -> dict[str, Any] | None:
    names = sorted({name for row in rows for name in row.get("heads", {})})
    found = {}
    for name in names:
        own = [{"prompt_id": r["prompt_id"], **r["heads"][name]} for r in rows if name in r.get("heads", {})]
        found[name] = accuracy(own, bootstrap)
    return found or None
