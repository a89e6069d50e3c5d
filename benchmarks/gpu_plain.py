"""The same work in plain transformers, for gpu.py: batches padded on the right, sdpa, its own generate, AdamW.

It has what such a loop has where it is well made: bf16 weights with float32 masters (so do we), batches sorted by
length and cut by the same bound on tokens, peft's adapters, the reference as the policy without its adapter.

Shape suffixes: B rows, S tokens of the longest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from benchmarks.gpu_rlaif import Writing, encoded, now
from benchmarks.gpu_work import RATE, Case, Shape
from rlaif.models.local.packing import Row


class Batch(NamedTuple):
    """Rows padded on the right, and their places among all rows."""

    places: list[int]
    tokens_BS: Tensor
    mask_BS: Tensor
    response_BS: Tensor
    """1 at the tokens of responses."""
    last_B: Tensor


def batches(rows: Sequence[Row], max_tokens: int, group: int, device: Any) -> Iterator[Batch]:
    """Neighbours (`group` of them) stay together; shortest first; no batch has more places than `max_tokens`."""
    groups = [list(range(first, first + group)) for first in range(0, len(rows), group)]
    lengths = [max(len(rows[i].prompt) + len(rows[i].response) for i in places) for places in groups]
    chosen: list[int] = []
    for length, places in sorted(zip(lengths, groups, strict=True)):
        if chosen and (len(chosen) + group) * length > max_tokens:
            yield _padded(rows, chosen, device)
            chosen = []
        chosen = chosen + places
    yield _padded(rows, chosen, device)


def _padded(rows: Sequence[Row], places: list[int], device: Any) -> Batch:
    ids = [[*rows[i].prompt, *rows[i].response] for i in places]
    longest = max(map(len, ids))
    tokens = [[*row, *[0] * (longest - len(row))] for row in ids]
    mask = [[1] * len(row) + [0] * (longest - len(row)) for row in ids]
    response = [
        [0] * len(rows[i].prompt) + [1] * len(rows[i].response) + [0] * (longest - len(row))
        for i, row in zip(places, ids, strict=True)
    ]
    last = [len(row) - 1 for row in ids]
    return Batch(places, *(torch.tensor(each, device=device) for each in (tokens, mask, response, last)))


class Learner:
    """A model, its adapter if it has one, and AdamW over float32 masters."""

    def __init__(self, kind: Any, folder: Path, dtype: torch.dtype, lora: bool, device: Any, **options: Any) -> None:
        self.model = kind.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa", **options).to(device).eval()
        self._peft: Any = None
        if lora:
            config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
            self._peft = get_peft_model(self.model.model, config, autocast_adapter_dtype=False)

    def start(self, *extra: Tensor) -> None:
        """`extra`: what learns beside the model's own weights."""
        self._weights = [p for p in self.model.parameters() if p.requires_grad] + list(extra)
        self._masters = [p.detach().float() for p in self._weights]  # of float32 weights: themselves
        self._adamw = torch.optim.AdamW(self._masters, lr=RATE, eps=1e-5, weight_decay=0.0, fused=True)

    @torch.no_grad()
    def step(self) -> None:
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        for weight, master in zip(self._weights, self._masters, strict=True):
            master.grad, weight.grad = None if weight.grad is None else weight.grad.float(), None
        self._adamw.step()
        for weight, master in zip(self._weights, self._masters, strict=True):
            if weight.data_ptr() != master.data_ptr():
                weight.copy_(master)
            master.grad = None

    def unadapted(self) -> Any:
        return contextlib.nullcontext() if self._peft is None else self._peft.disable_adapter()


def logprobs(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """logprobs_BS of the tokens, 0 outside of responses; and the last hidden states."""
    states = model.model(input_ids=batch.tokens_BS, attention_mask=batch.mask_BS, use_cache=False).last_hidden_state
    logits = model.lm_head(states)[:, :-1].float()
    loss_BS = F.cross_entropy(logits.transpose(1, 2), batch.tokens_BS[:, 1:], reduction="none")
    return -F.pad(loss_BS, (1, 0)) * batch.response_BS, states


def scores(model: Any, batch: Batch) -> Tensor:
    """A scalar at every token, (B, S)."""
    states = model.model(input_ids=batch.tokens_BS, attention_mask=batch.mask_BS, use_cache=False).last_hidden_state
    scores_BS: Tensor = model.score(states).squeeze(-1).float()
    return scores_BS


class Plain:
    """The models that a method needs, and one of its steps."""

    def __init__(self, case: Case, shape: Shape, folder: Path, dtype: str, device: str) -> None:
        self.case, self.shape, self.device = case, shape, device
        kind = AutoModelForSequenceClassification if case.kind == "reward" else AutoModelForCausalLM
        options = {"num_labels": 1} if case.kind == "reward" else {}
        number = getattr(torch, dtype)

        def open_model(kind: Any, name: str, lora: bool, **options: Any) -> Learner:
            return Learner(kind, folder / name, number, lora, device, **options)

        self.learner = open_model(kind, "policy", case.lora, **options)
        self.head = torch.zeros(self.learner.model.config.hidden_size, device=device, requires_grad=True)
        self.learner.start(*([self.head] if case.critic == "shared" else []))
        self.reference = self.learner.model
        if not case.lora and (case.on_policy or case.kind == "dpo"):
            self.reference = open_model(AutoModelForCausalLM, "policy", False).model.requires_grad_(False)
        self._references: dict[int, Tensor] = {}
        self.scorer: Any = None
        self.critic: Learner | None = None
        if case.on_policy:
            scorer = AutoModelForSequenceClassification
            self.scorer = open_model(scorer, "reward_model", False).model.requires_grad_(False)
            if case.critic == "own":
                self.critic = open_model(scorer, "reward_model", case.lora)
                self.critic.start()

    def step(self, rows: Sequence[Row]) -> None:
        """One update on these rows; of a method that writes itself, responses to their prompts."""
        if self.case.on_policy:
            self._optimise(rows)
            return
        group = 1 if self.case.kind == "sft" else 2
        for batch in batches(rows, self.shape.microbatch_tokens, group, self.device):
            self._loss(batch, len(rows)).backward()
        self.learner.step()

    def _loss(self, batch: Batch, count: int) -> Tensor:
        if self.case.kind == "reward":
            score_B = scores(self.learner.model, batch).gather(1, batch.last_B.unsqueeze(1)).squeeze(1)
            return -F.logsigmoid(score_B[0::2] - score_B[1::2]).sum() / count
        own, _ = logprobs(self.learner.model, batch)
        if self.case.kind == "sft":
            return -own.sum() / (count * self.shape.response)
        moved_B = own.sum(1) - self._asked_once(batch)
        return -F.logsigmoid(0.1 * (moved_B[0::2] - moved_B[1::2])).sum() / count

    @torch.no_grad()
    def _asked_once(self, batch: Batch) -> Tensor:
        """The reference's log-probabilities of whole responses; it stands still, so the first step asks for all."""
        place = batch.places[0]
        if place not in self._references:
            with self.learner.unadapted():
                self._references[place] = logprobs(self.reference, batch)[0].sum(1)
        return self._references[place]

    def write(self, asked: Sequence[Sequence[int]], length: int) -> list[Row]:
        """Responses of one length, by transformers' own `generate` on prompts padded on the left."""
        longest = max(map(len, asked))
        tokens = torch.tensor([[*[0] * (longest - len(ids)), *ids] for ids in asked], device=self.device)
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in asked], device=self.device)
        written = self.learner.model.generate(
            input_ids=tokens,
            attention_mask=mask,
            do_sample=True,
            top_k=0,
            max_new_tokens=length,
            min_new_tokens=length,
            pad_token_id=0,
        )[:, longest:].tolist()
        return [Row(tuple(ids), tuple(response)) for ids, response in zip(asked, written, strict=True)]

    def _optimise(self, rows: Sequence[Row]) -> None:
        with torch.no_grad():
            rows = self.write([row.prompt for row in rows], self.shape.response)
        parts = list(batches(rows, self.shape.microbatch_tokens, 1, self.device))
        before = [self._read(batch) for batch in parts]
        for _ in range(self.case.epochs):
            for batch, (old_BS, reward_BS) in zip(parts, before, strict=True):
                count = len(rows) * self.shape.response
                own_BS, states = logprobs(self.learner.model, batch)
                ratio_BS = torch.exp(own_BS - old_BS)
                clipped = torch.maximum(-reward_BS * ratio_BS, -reward_BS * ratio_BS.clamp(0.8, 1.2))
                loss = (clipped * batch.response_BS).sum() / count
                if self.case.critic == "shared":
                    loss = loss + self._value_loss(states.float() @ self.head, reward_BS, batch, count)
                loss.backward()
                del own_BS, states, loss
                if self.critic is not None:
                    self._value_loss(scores(self.critic.model, batch), reward_BS, batch, count).backward()
            self.learner.step()
            if self.critic is not None:
                self.critic.step()

    @torch.no_grad()
    def _read(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The policy's log-probabilities, and rewards less what the critic expects."""
        own_BS, _ = logprobs(self.learner.model, batch)
        with self.learner.unadapted():
            reference_BS, _ = logprobs(self.reference, batch)
        score_B = scores(self.scorer, batch).gather(1, batch.last_B.unsqueeze(1))
        reward_BS = score_B - 0.05 * (own_BS - reference_BS).sum(1, keepdim=True)
        if self.critic is not None:
            reward_BS = reward_BS - scores(self.critic.model, batch)
        return own_BS, reward_BS.expand_as(own_BS) * batch.response_BS

    def _value_loss(self, value_BS: Tensor, reward_BS: Tensor, batch: Batch, count: int) -> Tensor:
        return 0.05 * ((value_BS - reward_BS).square() * batch.response_BS).sum() / count


def learn(case: Case, shape: Shape, folder: Path, dtype: str, rows: Sequence[Row]) -> float:
    """Seconds of a step, the first left out."""
    plain = Plain(case, shape, folder, dtype, _device())
    ends = [_after(lambda: plain.step(rows)) for _ in range(shape.steps)]
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def write(folder: Path, shape: Shape, dtype: str) -> Writing:
    """As rlaif's `write`."""
    plain = Plain(Case("sft", False), shape, folder, dtype, _device())
    for _ in range(2):
        began = now()
        with torch.no_grad():
            rows = plain.write(encoded(shape), shape.response)
    return Writing(now() - began, sum(len(row.response) for row in rows))


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _after(work: Callable[[], None]) -> float:
    work()
    return now()
