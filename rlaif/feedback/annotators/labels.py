"""Who said what of which pair, whichever way round a judgment holds it; how far they agree (Krippendorff's alpha), and
how often each is right (Dawid and Skene). Judges of a panel and people who label are annotators alike.

A pair's first text is the one that comes first in sorted order: neither merit nor the row says which it is, so what
is called a can matter nowhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlaif.feedback.pairs import choice
from rlaif.records import Judgment, Pair, Record, grouped

Table = Mapping[str, Mapping[str, float]]
"""By the pair's id and by annotator: P(the first text is better), the mean where one labelled a pair repeatedly."""
Votes = Mapping[tuple[str, str], bool]
"""By (task, annotator): whether the annotator is for the first of the task's two sides."""
SIMULATED = "simulated:"
"""How the name of everyone begins who is not a person but `simulate.py`."""
Counts = NDArray[np.int64]
SAMPLES = 500
CONFIDENCE = 0.95


def first_text(pair: Pair) -> str:
    """The pair's first text, in either orientation."""
    return min(pair.a, pair.b)


def individual(judgments: Iterable[Judgment]) -> Iterator[Judgment]:
    """Each annotator's own judgments: a panel's members in the place of the panel."""
    for judgment in judgments:
        if not judgment.members:
            yield judgment
        for member in judgment.members:
            said = {"annotator": member.annotator, "p_a": member.p_a, "principles": member.principles}
            yield judgment.model_copy(update={**said, "members": (), "provenance": member.provenance})


def table(judgments: Iterable[Judgment]) -> Table:
    """All labels by pair and annotator, both in sorted order; a panel's judgment is that of its members."""
    told = grouped(individual(judgments), lambda judgment: (judgment.pair.id, judgment.annotator))
    rows: dict[str, dict[str, float]] = {}
    for pair_id, annotator in sorted(told):
        rows.setdefault(pair_id, {})[annotator] = _mean(told[pair_id, annotator])
    return rows


def _mean(judgments: Iterable[Judgment]) -> float:
    return fmean(judgment.p_of(first_text(judgment.pair)) for judgment in judgments)


def means(judgments: Iterable[Judgment]) -> dict[str, float]:
    """By pair: P(the first text is better), the mean of all judgments of it; a panel's is its own."""
    told = grouped(judgments, lambda judgment: judgment.pair.id)
    return {pair_id: _mean(told[pair_id]) for pair_id in sorted(told)}


def shared(labels: Table) -> Table:
    """The pairs on which two annotators voted at least, less their ties: a tie is no vote."""
    voted = {
        pair_id: {annotator: p for annotator, p in said.items() if choice(p) != 0.5} for pair_id, said in labels.items()
    }
    return {pair_id: said for pair_id, said in voted.items() if len(said) > 1}


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


def accuracy_of(overlap: Table) -> dict[str, float]:
    """By annotator, the accuracy that Dawid-Skene finds on `shared` labels."""
    votes = {(pair_id, name): p > 0.5 for pair_id, said in overlap.items() for name, p in said.items()}
    return fit_dawid_skene(votes).accuracy


class Alpha(Record):
    """1: always the same; 0: what chance gives; below: they contradict each other.

    The 95 % interval is a percentile bootstrap over prompts; None where the prompts do not differ, or there is but one.
    """

    value: float
    low: float | None
    high: float | None
    units: int
    """Pairs that two annotators labelled at least; the others say nothing about agreement."""
    labels: int
    """Labels of these pairs, one per annotator."""


def alpha(judgments: Iterable[Judgment], seed: int, samples: int = SAMPLES) -> Alpha | None:
    """Nominal alpha over the choices first, second and tie. None without a pair of two labels, and if all are ties.

    Which response is the first one is arbitrary, and chance agreement must not depend on it: every pair enters in both
    orientations, as `kappa` has it. First and second are then equally frequent; without ties, and with N labels,
    alpha = 1 - (2N - 1) D / N, D being the share of pairs of labels within a unit that differ, each unit weighted by
    the number of its labels.
    """
    judgments = list(judgments)
    prompt_of = {judgment.pair.id: judgment.pair.prompt_id for judgment in judgments}
    units = {pair_id: [choice(p) for p in said.values()] for pair_id, said in table(judgments).items() if len(said) > 1}
    counts = np.array([[said.count(side) for side in (1.0, 0.0, 0.5)] for said in units.values()], dtype=np.int64)
    if not counts.size or not counts[:, :2].any():
        return None
    low, high = _bounds(counts, [prompt_of[pair_id] for pair_id in units], seed, samples)
    return Alpha(value=_alpha(counts), low=low, high=high, units=len(counts), labels=int(counts.sum()))


def _alpha(counts: Counts) -> float:
    """Of units with their counts of first, second and tie; 1 if all labels are ties, which nothing contradicts."""
    import krippendorff  # noqa: PLC0415  (only where annotators are many)

    both = np.concatenate([counts, counts[:, [1, 0, 2]]])
    if not both[:, :2].any():
        return 1.0
    return float(krippendorff.alpha(value_counts=both, level_of_measurement="nominal"))


def _bounds(counts: Counts, prompts: Sequence[str], seed: int, samples: int) -> tuple[float | None, float | None]:
    in_order = sorted(range(len(prompts)), key=prompts.__getitem__)
    clusters = list(grouped(in_order, prompts.__getitem__).values())
    draws = np.random.default_rng(seed).integers(len(clusters), size=(samples, len(clusters)))
    resampled = np.array([_alpha(counts[[row for i in draw for row in clusters[i]]]) for draw in draws])
    if np.ptp(resampled) == 0:
        return None, None
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
