"""The policy's weights as a folder that a server can load: Hugging Face format, the adapter merged in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from rlaif.errors import TrainingError
from rlaif.files import writing
from rlaif.training import parallel
from rlaif.training.policy_model import PolicyModel


def write_weights(policy: PolicyModel, folder: Path, *, own_head: bool) -> None:
    """Write what the policy is now; the folder holds all of it or what it held before. To be called by all processes.

    With `own_head` an output head that is tied to the embedding is written as a matrix of its own: vLLM on a CPU packs
    the head into a copy when it starts, and a reload (0.32) renews a head that is in the file but no tied one.
    """
    with policy.for_generation():
        state = {_plain(name): tensor for name, tensor in policy.model.state_dict().items() if ".lora_" not in name}
        parallel.first(lambda: _replace(policy, state, folder, own_head))


def _plain(name: str) -> str:
    """The name without what an adapter put into it."""
    return name.replace(".base_layer.", ".")


def _replace(policy: PolicyModel, state: dict[str, Any], folder: Path, own_head: bool) -> None:
    new = folder.with_name(f"{folder.name}.writing")
    shutil.rmtree(new, ignore_errors=True)
    try:
        with writing(folder):
            _save(policy, state, new, own_head)
            shutil.rmtree(folder, ignore_errors=True)
            new.rename(folder)
    except OSError as error:
        raise TrainingError(f"cannot write the policy's weights for the server to {folder}: {error.strerror}") from None


def _save(policy: PolicyModel, state: dict[str, Any], folder: Path, own_head: bool) -> None:
    tied = own_head and bool(policy.model.config.get_text_config().tie_word_embeddings)
    if tied:
        head = _weight_of(policy.model.get_output_embeddings(), policy.model)
        state = state | {head: state[head].clone()}
    policy.model.save_pretrained(folder, state_dict=state)
    if tied:
        _say_untied(folder / "config.json")
    policy.tokenizer.save_pretrained(folder)


def _weight_of(module: Any, model: Any) -> str:
    return next(f"{_plain(name)}.weight" for name, found in model.named_modules() if found is module)


def _say_untied(config: Path) -> None:
    settings = json.loads(config.read_text(encoding="utf-8"))
    for section in (settings, settings.get("text_config", {})):
        if "tie_word_embeddings" in section or section is settings:
            section["tie_word_embeddings"] = False
    config.write_text(json.dumps(settings, indent=2), encoding="utf-8")
