"""What optimisation asks of a reward: one value per response. The rewards themselves are in `rlaif/rewards/`.

Nothing here needs torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from rlaif.config.optimise import OnPolicy
from rlaif.config.scoring import FlipsCost, ModelScore, Scoring, Veto, reads_reward_model, sources_of
from rlaif.records import Prompt

if TYPE_CHECKING:
    from rlaif.models.local.packing import Row

Values = list[float | None]
"""One per response, in input order; None where there is none."""


class Scores(NamedTuple):
    """What responses are worth, and what a person may want to see of it."""

    values: Values
    parts: Mapping[str, Values] = MappingProxyType({})
    asked: Mapping[str, int] = MappingProxyType({})
    """What it took of a judge: calls and tokens, by name."""


class Reward(ABC):
    """What a response to a prompt is worth."""

    @abstractmethod
    def measure(self, prompts: Sequence[Prompt], texts: Sequence[str], rows: Sequence[Row] | None = None) -> Scores:
        """The value of each text after its prompt; None where it failed. `rows` are the texts as the tokens that a
        policy wrote, where they are known: what counts or reads tokens then takes these.

        With several processes all are given all texts, and get all values."""

    def score(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> Values:
        """The values alone."""
        return self.measure(prompts, texts).values


OpenReward = Callable[[Scoring | FlipsCost | Veto], Reward]
"""Opens a section of the recipe. Of a veto the value is 0 where it strikes, else 1."""


@dataclass(frozen=True)
class Rewards:
    """Everything that scores a step's rollouts."""

    score: Reward
    costs: Mapping[str, Reward] = field(default_factory=dict)
    """Of the constraints, by name: what is to be held at or below the limit, once it has the sign."""
    signs: Mapping[str, int] = field(default_factory=dict)
    veto: Reward | None = None
    gold: Reward | None = None
    """Held out: it teaches nothing."""
    max_failures: float = 0.02
    """Above this share of rollouts without a score the step fails."""

    @classmethod
    def of(cls, section: OnPolicy, open_reward: OpenReward, max_failures: float = 0.02) -> Rewards:
        """All that scores by this section: the score, costs, vetoes, and what is held out."""
        veto, gold = section.veto, section.gold
        return cls(
            score=open_reward(section.scoring),
            costs={c.name: open_reward(c.cost) for c in section.constraints},
            signs={c.name: c.sign for c in section.constraints},
            veto=open_reward(veto) if veto else None,
            gold=open_reward(gold.source) if gold else None,
            max_failures=max_failures,
        )


def heads_read(section: OnPolicy) -> list[str | None]:
    """Through which heads the run's reward model is read, in the order of the section; None is the common one."""
    sources = [*sources_of(section.scoring), *(constraint.cost for constraint in section.constraints)]
    return [s.head if isinstance(s, ModelScore) else None for s in sources if reads_reward_model([s])]
