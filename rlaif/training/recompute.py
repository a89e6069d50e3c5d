"""Gradient checkpointing: a layer's activations are computed again in the backward pass instead of being kept.

transformers does it in layers that are in training mode, where dropout is on too. Here models stay in evaluation mode
and only the layers' own switch is turned; what a layer itself would drop is set to nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from transformers.modeling_layers import GradientCheckpointingLayer

from rlaif.errors import ConfigError


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
