"""Dawid and Skene's model for two labels that mean nothing by themselves: which response is called a is arbitrary.

The fit is crowd-kit's. Judges of a panel and people who label are annotators alike; what is made of the fit stands in
`judge/panel.py` and in `annotators/`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from statistics import fmean
from typing import NamedTuple

Votes = Mapping[tuple[str, str], bool]
"""(task, annotator): whether the annotator is for the first of the task's two sides."""


class DawidSkeneFit(NamedTuple):
    """What agreement alone says about the tasks and about the annotators."""

    p_first: dict[str, float]
    """By task: the posterior that its first side is the true label."""
    accuracy: dict[str, float]
    """By annotator: the chance of voting for the true label; below 1/2 it is better contradicted."""


def fit_dawid_skene(votes: Votes) -> DawidSkeneFit:
    """Error rates by expectation maximisation from the majority's vote (Dawid and Skene 1979, doi 10.2307/2346806).

    Every task enters twice, as it is and mirrored with all votes exchanged. So the prior is one half, an annotator errs
    equally often on both sides (one coin each), and which side is the first cannot matter. Agreement cannot tell
    which of two annotators errs: from two alone both come out alike. Someone who shares no task with others is found
    to be always right: leave such votes out. No votes: an empty fit.
    """
    if not votes:
        return DawidSkeneFit({}, {})
    import pandas  # noqa: PLC0415  (with crowd-kit a second to import)
    from crowdkit.aggregation import DawidSkene  # noqa: PLC0415

    # Sorted: neither the order of the tasks nor that of the annotators may change a bit of the sums.
    mirrored = sorted(
        (f"{task}{mark}", annotator, int(first == (mark == "+")))
        for (task, annotator), first in votes.items()
        for mark in "+-"
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="crowdkit")  # crowd-kit 1.4 on pandas 3
        model = DawidSkene(n_iter=200, tol=1e-9).fit(pandas.DataFrame(mirrored, columns=["task", "worker", "label"]))
    posterior = {str(task): float(p) for task, p in model.probas_[1].items()}
    return DawidSkeneFit(
        p_first={task: (posterior[f"{task}+"] + 1 - posterior[f"{task}-"]) / 2 for task in {task for task, _ in votes}},
        accuracy={
            name: fmean(float(model.errors_.loc[(name, label), label]) for label in (0, 1))
            for name in {name for _, name in votes}
        },
    )
