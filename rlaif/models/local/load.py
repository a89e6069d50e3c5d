"""Loading a language model and its tokenizer, once, the same way everywhere."""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from rlaif.errors import ModelError
from rlaif.models.embedded import resolve_model
from rlaif.models.local.architecture import backbone_of
from rlaif.models.local.generate import end_with
from rlaif.models.local.machine import give_back, keep_freed
from rlaif.models.local.packing import prepare
from rlaif.models.local.tokens import turn_of


class LoadedModel(NamedTuple):
    """A model on its device, in evaluation mode, with a tokenizer that has a chat template and a padding id."""

    model: Any
    tokenizer: Any
    revision: str


def device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_tokenizer(name: str, revision: str | None = None) -> Any:
    """The tokenizer of a model name or folder. ModelError if it cannot hold a conversation."""
    return _tokenizer(name, resolve_model(name, revision).path, revision)


def _tokenizer(name: str, path: str, revision: str | None) -> Any:
    tokenizer = from_pretrained(AutoTokenizer, name, "no tokenizer", path, revision=revision)
    if not tokenizer.chat_template:
        raise ModelError(f"{name}: the tokenizer has no chat template; use an instruction-tuned model")
    try:
        ends = {tokenizer.eos_token_id, *turn_of(tokenizer).end}
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from None
    if tokenizer.pad_token_id in {None, *ends}:
        # Pad with a special token that no text holds, never with one that ends a turn: readers look for the last one
        # before the padding (N+ detail 1). Where there is none, the tokenizer stays as it is.
        taken = {*ends, tokenizer.bos_token_id}
        spare = [i for i, t in tokenizer.added_tokens_decoder.items() if t.special and i not in taken]
        if spare:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(max(spare))
    return tokenizer


def load_language_model(name: str, revision: str | None, dtype: torch.dtype) -> LoadedModel:
    """The causal language model of that name or folder. ModelError if it cannot be loaded."""
    resolved = resolve_model(name, revision)
    tokenizer = _tokenizer(name, resolved.path, revision)
    model = from_pretrained(
        AutoModelForCausalLM, name, "cannot be loaded", resolved.path, revision=revision, dtype=dtype
    )
    model = model.to(device()).eval()
    end_with(model, turn_of(tokenizer).stop)
    try:
        prepare(backbone_of(model))
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from None
    return LoadedModel(model, tokenizer, resolved.revision)


def count_parameters(name: str, revision: str | None = None) -> int:
    """The numbers in the model's weights, from its config alone."""
    with torch.device("meta"):
        return int(AutoModelForCausalLM.from_config(_config(name, revision)).num_parameters())


def pass_rate(name: str, revision: str | None, dtype: torch.dtype) -> float:
    """Operations per second, two per weight and token, at which this machine reads text: the best of some passes
    through one layer of the model's shapes. A product alone would not tell: where bf16 is multiplied in hardware, two
    thirds of a pass are what stands between the products."""
    config = _config(name, revision).get_text_config()
    config.num_hidden_layers, config.vocab_size, config.pad_token_id = 1, 8, None
    with torch.random.fork_rng(devices=[]):  # its random weights are nobody else's business
        layer = AutoModel.from_config(config, dtype=dtype).eval()
    tokens_BT = torch.zeros(8, 96, dtype=torch.long)
    taken: list[float] = []
    with torch.inference_mode():
        while len(taken) < 12 and sum(taken) < 0.5:
            began = time.perf_counter()
            layer(tokens_BT)
            taken.append(time.perf_counter() - began)
    return 2.0 * layer.num_parameters(exclude_embeddings=True) * tokens_BT.numel() / min(taken)


def _config(name: str, revision: str | None) -> Any:
    return from_pretrained(AutoConfig, name, "no config", resolve_model(name, revision).path, revision=revision)


def free_memory() -> None:
    """Give back what dropped models held, so that a server started next finds the memory free."""
    gc.collect()
    give_back()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def from_pretrained(kind: Any, name: str, problem: str, path: str | Path, **options: Any) -> Any:
    """`kind.from_pretrained(path)`, where a failure is one line: the name, the problem, the library's first line.

    Without the library's progress bars and its notes on weights that are new on purpose (a fresh scalar head).
    """
    if device().type == "cpu":  # on a GPU what was loaded here is copied there, and this memory is free for others
        keep_freed()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        return kind.from_pretrained(path, **options)
    except (OSError, ValueError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ModelError(f"{name}: {problem}: {first}") from None
