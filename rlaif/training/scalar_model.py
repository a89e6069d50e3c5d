"""A transformer with a scalar head: read at the last real token it is a reward model, read everywhere a critic.

Saved in Hugging Face format: whoever loads the folder as a sequence classifier and gives it a conversation, rendered by
the folder's chat template, has our score as its single logit. `config.rlaif_reference_score` is what the untrained
policy's responses score on average; PPO subtracts it, and nobody else has to know of it. Further heads, one per
principle, lie in a file of their own beside the weights.

Shape suffixes: B rows, T response tokens, H hidden size, K heads.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import json
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from rlaif.config.training import Lora
from rlaif.errors import ConfigError, ModelError
from rlaif.models.day import on_that_day
from rlaif.models.local.architecture import backbone_of
from rlaif.models.local.attribution import Attribution, integrated_gradients
from rlaif.models.local.load import device, from_pretrained
from rlaif.models.local.packing import Row, hidden_states, prepare
from rlaif.models.local.tokens import turn_of
from rlaif.processes import leads
from rlaif.training.compute import Outline, gather
from rlaif.training.fit import read_all
from rlaif.training.lora import Adapter

REFERENCE = "rlaif_reference_score"
HEADS = Path("heads") / "principles.safetensors"
"""In a folder of its own, because some readers take every safetensors file beside config.json for the model's."""


class Heads(torch.nn.Module):
    """A scalar head per principle, in float32, without biases; each with the mean score of the reference responses."""

    def __init__(self, names: tuple[str, ...], weight_KH: Tensor, reference_K: Tensor) -> None:
        super().__init__()
        self.names = names
        self.weight_KH = torch.nn.Parameter(weight_KH.float())
        self.register_buffer("reference_K", reference_K.float())
        self.reference_K: Tensor

    @classmethod
    def new(cls, names: tuple[str, ...], width: int, seed: int) -> Heads:
        """Drawn as the reward model's own head is."""
        return cls(names, _new_heads(len(names), width, seed), torch.zeros(len(names)))

    def forward(self, hidden_BH: Tensor) -> Tensor:
        """score_BK."""
        return F.linear(hidden_BH.float(), self.weight_KH)

    def save(self, folder: Path) -> None:
        """Into the model's folder."""
        (folder / HEADS).parent.mkdir(parents=True, exist_ok=True)
        tensors = {"weight": self.weight_KH.detach().cpu(), "reference": self.reference_K.cpu()}
        save_file(tensors, folder / HEADS, {"names": json.dumps(self.names)})

    @classmethod
    def load(cls, folder: Path) -> Heads | None:
        """From the model's folder; None where it has none."""
        if not (folder / HEADS).exists():
            return None
        with safe_open(folder / HEADS, "pt") as file:
            names = tuple(json.loads(file.metadata()["names"]))
            return cls(names, file.get_tensor("weight"), file.get_tensor("reference"))


def _new_heads(count: int, width: int, seed: int) -> Tensor:
    """weight_KH from N(0, 1/(H+1)) (N+ detail 9)."""
    noise_KH = torch.randn((count, width), generator=torch.Generator().manual_seed(seed))
    return noise_KH / math.sqrt(width + 1)


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
        if heads is None:
            raise ConfigError(f"{Path(path)}: has no head {head!r}; train it with reward.principle_heads=true")
        if head not in heads.names:
            near = difflib.get_close_matches(head, heads.names, 1, 0.0)
            raise ConfigError(f"{Path(path)}: has no head {head!r}; did you mean {near[0]!r}?")
        place = heads.names.index(head)
        with torch.no_grad():
            loaded.head.weight.copy_(heads.weight_KH[place : place + 1])
        loaded.reference = float(heads.reference_K[place])
        return loaded

    @classmethod
    def from_language_model(
        cls, path: str | Path, revision: str | None, dtype: torch.dtype, pad_id: int, seed: int
    ) -> ScalarModel:
        """A language model's backbone with a new head."""
        model = _load(path, revision, dtype)
        model.config.pad_token_id = pad_id
        reward_model = cls(model.to(device()))
        reward_model.reference = 0.0
        weight_1H = reward_model.head.weight
        with torch.no_grad():
            weight_1H.copy_(_new_heads(1, weight_1H.shape[1], seed))
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
        return self.read(self._last(rows))

    def scores_by_head(self, rows: Sequence[Row]) -> Tensor:
        """score_BK in one pass: the common score first, then those of the principles' heads. Gradients flow."""
        hidden_BH = self._last(rows)
        score_B1 = self.read(hidden_BH).unsqueeze(1)
        return score_B1 if self.heads is None else torch.cat([score_B1, self.heads(hidden_BH)], 1)

    def _last(self, rows: Sequence[Row]) -> Tensor:
        """hidden_BH at each row's last real token."""
        with self._reading():  # without the critic's adapter, where one shares these weights
            return hidden_states(self.backbone, rows).at_last()

    def values(self, rows: Sequence[Row]) -> Tensor:
        """values_BT: the expected return before each response token (padding holds garbage). Returns are told from
        the reference score, as the rewards of rollouts are."""
        hidden_BTH = hidden_states(self.backbone, rows).before_response()
        return self.read(hidden_BTH) - self.reference

    def attribution(self, row: Row, length: int, blank: int, *steps: int) -> Attribution:
        """What the first `length` tokens of the response do to the score (`integrated_gradients`)."""
        ids, first = [*row.prompt, *row.response], len(row.prompt)
        with self._reading():
            return integrated_gradients(self.backbone, self.read, ids, range(first, first + length), blank, *steps)

    def read(self, hidden: Tensor) -> Tensor:
        """What the head says of states, in float32, whatever the weights are kept in."""
        return F.linear(hidden.float(), self.head.weight.float()).squeeze(-1)

    def score_heads(self, rows: Sequence[Row], max_tokens: int) -> Tensor:
        """score_BK of any number of rows, on the CPU, in their order; several processes share the work."""
        if not rows:
            return torch.zeros(0, 1 + (len(self.heads.names) if self.heads else 0))
        return read_all(lambda part: self.scores_by_head(part).float(), rows, max_tokens).cpu()

    def score_all(self, rows: Sequence[Row], max_tokens: int) -> Tensor:
        """score_B of any number of rows: the common score alone."""
        return read_all(lambda part: self.scores(part).float(), rows, max_tokens).cpu()

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
