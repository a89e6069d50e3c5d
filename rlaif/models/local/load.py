"""Loading a language model and its tokenizer, once, the same way everywhere."""

from __future__ import annotations

import gc
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from rlaif.errors import ModelError
from rlaif.models.embedded import resolve_model

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


class Loaded(NamedTuple):
    """A model on its device, in evaluation mode, with a tokenizer that has a chat template and a padding id."""

    model: Any
    tokenizer: Any
    revision: str


def device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_tokenizer(name: str, revision: str | None = None) -> Any:
    """The tokenizer of a model name or folder. ModelError if it cannot hold a conversation."""
    resolved = resolve_model(name, revision)
    try:
        tokenizer = AutoTokenizer.from_pretrained(resolved.path, revision=revision)
    except (OSError, ValueError) as error:
        raise ModelError(f"{name}: no tokenizer: {_first_line(error)}") from None
    if not tokenizer.chat_template:
        raise ModelError(f"{name}: the tokenizer has no chat template; use an instruction-tuned model")
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{name}: the tokenizer has no end-of-turn token")
    if tokenizer.pad_token_id in {None, tokenizer.eos_token_id}:
        _choose_padding(tokenizer)
    return tokenizer


def _choose_padding(tokenizer: Any) -> None:
    """Pad with a special token that no text holds, never with the end token: readers look for the last one before
    the padding (N+ detail 1). Where there is none, the tokenizer stays as it is."""
    taken = {tokenizer.eos_token_id, tokenizer.bos_token_id}
    spare = [i for i, t in tokenizer.added_tokens_decoder.items() if t.special and i not in taken]
    if spare:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(max(spare))


def load_language_model(name: str, revision: str | None, dtype: torch.dtype) -> Loaded:
    """The causal language model of that name or folder. ModelError if it cannot be loaded."""
    resolved = resolve_model(name, revision)
    tokenizer = load_tokenizer(name, revision)
    quiet()
    try:
        model = AutoModelForCausalLM.from_pretrained(resolved.path, revision=revision, dtype=dtype)
    except (OSError, ValueError) as error:
        raise ModelError(f"{name}: cannot be loaded: {_first_line(error)}") from None
    for setting in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(model.config, setting, None) not in {None, 1.0}:
            raise ModelError(f"{name}: its config sets {setting}, which rlaif's log-probabilities leave out")
    return Loaded(model.to(device()).eval(), tokenizer, resolved.revision)


def free_memory() -> None:
    """Give back what dropped models held, so that a server started next finds the GPU empty."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def quiet() -> None:
    """No progress bars of a library, and no notes on weights that are new on purpose (a fresh scalar head)."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
