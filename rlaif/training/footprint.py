"""What a model weighs and what a pass through it keeps, found out without loading it.

The model is built from its config of fake tensors, which have shapes and no contents, adapters and all; the backbone
reads a real microbatch, and what it keeps for the backward pass is counted. So it holds for any architecture, any
attention and for gradient checkpointing, and nothing is estimated that can be counted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from rlaif.config.sections import Lora
from rlaif.models.embedded import resolve_model
from rlaif.models.local.load import device, from_pretrained
from rlaif.models.local.packing import Row, hidden_states
from rlaif.training.lora import Adapter
from rlaif.training.recompute import layers_of, recompute


class Footprint(NamedTuple):
    """Of one model that learns. Bytes, where nothing else is said."""

    weights: int
    trained: int
    """Numbers that learn."""
    trained_weights: int
    adapted: int
    """The weights that adapters lie over."""
    vocabulary: int
    """Tokens."""
    cached_token: int
    """Keys and values of one token."""
    activations: int
    """Kept for the backward pass of the microbatch."""


class Wanted(NamedTuple):
    """Which model, and how it is to learn."""

    name: str
    revision: str | None
    dtype: torch.dtype
    lora: Lora | None
    scalar: bool
    """A head with one score in place of the vocabulary."""
    recompute: bool


def footprint(wanted: Wanted, rows: Sequence[Row]) -> Footprint:
    """Of this model, learning from these rows in one pass (none: only weights). ModelError for an unusable config."""
    path = resolve_model(wanted.name, wanted.revision).path
    config = from_pretrained(AutoConfig, wanted.name, "has no usable config", path, revision=wanted.revision)
    with torch.device("meta"):
        model = _build(config, wanted)
        backbone = getattr(model, model.base_model_prefix)
        if wanted.lora is not None:
            model.requires_grad_(False)
            with _default(wanted.dtype):  # without contents peft leaves adapters in the dtype they are made in
                Adapter(backbone, wanted.lora, 0)
            if wanted.scalar:
                model.score.requires_grad_(True)
    learning = [p for p in model.parameters() if p.requires_grad]
    with FakeTensorMode():
        _pretend(model)
        activations = _kept(backbone, rows, wanted.recompute) if rows else 0
    return Footprint(
        weights=_bytes(model.parameters()),
        trained=sum(p.numel() for p in learning),
        trained_weights=_bytes(learning),
        adapted=_bytes(m.get_base_layer().weight for m in backbone.modules() if isinstance(m, LoraLayer)),
        vocabulary=config.get_text_config().vocab_size,
        cached_token=_cached_token(config.get_text_config(), wanted.dtype),
        activations=activations,
    )


def _build(config: Any, wanted: Wanted) -> Any:
    if not wanted.scalar:
        return AutoModelForCausalLM.from_config(config, dtype=wanted.dtype).eval()
    config.num_labels = 1
    return AutoModelForSequenceClassification.from_config(config, dtype=wanted.dtype).eval()


@contextlib.contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


def _pretend(model: Any) -> None:
    """Weights without contents that say they are on the device where training will be."""
    made: dict[int, Any] = {}
    for module in model.modules():
        for kind in (module._parameters, module._buffers):
            for name, tensor in kind.items():
                if tensor is not None and id(tensor) not in made:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device=device())
                    learns = tensor.requires_grad
                    made[id(tensor)] = torch.nn.Parameter(fake, learns) if kind is module._parameters else fake
                kind[name] = None if tensor is None else made[id(tensor)]


def _kept(backbone: Any, rows: Sequence[Row], again: bool) -> int:
    """Bytes kept by one pass; where layers are computed again, of the most that is there at a time."""
    whole = _of_all_layers(backbone, rows)
    if not again:
        return whole
    recompute(backbone)
    return _of_all_layers(backbone, rows) + whole // len(layers_of(backbone))


def _of_all_layers(backbone: Any, rows: Sequence[Row]) -> int:
    """Of layers that are alike two are enough to know what each further one adds."""
    layers = getattr(backbone, "layers", None)
    if not isinstance(layers, torch.nn.ModuleList) or len(layers) < 3 or not _alike(layers, backbone.config):
        return _saved(backbone, rows)
    backbone.layers = layers[:1]
    one = _saved(backbone, rows)
    backbone.layers = layers[:2]
    two = _saved(backbone, rows)
    backbone.layers = layers
    return one + (two - one) * (len(layers) - 1)


def _alike(layers: torch.nn.ModuleList, config: Any) -> bool:
    forms = {tuple((name, p.shape, p.dtype) for name, p in layer.named_parameters()) for layer in layers}
    return len(forms) == 1 and len(set(getattr(config, "layer_types", None) or [""])) == 1


def _saved(backbone: Any, rows: Sequence[Row]) -> int:
    """Bytes of all tensors that autograd keeps, weights aside, each storage once."""
    own = {p.untyped_storage()._cdata for p in backbone.parameters()}
    kept: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        states_NH = hidden_states(backbone, rows).states_NH
    found = sum(storage.nbytes() for storage in kept.values())
    del states_NH
    return found


def _cached_token(config: Any, dtype: torch.dtype) -> int:
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * head * dtype.itemsize


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
