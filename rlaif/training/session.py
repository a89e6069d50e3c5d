"""One training loop's optimiser, schedule and checkpoints: what is needed to stop at any moment and go on as if not.

Nothing random is kept here: data order, sampling and initialisation are all derived from seeds and step numbers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlaif.errors import TrainingError


class Group(NamedTuple):
    """Parameters that share a learning rate and are clipped together."""

    parameters: Mapping[str, Tensor]
    learning_rate: float


class Session:
    """AdamW (eps 1e-5, N+ detail 7) over groups of parameters, with atomic checkpoints.

    It steps float32 masters and copies them into the parameters, because in bf16 a small update rounds to nothing.
    """

    def __init__(self, groups: Sequence[Group], folder: Path, max_grad_norm: float, weight_decay: float = 0.0) -> None:
        self.folder = folder
        self.groups = groups
        self.max_grad_norm = max_grad_norm
        self._masters = [{name: p.detach().float().clone() for name, p in g.parameters.items()} for g in groups]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": list(masters.values()), "lr": group.learning_rate}
                for group, masters in zip(groups, self._masters, strict=True)
            ],
            eps=1e-5,
            weight_decay=weight_decay,
        )

    def update(self, where: str, scale: float = 1.0, frozen: Sequence[int] = ()) -> float:
        """Clip each group, take one step at `scale` times its learning rate, clear gradients.

        Groups named in `frozen` (by position) stand still. Returns the first group's gradient norm; one that is
        not finite raises TrainingError naming `where`.
        """
        norms = []
        for position, (group, masters, state) in enumerate(
            zip(self.groups, self._masters, self.optimizer.param_groups, strict=True)
        ):
            for name, parameter in group.parameters.items():
                gradient = None if position in frozen else parameter.grad
                masters[name].grad = None if gradient is None else gradient.float()
            norm = float(torch.nn.utils.clip_grad_norm_(list(masters.values()), self.max_grad_norm))
            if not math.isfinite(norm):
                raise TrainingError(f"{where}: the gradient is {norm}; lower the learning rate")
            norms.append(norm)
            state["lr"] = group.learning_rate * scale
        self.optimizer.step()
        self._publish()
        self.drop_gradients()
        return norms[0]

    def drop_gradients(self) -> None:
        """Forget what has been accumulated."""
        for group in self.groups:
            for parameter in group.parameters.values():
                parameter.grad = None

    @torch.no_grad()
    def _publish(self) -> None:
        for group, masters in zip(self.groups, self._masters, strict=True):
            for name, parameter in group.parameters.items():
                parameter.copy_(masters[name])

    def save(self, step: int, extra: Mapping[str, Any]) -> None:
        """A checkpoint of the state after `step` steps; it replaces the one before, never half-written."""
        final = self.folder / f"step-{step:06d}.pt"
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".writing-{os.getpid()}.pt"
        state = {
            "step": step,
            "masters": self._masters,
            "optimizer": self.optimizer.state_dict(),
            "extra": dict(extra),
        }
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, final)
        for old in self.folder.glob("*.pt"):
            if old != final:
                old.unlink(missing_ok=True)

    def restore(self) -> tuple[int, dict[str, Any]]:
        """Load the newest checkpoint: (steps done, extra); (0, {}) when there is none."""
        found = sorted(self.folder.glob("step-*.pt"))
        if not found:
            return 0, {}
        state = torch.load(found[-1], map_location="cpu", weights_only=True)
        for masters, saved in zip(self._masters, state["masters"], strict=True):
            if set(saved) != set(masters):
                raise TrainingError(f"{found[-1]}: belongs to other parameters; delete {self.folder}")
            for name, master in masters.items():
                master.copy_(saved[name])
        self._publish()
        self.optimizer.load_state_dict(state["optimizer"])
        return int(state["step"]), state["extra"]


def check_finite(loss: Tensor, where: str) -> None:
    """TrainingError when the loss is not finite, naming stage, step and batch; a bad step is never skipped."""
    if not bool(torch.isfinite(loss)):
        value = float(loss.detach())
        raise TrainingError(f"{where}: the loss is {value}; lower the learning rate or look at these rows")


def warmup_then_linear(step: int, total: int, warmup_share: float) -> float:
    """Learning-rate factor: up over the first share of steps, then down in a line to 0 after the last."""
    warmup = max(1, round(total * warmup_share))
    return min((step + 1) / warmup, (total - step) / max(1, total - warmup), 1.0)
