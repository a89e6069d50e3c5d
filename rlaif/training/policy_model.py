"""The policy as training sees it: log-probabilities of given responses, with and without its adapter.

Shape suffixes: B responses, T response tokens, N real tokens of the batch, H hidden.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlaif.config import Recipe
from rlaif.config.optimise import BestOfN
from rlaif.config.training import Lora
from rlaif.formats.turns import spoken
from rlaif.models.local.architecture import backbone_of, output_of
from rlaif.models.local.load import load_language_model, load_tokenizer
from rlaif.models.local.machine import torch_dtype
from rlaif.models.local.packing import Row, hidden_states, microbatches, response_mask
from rlaif.models.local.tokens import encode_prompt, response_tokens
from rlaif.processes import leads
from rlaif.records import Response, prompt_of
from rlaif.training.compute import Outline, gather, gathered, keeping
from rlaif.training.head import chosen_and_entropy, chosen_logprobs
from rlaif.training.lora import Adapter
from rlaif.training.optimise.rewards import Reward, Scores


class TokenStatistics(NamedTuple):
    """Of each response token: its log-probability, and the entropy (nats) of the distribution it came from."""

    logprobs_BT: Tensor
    entropy_BT: Tensor


class ForwardPass(NamedTuple):
    """One forward pass: each response token's log-probability, and the state in which it was chosen."""

    logprobs_BT: Tensor
    hidden_NH: Tensor
    """At the real response tokens alone, row after row."""


class PolicyModel:
    """A language model, its tokenizer and, with LoRA, the adapter that makes it differ from the reference.

    Without LoRA the reference is a second, frozen copy. A model just made is frozen until `make_trainable`.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model.eval().requires_grad_(False)  # dropout off, for good
        self.tokenizer = tokenizer
        self.backbone: Any = backbone_of(model)
        self.adapter: Adapter | None = None
        self.outline: Outline | None = None
        self._reference: PolicyModel | None = None

    @classmethod
    def load(cls, path: str, revision: str | None, dtype: torch.dtype) -> PolicyModel:
        """From the hub, a folder or the embedded name."""
        loaded = load_language_model(path, revision, dtype)
        return cls(loaded.model, loaded.tokenizer)

    def make_trainable(self, lora: Lora | None, seed: int) -> None:
        """Learn through a new adapter, or with all weights; what the model is now becomes the reference."""
        if lora is not None:
            self.adapter = Adapter(self.backbone, lora, seed)
        else:
            self._reference = PolicyModel(copy.deepcopy(self.model), self.tokenizer)
            self.model.requires_grad_(True)

    def token_logprobs(self, rows: Sequence[Row], temperature: float) -> Tensor:
        """logprobs_BT: log pi(token | what stands before it) at this temperature, 0 on padding. Gradients flow."""
        return self.read(rows, temperature).logprobs_BT

    def read(self, rows: Sequence[Row], temperature: float) -> ForwardPass:
        """`token_logprobs`, and the hidden states for whoever else reads them (a critic on this trunk)."""
        hidden_NH, targets_N = self.choices(rows)
        logprobs_N = chosen_logprobs(output_of(self.model), hidden_NH, targets_N, temperature)
        return ForwardPass(_padded(logprobs_N, rows), hidden_NH)

    @torch.no_grad()
    def look(self, rows: Sequence[Row], temperature: float) -> tuple[TokenStatistics, Tensor]:
        """One pass without gradients: `TokenStatistics`, and the hidden states as in `read`."""
        hidden_NH, targets_N = self.choices(rows)
        found = chosen_and_entropy(output_of(self.model), hidden_NH, targets_N, temperature)
        return TokenStatistics(*(_padded(each_N, rows) for each_N in found)), hidden_NH

    @torch.no_grad()
    def without_gradients(self, rows: Sequence[Row], temperature: float, max_tokens: int) -> TokenStatistics:
        """Log-probabilities and entropies of any number of rows, a microbatch at a time; 0 on padding."""
        shape = (len(rows), max(len(row.response) for row in rows))
        found = TokenStatistics(*(torch.zeros(shape, device=self.model.device) for _ in range(2)))
        for group in microbatches(rows, max_tokens):
            seen, _ = self.look([rows[i] for i in group], temperature)
            for all_BT, part_BT in zip(found, seen, strict=True):
                all_BT[group, : part_BT.shape[1]] = part_BT  # a group is as wide as its longest response
        return found

    def choices(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """(hidden_NH, token_N): the state in which each response token was chosen, and that token."""
        hidden_NH = hidden_states(self.backbone, rows).chosen()
        return hidden_NH, torch.tensor([t for row in rows for t in row.response], device=self.model.device)

    @property
    def reference(self) -> Any:
        """The frozen copy that is the reference; None where it is the model itself without its adapter."""
        return None if self._reference is None else self._reference.model

    @torch.no_grad()
    def reference_logprobs(self, rows: Sequence[Row], temperature: float) -> Tensor:
        """`token_logprobs` under the frozen reference, without gradients."""
        reference = self if self._reference is None else self._reference
        with self.adapter.off() if self.adapter is not None else contextlib.nullcontext():
            return reference.token_logprobs(rows, temperature)

    @contextlib.contextmanager
    def for_generation(self) -> Iterator[None]:
        """Inside, `model` is ready to write: whole, its activations kept, and with LoRA the adapter merged into the
        weights. Sharded, all processes enter together; inside, each may write as much as it likes."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(gathered(self))
            stack.enter_context(keeping(self.backbone))
            if self.adapter is not None:
                stack.enter_context(self.adapter.merged())
            yield

    def save(self, folder: Path) -> None:
        """Write the policy in Hugging Face format, the adapter merged in. All processes call it, the first writes."""
        gather(self)
        if self.adapter is not None:
            self.adapter.merge()
            self.adapter = None
        if leads():
            self.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)


def _padded(values_N: Tensor, rows: Sequence[Row]) -> Tensor:
    """values_BT: 0 where a row has no token."""
    mask_BT = response_mask(rows, values_N.device)
    return torch.zeros(mask_BT.shape, device=mask_BT.device).masked_scatter(mask_BT, values_N)


def measure_kl(recipe: Recipe, policy: Path, responses: Sequence[Response]) -> list[float]:
    """One value per response of the policy, in input order: the sum over its tokens of log pi - log reference at the
    sampling temperature, in nats, which is unbiased for the KL per response; of a conversation over the tokens of all
    the policy's turns. Empty for best-of-n, whose responses were picked: of these no KL can be measured."""
    if isinstance(recipe.optimise, BestOfN):
        return []
    tokenizer, reference = load_tokenizer(str(policy)), recipe.compared_with
    of_turns = [turn_rows(tokenizer, response) for response in responses]
    rows = [row for turns in of_turns for row in turns]
    whose_R = torch.tensor([number for number, turns in enumerate(of_turns) for _ in turns])
    logprobs_B = []
    for name, revision in ((str(policy), None), (reference.model, reference.revision)):  # one at a time in memory
        model = PolicyModel.load(name, revision, torch_dtype(recipe.policy.dtype))
        found = model.without_gradients(rows, recipe.sample.temperature, recipe.reward.microbatch_tokens)
        logprobs_R = found.logprobs_BT.sum(1).cpu()
        logprobs_B.append(torch.zeros(len(responses)).index_add(0, whose_R, logprobs_R))  # of whole responses
        del model, found
    return [round(value, 4) for value in (logprobs_B[0] - logprobs_B[1]).tolist()]


def worth(reward: Reward, tokenizer: object, responses: Sequence[Response]) -> Scores:
    """What the reward says of responses, read as the tokens that the policy wrote."""
    prompts, texts = [prompt_of(r) for r in responses], [r.text for r in responses]
    return reward.measure(prompts, texts, rows_of(tokenizer, responses))


def rows_of(tokenizer: object, responses: Sequence[Response]) -> list[Row]:
    """The tokens that the policy chose where its server tells them, else those of the text."""
    return [Row(tuple(encode_prompt(tokenizer, r.prompt)), tuple(response_tokens(tokenizer, r))) for r in responses]


def turn_rows(tokenizer: object, response: Response) -> list[Row]:
    """As `rows_of`, of each turn of the policy's, after the conversation so far."""
    if not response.turns:
        return rows_of(tokenizer, [response])
    turns = [
        response.model_copy(update={"prompt": before, "turns": (), **dict(own)})
        for (_, before), own in zip(spoken(response), response.turns, strict=True)
    ]
    return rows_of(tokenizer, turns)
