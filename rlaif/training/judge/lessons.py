"""What a judge learns: of each pair the requests that judging makes, as rows, and what a mode makes of the model's
numbers about them, in one forward pass, gradients and all.

Shape suffixes: N questions, B distinct rows, H hidden size, T response tokens, L labels, K rows of a question;
2 as in `losses/judge.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rlaif.models.engine import ChatRequest
from rlaif.models.local.answers import KnownLabels, LabelTokens, shared_rows
from rlaif.models.local.architecture import context_of, next_logits
from rlaif.models.local.packing import Row, hidden_states
from rlaif.models.local.tokens import encode_prompt, encode_response, turn_of
from rlaif.training.losses import judge as losses
from rlaif.training.losses.judge import AnswerLoss
from rlaif.training.policy_model import PolicyModel

Rows = tuple[Row, ...]


class JudgeQuestion(NamedTuple):
    """What one principle asks about a pair."""

    requests: tuple[ChatRequest, ...]
    """`compare`: with a shown first, then b. `score` and `checklist`: about a, then b. `contrast`: of a `for` and
    `against`, then of b."""
    p_a: float
    """What the label says: the probability that a follows it better."""
    desired: Literal["yes", "no"] = "yes"
    """`checklist`: the answer that follows the principle."""


class JudgeLesson(NamedTuple):
    """The questions of one pair that are learnt together, and how much the pair counts."""

    id: str
    prompt_id: str
    questions: tuple[JudgeQuestion, ...]
    weight: float = 1.0


class Encoder:
    """From requests to rows, as the model in this process reads them to judge."""

    def __init__(self, policy: PolicyModel) -> None:
        self.policy = policy
        self._labels = KnownLabels(policy.tokenizer)

    def label_tokens(self, request: ChatRequest) -> LabelTokens:
        """Where the probabilities of the request's labels are read."""
        return self._labels.tokens(self.policy.model, request)

    def row(self, request: ChatRequest) -> Row:
        """The prompt, and its `answer` with what ends it; or the prompt up to where a label is read."""
        ids = tuple(encode_prompt(self.policy.tokenizer, request.messages))
        if request.answer is not None:
            return Row(ids, tuple(encode_response(self.policy.tokenizer, request.answer)))
        ids = (*ids, *self.label_tokens(request).lead)
        return Row(ids[:-1], ids[-1:])

    def rows(self, lesson: JudgeLesson) -> list[Rows]:
        """Of each question; what they have in common is in `prompt`, to be computed once."""
        found = [tuple(self.row(request) for request in question.requests) for question in lesson.questions]
        if lesson.questions[0].requests[0].answer is not None:
            return found  # the texts after one instruction share it already
        if len(found) == 1:  # a's request and b's begin alike
            return [_shared(found[0])]
        sides = [_shared([rows[side] for rows in found]) for side in range(2)]
        return list(zip(*sides, strict=True))

    def text_tokens(self, row: Row) -> int:
        """Of a row with an answer: how many of its tokens are the text, the end aside."""
        return len(row.response) - len(turn_of(self.policy.tokenizer).written)

    def length(self, lesson: JudgeLesson) -> int:
        """Tokens of its longest row."""
        return max(sum(map(len, self.row(request))) for question in lesson.questions for request in question.requests)

    @property
    def context(self) -> int | None:
        """The longest prompt that the model answers."""
        limit = context_of(self.policy.model.config)
        return None if limit is None else limit - 1


def _shared(rows: Sequence[Row]) -> Rows:
    """The same rows, cut where they begin to differ."""
    return tuple(shared_rows([[*row.prompt, *row.response] for row in rows]))


# ----------------------------------------------------------------------------------------------------------- modes

Answer = Callable[[Encoder, Sequence[JudgeQuestion], Sequence[Rows]], AnswerLoss]
"""What the encoder's model says to questions, of which the rows are given, and how far that is from what it should."""


def compare_answer(encoder: Encoder, questions: Sequence[JudgeQuestion], rows: Sequence[Rows]) -> AnswerLoss:
    """`compare`: the letter of the better response, in both orders."""
    logprob_N2L = _label_logprobs(encoder, questions, rows)
    return losses.compare_loss(logprob_N2L, _wanted(questions, logprob_N2L))


def rated_answer(kind: Literal["score", "checklist"], mass_weight: float) -> Answer:
    """`score` and `checklist`: a reply about each response alone."""

    def answer(encoder: Encoder, questions: Sequence[JudgeQuestion], rows: Sequence[Rows]) -> AnswerLoss:
        logprob_N2L = _label_logprobs(encoder, questions, rows)
        if kind == "score":
            better = losses.higher_rating(logprob_N2L.shape[-1])  # (L, L), the same for all questions
        else:
            better = torch.stack([losses.better_answer(question.desired) for question in questions])  # (N, L, L)
        return losses.rated_loss(logprob_N2L, better.to(logprob_N2L), _wanted(questions, logprob_N2L), mass_weight)

    return answer


def contrast_answer(length: Literal["sum", "mean", "root"], tau: float) -> Answer:
    """`contrast`: how much likelier one instruction makes a response than its opposite."""

    def answer(encoder: Encoder, questions: Sequence[JudgeQuestion], rows: Sequence[Rows]) -> AnswerLoss:
        policy = encoder.policy
        distinct, at_N4 = _distinct(rows, policy.model.device)  # a for, a against, b for, b against
        logprob_BT = policy.token_logprobs(distinct, 1.0)
        tokens_B = torch.tensor([encoder.text_tokens(row) for row in distinct], device=logprob_BT.device)
        of_text_BT = torch.arange(logprob_BT.shape[1], device=logprob_BT.device) < tokens_B[:, None]  # not the end
        logprob_B = (logprob_BT * of_text_BT).sum(1)
        # (N, response, instruction)
        logprob_N22, tokens_N22 = (_at(of_B, at_N4).unflatten(1, (2, 2)) for of_B in (logprob_B, tokens_B))
        ratio_N2 = losses.density_ratio(logprob_N22[..., 0], logprob_N22[..., 1], tokens_N22[..., 0], length)
        return losses.ratio_loss(ratio_N2, _wanted(questions, ratio_N2), tau)

    return answer


def _label_logprobs(encoder: Encoder, questions: Sequence[JudgeQuestion], rows: Sequence[Rows]) -> Tensor:
    """logprob_N2L, as the model in this process gives them when it judges."""
    policy = encoder.policy
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
