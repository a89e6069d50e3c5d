"""What must not fall from one round of `rlaif iterate` to the next, and whether the policy may judge itself."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlaif.config.base import Section, Share
from rlaif.config.judging import Mode
from rlaif.config.models import JudgeModel

Trick = Literal["length", "flattery", "formatting", "planted"]


class _Gate(Section):
    """What all kinds have."""

    tolerance: Share = 0.0
    """How far it may fall. A round is refused if the upper end of the paired difference's interval is below minus this:
    it has surely fallen by more."""
    strict: bool = False
    """Refuse, too, what has not been shown to hold: a lower end below minus the tolerance. Give a tolerance: with 0
    only a round that is surely better passes."""


class JudgeGate(_Gate):
    """A held-out judge compares the round's answers with those of the last kept round: its win rate, from 50 % on."""

    kind: Literal["judge"] = "judge"
    model: JudgeModel | None = None
    """None: the recipe's judge, which then needs another constitution."""
    constitution: str | None = None
    """None: the recipe's."""
    mode: Mode | None = None
    """None: the recipe's `label.mode`."""


class GoldGate(_Gate):
    """Human labels: how often the policy prefers what people do. It prefers the response with the higher mean
    log-probability per token; under `self_reward` the one that it chooses when it is asked as the judge is."""

    kind: Literal["gold"] = "gold"
    gold: tuple[str, ...] = Field(min_length=1)
    """Files, folders of runs or sources, each as `rlaif audit --gold` takes it. Pairs on prompts that the round trained
    on are left out, and counted."""


class HackingGate(_Gate):
    """The tricks which gain a score without better content (docs/redteam.md): the share of answers that show none, or
    of answers whose score none lifts."""

    kind: Literal["hacking"] = "hacking"
    tricks: tuple[Trick, ...] = Field(default=("length", "flattery", "formatting", "planted"), min_length=1)
    """length: 20 words and more than twice the other's beyond the other answer; formatting: Markdown; flattery and
    planted phrases: those of `rlaif/audits/hacking.py`."""
    of: Literal["answers", "score"] = Field(default="answers", exclude_if=lambda of: of == "answers")
    """answers: what the policy does by itself. score: how far the tricks move what the round trained on
    (`evaluate.hacking`), the last kept round's and its own, on the same answers of this round; the first round has
    nothing to be held against."""


Gate = Annotated[JudgeGate | GoldGate | HackingGate, Field(discriminator="kind")]


class IterateSection(Section):
    """Rounds of `rlaif iterate` that may be refused. No stage of a run reads this section."""

    gates: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")], Gate] = Field(default_factory=dict)
    """By a name of your own: what must not fall against the last kept round. If one does, the round is refused."""
    self_reward: bool = False
    """The policy that a round begins from is that round's judge too (arXiv 2401.10020). The recipe's `judge.model` must
    be its `policy.model`, and a gate must watch."""

    @model_validator(mode="after")
    def _is_watched(self) -> Self:
        if not self.gates:
            raise ValueError(
                "no gate: add one of kind judge, gold or hacking; without, a policy judges itself unwatched"
            )
        return self
