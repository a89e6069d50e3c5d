"""How far the judge's probabilities can be believed, with and without the maps of `feedback/calibration.py`.

A pair enters once, by the judge's confidence in its own choice, so which response is called a does not matter. Human
ties are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlaif.feedback.calibration import (
    TEMPERATURES,
    Confidences,
    Isotonic,
    Temperature,
    calibrate,
    fit_isotonic,
    fit_temperature,
    temperatures,
)
from rlaif.feedback.labelled import LabelledJudgment
from rlaif.records import content_id
from rlaif.stats import Array, Bootstrap, clustered_mean, interval

BINS = 10
EDGES = np.array([0.5 + number / (2 * BINS) for number in range(BINS + 1)]).round(12)
FOLDS = 5


def calibration(labelled: Sequence[LabelledJudgment], bootstrap: Bootstrap) -> dict[str, Any] | None:
    """How the judge's confidence compares with how often it is right; None without a pair that has a right choice.

    ece          mean |accuracy - confidence| over the bins, by their pairs. Never below 0, and above it by chance too:
                 with few pairs look at the bins' intervals
    brier        mean (p_human - p)^2; 0.25 for a judge that always says 0.5
    log_loss     mean -log p of the right response, in nats; log 2 for a judge that always says 0.5
    bins         `reliability`
    temperature  {value, low, high, at_limit, ece, brier, log_loss}: `fit_temperature` on all pairs, with an interval
    isotonic     {x, y, ece, brier, log_loss}: `fit_isotonic` on all pairs

    What a map would do to ece, brier and log_loss is measured out of fold: prompts fall into 5 folds by hash, and each
    fold is mapped by a fit on the others. With all prompts in one fold nothing can be fitted and the maps are None.
    """
    data = Confidences.of(labelled)
    if not data.prompt_ids:
        return None
    folds = np.array([int(content_id("calibration fold", name), 16) % FOLDS for name in data.prompt_ids])
    temperature = isotonic = None
    if len(np.unique(folds)) > 1:
        temperature = temperature_estimate(data, bootstrap) | _scores(_out_of_fold(data, folds, fit_temperature))
        isotonic = fit_isotonic(data).model_dump(mode="json", exclude={"kind"})
        isotonic |= _scores(_out_of_fold(data, folds, fit_isotonic))
    counts = {"n": len(data.prompt_ids), "bins": reliability(data, bootstrap)}
    return _scores(data) | counts | {"temperature": temperature, "isotonic": isotonic}


def _scores(data: Confidences) -> dict[str, float]:
    wrong_by = data.correct - data.confidence
    bins = np.bincount(_bin(data.confidence), weights=wrong_by, minlength=BINS)
    # With correct of 0.5, p is 0.5: (1 - 0.5)^2 and (0 - 0.5)^2 are the same, and not (0.5 - 0.5)^2.
    brier = np.where(data.correct == 0.5, 0.25, wrong_by**2)
    return {
        "ece": float(np.abs(bins).sum() / len(wrong_by)),
        "brier": float(brier.mean()),
        "log_loss": float(np.logaddexp(0, -data.lead).mean()),
    }


def _bin(confidence: Array) -> NDArray[np.intp]:
    """The number of the bin. Rounded first: a clamp to 0.6 must not fall on either side by its last bit."""
    return np.searchsorted(EDGES[1:-1], confidence.round(12), side="right")


def reliability(data: Confidences, bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """Ten bins of equal width over confidence 0.5 to 1, the empty ones left out.

    Each: `lower` (in the bin) and `upper` (in the next), n, the mean `confidence`, and `accuracy` with its interval.
    """
    bins = _bin(data.confidence)
    mine = {number: data.take(bins == number) for number in np.unique(bins)}
    return [
        {
            "lower": float(EDGES[number]),
            "upper": float(EDGES[number + 1]),
            "n": len(inside.correct),
            "confidence": float(inside.confidence.mean()),
            "accuracy": clustered_mean(list(inside.correct), inside.prompt_ids, *bootstrap).model_dump(),
        }
        for number, inside in mine.items()
    ]


def temperature_estimate(data: Confidences, bootstrap: Bootstrap) -> dict[str, Any]:
    """`fit_temperature` with its interval over prompts, and whether it stopped at a limit."""
    value = fit_temperature(data).value
    lead = data.lead
    # Of 1/T, which is smooth where T runs off to its limit.
    found = interval(lambda weights: 1 / temperatures(lead, weights, 1e-3), data.prompt_ids, bootstrap)
    low, high = (1 / found[1], 1 / found[0]) if found is not None else (None, None)
    at_limit = not TEMPERATURES[0] * 1.001 < value < TEMPERATURES[1] / 1.001
    return {"value": value, "low": low, "high": high, "at_limit": at_limit}


def _out_of_fold(
    data: Confidences, folds: NDArray[np.int64], fit: Callable[[Confidences], Temperature | Isotonic]
) -> Confidences:
    """The confidences after calibration, each by a map fitted on the other folds of prompts."""
    confidence = np.empty_like(data.confidence)
    for number in np.unique(folds):
        inside = folds == number
        how = fit(data.take(~inside))
        confidence[inside] = [calibrate(float(p), how) for p in data.confidence[inside]]
    return data._replace(confidence=confidence)
