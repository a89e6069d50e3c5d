"""From the model's numbers to what a mode says of pairs: one forward pass over a few lessons, gradients and all.

Shape suffixes: N questions, B distinct rows, T response tokens, L labels, 2 as in `losses/judge.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from rlaif.models.local.architecture import next_logits
from rlaif.models.local.packing import Row, hidden_states
from rlaif.training import losses
from rlaif.training.judge.lessons import Encoder, JudgeQuestion
from rlaif.training.losses import AnswerLoss
from rlaif.training.policy_model import PolicyModel

Rows = tuple[Row, ...]


class JudgeMethod(Protocol):
    """One mode of judging, as it learns."""

    def answer(
        self, policy: PolicyModel, encoder: Encoder, questions: Sequence[JudgeQuestion], rows: Sequence[Rows]
    ) -> AnswerLoss:
        """What the model says to these questions, and how far that is from what it should."""
        ...


@dataclass(frozen=True)
class Comparing:
    """`compare`: the letter of the better response, in both orders."""

    def answer(
        self, policy: PolicyModel, encoder: Encoder, questions: Sequence[JudgeQuestion], rows: Sequence[Rows]
    ) -> AnswerLoss:
        logprob_N2L = _label_logprobs(policy, encoder, questions, rows)
        return losses.compare_loss(logprob_N2L, _wanted(questions, logprob_N2L))


@dataclass(frozen=True)
class RatingMethod:
    """`score` and `checklist`: a reply about each response alone."""

    kind: Literal["score", "checklist"]
    mass_weight: float

    def answer(
        self, policy: PolicyModel, encoder: Encoder, questions: Sequence[JudgeQuestion], rows: Sequence[Rows]
    ) -> AnswerLoss:
        logprob_N2L = _label_logprobs(policy, encoder, questions, rows)
        if self.kind == "score":
            better = losses.higher_rating(logprob_N2L.shape[-1])
        else:
            better = torch.stack([losses.better_answer(question.desired) for question in questions])
        better = better.to(logprob_N2L)
        return losses.rated_loss(logprob_N2L, better, _wanted(questions, logprob_N2L), self.mass_weight)


@dataclass(frozen=True)
class Contrasting:
    """`contrast`: how much likelier one instruction makes a response than its opposite."""

    length: Literal["sum", "mean", "root"]
    tau: float

    def answer(
        self, policy: PolicyModel, encoder: Encoder, questions: Sequence[JudgeQuestion], rows: Sequence[Rows]
    ) -> AnswerLoss:
        distinct, at_N4 = _distinct(rows, policy.model.device)
        logprob_BT = policy.token_logprobs(distinct, 1.0)
        tokens_B = torch.tensor([encoder.text_tokens(row) for row in distinct], device=logprob_BT.device)
        of_text_BT = torch.arange(logprob_BT.shape[1], device=logprob_BT.device) < tokens_B[:, None]
        logprob_B = (logprob_BT * of_text_BT).sum(1)
        logprob_N22, tokens_N22 = (_at(of_B, at_N4).unflatten(1, (2, 2)) for of_B in (logprob_B, tokens_B))
        ratio_N2 = losses.density_ratio(logprob_N22[..., 0], logprob_N22[..., 1], tokens_N22[..., 0], self.length)
        return losses.ratio_loss(ratio_N2, _wanted(questions, ratio_N2), self.tau)


def _label_logprobs(
    policy: PolicyModel, encoder: Encoder, questions: Sequence[JudgeQuestion], rows: Sequence[Rows]
) -> Tensor:
    """logprob_N2L, as the model in this process gives them when it judges."""
    distinct, at_N2 = _distinct(rows, policy.model.device)
    hidden_BH = hidden_states(policy.backbone, distinct).at_last()
    ids = encoder.label_tokens(questions[0].requests[0]).ids
    logprob_BL = losses.label_logprobs(next_logits(policy.model, hidden_BH), ids)
    return _at(logprob_BL, at_N2)


def _at(values_B: Tensor, at_NK: Tensor) -> Tensor:
    """Not by [at_NK], whose gradient adds up what it repeats in any order (`packing.HiddenStates`)."""
    return values_B.index_select(0, at_NK.flatten()).unflatten(0, at_NK.shape)


def _distinct(rows: Sequence[Rows], device: torch.device) -> tuple[list[Row], Tensor]:
    """Each different row once, and where those of each question are."""
    place = {row: i for i, row in enumerate(dict.fromkeys(row for each in rows for row in each))}
    return list(place), torch.tensor([[place[row] for row in each] for each in rows], device=device)


def _wanted(questions: Sequence[JudgeQuestion], like: Tensor) -> Tensor:
    return torch.tensor([question.p_a for question in questions], device=like.device, dtype=like.dtype)
