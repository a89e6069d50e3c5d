"""What a model weighs and what a pass through it keeps for the backward pass: arithmetic on its modules' shapes.

The modules are built without contents, so numbers of weights are exact. What a layer keeps is a formula of the layer
that Llama, Qwen, Mistral and their kin have; of another one the inputs of its matrices are counted and it is named as
a part that is not known.

Letters: e bytes of a number, H hidden size, Q and K widths of queries and of keys, I width between the matrices of the
MLP, r rank of an adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from rlaif.config.training import Lora
from rlaif.models.embedded import resolve_model
from rlaif.models.local.attention import plain_up_to
from rlaif.models.local.load import device, from_pretrained
from rlaif.models.local.packing import Row, packs, padded_runs
from rlaif.patterns import matches

GATED = {"gate_proj", "up_proj", "down_proj"}
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}


class ModelRequest(NamedTuple):
    """Which model, and how it is to learn."""

    name: str
    revision: str | None
    dtype: torch.dtype
    lora: Lora | None
    scalar: bool
    """A head with one score in place of the vocabulary."""
    recompute: bool


class Sizes(NamedTuple):
    """Of one model that learns."""

    weights: int
    """Numbers, as all that follows."""
    trained: int
    adapted: int
    """Weights that adapters lie over."""
    vocabulary: int
    width: int
    """Of a token's state."""
    cached: int
    """Keys and values of one token."""
    e: int
    layers: int
    activations: float
    """Bytes kept for the backward pass of these rows."""
    tokens: int
    """Of these rows, what they share counted once."""
    unknown: tuple[str, ...]
    """Parts of a layer of which only the matrices' inputs are counted."""


class Pass(NamedTuple):
    """The microbatch, as attention sees it."""

    tokens: int
    plain: int
    """Places, with padding, of sequences whose attention is plain products."""
    scores: int
    """The squares of those sequences' lengths, summed."""
    fused: int
    """Places of the others."""
    mask: int
    """Their lengths' squares."""


def sizes(wanted: ModelRequest, rows: Sequence[Row]) -> Sizes:
    """Of this model, learning from these rows in one pass (none: only weights). ModelError for an unusable config."""
    path = resolve_model(wanted.name, wanted.revision).path
    config = from_pretrained(AutoConfig, wanted.name, "has no usable config", path, revision=wanted.revision)
    with torch.device("meta"):
        backbone = AutoModel.from_config(config, dtype=wanted.dtype)
    text = config.get_text_config()
    count = sum(p.numel() for p in backbone.parameters())
    output = text.hidden_size * (1 if wanted.scalar else 0 if text.tie_word_embeddings else text.vocab_size)
    adapters = [] if wanted.lora is None else _adapted(backbone, wanted.lora)
    thin = sum(wanted.lora.rank * (m.in_features + m.out_features) for m in adapters) if wanted.lora else 0
    layers, e = list(getattr(backbone, "layers", [])), wanted.dtype.itemsize
    one = _pass(rows, wanted.dtype)
    parts = [_Layer(layer, text, e, wanted.lora, set(adapters)) for layer in layers]
    each = [part.kept(one) for part in parts]
    last = one.tokens * norm(text.hidden_size, e, wanted.lora is None) + one.mask * e
    kept = sum(each) + last
    if wanted.recompute:  # what enters each layer, and one layer whole
        kept = len(layers) * one.tokens * e * text.hidden_size + max(each, default=0) + last
    return Sizes(
        weights=count + output + thin,
        trained=(count + output) if wanted.lora is None else thin + output * wanted.scalar,
        adapted=sum(module.weight.numel() for module in adapters),
        vocabulary=text.vocab_size,
        width=text.hidden_size,
        cached=2 * len(layers) * (parts[0].key if parts else 0),
        e=e,
        layers=len(layers),
        activations=kept,
        tokens=one.tokens,
        unknown=tuple(dict.fromkeys(name for part in parts for name in part.unknown)) if layers else ("its layers",),
    )


def _adapted(backbone: Any, lora: Lora) -> list[nn.Linear]:
    """The matrices that get an adapter, by peft's rules."""
    found = []
    for name, module in backbone.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        if lora.targets == "all-linear":
            found.append(module)
        elif isinstance(lora.targets, str):
            found += [module] if matches(lora.targets, name) else []
        elif any(name == target or name.endswith(f".{target}") for target in lora.targets):
            found.append(module)
    return found


def _pass(rows: Sequence[Row], dtype: torch.dtype) -> Pass:
    lengths = [pack.length for pack in packs(rows)]
    if device().type == "cuda":  # one row, in blocks, with no mask to speak of
        return Pass(sum(lengths), 0, 0, sum(lengths), 0)
    runs = padded_runs(lengths)
    plain = [run for run in runs if run[1] <= plain_up_to(dtype)]
    fused = [run for run in runs if run not in plain]
    counts = [sum(n * length**power for n, length in kind) for kind in (plain, fused) for power in (1, 2)]
    return Pass(sum(lengths), *counts)


class _Layer:
    """One layer: what it keeps of a pass."""

    def __init__(self, layer: Any, config: Any, e: int, lora: Lora | None, adapted: set[Any]) -> None:
        self.e, self.rank, self.adapted = e, lora.rank if lora else 0, adapted
        self.heads = config.num_attention_heads
        head = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.query = self.heads * head
        self.key = (getattr(config, "num_key_value_heads", None) or self.heads) * head
        self.matrices = [module for module in layer.modules() if isinstance(module, nn.Linear)]
        norms = [(name, module) for name, module in layer.named_modules() if _is_norm(module)]
        over_heads = [name for name, module in norms if module.weight.numel() == head]
        self.norms = [module.weight.numel() for name, module in norms if name not in over_heads]
        self.head_norms = [self.key if "k_norm" in name else self.query for name in over_heads]
        self.mlp: Any = getattr(layer, "mlp", None)
        attention = getattr(layer, "self_attn", None)
        self.gated, self.attends = _has(self.mlp, GATED), _has(attention, ATTENTION)
        known: list[Any] = [part for part, is_known in ((self.mlp, self.gated), (attention, self.attends)) if is_known]
        covered = {matrix for part in known for matrix in part.modules()}
        self.others = [matrix for matrix in self.matrices if matrix not in covered]
        kinds = [(self.gated, self.mlp, "an MLP"), (self.attends, attention, "attention")]
        self.unknown = [what if part is None else type(part).__name__ for known, part, what in kinds if not known]

    def kept(self, one: Pass) -> float:
        """Bytes."""
        per_token = sum(norm(width, self.e, self.rank == 0) for width in self.norms) + self._thin()
        # What comes out of a norm over heads is turned by its position, which keeps nothing of it.
        per_token += sum(norm(width, self.e, self.rank == 0) - self.e * width for width in self.head_norms)
        if self.gated:  # what the gate's activation reads, what both factors are, and their product
            per_token += 4 * self.e * self.mlp.gate_proj.out_features
        if self.attends:  # what the output matrix reads
            per_token += self.e * self.query
        per_token += self.e * sum(matrix.in_features for matrix in self.others)
        plain = one.plain * (self.query + 2 * self.key) + one.scores * self.heads  # queries, keys, values, weights
        repeated = 2 * self.query if one.mask else 2 * self.key  # on a CPU keys and values for each query head
        fused = one.fused * (2 * self.query + repeated)  # queries, keys, values, and what comes out
        return one.tokens * per_token + (self.e * (plain + fused) if self.attends else 0)

    def _thin(self) -> int:
        return self.e * self.rank * sum(module in self.adapted for module in self.matrices)


def _has(part: Any, names: set[str]) -> bool:
    """Whether these matrices are its children, by name."""
    return part is not None and all(isinstance(getattr(part, name, None), nn.Linear) for name in names)


def norm(width: int, e: int, learns: bool) -> int:
    """What an RMSNorm keeps of a token: the input in float32 and the output; where its own weights learn, also what
    they are multiplied with."""
    return (4 + (2 if learns else 1) * e) * width


def _is_norm(module: Any) -> bool:
    return type(module).__name__.endswith(("RMSNorm", "LayerNorm")) and getattr(module, "weight", None) is not None
