"""Gradient checkpointing: less is kept, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from rlaif.config.training import ComputeSection, Lora
from rlaif.errors import ConfigError
from rlaif.models.local.generate import Sampling, generate
from rlaif.testing import save_tiny, tiny_tokenizer
from rlaif.training.compute import layers_of, prepare, recompute
from rlaif.training.lora import trainable
from rlaif.training.policy_model import PolicyModel
from tests.tiny_training import LORA, random_rows

ROWS = random_rows(1, prompts=3, responses=3)
THRIFTY = ComputeSection(gradient_checkpointing=True)


def gpt2() -> PolicyModel:
    """Dropout of 0.1 on embeddings, attention and residuals, as its config has it."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=262, n_positions=64, n_embd=32, n_layer=2, n_head=4, eos_token_id=2, bos_token_id=1)
    return PolicyModel(GPT2LMHeadModel(config).train(), tiny_tokenizer())


def llama(folder: Path) -> PolicyModel:
    return PolicyModel.load(save_tiny(folder, num_hidden_layers=4, attention_dropout=0.5), None, torch.float32)


def learnt(policy: PolicyModel, lora: Lora | None, compute: ComputeSection) -> tuple[Tensor, dict[str, Tensor], int]:
    """Log-probabilities, gradients and how many numbers autograd kept."""
    policy.make_trainable(lora, seed=0)
    prepare(policy, compute)
    storages: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logprobs_BT = policy.token_logprobs(ROWS, 0.7)
    kept = sum(storage.nbytes() for storage in storages.values())
    logprobs_BT.sum().backward()
    gradients = {name: p.grad for name, p in trainable(policy.model).items() if p.grad is not None}
    return logprobs_BT.detach(), gradients, kept


@pytest.mark.parametrize(("kind", "lora"), [("llama", None), ("llama", LORA), ("gpt2", None)])
def test_the_same_numbers_from_less_memory(kind: str, lora: Lora | None, tmp_path: Path) -> None:
    makers = {"llama": lambda: llama(tmp_path / "model"), "gpt2": gpt2}
    usual = learnt(makers[kind](), lora, ComputeSection())
    policy = makers[kind]()
    thrifty = learnt(policy, lora, THRIFTY)
    assert layers_of(policy.backbone)
    torch.testing.assert_close(thrifty[0], usual[0], atol=1e-6, rtol=0)
    assert thrifty[1].keys() == usual[1].keys()
    for name, gradient in usual[1].items():
        torch.testing.assert_close(thrifty[1][name], gradient, atol=1e-6, rtol=1e-6)
    assert thrifty[2] < 0.7 * usual[2]


def test_it_writes_with_its_cache_and_goes_on_saving_memory(tmp_path: Path) -> None:
    """Layers that are to be computed again drop the keys and values that generation rests on."""
    prompts, seeds = [row.prompt for row in ROWS], list(range(len(ROWS)))
    policies = llama(tmp_path / "model"), llama(tmp_path / "model")
    written = []
    for policy, compute in zip(policies, (ComputeSection(), THRIFTY), strict=True):
        policy.make_trainable(LORA, seed=0)
        prepare(policy, compute)
        with policy.for_generation():
            written.append(generate(policy.model, prompts, Sampling(8, 1.0), seeds, 0))
    assert written[0] == written[1]
    assert all(layer.training for layer in layers_of(policies[1].backbone))
    assert not any(layer.training for layer in layers_of(policies[0].backbone))


def test_what_a_layer_drops_by_itself_is_switched_off() -> None:
    policy = gpt2()
    layer = layers_of(policy.backbone)[0]
    layer.dropout = 0.3
    recompute(policy.backbone)
    assert layer.dropout == 0.0
    inner = [module for module in layer.modules() if module is not layer]
    assert inner and not any(module.training for module in inner)


def test_a_model_that_cannot_is_told_in_one_line() -> None:
    class Plain(nn.Module):
        supports_gradient_checkpointing = False

    with pytest.raises(ConfigError, match=r"^compute.gradient_checkpointing: Plain does not support it; set it to"):
        recompute(Plain())
