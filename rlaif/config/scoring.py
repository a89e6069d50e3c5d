"""What scores a rollout: one source, a weighted sum of several, vetoes, and costs that are held below a limit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from rlaif.config.base import Count, Positive, Section
from rlaif.config.judging import ChecklistMode, ContrastMode, ScoreMode
from rlaif.config.models import JudgeModel


class ModelScore(Section):
    """The run's reward model (the mean of its members, where it is an ensemble)."""

    kind: Literal["reward_model"] = "reward_model"
    head: str | None = None
    """A principle's own head instead of the common one (`reward.principle_heads`)."""


class EnsembleScore(Section):
    """The members of the run's reward model, joined with caution (Coste et al., arXiv 2310.02743)."""

    kind: Literal["ensemble"] = "ensemble"
    reduce: Literal["mean", "min", "mean_minus_variance"] = "mean_minus_variance"
    penalty: float = Field(default=0.5, ge=0)
    """lambda in mean - lambda x variance."""


class JudgeScore(Section):
    """The judge itself, with no reward model between (direct RLAIF, arXiv 2309.00267): a number in [-1, 1], or with
    `contrast` the log density ratio over tau."""

    kind: Literal["judge"] = "judge"
    mode: Annotated[ScoreMode | ChecklistMode | ContrastMode, Field(discriminator="kind")] = ScoreMode()
    model: JudgeModel | None = None
    """None = the recipe's judge."""


class ChecksScore(Section):
    """The weighted share of the constitution's checked principles that the response passes."""

    kind: Literal["checks"] = "checks"
    principles: tuple[str, ...] = ()
    """Only these; none = all that apply to the prompt."""


class LengthScore(Section):
    """Response length over `per` tokens: the baseline that shows what length alone would win."""

    kind: Literal["length"] = "length"
    per: Count = 100


SimpleScore = Annotated[
    ModelScore | EnsembleScore | JudgeScore | ChecksScore | LengthScore, Field(discriminator="kind")
]


class Part(Section):
    """One term of a sum."""

    source: SimpleScore
    weight: float = Field(default=1.0, ge=-1e6, le=1e6)


class SumScore(Section):
    """Several sources, each times its weight."""

    kind: Literal["sum"] = "sum"
    parts: tuple[Part, ...] = Field(min_length=1)


Scoring = Annotated[
    ModelScore | EnsembleScore | JudgeScore | ChecksScore | LengthScore | SumScore, Field(discriminator="kind")
]


def sources_of(scoring: Scoring) -> tuple[SimpleScore, ...]:
    """The sources that a score is made of: itself, or the parts of a sum."""
    return tuple(part.source for part in scoring.parts) if isinstance(scoring, SumScore) else (scoring,)


def reads_reward_model(sources: Iterable[SimpleScore]) -> bool:
    """Whether the run's reward model takes part: without it none need be trained."""
    return any(isinstance(source, ModelScore | EnsembleScore) for source in sources)


class Veto(Section):
    """A response that fails one of the constitution's checked principles with `veto: true` scores this instead."""

    score: float = -1.0


class Constraint(Section):
    """A cost that is held at or below a limit by a Lagrange multiplier, learnt beside the policy (arXiv 2310.12773)."""

    name: str
    cost: SimpleScore
    sign: Literal[-1, 1] = 1
    """-1 where the source is high for what is good: its negative is the cost."""
    limit: float
    """On the mean cost of a step's responses."""
    learning_rate: Positive = 0.1
    start: float = Field(default=0.0, ge=0)


class HeldoutJudge(Section):
    """A held-out judge that scores some rollouts, and teaches nothing: where its score falls while the reward rises,
    the policy is gaming the reward (arXiv 2210.10760)."""

    source: JudgeScore | ChecksScore = Field(discriminator="kind")
    every: Count = 5
    responses: Count = 32
