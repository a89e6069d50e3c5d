"""The ways of judging, one section each, and what an audit must have said before labelling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from rlaif.config.base import Count, Positive, Section, Share, repeated
from rlaif.config.models import JudgeModel


class CompareMode(Section):
    """Which of two responses follows a principle better: one forced choice in each order."""

    kind: Literal["compare"] = "compare"
    template: str = "compare"
    """A file under prompts/judge/, or a path."""


class ReasonedMode(Section):
    """`compare` after a chain of thought: one call writes the reason, a second makes the choice."""

    kind: Literal["reasoned"] = "reasoned"
    template: str = "reasoned"
    reasons: Count = 1
    """1: one greedy reason. More: self-consistency over that many sampled reasons (opt in: it lowered agreement in
    arXiv 2309.00267, table 7)."""
    temperature: Positive = 0.7
    """Of the reasons, where there are several."""
    max_tokens: Count = 256
    """Of a reason. One that is cut off is a failure."""
    clamp: tuple[Share, Share] = (0.4, 0.6)
    """After a reason the choice is nearly certain whatever its merit, so p is held within these (arXiv 2212.08073)."""

    @field_validator("clamp")
    @classmethod
    def _symmetric(cls, clamp: tuple[float, float]) -> tuple[float, float]:
        low, high = clamp
        if not low < high or abs(low + high - 1) > 1e-9:
            raise ValueError(f"must be [x, 1 - x] with x below 0.5 (got {list(clamp)})")
        return clamp


class ScoreMode(Section):
    """Each response alone, rated 1 to 10 by each principle (direct RLAIF, arXiv 2309.00267)."""

    kind: Literal["score"] = "score"
    template: str = "score"


class ChecklistMode(Section):
    """Each response alone, by each principle's yes/no `question`."""

    kind: Literal["checklist"] = "checklist"
    template: str = "checklist"


class ContrastMode(Section):
    """Each response alone, by how much likelier one instruction makes it than its opposite (arXiv 2411.02481).

    Nothing is chosen and nothing written: the model reads each response under the two instructions of a principle's
    `contrast`. With s = log p(y | for, x) - log p(y | against, x), p(a) = sigma((s_a - s_b) / tau).
    """

    kind: Literal["contrast"] = "contrast"
    template: str = "contrast"
    length: Literal["sum", "mean", "root"] = "sum"
    """How s depends on the response's n tokens: their sum, their mean, or the sum over the root of n, whose spread does
    not grow with n where tokens are independent."""
    tau: Positive | None = None
    """The s at which odds are e to 1; none: `TAU` of this `length` (rlaif/feedback/judge/contrast.py). An audit fits a
    better one (`label.audit.calibrate`)."""
    against: JudgeModel | None = None
    """The model that reads the `against` side, weaker than the judge; none: the judge itself."""


class ReferenceMode(Section):
    """Each response alone, held against what its prompt refers to: a principle's `reference` says what.

    `documents`: for each claim (a sentence) the judge quotes the passage that supports or refutes it; what has no quote
    that stands there word for word is unsupported, and the value is minus the share of claims that are not supported.
    `samples`: minus the mean probability that the response contradicts another sample of the prompt. `gold`: minus the
    loss by a proper rule, so that right is above not knowing, and that above wrong.
    """

    kind: Literal["reference"] = "reference"
    template: str = "reference"
    """Asks for a quote."""
    contradict: str = "contradict"
    """The template that asks whether two texts contradict each other."""
    max_tokens: Count = 96
    """Of a quote. A reply that is cut off is a failure."""
    min_words: Count = 3
    """A quote of fewer words supports nothing, unless it is a whole document: "the" stands everywhere."""
    abstain_at: Share = 0.5
    """The chance to be right below which not knowing is worth more than an answer."""
    unstated: Share = 1.0
    """The confidence of an answer that states none."""
    veto_above: Share = 0.5
    """A response goes against a principle with `veto` where more than this is wrong with it."""


class TurnsMode(Section):
    """Each of the assistant's turns by each principle's yes/no `question`, as far as the conversation had come."""

    kind: Literal["turns"] = "turns"
    template: str = "checklist"
    reduce: Literal["min", "mean"] = "min"
    """How a principle's turns become one value: the worst of them, or their mean."""
    turns: Literal["all", "new"] = "all"
    """`new`: the response's turns alone, not those that the prompt came with."""


class RankMode(Section):
    """All responses to a prompt at once, by Bradley-Terry strengths over comparisons."""

    kind: Literal["rank"] = "rank"
    template: str = "compare"
    rounds: Count | None = None
    """None: every pair is compared. A number: a Swiss tournament of so many rounds, K/2 comparisons each."""


class ReviseMode(Section):
    """Critique and revise: the last revision is preferred to the original (arXiv 2212.08073)."""

    kind: Literal["revise"] = "revise"
    template: str = "revise"
    rounds: Count = 2
    responses_per_prompt: Count = 1
    """How many of a prompt's responses are revised."""
    temperature: float = Field(default=0.0, ge=0)
    max_tokens: Count = 256
    confidence: float = Field(default=0.9, gt=0.5, le=1)
    """p(revision over original): nobody compared the two."""


MemberMode = Annotated[
    CompareMode | ReasonedMode | ScoreMode | ChecklistMode | ContrastMode | ReferenceMode | TurnsMode,
    Field(discriminator="kind"),
]


class PanelMember(Section):
    """One judge of a panel."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    model: JudgeModel | None = None
    """None: the recipe's judge."""
    mode: MemberMode = CompareMode()


class PanelMode(Section):
    """Several judges (other models, templates or modes) on the same pairs."""

    kind: Literal["panel"] = "panel"
    members: tuple[PanelMember, ...] = Field(min_length=2)
    combine: Literal["mean", "majority", "dawid_skene"] = "mean"
    """mean: of the members' log-odds; majority: the share of members for a; dawid_skene: the posterior of the true
    label with each member's error rates estimated (Dawid and Skene 1979)."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [member.name for member in self.members]
        for index in repeated(names):
            raise ValueError(f"members: name {names[index]!r} is used twice")
        return self


class AutoMode(Section):
    """The mode that an audit chose among several (`rlaif audit --modes`): the audit that `label.audit.file` names."""

    kind: Literal["auto"] = "auto"


RateMode = ScoreMode | ChecklistMode | ContrastMode | ReferenceMode | TurnsMode
"""Those that look at one response at a time."""
AnyMode = CompareMode | ReasonedMode | RateMode | RankMode | ReviseMode | PanelMode
Mode = Annotated[AnyMode, Field(discriminator="kind")]

if TYPE_CHECKING:
    WrittenMode = Mode  # `load_recipe` puts the chosen mode in the place of `auto`, so no code meets it
else:
    WrittenMode = Annotated[AnyMode | AutoMode, Field(discriminator="kind")]


class AuditRequirement(Section):
    """Label only with a judge that an audit has approved, and correct its confidence by what the audit learned."""

    file: str
    """What `rlaif audit` wrote (JSON). It must be about this judge, this constitution and this mode."""
    gate: dict[str, Share] = Field(default_factory=dict)
    """Least values, e.g. `{accuracy: 0.6, consistency: 0.7}`; none: the audit need only exist."""
    calibrate: Literal["none", "temperature", "isotonic"] = "none"
    """Which of the audit's fitted maps is applied to every p(a)."""
