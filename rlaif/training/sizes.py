"""What a model weighs and what a pass through it keeps for the backward pass: arithmetic on its modules' shapes.

The modules are built without contents, so numbers of weights are exact. What a layer keeps is a formula of the layer
that Llama, Qwen, Mistral and their kin have; of another one the inputs of its matrices are counted and it is named as
a part that is not known.

Letters: e bytes of a number, H hidden size, Q and K widths of queries and of keys, I width between the matrices of the
MLP, r rank of an adapter.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import AutoConfig, AutoModel

from rlaif.config import Recipe
from rlaif.config.training import Lora
from rlaif.models.embedded import resolve_model
from rlaif.models.local.architecture import heads_of
from rlaif.models.local.attention import alike, plain_up_to
from rlaif.models.local.load import device, from_pretrained
from rlaif.models.local.packing import Row, packs
from rlaif.training import parallel
from rlaif.training.head import ROWS as HEAD_ROWS
from rlaif.training.lora import Adapter, trainable

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
    """Of one model that learns. Counts are numbers, not bytes."""

    weights: int
    trained: int
    adapted: int
    """Weights that adapters lie over."""
    vocabulary: int
    width: int
    """H, of a token's state."""
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


class MicrobatchSize(NamedTuple):
    """The microbatch, as attention sees it: sequences by plain products and by a fused kernel."""

    tokens: int
    plain: int = 0
    """Places, with padding, of sequences whose attention is plain products."""
    scores: int = 0
    """The squares of those sequences' lengths, summed."""
    fused: int = 0
    """Places of the others."""
    mask: int = 0
    """Their lengths' squares."""


def sizes(wanted: ModelRequest, rows: Sequence[Row]) -> Sizes:
    """Of this model, learning from these rows in one pass (none: only weights). ModelError for an unusable config."""
    path = resolve_model(wanted.name, wanted.revision).path
    config = from_pretrained(AutoConfig, wanted.name, "has no usable config", path, revision=wanted.revision)
    with torch.device("meta"):
        backbone = AutoModel.from_config(config, dtype=wanted.dtype)
    text, e = config.get_text_config(), wanted.dtype.itemsize
    count = sum(p.numel() for p in backbone.parameters())
    output = text.hidden_size * (1 if wanted.scalar else 0 if text.tie_word_embeddings else text.vocab_size)
    thin, adapted = _adapters(backbone, wanted.lora)
    layers, one = list(getattr(backbone, "layers", [])), _pass(rows, wanted.dtype)
    each, unknown = [], dict[str, None]()
    for layer in layers:
        size, not_known = _kept(layer, text, one, e, wanted.lora, adapted)
        each.append(size)
        unknown |= dict.fromkeys(not_known)
    last = one.tokens * _norm(text.hidden_size, e, wanted.lora is None) + one.mask * e
    kept = sum(each) + last
    if wanted.recompute:  # what enters each layer, and one layer whole
        kept = len(layers) * one.tokens * e * text.hidden_size + max(each, default=0) + last
    _, key_heads, head = heads_of(config)
    return Sizes(
        weights=count + output + thin,
        trained=(count + output) if wanted.lora is None else thin + output * wanted.scalar,
        adapted=sum(p.numel() for module in adapted for p in module.parameters()),
        vocabulary=text.vocab_size,
        width=text.hidden_size,
        cached=2 * len(layers) * key_heads * head,
        e=e,
        layers=len(layers),
        activations=kept,
        tokens=one.tokens,
        unknown=tuple(unknown) if layers else ("its layers",),
    )


def _adapters(backbone: Any, lora: Lora | None) -> tuple[int, set[Any]]:
    """Numbers in the adapters, and the modules that they lie over: peft puts them on a copy."""
    if lora is None:
        return 0, set()
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft says it when the model itself gets them
        adapter = Adapter(copy.deepcopy(backbone), lora, seed=0)
    inside = adapter.peft.base_model.model
    names = {name.replace(".base_layer", "") for name, part in inside.named_modules() if isinstance(part, LoraLayer)}
    return sum(p.numel() for p in trainable(inside).values()), {backbone.get_submodule(name) for name in names}


def _pass(rows: Sequence[Row], dtype: torch.dtype) -> MicrobatchSize:
    lengths = sorted(pack.length for pack in packs(rows))
    if device().type == "cuda":  # one row, in blocks, with no mask to speak of
        return MicrobatchSize(sum(lengths), fused=sum(lengths))
    runs = [(len(run), run[-1]) for run in alike(lengths)]  # sequences, all padded to the longest
    plain = [run for run in runs if run[1] <= plain_up_to(dtype)]
    fused = [run for run in runs if run not in plain]
    sums = [sum(packs * length**power for packs, length in kind) for kind in (plain, fused) for power in (1, 2)]
    return MicrobatchSize(sum(lengths), *sums)


def _kept(
    layer: Any, config: Any, one: MicrobatchSize, e: int, lora: Lora | None, adapted: set[Any]
) -> tuple[float, list[str]]:
    """Bytes that a layer keeps of a pass, and its parts that are not known."""
    heads, key_heads, head = heads_of(config)
    query, key = heads * head, key_heads * head
    mlp: Any = getattr(layer, "mlp", None)
    attention: Any = getattr(layer, "self_attn", None)
    gated, attends = _has(mlp, GATED), _has(attention, ATTENTION)
    unknown = [] if gated else ["an MLP" if mlp is None else type(mlp).__name__]
    unknown += [] if attends else ["attention" if attention is None else type(attention).__name__]
    matrices = {module for module in layer.modules() if isinstance(module, nn.Linear)}
    per_token = 0 if lora is None else e * lora.rank * len(matrices & adapted)  # between an adapter's two matrices: r
    for name, module in layer.named_modules():
        is_norm = type(module).__name__.endswith(("RMSNorm", "LayerNorm"))
        if not is_norm or getattr(module, "weight", None) is None:
            continue
        width = module.weight.numel()
        if width == head:  # over heads: what comes out is turned by its position, which keeps nothing of it
            width = key if "k_norm" in name else query
            per_token -= e * width
        per_token += _norm(width, e, lora is None)
    if gated:  # what the gate's activation reads, what both factors are, and their product: 4 I
        per_token += 4 * e * mlp.gate_proj.out_features
        matrices -= set(mlp.modules())
    if attends:  # what the output matrix reads
        per_token += e * query
        matrices -= set(attention.modules())
    per_token += e * sum(matrix.in_features for matrix in matrices)
    if not attends:
        return one.tokens * per_token, unknown
    plain = one.plain * (query + 2 * key) + one.scores * heads  # queries, keys, values, weights
    repeated = 2 * query if one.mask else 2 * key  # on a CPU keys and values for each query head
    fused = one.fused * (2 * query + repeated)  # queries, keys, values, and what comes out
    return one.tokens * per_token + e * (plain + fused), unknown


def _has(part: Any, names: set[str]) -> bool:
    return part is not None and all(isinstance(getattr(part, name, None), nn.Linear) for name in names)


def _norm(width: int, e: int, learns: bool) -> int:
    """Bytes that an RMSNorm keeps of a token: the input in float32 and the output; where its own weights learn, also
    what they are multiplied with."""
    return (4 + (2 if learns else 1) * e) * width


# ------------------------------------------------------------------------------------------- as items of a plan


class MemoryItem(NamedTuple):
    """One use of memory, in bytes, what makes it smaller, and how it is reckoned."""

    name: str
    bytes: float
    remedy: str
    note: str = ""

    def __str__(self) -> str:
        size = (
            f"{self.bytes / 1e9:.2f} GB" if self.bytes >= 1e8 else f"{self.bytes / 1e6:.1f} MB" if self.bytes else "0"
        )
        return f"{self.name} {size}{f' ({self.note})' if self.note else ''}"


def weights_item(name: str, count: float, each: int, remedy: str) -> MemoryItem:
    """`count` numbers of `each` bytes."""
    return MemoryItem(name, count * each, remedy, f"{count / 1e6:,.1f} M x {each} B")


class LearnerSizes(NamedTuple):
    """A model that learns, as items."""

    recipe: Recipe
    stage: str
    model: Sizes
    lora: Lora | None

    @property
    def parts(self) -> int:
        """Among how many processes it is divided."""
        return parallel.size() if self.recipe.compute.sharding == "fsdp" else 1

    @property
    def remedy(self) -> str:
        if self.stage == "judge_training":
            adapters = "" if self.lora else "judge_training.lora, "
            return f"{adapters}a smaller judge.model or judge.dtype=bfloat16"
        if self.lora is None:
            return f"learn through adapters ({self.stage}.lora), or several processes with compute.sharding=fsdp"
        return "a smaller policy.model, policy.dtype=bfloat16, or several processes with compute.sharding=fsdp"

    def weights(self, name: str) -> MemoryItem:
        return weights_item(name, self.model.weights / self.parts, self.model.e, self.remedy)

    def reference(self) -> MemoryItem:
        if self.lora is not None:
            return MemoryItem("reference", 0, "", "adapter off")
        return weights_item("reference", self.model.weights, self.model.e, self.remedy)

    def optimiser(self, beside: LearnerSizes | None = None) -> MemoryItem:
        """AdamW's two moments in float32, and of bf16 weights the 16 bits that their masters have more."""
        trained = self.model.trained / self.parts + (beside.model.trained / beside.parts if beside else 0)
        return weights_item("optimiser", trained, 8 if self.model.e == 4 else 10, self.remedy)

    def learning(self) -> list[MemoryItem]:
        again = " or set compute.gradient_checkpointing=true"
        remedy = f"lower {self.stage}.microbatch_tokens{'' if self.recipe.compute.gradient_checkpointing else again}"
        model = self.model
        token = model.activations / max(1, model.tokens * model.layers)
        note = f"{model.tokens:,} tokens x {model.layers} layers x {token / 1e3:.1f} kB"
        gradients = weights_item("gradients", model.trained / self.parts, model.e, self.remedy)
        return [gradients, MemoryItem("activations", model.activations, remedy, note)]

    def logits(self, rows: Sequence[Row]) -> MemoryItem:
        """Of the few rows computed at a time: in the weights' format and twice in float32. A divided output layer has
        float32 logits of all rows wait for the backward pass."""
        count = sum(len(row.response) for row in rows)
        few = min(count, HEAD_ROWS)
        each, kept = self.model.e + 8, 0 if self.parts == 1 else 4 * count
        note = f"{few} rows x {self.model.vocabulary:,} words x {each} B" if not kept else f"{count} rows"
        size = (each * few + kept) * self.model.vocabulary
        return MemoryItem("logits", size, f"lower {self.stage}.microbatch_tokens", note)

    def last_logits(self, rows: Sequence[Row]) -> MemoryItem:
        """Of one state of each row, in float32: they, their softmax and the gradients of both; bf16 weights are widened
        for that."""
        wide = 0 if self.model.e == 4 else 4 * self.model.vocabulary * self.model.width
        size = 16 * len(rows) * self.model.vocabulary + wide
        return MemoryItem("logits", size, f"lower {self.stage}.microbatch_tokens", f"{len(rows)} rows")
