"""Methods that learn from a fixed set of texts: supervised fine-tuning and direct preference optimisation.

Shape suffixes: B rows, T response tokens, N lessons, K rows of a lesson (DPO: chosen, rejected).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from rlaif.config.optimise import Dpo, Offline
from rlaif.config.training import ComputeSection, Lora
from rlaif.models.local.packing import Row
from rlaif.records import Messages, Preference, content_id, plain
from rlaif.training import parallel
from rlaif.training.compute import prepare
from rlaif.training.fit import Log, fit, passes, plan_epochs, read_all
from rlaif.training.lessons import Lesson, Text, distinct, encode, encode_each
from rlaif.training.lora import trainable
from rlaif.training.losses.preference import dpo_loss
from rlaif.training.policy_model import PolicyModel
from rlaif.training.session import check_finite
from rlaif.training.truncation import Truncation

AS_WRITTEN = 1.0
"""The temperature of every log-probability here: nothing was sampled."""
CutOff = Collection[tuple[str, str]]
"""(prompt id, text) of responses that a token limit ended."""


class LessonLosses(NamedTuple):
    """What a method says of some lessons, each (N)."""

    loss_N: Tensor
    """Times the weight. The loss of a minibatch is its sum over the sum of weights."""
    seen: Mapping[str, Tensor]
    """What else to watch, by name; metrics show the means over lessons."""


@dataclass(frozen=True)
class TextMethod(ABC):
    """What is learnt from the log-probabilities of whole responses."""

    name: ClassVar[str]
    """As `optimise.kind` has it."""
    lessons: Sequence[Lesson]

    @abstractmethod
    def teach(self, places: Sequence[int], logprobs_NK: Tensor) -> LessonLosses:
        """The losses of the lessons at these places. `logprobs_NK`: log pi(response | prompt), summed over tokens."""

    def describe(self, loss: float) -> dict[str, float]:
        """The minibatch's loss in other words, for the metrics."""
        return {}


class SftExample(NamedTuple):
    """A prompt and the response to imitate."""

    prompt_id: str
    prompt: Messages
    response: Text


@dataclass(frozen=True)
class SftMethod(TextMethod):
    """Cross-entropy on the response and its end token; the prompt is only read.

    A lesson weighs as many tokens as it has: the loss is the mean over the minibatch's tokens.
    """

    name = "sft"

    @classmethod
    def of(
        cls,
        tokenizer: Any,
        demonstrations: Sequence[SftExample],
        max_length: int,
        truncation: Truncation | None = None,
    ) -> SftMethod:
        """Without those that have no token at all (blank and cut off)."""

        def rows_of(shown: SftExample, length: int) -> tuple[Row, ...]:
            return encode(tokenizer, shown.prompt, [shown.response], length)

        return cls(
            [
                Lesson(content_id(plain(shown.prompt), shown.response.text), shown.prompt_id, rows, 1.0, float(tokens))
                for shown, rows in encode_each(demonstrations, rows_of, max_length, truncation)
                if (tokens := len(rows[0].response))
            ]
        )

    def teach(self, places: Sequence[int], logprobs_NK: Tensor) -> LessonLosses:
        """-log pi(response | prompt), in nats."""
        return LessonLosses(-logprobs_NK.squeeze(1), {})

    def describe(self, loss: float) -> dict[str, float]:
        """Perplexity per token."""
        return {"perplexity": math.exp(min(loss, 700.0))}  # exp(710) overflows


@dataclass(frozen=True)
class DpoMethod(TextMethod):
    """Direct preference optimisation on soft labels (arXiv 2305.18290, eq. 7): the policy is its own reward model.

    Its implicit reward of a response is beta (log pi - log reference). The reference is the policy as it was loaded,
    asked once before anything is learnt; a run that goes on asks it again, to the same numbers.
    """

    name = "dpo"
    reference_NK: Tensor
    section: Dpo

    @classmethod
    def of(
        cls,
        policy: PolicyModel,
        preferences: Sequence[Preference],
        section: Dpo,
        cut_off: CutOff = (),
        truncation: Truncation | None = None,
    ) -> DpoMethod:
        """Of a policy that has not learnt yet."""

        def rows_of(row: Preference, length: int) -> tuple[Row, ...]:
            texts = [side[-1].content for side in (row.chosen, row.rejected)]
            sides = [Text(text, (row.prompt_id, text) not in cut_off) for text in texts]
            return encode(policy.tokenizer, row.prompt, sides, length)

        lessons = [
            Lesson(row.pair_id, row.prompt_id, rows, row.p_chosen, row.weight)
            for row, rows in encode_each(preferences, rows_of, section.max_length, truncation)
        ]
        reference_NK = look_at(policy, lessons, section.microbatch_tokens) if lessons else torch.zeros(0, 2)
        return cls(lessons, reference_NK, section)

    def teach(self, places: Sequence[int], logprobs_NK: Tensor) -> LessonLosses:
        """The weighted loss of each pair, and how far the policy has moved on each side of it."""
        device, part = logprobs_NK.device, [self.lessons[place] for place in places]
        reference_NK = self.reference_NK[torch.tensor(places, device=device)]
        loss_N = dpo_loss(
            logprobs_NK[:, 0] - logprobs_NK[:, 1],
            reference_NK[:, 0] - reference_NK[:, 1],
            torch.tensor([lesson.target for lesson in part], device=device),
            torch.tensor([lesson.weight for lesson in part], device=device),
            self.section.beta,
            self.section.label_smoothing,
        )
        moved_NK = logprobs_NK.detach() - reference_NK  # nats
        margin_N = self.section.beta * (moved_NK[:, 0] - moved_NK[:, 1])
        seen = {
            "accuracy": (margin_N > 0).float() + 0.5 * (margin_N == 0).float(),
            "margin": margin_N,
            "chosen_drift": moved_NK[:, 0],
            "rejected_drift": moved_NK[:, 1],
        }
        return LessonLosses(loss_N, seen)

    def summary(self, policy: PolicyModel) -> dict[str, float]:
        """Means over all these pairs under the policy as it is now: loss, accuracy, margin, drift (nats)."""
        logprobs_NK = look_at(policy, self.lessons, self.section.microbatch_tokens)
        taught = self.teach(range(len(self.lessons)), logprobs_NK)
        total = sum(lesson.weight for lesson in self.lessons)
        means = {name: float(value_N.mean()) for name, value_N in taught.seen.items()}
        return {"loss": float(taught.loss_N.sum()) / total, **means}


def make_learner(policy: PolicyModel, lora: Lora | None, seed: int, compute: ComputeSection) -> None:
    """Trainable, by an adapter or whole. No reference is kept: who needs one has asked it before."""
    if lora is None:
        policy.model.requires_grad_(True)
    else:
        policy.make_trainable(lora, seed)
    prepare(policy, compute)


def plan_of(method: TextMethod, section: Offline, seed: int) -> list[list[int]]:
    """The minibatches of all epochs, in order, as places in the method's lessons."""
    return list(chain(*plan_epochs(method.lessons, section, seed, method.name, "order")))


def train(policy: PolicyModel, method: TextMethod, section: Offline, seed: int, checkpoints: Path, log: Log) -> None:
    """Train the policy in place. Goes on from the newest checkpoint, to the same numbers."""

    def learn_batch(batch: Sequence[int], where: str) -> dict[str, float]:
        return learn(policy, method, batch, section.microbatch_tokens, where)

    plan = plan_of(method, section, seed)
    fit(trainable(policy.model), plan, learn_batch, section, checkpoints, log, method.name)


def learn(
    policy: PolicyModel, method: TextMethod, batch: Sequence[int], max_tokens: int, where: str
) -> dict[str, float]:
    """Accumulate this process's part of the gradient of the minibatch's mean loss; returns the row of metrics."""
    lessons = [method.lessons[place] for place in batch]
    total = sum(lesson.weight for lesson in lessons)
    sums: dict[str, float] = defaultdict(float)
    for part in passes(lessons, max_tokens):
        logprobs_B = policy.token_logprobs(part.rows, AS_WRITTEN).sum(1)
        at_NK = torch.tensor(part.at, device=logprobs_B.device)
        taught = method.teach([batch[i] for i in part.lessons], logprobs_B[at_NK])
        loss = taught.loss_N.sum() / total
        check_finite(loss, f"{where}, rows {[lessons[i].id for i in part.lessons][:4]}")
        (loss * part.counts).backward()
        sums["loss"] += float(loss.detach()) * part.counts
        for name, value_N in taught.seen.items():
            sums[name] += float(value_N.sum()) / len(lessons) * part.counts
    added = parallel.add_up(torch.tensor(list(sums.values()), device=policy.model.device))
    # One process has them in float64 already.
    means = dict(zip(sums, added.tolist() if parallel.size() > 1 else sums.values(), strict=True))
    tokens = sum(len(row.response) for lesson in lessons for row in lesson.rows)
    return {**means, **method.describe(means["loss"]), "tokens": float(tokens)}


def look_at(policy: PolicyModel, lessons: Sequence[Lesson], max_tokens: int) -> Tensor:
    """logprobs_NK of any number of lessons under the policy as it is, on its device."""
    rows = distinct(lessons)
    logprobs_B = read_all(lambda part: policy.token_logprobs(part, AS_WRITTEN).sum(1), rows, max_tokens)
    place = {row: i for i, row in enumerate(rows)}
    return logprobs_B[torch.tensor([[place[row] for row in x.rows] for x in lessons], device=logprobs_B.device)]
