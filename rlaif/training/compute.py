"""What the recipe's `compute` asks of a model that learns: layers computed again, weights divided among processes.

**Gradient checkpointing**: a layer's activations are computed again in the backward pass instead of being kept.
transformers does it in layers that are in training mode, where dropout is on too. Here models stay in evaluation mode
and only the layers' own switch is turned; what a layer itself would drop is set to nothing.

**Sharding** (FSDP): weights, gradients and optimiser state divided among the processes. PyTorch's `fully_shard` over
each layer and over the backbone as the root, because everything here calls the backbone (packing.py) and reads its
states. A gradient is the sum over processes, never the mean: losses are divided by global totals already. Beside the
divided model stands its outline, an ordinary model whose weights are filled in only while the whole is needed: to write
rollouts, to merge adapters, to save.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from rlaif.config.training import ComputeSection
from rlaif.errors import ConfigError
from rlaif.models.local.load import device
from rlaif.training import parallel

SWAPPED = ("model", "backbone", "adapter")
"""Attributes of a PolicyModel or ScalarModel that have a divided and a whole form."""


def prepare(actor: Any, compute: ComputeSection) -> None:
    """Make a PolicyModel or ScalarModel, already trainable, learn as the recipe's `compute` says.

    To be called once, before the names and tensors of its trainable parameters are taken.
    """
    if compute.gradient_checkpointing:
        recompute(actor.backbone)
    if compute.sharding == "fsdp" and parallel.size() > 1:
        actor.outline = Outline(actor)


def layers_of(backbone: Any) -> list[Any]:
    """The layers, each of which transformers can compute again as a whole."""
    return [module for module in backbone.modules() if isinstance(module, GradientCheckpointingLayer)]


def recompute(backbone: Any) -> None:
    """From here on the backbone keeps only what enters each layer. ConfigError where it cannot."""
    layers = layers_of(backbone)
    if not layers or not backbone.supports_gradient_checkpointing:
        raise ConfigError(
            f"compute.gradient_checkpointing: {type(backbone).__name__} does not support it; set it to false"
        )
    backbone.gradient_checkpointing_enable({"use_reentrant": False})
    for layer in layers:
        layer.training = True
        for name, value in vars(layer).items():
            if "drop" in name and isinstance(value, float):
                setattr(layer, name, 0.0)


@contextlib.contextmanager
def keeping(backbone: Any) -> Iterator[None]:
    """Inside, nothing is computed again: layers that do would forget the keys and values that generation keeps."""
    switched = [layer for layer in layers_of(backbone) if layer.training]
    for layer in switched:
        layer.training = False
    try:
        yield
    finally:
        for layer in switched:
            layer.training = True


class Outline:
    """The whole model's modules without its weights; making one divides the model."""

    def __init__(self, actor: Any) -> None:
        model, backbone = actor.model, actor.backbone
        output = _output_of(model)
        tied = output is not None and output.weight is backbone.get_input_embeddings().weight
        own = [backbone] if output is None or tied else [backbone, output]
        memo: dict[int, Any] = {  # what deepcopy shall take for a weight: its shape alone
            id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad)
            for module in own
            for p in module.parameters()
        }
        for module in model.children():  # what is not divided, such as the head, is the same in both forms
            if not any(module is divided for divided in own) and not (tied and module is output):
                memo[id(module)] = module
        self.whole: dict[str, Any] = copy.deepcopy({name: getattr(actor, name, None) for name in SWAPPED}, memo)
        names = {id(p): name for name, p in self.whole["model"].named_parameters() if p.is_meta}
        self._slots = [
            (module, key, names[id(p)])
            for module in self.whole["model"].modules()
            for key, p in module._parameters.items()
            if p is not None and p.is_meta
        ]
        self._empty = {names[id(p)]: p for p in self.whole["model"].parameters() if p.is_meta}
        for module in own:
            _divide(module)
        if tied:
            model.set_output_embeddings(TiedOutput(backbone.get_input_embeddings()))
        self._parts = dict(model.named_parameters())

    @torch.no_grad()
    def fill(self) -> None:
        """Collect the weights from all processes; each gets all of them."""
        self._set({name: _whole(self._parts[name]) for name in self._empty})

    def empty(self) -> None:
        """Let them go."""
        self._set(self._empty)

    def _set(self, weights: dict[str, nn.Parameter]) -> None:
        for module, key, name in self._slots:
            module._parameters[key] = weights[name]


class TiedOutput(nn.Module):
    """Output embeddings that are the input embeddings, as these are at the moment: whole after a forward pass."""

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self._found = [embedding]  # in a list, so that it is not registered a second time

    def forward(self, hidden: Tensor) -> Tensor:
        weight: Any = self._found[0].weight
        return F.linear(hidden, weight)


@contextlib.contextmanager
def gathered(actor: Any) -> Iterator[None]:
    """Inside, the actor is an ordinary model with all its weights; what changes there is lost. All processes enter."""
    outline: Outline | None = getattr(actor, "outline", None)
    if outline is None:
        yield
        return
    divided = {name: getattr(actor, name) for name in SWAPPED if hasattr(actor, name)}
    outline.fill()
    vars(actor).update(outline.whole)
    try:
        yield
    finally:
        vars(actor).update(divided)
        outline.empty()


def gather(actor: Any) -> None:
    """The actor is an ordinary model with all its weights from here on. All processes call it."""
    outline: Outline | None = getattr(actor, "outline", None)
    if outline is not None:
        outline.fill()
        vars(actor).update(outline.whole)
        actor.outline = None


def _output_of(model: Any) -> Any:
    output = model.get_output_embeddings()
    return output if isinstance(output, nn.Linear) and hasattr(model, "lm_head") else None


def _divide(module: Any) -> None:
    mesh = init_device_mesh(device().type, (parallel.size(),))
    for part in [*layers_of(module), module]:  # layers first: the root then takes what none of them has
        fully_shard(part, mesh=mesh)
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)


def _whole(parameter: nn.Parameter) -> nn.Parameter:
    full = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
    return nn.Parameter(full.detach(), requires_grad=parameter.requires_grad)
