"""Further scalar heads on a reward model's backbone, one a principle, in a file of their own beside its weights.

Shape suffixes: B rows, H hidden size, K principles.
"""

from __future__ import annotations

import difflib
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rlaif.errors import ConfigError

FILE = Path("heads") / "principles.safetensors"
"""In a folder of its own, because some readers take every safetensors file beside config.json for the model's."""


class Heads(torch.nn.Module):
    """In float32, without biases; each with the mean score of the reference responses."""

    def __init__(self, names: tuple[str, ...], weight_KH: Tensor, reference_K: Tensor) -> None:
        super().__init__()
        self.names = names
        self.weight_KH = torch.nn.Parameter(weight_KH.float())
        self.register_buffer("reference_K", reference_K.float())
        self.reference_K: Tensor

    @classmethod
    def new(cls, names: tuple[str, ...], width: int, seed: int) -> Heads:
        """Drawn from N(0, 1/(H+1)), as the reward model's own head is (N+ detail 9)."""
        noise_KH = torch.randn((len(names), width), generator=torch.Generator().manual_seed(seed))
        return cls(names, noise_KH / math.sqrt(width + 1), torch.zeros(len(names)))

    def forward(self, hidden_BH: Tensor) -> Tensor:
        """score_BK."""
        return F.linear(hidden_BH.float(), self.weight_KH)

    def save(self, folder: Path) -> None:
        """Into the model's folder."""
        (folder / FILE).parent.mkdir(parents=True, exist_ok=True)
        tensors = {"weight": self.weight_KH.detach().cpu(), "reference": self.reference_K.cpu()}
        save_file(tensors, folder / FILE, {"names": json.dumps(self.names)})

    @classmethod
    def load(cls, folder: Path) -> Heads | None:
        """From the model's folder; None where it has none."""
        if not (folder / FILE).exists():
            return None
        with safe_open(folder / FILE, "pt") as file:
            names = tuple(json.loads(file.metadata()["names"]))
            return cls(names, file.get_tensor("weight"), file.get_tensor("reference"))


def place_of(heads: Heads | None, name: str, folder: Path) -> int:
    """Which of the heads it is. ConfigError, with the nearest name, where there is no such head."""
    if heads is None:
        raise ConfigError(f"{folder}: has no head {name!r}; train it with reward.principle_heads=true")
    if name in heads.names:
        return heads.names.index(name)
    near = difflib.get_close_matches(name, heads.names, 1, 0.0)
    raise ConfigError(f"{folder}: has no head {name!r}; did you mean {near[0]!r}?")
