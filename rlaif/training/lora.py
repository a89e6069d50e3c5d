"""Low-rank adapters inside a backbone, through peft: on, off, merged, and their weights as a plain dict."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor

from rlaif.config.training import Lora
from rlaif.patterns import matches


class Adapter:
    """LoRA layers put into `backbone` in place. New adapters change nothing until trained (B starts at 0)."""

    def __init__(self, backbone: Any, lora: Lora, seed: int) -> None:
        targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
        if isinstance(targets, str) and targets != "all-linear":
            for name, _ in backbone.named_modules():
                matches(targets, name)  # peft matches it against all of these, without a limit of time
        config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, lora_dropout=0.0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # In the weights' own dtype: thin float32 products would cost more than they add. What bf16 rounds away
            # of an update is kept by the optimiser's float32 masters (session.py).
            self.peft: Any = get_peft_model(backbone, config, autocast_adapter_dtype=False)

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """Inside, the backbone computes with its original weights alone."""
        with self.peft.disable_adapter():
            yield

    @contextlib.contextmanager
    def merged(self) -> Iterator[None]:
        """Inside, the adapters are added into the weights, as `merge` will add them for good; then the very same
        weights are put back. For generation, where hundreds of thin products a token cost more than all else."""
        layers = [module for module in self.peft.modules() if isinstance(module, LoraLayer)]
        weights = [layer.get_base_layer().weight for layer in layers]
        originals = [weight.data for weight in weights]
        try:
            for layer, weight in zip(layers, weights, strict=True):
                weight.data = weight.data + layer.get_delta_weight(self.peft.active_adapter).to(weight.dtype)
            with self.off():
                yield
        finally:
            for weight, original in zip(weights, originals, strict=True):
                weight.data = original

    def merge(self) -> None:
        """Add the adapters to the weights and remove them; the module keeps working."""
        self.peft.merge_and_unload()


def trainable(*modules: Any) -> dict[str, Tensor]:
    """Every parameter that learns, by a name that is the same in every run."""
    return {
        f"{i}.{name}": parameter
        for i, module in enumerate(modules)
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }
