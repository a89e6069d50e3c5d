"""What the judge's verdicts are worth: how far it agrees with itself, how much of its work came back, and which
principle taught what.

A label is the weighted mean of its principles' log-odds, so a principle's part in a label is its weighted log-odds over
the sum of the weights, and its share of the signal is the sum of those parts' sizes over the sum of all principles'. A
principle that seldom prefers a side, or weakly, taught little, however right it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit

from rlaif.constitution import Constitution
from rlaif.evaluation.measures import Instrument
from rlaif.feedback.pairs import choice
from rlaif.feedback.verdict import log_odds
from rlaif.records import Failure, Judgment, PrincipleJudgment, Verdict
from rlaif.stats import Bootstrap, clustered_mean


class _OrderedPair(NamedTuple):
    """One principle's verdicts on one pair: P(the response that was shown first), the mean over the reasons if any."""

    prompt_id: str
    principle: str
    p_first_ab: float
    p_first_ba: float

    @property
    def outcome(self) -> str:
        """consistent: one response preferred in both orders; both_first and both_second: one position was."""
        if 0.5 in (self.p_first_ab, self.p_first_ba):
            return "undecided"
        if (self.p_first_ab > 0.5) != (self.p_first_ba > 0.5):
            return "consistent"
        return "both_first" if self.p_first_ab > 0.5 else "both_second"


def probability_of_first(verdict: Verdict) -> float:
    """P(the response shown first is better), normalised over the two labels (arXiv 2309.00267, sec. 2)."""
    return float(expit(verdict.logprob_first - verdict.logprob_second))


def order_consistency(
    judgments: Iterable[Judgment], samples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Any] | None:
    """How often a principle's preferred response is the same in both orders (position consistency).

    n counts (pair, principle) with a verdict in each order. The rest splits into `both_first` and
    `both_second` (the same position preferred twice: position bias, arXiv 2309.00267) and `undecided` (an
    exact 0.5 in either order); with `value` they add up to 1. A judge that tosses coins scores 0.5, one
    that sees only the position scores 0. `swap_gap` is the mean |p1 - p2|. `by_principle` has the same
    form. None when no pair was judged in both orders.
    """
    bootstrap = Bootstrap(samples, confidence, seed)
    rows = list(_ordered_pairs(judgments))
    if not rows:
        return None
    whole = _consistency(rows, bootstrap)
    principles = sorted({row.principle for row in rows})
    if len(principles) == 1:
        return whole | {"by_principle": {principles[0]: whole}}
    by_principle = {p: _consistency([r for r in rows if r.principle == p], bootstrap) for p in principles}
    return whole | {"by_principle": by_principle}


def _ordered_pairs(judgments: Iterable[Judgment]) -> Iterable[_OrderedPair]:
    for judgment in judgments:
        for principle in judgment.principles:
            shown: dict[str, list[float]] = {}
            for verdict in principle.verdicts:
                shown.setdefault(verdict.first, []).append(probability_of_first(verdict))
            if len(shown) == 2:
                means = fmean(shown["a"]), fmean(shown["b"])
                yield _OrderedPair(judgment.pair.prompt_id, principle.principle, *means)


def _consistency(rows: Sequence[_OrderedPair], bootstrap: Bootstrap) -> dict[str, Any]:
    clusters = [row.prompt_id for row in rows]

    def share(outcome: str) -> dict[str, Any]:
        return clustered_mean([float(r.outcome == outcome) for r in rows], clusters, *bootstrap).model_dump()

    others = {outcome: share(outcome) for outcome in ("both_first", "both_second", "undecided")}
    # p2 = P(a | b shown first) = 1 - p_first_ba.
    gaps = [abs(row.p_first_ab - (1 - row.p_first_ba)) for row in rows]
    return share("consistent") | others | {"swap_gap": float(np.mean(gaps))}


def coverage(judgments: Iterable[Judgment], failures: Iterable[Failure]) -> dict[str, Any]:
    """The share of pairs that came back from judging with a judgment, and why the others did not.

    `value` is None when the judge was asked nothing. `reasons` counts failures: one pair may have several.
    """
    failures = list(failures)
    judged = len({j.pair.id for j in judgments if j.source == "ai"})
    failed = len({f.id for f in failures})
    reasons = Counter(failure.reason for failure in failures)
    value = judged / (judged + failed) if judged + failed else None
    return {"value": value, "judged": judged, "failed": failed, "reasons": dict(sorted(reasons.items()))}


# ------------------------------------------------------------------------------------------------ labels


class _Opinion(NamedTuple):
    """What one principle says of one labelled pair."""

    judgment: Judgment
    p_a: float
    part: float
    """Of the label's log-odds."""
    checked: bool


def labels_by_principle(
    judgments: Sequence[Judgment],
    constitution: Constitution,
    instruments: Sequence[Instrument],
    bootstrap: Bootstrap,
) -> dict[str, Any] | None:
    """What labels say, by principle and as they came out; None where no judge labelled. Of a panel's members each
    principle has an entry, `member: principle`.

    by_principle  pairs     labelled pairs to which it applies
                  prefers   in how many of them it prefers a side
                  signal    its share of the label signal, 0 to 1; None where no principle prefers anything
                  agrees    how often the label prefers the same side, over pairs in which both prefer one
                  measures  see `_agreements`
    label         the same measures, of the label itself
    """
    if not judgments:
        return None
    said: dict[str, list[_Opinion]] = {}
    for judgment in judgments:
        for name, one in _parts(judgment, {p.id: p.weight for p in constitution.principles}):
            said.setdefault(name, []).append(one)
    loud = {name: sum(abs(one.part) for one in rows) for name, rows in said.items()}
    total = sum(loud.values())
    return {
        "pairs": len(judgments),
        "prefers": sum(choice(judgment.p_a) != 0.5 for judgment in judgments),
        "by_principle": {
            name: {
                "checked": rows[0].checked,
                "pairs": len(rows),
                "prefers": sum(choice(one.p_a) != 0.5 for one in rows),
                "signal": loud[name] / total if total else None,
                "agrees": _agrees(rows, bootstrap),
                "measures": _agreements([(one.judgment, one.p_a) for one in rows], instruments, bootstrap),
            }
            for name, rows in said.items()
        },
        "label": {"measures": _agreements([(j, j.p_a) for j in judgments], instruments, bootstrap)},
    }


def _parts(judgment: Judgment, weights: Mapping[str, float]) -> Iterator[tuple[str, _Opinion]]:
    """Every principle of the judgment, or of its members, with its part in the label's log-odds."""
    whole: list[tuple[str, Sequence[PrincipleJudgment]]] = [
        (f"{member.member}: ", member.principles) for member in judgment.members
    ] or [("", judgment.principles)]
    for prefix, principles in whole:
        total = sum(weights.get(p.principle, 1.0) for p in principles) * len(whole)
        for p in principles:
            part = weights.get(p.principle, 1.0) * log_odds(p.p_a) / total
            yield f"{prefix}{p.principle}", _Opinion(judgment, p.p_a, part, p.checked)


def _agrees(rows: Sequence[_Opinion], bootstrap: Bootstrap) -> dict[str, Any] | None:
    decided = [one for one in rows if 0.5 not in (choice(one.p_a), choice(one.judgment.p_a))]
    if not decided:
        return None
    same = [float(choice(one.p_a) == choice(one.judgment.p_a)) for one in decided]
    return clustered_mean(same, [one.judgment.pair.prompt_id for one in decided], *bootstrap).model_dump()


def _agreements(
    preferred: Sequence[tuple[Judgment, float]], instruments: Sequence[Instrument], bootstrap: Bootstrap
) -> list[dict[str, Any]]:
    """For each instrument: how often the preferred response has the lower value, or the higher where that is wanted,
    over pairs with a preference whose values differ. `ties` counts pairs of equal values, `without_value` those in
    which a response has none; where no pair is left, `value` is None."""
    chosen = [_ordered(judgment, p_a) for judgment, p_a in preferred if choice(p_a) != 0.5]
    return [_agreement(instrument, chosen, bootstrap) for instrument in instruments]


def _ordered(judgment: Judgment, p_a: float) -> tuple[str, str, str]:
    """The preferred text, the other, and the prompt."""
    pair = judgment.pair if choice(p_a) == 1.0 else judgment.pair.swapped()
    return pair.a, pair.b, pair.prompt_id


def _agreement(instrument: Instrument, chosen: Sequence[tuple[str, str, str]], bootstrap: Bootstrap) -> dict[str, Any]:
    hits, clusters, ties, without = [], [], 0, 0
    for preferred, other, prompt_id in chosen:
        one, two = instrument.value(preferred), instrument.value(other)
        if one is None or two is None:
            without += 1
        elif one == two:
            ties += 1
        else:
            hits.append(float((one < two) == (instrument.side == "lower")))
            clusters.append(prompt_id)
    nothing = {"value": None, "low": None, "high": None, "n": 0}
    found = clustered_mean(hits, clusters, *bootstrap).model_dump() if hits else nothing
    return {"name": instrument.name, "side": instrument.side, **found, "ties": ties, "without_value": without}
