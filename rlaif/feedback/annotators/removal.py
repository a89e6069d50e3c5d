"""Whose labels are left out, all of them, and why (user-level removal, arXiv 2208.03295)."""

from __future__ import annotations

from collections.abc import Iterable

from rlaif.config.annotators import Removal
from rlaif.feedback.annotators.credibility import AnnotatorReport, Rate


def removed(reports: Iterable[AnnotatorReport], remove: Removal) -> dict[str, str]:
    """By annotator, the reasons; empty where no rule is set.

    A share counts against somebody when the whole of its interval lies beyond the limit, so that whoever is at the
    limit is removed by bad luck in 1 of 40 cases at most, with few answers and with many. The median time is
    taken as it is, from `min_labels` timed answers on.
    """
    found = {report.annotator: _reasons(report, remove) for report in reports if report.labels >= remove.min_labels}
    return {annotator: "; ".join(reasons) for annotator, reasons in found.items() if reasons}


def _reasons(report: AnnotatorReport, remove: Removal) -> list[str]:
    reasons = [
        *_below("right on gold questions", report.gold, remove.min_gold_accuracy),
        *_below("agrees with the others on", report.agreement, remove.min_agreement),
    ]
    timed = report.seconds if report.timed >= remove.min_labels else None
    if remove.min_seconds is not None and timed is not None and timed < remove.min_seconds:
        reasons.append(f"answers in {timed:.3g} s (median), below {remove.min_seconds:g} s")
    if remove.max_same_side is not None and report.first is not None:
        shares = {"first": report.first, "second": _rest(report.first)}
        reasons += [
            f"prefers what stands {side} in {_told(share)}, above {remove.max_same_side:.0%}"
            for side, share in shares.items()
            if share.low > remove.max_same_side
        ]
    return reasons


def _below(what: str, rate: Rate | None, limit: float | None) -> list[str]:
    return [f"{what} {_told(rate)}, below {limit:.0%}"] if rate and limit is not None and rate.high < limit else []


def _rest(rate: Rate) -> Rate:
    return Rate(value=1 - rate.value, low=1 - rate.high, high=1 - rate.low, n=rate.n)


def _told(rate: Rate) -> str:
    return f"{rate.value:.0%} of {rate.n} ({rate.low:.0%} to {rate.high:.0%})"
