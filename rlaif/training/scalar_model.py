"""A transformer with a scalar head: read at the last real token it is a reward model, read everywhere a critic.

Saved in Hugging Face format: whoever loads the folder as a sequence classifier and gives it a conversation, rendered by
the folder's chat template, has our score as its single logit. `config.rlaif_reference_score` is what the untrained
policy's responses score on average; PPO subtracts it, and nobody else has to know of it.

Shape suffixes: B rows, T response tokens, H hidden size, K heads.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from rlaif.config.training import Lora
from rlaif.errors import ModelError
from rlaif.models.day import on_that_day
from rlaif.models.local.architecture import backbone_of
from rlaif.models.local.load import device, from_pretrained
from rlaif.models.local.packing import Row, hidden_states, microbatches, prepare
from rlaif.models.local.tokens import turn_of
from rlaif.processes import leads
from rlaif.training.compute import Outline, gather
from rlaif.training.lora import Adapter
from rlaif.training.reward.heads import Heads, place_of

REFERENCE = "rlaif_reference_score"


class ScalarModel:
    """Backbone and head (float32, no bias), and maybe a head for every principle. Dropout is off for good."""

    def __init__(self, model: Any) -> None:
        if not hasattr(model, "score"):
            raise ModelError(f"{type(model).__name__} has no `score` head; use a decoder such as Llama or Qwen")
        self.model = model.eval()
        self.backbone: Any = backbone_of(model)
        prepare(self.backbone)
        self.head: Any = model.score.float()
        self.reference: float = getattr(model.config, REFERENCE, 0.0)
        self.heads: Heads | None = None
        self.adapter: Adapter | None = None
        self.outline: Outline | None = None
        self._reading: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext

    @classmethod
    def load(cls, path: str | Path, dtype: torch.dtype, head: str | None = None) -> ScalarModel:
        """From a folder that `save` wrote; with `head` that principle's own head takes the place of the common one."""
        loaded = cls(_load(path, None, dtype).to(device()))
        if not hasattr(loaded.model.config, REFERENCE):  # rlaif 0.1.0 read its scores at another token
            raise ModelError(f"{path}: config.json has no {REFERENCE}; make it again with this rlaif (stage reward)")
        heads = Heads.load(Path(path))
        if head is None:
            loaded.heads = None if heads is None else heads.to(device())
            return loaded
        place = place_of(heads, head, Path(path))
        assert heads is not None
        with torch.no_grad():
            loaded.head.weight.copy_(heads.weight_KH[place : place + 1])
        loaded.reference = float(heads.reference_K[place])
        return loaded

    @classmethod
    def from_language_model(
        cls, path: str | Path, revision: str | None, dtype: torch.dtype, pad_id: int, seed: int
    ) -> ScalarModel:
        """A language model's backbone with a new head drawn from N(0, 1/(H+1)) (N+ detail 9)."""
        model = _load(path, revision, dtype)
        model.config.pad_token_id = pad_id
        reward_model = cls(model.to(device()))
        reward_model.reference = 0.0
        weight = reward_model.head.weight
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            weight.copy_(noise / math.sqrt(weight.shape[1] + 1))
        return reward_model

    def add_adapter(self, lora: Lora, seed: int) -> None:
        """Freeze the weights and learn through a new adapter (and the head, where it is left trainable)."""
        self.model.requires_grad_(False)
        self.adapter = Adapter(self.backbone, lora, seed)

    def as_critic(self, lora: Lora | None, seed: int) -> ScalarModel:
        """A critic that starts as this reward model, which itself stays as it is.

        With LoRA both share the weights: the critic is the adapter switched on. Otherwise the critic is a copy.
        """
        critic = object.__new__(ScalarModel)
        if lora is None:
            critic.__dict__.update(copy.deepcopy(self.__dict__))
            self.model.requires_grad_(False)
            return critic
        self.model.requires_grad_(False)
        critic.__dict__.update(self.__dict__)
        critic.head = copy.deepcopy(self.head).requires_grad_(True)
        critic.add_adapter(lora, seed)
        critic.head.requires_grad_(True)
        assert critic.adapter is not None
        self._reading = critic.adapter.off
        return critic

    def scores(self, rows: Sequence[Row]) -> Tensor:
        """score_B, read at the last real token. Gradients flow."""
        with self._reading():
            hidden_BH = hidden_states(self.backbone, rows).at_last()
        return self._read(hidden_BH)

    def scores_by_head(self, rows: Sequence[Row]) -> Tensor:
        """score_BK in one pass: the common score first, then those of the principles' heads. Gradients flow."""
        if self.heads is None:
            return self.scores(rows).unsqueeze(1)
        with self._reading():
            hidden_BH = hidden_states(self.backbone, rows).at_last()
        return torch.cat([self._read(hidden_BH).unsqueeze(1), self.heads(hidden_BH)], 1)

    def values(self, rows: Sequence[Row]) -> Tensor:
        """values_BT: the expected return before each response token (padding holds garbage). Returns are told from
        the reference score, as the rewards of rollouts are."""
        hidden_BTH = hidden_states(self.backbone, rows).before_response()
        return self._read(hidden_BTH) - self.reference

    def _read(self, hidden: Tensor) -> Tensor:
        """The head in float32, whatever the weights are kept in."""
        return F.linear(hidden.float(), self.head.weight.float()).squeeze(-1)

    @torch.no_grad()
    def score_all(self, rows: Sequence[Row], max_tokens: int) -> Tensor:
        """score_B of any number of rows, on the CPU, in their order."""
        score_B = torch.empty(len(rows))
        for group in microbatches(rows, max_tokens):
            score_B[group] = self.scores([rows[i] for i in group]).float().cpu()
        return score_B

    def finish(self) -> None:
        """Merge the adapter and round the head to the weights' dtype: from here on scores are those of the saved
        model, so what is measured is what will be loaded."""
        gather(self)
        if self.adapter is not None:
            self.adapter.merge()
            self.adapter = None
        self.model.score.to(self.backbone.dtype)

    def save(self, folder: Path, tokenizer: Any) -> None:
        """Finish, and write weights, config and tokenizer. All processes call it, the first writes."""
        self.finish()
        if not leads():
            return
        setattr(self.model.config, REFERENCE, self.reference)
        tokenizer = for_readers(tokenizer, self.model)
        self.model.save_pretrained(folder)
        if self.heads is not None:
            self.heads.save(folder)
        tokenizer.save_pretrained(folder)


def as_ended(rows: Sequence[Row], tokenizer: Any) -> list[Row]:
    """A policy's rows as a reward model reads them: the turn ends as the template ends it, whatever token ended the
    response, and also where the limit cut it off."""
    turn = turn_of(tokenizer)
    return [Row(row.prompt, (*turn.body(row.response), *turn.end)) for row in rows]


def for_readers(tokenizer: Any, model: Any) -> Any:
    """The tokenizer as it lies beside the saved model: it adds nothing to a rendered conversation, prints the day that
    we print, and pads with a token that ends none. Where it has no such token it is given one, and the model's
    embedding a row."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = on_that_day(tokenizer.chat_template)
    tokenizer.padding_side = "right"
    if tokenizer("a")["input_ids"] != tokenizer.encode("a", add_special_tokens=False):
        tokenizer.add_bos_token = tokenizer.add_eos_token = False
    if tokenizer.pad_token_id in {None, tokenizer.eos_token_id, *turn_of(tokenizer).end}:
        tokenizer.add_special_tokens({"pad_token": "<|padding|>"})
        rows = model.get_input_embeddings().num_embeddings
        if len(tokenizer) > rows:
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            model.get_input_embeddings().weight.data[rows:] = 0
    model.config.get_text_config().pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id
    return tokenizer


def _load(path: str | Path, revision: str | None, dtype: torch.dtype) -> Any:
    problem = "cannot be loaded as a reward model"
    kind = AutoModelForSequenceClassification
    return from_pretrained(
        kind, str(path), problem, path, revision=revision, num_labels=1, problem_type="regression", dtype=dtype
    )
