"""The number format of a model's weights: what `dtype: auto` stands for on this machine, and what another one costs.

bf16 halves memory, and its products are several times faster than float32's where the hardware has them. Where it has
not, every number is widened, multiplied and rounded one by one, eight times slower than float32.
"""

from __future__ import annotations

import platform
import time
from functools import cache
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F

from rlaif.config import Recipe
from rlaif.config.models import Dtype
from rlaif.console import say

Format = Literal["bfloat16", "float32"]
DTYPES: dict[Format, torch.dtype] = {"bfloat16": torch.bfloat16, "float32": torch.float32}
X86_BF16 = ("avx512_bf16", "amx_bf16", "avx10_2")
"""torch's names of the instructions that multiply bf16."""


def torch_dtype(setting: Dtype) -> torch.dtype:
    """`resolve`, as torch names it."""
    return DTYPES[resolve(setting)]


@cache
def resolve(setting: Dtype) -> Format:
    """The format that a recipe's `dtype` means here. An explicit one is obeyed; a costly one is remarked on once."""
    if setting == "auto":
        return "bfloat16" if multiplies_bf16() else "float32"
    if setting == "bfloat16" and not multiplies_bf16():
        slower = seconds_per_product(torch.bfloat16) / seconds_per_product(torch.float32)
        say(f"dtype bfloat16: this machine emulates it, {slower:.0f} times slower than float32 (dtype=auto takes that)")
    return setting


@cache
def multiplies_bf16() -> bool:
    """Whether this machine's GPU, or without one its CPU, multiplies bf16 in hardware."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known = _known_of_cpu()
    return seconds_per_product(torch.bfloat16) < seconds_per_product(torch.float32) if known is None else known


def _known_of_cpu() -> bool | None:
    """What torch knows of this CPU's instructions; None where it knows nothing."""
    if not torch.backends.mkldnn.is_available():  # without oneDNN no bf16 instruction is ever used
        return None
    machine = platform.machine().lower()
    if machine in {"x86_64", "amd64"} and hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in X86_BF16)
    if machine in {"aarch64", "arm64"} and hasattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported"):
        return cast(bool, torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return None


PRODUCT = (256, 576, 1536)
"""Rows, inner size and columns of a small language model's matrix product."""


def seconds_per_product(dtype: torch.dtype) -> float:
    """The best of a dozen, or of those that fit a fifth of a second."""
    rows, inner, columns = PRODUCT
    a, b = torch.ones(rows, inner, dtype=dtype), torch.ones(columns, inner, dtype=dtype)
    taken: list[float] = []
    while len(taken) < 12 and sum(taken) < 0.2:
        began = time.perf_counter()
        F.linear(a, b)
        taken.append(time.perf_counter() - began)
    return min(taken)


def settled(recipe: Recipe, earlier: Recipe | None = None) -> Recipe:
    """The recipe with a format for each `dtype: auto`: the one that `earlier` has there (the same run, begun before,
    perhaps on another machine), else this machine's."""
    values = recipe.model_dump(mode="json")
    _settle(values, earlier.model_dump(mode="json") if earlier else None)
    return Recipe.model_validate(values)


def _settle(value: Any, earlier: Any) -> None:
    """In place, at any depth: policies, judges, members of panels and scoring judges all have a dtype."""
    if isinstance(value, list):
        for position, child in enumerate(value):
            same = isinstance(earlier, list) and position < len(earlier)
            _settle(child, earlier[position] if same else None)
    elif isinstance(value, dict):
        before = earlier if isinstance(earlier, dict) else {}
        if value.get("dtype") == "auto":
            value["dtype"] = resolve(before.get("dtype", "auto"))
        for key, child in value.items():
            _settle(child, before.get(key))
