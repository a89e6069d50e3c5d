"""What an arm's labels cost, a label and a point of accuracy: the question behind AI feedback.

Prices are the user's. The defaults are the RLAIF paper's of 2023 (arXiv 2309.00267: $0.67 a human label,
$0.06 a label of PaLM 2 L); models have become cheaper since. Give your own.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rlaif.config.base import Section
from rlaif.errors import DataError
from rlaif.records import Record

Money = Annotated[float, Field(ge=0)]


class Prices(Section):
    """US dollars, or any one currency. What has no price of its own is free."""

    human_label: Money = 0.67
    """One comparison by a person (2023, arXiv 2309.00267)."""
    ai_label: Money = 0.06
    """One label by a judge, where tokens are not priced (2023, arXiv 2309.00267)."""
    million_prompt_tokens: Money | None = None
    """With this or the next given, a judge's labels cost their tokens and `ai_label` is not used."""
    million_completion_tokens: Money | None = None
    hour: Money = 0.0
    """One hour of the machine that the judge runs on."""

    @property
    def by_token(self) -> bool:
        return self.million_prompt_tokens is not None or self.million_completion_tokens is not None


class Spending(Record):
    """What an arm used up: labels in all, those by people among them, and the judge's calls, tokens and seconds."""

    labels: int
    human_labels: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


class ArmCost(Record):
    """`per_point`: for each percentage point of reward-model accuracy above a coin's 50; None where there is none,
    or no accuracy. `per_label` is None without labels."""

    total: float
    human: float
    ai: float
    per_label: float | None
    per_point: float | None


def cost(spent: Spending, prices: Prices, accuracy: float | None = None) -> ArmCost:
    """What it cost. DataError for more human labels than labels, and for less than nothing."""
    if spent.human_labels > spent.labels:
        raise DataError(f"human_labels ({spent.human_labels}) are among labels, which are only {spent.labels}")
    below = [name for name, value in spent.model_dump().items() if value < 0]
    if below:
        raise DataError(f"{below[0]} must not be negative (got {getattr(spent, below[0])})")
    human = spent.human_labels * prices.human_label
    ai = _judge(spent, prices) + spent.seconds / 3600 * prices.hour
    total = human + ai
    above = None if accuracy is None else 100 * (accuracy - 0.5)
    return ArmCost(
        total=total,
        human=human,
        ai=ai,
        per_label=total / spent.labels if spent.labels else None,
        per_point=total / above if above is not None and above > 1e-9 else None,
    )


def _judge(spent: Spending, prices: Prices) -> float:
    if not prices.by_token:
        return (spent.labels - spent.human_labels) * prices.ai_label
    prompt = spent.prompt_tokens * (prices.million_prompt_tokens or 0.0)
    return (prompt + spent.completion_tokens * (prices.million_completion_tokens or 0.0)) / 1e6
