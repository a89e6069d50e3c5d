"""Direct preference optimisation on soft labels (arXiv 2305.18290, eq. 7): the policy is its own reward model.

Its implicit reward of a response is beta (log pi - log reference). The reference is the policy as it was loaded, asked
once before anything is learnt; a run that goes on asks it again, to the same numbers.
Shape suffixes: N pairs, K = 2 (chosen, rejected).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rlaif.config.optimise import Dpo
from rlaif.records import Preference
from rlaif.training import losses
from rlaif.training.lessons import Text, encode
from rlaif.training.offline.loop import LessonLosses, TextLesson, look_at
from rlaif.training.policy_model import PolicyModel
from rlaif.training.truncation import Truncation

CutOff = Collection[tuple[str, str]]
"""(prompt id, text) of responses that a token limit ended."""


@dataclass(frozen=True)
class DpoMethod:
    """The method on these pairs."""

    lessons: Sequence[TextLesson]
    p_chosen_N: Tensor
    reference_NK: Tensor
    section: Dpo
    name: str = "dpo"

    @classmethod
    def of(
        cls,
        policy: PolicyModel,
        preferences: Sequence[Preference],
        section: Dpo,
        cut_off: CutOff = (),
        truncation: Truncation | None = None,
    ) -> DpoMethod:
        """Of a policy that has not learnt yet. Pairs that are the same tokens after truncation teach nothing and go."""
        kept: list[TextLesson] = []
        p_chosen = []
        for preference in preferences:
            encoded = partial(encode_pair, policy.tokenizer, preference, cut_off=cut_off)
            rows = encoded(section.max_length)
            if truncation is not None:
                truncation.saw(rows, encoded)
            if rows[0] != rows[1]:
                lesson = TextLesson(len(kept), preference.pair_id, preference.prompt_id, rows, preference.weight)
                kept.append(lesson)
                p_chosen.append(preference.p_chosen)
        if truncation is not None:
            truncation.check()
        reference_NK = look_at(policy, kept, section.microbatch_tokens) if kept else torch.zeros(0, 2)
        return cls(kept, torch.tensor(p_chosen, device=reference_NK.device), reference_NK, section)

    def teach(self, lessons: Sequence[TextLesson], logprobs_NK: Tensor) -> LessonLosses:
        """The weighted loss of each pair, and how far the policy has moved on each side of it."""
        at = torch.tensor([lesson.place for lesson in lessons], device=logprobs_NK.device)
        weight_N = torch.tensor([lesson.weight for lesson in lessons], device=logprobs_NK.device)
        reference_NK = self.reference_NK[at]
        loss_N = losses.dpo_loss(
            logprobs_NK[:, 0] - logprobs_NK[:, 1],
            reference_NK[:, 0] - reference_NK[:, 1],
            self.p_chosen_N[at],
            weight_N,
            self.section.beta,
            self.section.label_smoothing,
        )
        moved_NK = logprobs_NK.detach() - reference_NK
        margin_N = self.section.beta * (moved_NK[:, 0] - moved_NK[:, 1])
        seen = {
            "accuracy": (margin_N > 0).float() + 0.5 * (margin_N == 0).float(),
            "margin": margin_N,
            "chosen_drift": moved_NK[:, 0],
            "rejected_drift": moved_NK[:, 1],
        }
        return LessonLosses(loss_N, seen)

    def describe(self, loss: float) -> dict[str, float]:
        """Nothing more."""
        return {}

    def summary(self, policy: PolicyModel) -> dict[str, float]:
        """Means over all these pairs under the policy as it is now: loss, accuracy, margin, drift (nats)."""
        taught = self.teach(self.lessons, look_at(policy, self.lessons, self.section.microbatch_tokens))
        total = sum(lesson.weight for lesson in self.lessons)
        means = {name: float(value_N.mean()) for name, value_N in taught.seen.items()}
        return {"loss": float(taught.loss_N.sum()) / total, **means}


def encode_pair(tokenizer: Any, preference: Preference, max_length: int, cut_off: CutOff) -> tuple[Any, ...]:
    """(chosen, rejected) as rows after the same prompt tokens."""
    texts = [side[-1].content for side in (preference.chosen, preference.rejected)]
    sides = [Text(text, (preference.prompt_id, text) not in cut_off) for text in texts]
    return encode(tokenizer, preference.prompt, sides, max_length)
