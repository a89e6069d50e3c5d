"""What scores a rollout: one source, a weighted sum of several, vetoes, and costs that are held below a limit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from rlaif.config.base import Count, Positive, Section
from rlaif.config.judging import RateMode, ReferenceMode, ScoreMode
from rlaif.config.models import JudgeModel
from rlaif.records.core import absent
from rlaif.signals.kinds import Signal


class ModelScore(Section):
    """The run's reward model (the mean of its members, where it is an ensemble)."""

    kind: Literal["reward_model"] = "reward_model"
    head: str | None = None
    """A principle's own head instead of the common one (`reward.principle_heads`)."""
    path: str | None = Field(default=None, exclude_if=absent)
    """Another reward model's folder, as a discriminator of unwanted text beside the run's own; none = the run's."""

    @model_validator(mode="after")
    def _head_is_the_runs(self) -> Self:
        if self.head and self.path:
            raise ValueError("`head` is of the run's own reward model; leave out one of `head` and `path`")
        return self


class EnsembleScore(Section):
    """The members of the run's reward model, joined with caution (Coste et al., arXiv 2310.02743)."""

    kind: Literal["ensemble"] = "ensemble"
    reduce: Literal["mean", "min", "mean_minus_variance"] = "mean_minus_variance"
    penalty: float = Field(default=0.5, ge=0)
    """lambda in mean - lambda x variance."""


class JudgeScore(Section):
    """The judge itself, with no reward model between (direct RLAIF, arXiv 2309.00267): a number in [-1, 1], or with
    `contrast` the log density ratio over tau, with `reference` -1 to 0 (its negative is a cost: `sign: -1`)."""

    kind: Literal["judge"] = "judge"
    mode: Annotated[RateMode, Field(discriminator="kind")] = ScoreMode()
    model: JudgeModel | None = None
    """None = the recipe's judge."""
    principles: tuple[str, ...] = Field(default=(), exclude_if=absent)
    """Only by these, and 0 for a response to whose prompt none of them applies; none = by all that apply."""


class FlipsCost(Section):
    """How likely a response contradicts the one to the same prompt with the user's opinion turned round
    (`given.opposed`): a step answers both prompts, and who follows the user pays in both answers. 0 for a prompt that
    has no opposite."""

    kind: Literal["flips"] = "flips"
    contradict: str = "contradict"
    """The template that asks whether two texts contradict each other."""
    model: JudgeModel | None = None
    """None = the recipe's judge."""

    @property
    def mode(self) -> ReferenceMode:
        """Whose template it is."""
        return ReferenceMode(contradict=self.contradict)


class ChecksScore(Section):
    """The weighted share of the constitution's checked principles that the response passes."""

    kind: Literal["checks"] = "checks"
    principles: tuple[str, ...] = ()
    """Only these; none = all that apply to the prompt."""


class SignalScore(Section):
    """The number that a signal gives each response, as it is: a sum's weight, or a constraint's sign, turns it round. A
    response without a number has no score."""

    kind: Literal["signal"] = "signal"
    signal: Signal
    """What a principle's `classifier` may be; its limits are not asked for."""


class LengthScore(Section):
    """Response length over `per` tokens: the baseline that shows what length alone would win."""

    kind: Literal["length"] = "length"
    per: Count = 100


SimpleScore = Annotated[
    ModelScore | EnsembleScore | JudgeScore | ChecksScore | SignalScore | LengthScore, Field(discriminator="kind")
]


Source = Annotated[SimpleScore | FlipsCost, Field(discriminator="kind")]
"""All that a step's responses are scored by; a cost alone may look at two prompts."""


class Part(Section):
    """One term of a sum."""

    source: SimpleScore
    weight: float = Field(default=1.0, ge=-1e6, le=1e6)


class SumScore(Section):
    """Several sources, each times its weight."""

    kind: Literal["sum"] = "sum"
    parts: tuple[Part, ...] = Field(min_length=1)


Scoring = Annotated[SimpleScore | SumScore, Field(discriminator="kind")]


def sources_of(scoring: Scoring) -> tuple[SimpleScore, ...]:
    """The sources that a score is made of: itself, or the parts of a sum."""
    return tuple(part.source for part in scoring.parts) if isinstance(scoring, SumScore) else (scoring,)


def reads_reward_model(sources: Iterable[Source]) -> bool:
    """Whether the run's reward model takes part: without it none need be trained."""
    return any(isinstance(s, EnsembleScore) or (isinstance(s, ModelScore) and s.path is None) for s in sources)


class Scored(Section):
    """A method to which responses are worth something by a source."""

    if TYPE_CHECKING:  # each has them in its own place among its knobs
        scoring: Scoring
        microbatch_tokens: int

    @property
    def sources(self) -> tuple[Source, ...]:
        """Everything that a response is scored by; a held-out judge aside, which teaches nothing."""
        return sources_of(self.scoring)

    @property
    def reads_reward_model(self) -> bool:
        return reads_reward_model(self.sources)


class Veto(Section):
    """A response that fails one of the constitution's checked principles with `veto: true` scores this instead."""

    score: float = -1.0


class Constraint(Section):
    """A cost that is held at or below a limit by a Lagrange multiplier, learnt beside the policy (arXiv 2310.12773)."""

    name: str
    cost: Source
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


class Tricks(Section):
    """Length, flattery, formatting and planted phrases, added to held-out responses before and after training: how
    often the score rises, and by how much. docs/redteam.md has the list."""

    source: Scoring | None = None
    """What is tried; none = what `optimise` scores with."""
    responses: Count = 64
    """Of the held-out responses at most so many, the first ones; each is scored some ten times more."""
