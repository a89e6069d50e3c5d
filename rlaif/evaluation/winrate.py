"""The policy's responses against the reference's, by the judge's preference.

A pair here is (a = the policy's response, b = the reference's) for the same prompt and sample index. What
goes to evaluation.json beside win rates is in `evaluate.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit, logit

from rlaif.constitution import Constitution
from rlaif.errors import DataError
from rlaif.records import Judgment, Pair, Response, prompt_of
from rlaif.stats import Bootstrap, clustered_mean


class Match(NamedTuple):
    """One response of the reference and one of the policy to the same prompt."""

    before: Response
    after: Response

    @property
    def identical(self) -> bool:
        """Equal texts are a tie, and nobody is asked about them."""
        return self.before.text == self.after.text

    def pair(self) -> Pair:
        """The pair with a = the policy's response."""
        return Pair.of(prompt_of(self.after), self.after.text, self.before.text)


def matches(before: Sequence[Response], after: Sequence[Response]) -> list[Match]:
    """Responses matched by prompt and index, in the order of `after`; DataError for one without a partner."""
    reference = {(r.prompt_id, r.index): r for r in before}
    policy = {(r.prompt_id, r.index): r for r in after}
    alone = sorted(reference.keys() ^ policy.keys())
    if alone:
        prompt_id, index = alone[0]
        side = "reference" if alone[0] in reference else "policy"
        raise DataError(
            f"evaluation samples: prompt {prompt_id}, index {index} has a response of the {side} only "
            f"({len(alone)} such); sample both on the same prompts"
        )
    return [Match(reference[r.prompt_id, r.index], r) for r in after]


def with_partner(
    before: Sequence[Response], after: Sequence[Response]
) -> tuple[tuple[Response, ...], tuple[Response, ...]]:
    """Both without the responses whose prompt and index the other side lacks. DataError when nothing is left."""
    both = {(r.prompt_id, r.index) for r in before} & {(r.prompt_id, r.index) for r in after}
    if not both:
        raise DataError("evaluation samples: reference and policy have no prompt and index in common")
    one, two = (tuple(r for r in side if (r.prompt_id, r.index) in both) for side in (before, after))
    return one, two


def evaluation_pairs(before: Sequence[Response], after: Sequence[Response]) -> list[Pair]:
    """What to ask the judge: each distinct pair once, a = the policy's response, without identical texts."""
    pairs = [match.pair() for match in matches(before, after) if not match.identical]
    return list({pair.id: pair for pair in pairs}.values())


def win_rate(
    matched: Sequence[Match], judgments: Sequence[Judgment], constitution: Constitution, bootstrap: Bootstrap
) -> dict[str, Any] | None:
    """How often the policy's response is preferred: p > 0.5 wins, exactly 0.5 and identical texts count half.

    `mean_p` averages the probabilities themselves. `judged_principles` is the win rate by the judged
    principles alone: what the judge says once everything decided by code is taken out. `ties` counts both
    kinds of tie, `identical` the second; pairs without a judgment are left out and counted as `unjudged`.
    None when no pair was judged.
    """
    if not judgments:
        return None
    judged = list(_judged_matches(matched, judgments))
    overall = [(m, 0.5 if j is None else _p_after(j.p_a, j, m)) for m, j in judged]
    alone = [(m, p) for m, j in judged if (p := _p_judged(j, m, constitution)) is not None]
    rate = _credit_mean(overall, bootstrap)
    if rate is None:
        return None
    mean_p = clustered_mean([p for _, p in overall], [m.after.prompt_id for m, _ in overall], *bootstrap)
    return rate | {
        "mean_p": mean_p.model_dump(),
        "judged_principles": _credit_mean(alone, bootstrap),
        "ties": sum(p == 0.5 for _, p in overall),
        "identical": sum(m.identical for m, _ in overall),
        "unjudged": len(matched) - len(overall),
    }


def credits_of(matched: Sequence[Match], judgments: Sequence[Judgment]) -> list[tuple[Match, float]]:
    """Of each match with a result: 1 where the policy's response is preferred, 1/2 for a tie, else 0."""
    found = [(m, 0.5 if j is None else _p_after(j.p_a, j, m)) for m, j in _judged_matches(matched, judgments)]
    return [(m, 0.5 if p == 0.5 else float(p > 0.5)) for m, p in found] if judgments else []


def _judged_matches(matched: Sequence[Match], judgments: Sequence[Judgment]) -> Iterator[tuple[Match, Judgment | None]]:
    """Matches that have a result; None stands for the tie of identical texts."""
    by_pair = {judgment.pair.id: judgment for judgment in judgments}
    for match in matched:
        if match.identical:
            yield match, None
        elif (judgment := by_pair.get(match.pair().id)) is not None:
            yield match, judgment


def _p_after(p_a: float, judgment: Judgment, match: Match) -> float:
    return p_a if judgment.pair.a == match.after.text else 1 - p_a


def _p_judged(judgment: Judgment | None, match: Match, constitution: Constitution) -> float | None:
    """P(policy better) by the weighted mean log-odds of the judged principles; None where there are none."""
    if judgment is None:
        return 0.5
    weights = {p.id: p.weight for p in constitution.principles}
    judged = [p for p in judgment.principles if not p.checked]
    total = sum(weights.get(p.principle, 1.0) for p in judged)
    if not total:
        return None
    log_odds = logit(np.clip([p.p_a for p in judged], 1e-12, 1 - 1e-12))
    mean = float(np.dot([weights.get(p.principle, 1.0) for p in judged], log_odds) / total)
    return _p_after(float(expit(mean)), judgment, match)


def _credit_mean(rows: Sequence[tuple[Match, float]], bootstrap: Bootstrap) -> dict[str, Any] | None:
    if not rows:
        return None
    credits = [0.5 if p == 0.5 else float(p > 0.5) for _, p in rows]
    return clustered_mean(credits, [m.after.prompt_id for m, _ in rows], *bootstrap).model_dump()


def principle_win_rate(
    principle: str, matched: Sequence[Match], judgments: Sequence[Judgment], bootstrap: Bootstrap
) -> dict[str, Any] | None:
    """How often the judge prefers the policy's response by this principle alone; None if never asked."""
    rows = []
    asked = False
    for match, judgment in _judged_matches(matched, judgments):
        if judgment is None:
            rows.append((match, 0.5))
            continue
        said = [p for p in judgment.principles if p.principle == principle and not p.checked]
        rows += [(match, _p_after(p.p_a, judgment, match)) for p in said]
        asked = asked or bool(said)
    return _credit_mean(rows, bootstrap) if asked else None
