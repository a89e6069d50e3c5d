"""A fitted predictor of the judge's errors, from pairs that people labelled: routing by predicted gain (HyPER, arXiv
2410.19133) reduced to its core, which pairs a human label would change.

A logistic regression on standardised features (`routers.features`). How well it does is measured out of fold, by
prompt; a predictor that does not beat a coin there is worth no more than a random order, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlaif.annotate.routers import features
from rlaif.errors import DataError
from rlaif.feedback.labelled import decided, match
from rlaif.records import Judgment, content_id

FEWEST = 30
"""Labelled pairs; and of right and wrong judgments FEWEST_OF_EACH."""
FEWEST_OF_EACH = 5
FOLDS = 5


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
    """For every judgment, learnt where people labelled too. DataError with too few labels, or errors, to learn from.

    `margins` by pair id, for the judge's choice; a pair without one counts as having the mean.
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
