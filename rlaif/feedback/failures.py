"""Rows that cannot be used: counted by cause, and held against a limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from scipy.special import betaincinv

from rlaif.errors import DataError
from rlaif.records import Failure


def causes(failures: Sequence[Failure]) -> dict[str, int]:
    """How many failures have which reason, the most frequent first."""
    return dict(Counter(failure.reason for failure in failures).most_common())


def told(failures: Sequence[Failure]) -> str:
    """The causes in words, and the place of the first failure."""
    first = failures[0]
    detail = f" ({first.detail})" if first.detail else ""
    numbers = ", ".join(f"{reason} {number}" for reason, number in causes(failures).items())
    return f"{numbers}; first: {first.id}: {first.reason}{detail}".replace("\n", " ")


def check_share(what: str, failed: int, rows: int, failures: Sequence[Failure], knob: str, limit: float) -> None:
    """DataError when surely more than `limit` of the rows failed: their share's exact 95 % interval (Clopper and
    Pearson 1934) lies above it. So a few odd rows of a short file stop nobody, and a limit of 0 none but clean ones.
    """
    if failed and betaincinv(failed, rows - failed + 1, 0.025) > limit:
        share = f"{failed / rows:.1%}, limit {limit:.1%}"
        raise DataError(
            f"{what}: {failed} of {rows} rows cannot be used ({share}): {told(failures)}; "
            f"mend the file, name its form, or raise {knob}"
        )
