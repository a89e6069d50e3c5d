"""One training loop's optimiser and schedule: what is needed to stop at any moment and go on as if not.

Nothing random is kept here: data order, sampling and initialisation are all derived from seeds and step numbers.

The optimiser steps float32 masters. Of those of bf16 weights only the 16 bits are kept that the weights have not: a
weight is its master rounded to bf16, halves away from zero, so its bits are the master's upper half, plus one where the
lower half, read as a signed number, is below zero: master = (weight << 16) + low, exactly and for every value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from rlaif.config.optimise import Offline
from rlaif.config.reward import RewardSection
from rlaif.errors import TrainingError
from rlaif.models.local.machine import trim
from rlaif.training import parallel
from rlaif.training.checkpoints import Checkpoints

FUSED_FROM = 2**25
"""Numbers trained from which AdamW's fused kernel steps. It is six times as fast and needs no scratch, and rounds
differently in the last bit: runs with adapters keep the plain one, which does what the definition says."""
PART = 2**20
"""Numbers that are widened, measured and stepped at a time: few enough to stay in the processor's cache meanwhile."""
GPU_PART = 2**25
"""On a GPU, where a part costs a launch of every kernel and 128 MB of scratch."""
MOST_PARTS = 2**9
"""Larger models are cut into larger parts: every step of the optimiser looks at all of them."""


def low_bits(own: Tensor) -> Tensor | None:
    """Beside weights that are their masters so far: zeros. None where weights are float32 and their own masters."""
    return None if own.dtype == torch.float32 else torch.zeros(own.shape, dtype=torch.int16, device=own.device)


def widen(own: Tensor, low: Tensor) -> Tensor:
    """The masters, in float32."""
    return own.float().view(torch.int32).add_(low).view(torch.float32)


def narrow(master: Tensor, own: Tensor, low: Tensor) -> None:
    """Write the masters into both halves. Overwrites `master`."""
    bits = master.view(torch.int32)
    low.copy_(bits)  # keeps the lower 16 of them
    # Less a negative lower half the upper half is one more: that rounds.
    own.view(torch.int16).copy_(bits.sub_(low).bitwise_right_shift_(16))


class MasterPart(NamedTuple):
    """Some neighbouring weights of one parameter, as the optimiser steps them."""

    own: Tensor
    low: Tensor | None
    master: Tensor
    """Float32 weights themselves; of others empty, except between `open` and `close`."""

    def open(self) -> None:
        """Put the masters where the optimiser finds them."""
        if self.low is not None:
            self.master.data = widen(self.own, self.low)

    def close(self) -> None:
        """Round the masters, which have been stepped, into the weights."""
        if self.low is not None:
            narrow(self.master.data, self.own, self.low)
            self.master.data = torch.empty(0, device=self.own.device)


class Group(NamedTuple):
    """Parameters that share a learning rate and are clipped together."""

    parameters: Mapping[str, Tensor]
    learning_rate: float

    @property
    def tensors(self) -> Iterable[Tensor]:
        return self.parameters.values()


class Session:
    """AdamW (eps 1e-5, N+ detail 7) over groups of parameters, with atomic checkpoints.

    It steps float32 masters, because in bf16 a small update rounds to nothing. Parameters that are float32 are their
    own masters; beside a bf16 parameter lie the 16 bits that its master has more. Beside weights and
    gradients that makes 8 or 10 bytes per parameter, and never a second copy of all masters or gradients: they are
    widened, and stepped, a part at a time.

    With several processes the gradients are those of all of them added up, and every process takes the same step.
    Of a sharded parameter (compute.py, which adds up its gradient) each process keeps and steps its own part.
    """

    def __init__(self, groups: Sequence[Group], folder: Path, max_grad_norm: float, weight_decay: float = 0.0) -> None:
        self.groups = groups
        self.max_grad_norm = max_grad_norm
        self._lows = [{name: low_bits(_local(p.detach())) for name, p in group.parameters.items()} for group in groups]
        own = [_local(parameter.detach()) for group in groups for parameter in group.tensors]
        count = sum(tensor.numel() for tensor in own)
        self._size = max(_part(own[0] if own else None), -(-count // MOST_PARTS))
        self._parts = [
            {name: self._cut(_local(parameter.detach()), lows[name]) for name, parameter in group.parameters.items()}
            for group, lows in zip(groups, self._lows, strict=True)
        ]
        sharded = any(isinstance(p, DTensor) for group in groups for p in group.parameters.values())
        self._checkpoints = Checkpoints(folder, sharded)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [part.master for each in parts.values() for part in each], "lr": group.learning_rate}
                for group, parts in zip(groups, self._parts, strict=True)
            ],
            eps=1e-5,
            weight_decay=weight_decay,
            fused=count >= FUSED_FROM,
        )

    def update(self, where: str, scale: float = 1.0, moving: Sequence[int] | None = None) -> float:
        """Clip each group, take one step at `scale` times its learning rate, clear all gradients.

        Only the groups at the positions `moving` move (None: all). Returns the first group's gradient norm, 0 where
        that one stands still; a norm that is not finite raises TrainingError naming `where`.
        """
        moves = [moving is None or position in moving for position in range(len(self.groups))]
        _add_up_gradients([p for group, moved in zip(self.groups, moves, strict=True) if moved for p in group.tensors])
        norms = []
        for group, moved in zip(self.groups, moves, strict=True):
            norm = _norm(group) if moved else torch.zeros(())
            if not math.isfinite(norm):
                raise TrainingError(f"{where}: the gradient is {float(norm)}; lower the learning rate")
            norms.append(norm)
        for group, state in zip(self.groups, self.optimizer.param_groups, strict=True):
            state["lr"] = group.learning_rate * scale
        clips = [(self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0) for norm in norms]  # as torch's clip_grad_norm_
        self._step([clip if moved else None for clip, moved in zip(clips, moves, strict=True)])
        self.drop_gradients()
        trim()
        return float(norms[0])

    def _cut(self, own: Tensor, low: Tensor | None) -> list[MasterPart]:
        """A parameter's parts: views of it and of its low bits."""
        owns = own.view(-1).split(self._size)
        if low is None:
            return [MasterPart(part, None, part) for part in owns]
        empty = torch.empty(0, device=own.device)
        lows = low.view(-1).split(self._size)
        return [MasterPart(part, bits, empty.clone()) for part, bits in zip(owns, lows, strict=True)]

    @torch.no_grad()
    def _step(self, clips: Sequence[Tensor | None]) -> None:
        """One step of the groups that have a factor for their gradients, a few parts at a time."""
        bucket: list[MasterPart] = []
        for group, parts, clip in zip(self.groups, self._parts, clips, strict=True):
            for name, parameter in group.parameters.items():
                if clip is None or parameter.grad is None:
                    continue
                gradient = _local(parameter.grad).contiguous().view(-1).split(self._size)
                parameter.grad = None  # goes with its last part, before the next parameter's masters come
                for part, narrow in zip(parts[name], gradient, strict=True):
                    if sum(each.own.numel() for each in bucket) + part.own.numel() > self._size:
                        self._step_bucket(bucket)
                        bucket = []
                    part.open()
                    part.master.grad = narrow.float().mul_(clip)
                    bucket.append(part)
        self._step_bucket(bucket)

    def _step_bucket(self, bucket: Sequence[MasterPart]) -> None:
        self.optimizer.step()
        for part in bucket:
            part.master.grad = None
            part.close()

    def steps(
        self, total: int, section: RewardSection | Offline, rewind: Callable[[int], None]
    ) -> Iterator[tuple[int, float]]:
        """The steps of a plan that are left, each with its learning-rate factor, and checkpoints between them.

        Goes on from the newest checkpoint, after `rewind` has been told how many steps are done.
        """
        done, _ = self.restore()
        rewind(done)
        for step in range(done, total):
            yield step, warmup_then_linear(step, total, section.warmup_share)
            if (step + 1) % section.checkpoint_every == 0:
                self.save(step + 1, {})

    def drop_gradients(self) -> None:
        """Forget what has been accumulated."""
        for group in self.groups:
            for parameter in group.tensors:
                parameter.grad = None

    def save(self, step: int, extra: Mapping[str, Any]) -> None:
        """A checkpoint of the state after `step` steps; it replaces the one before, never half-written."""
        state = {"weights": self._weights(), "lows": self._lows, "optimizer": self.optimizer.state_dict()}
        self._checkpoints.save(step, {**state, "extra": dict(extra)})

    def _weights(self) -> list[dict[str, Tensor]]:
        return [{name: _local(p.detach()) for name, p in group.parameters.items()} for group in self.groups]

    @torch.no_grad()
    def restore(self) -> tuple[int, dict[str, Any]]:
        """Load the newest checkpoint: (steps done, extra); (0, {}) when there is none."""
        found = self._checkpoints.newest()
        if found is None:
            return 0, {}
        if "lows" not in found.state:
            raise TrainingError(f"{found.path}: made by another version of rlaif; delete {found.path.parent}")
        now: dict[str, list[Any]] = {"weights": self._weights(), "lows": self._lows}
        for kind, groups in now.items():
            for own, saved in zip(groups, found.state[kind], strict=True):
                if _forms(own) != _forms(saved):
                    raise TrainingError(f"{found.path}: belongs to other parameters; delete {found.path.parent}")
                for name, tensor in own.items():
                    if tensor is not None:
                        tensor.copy_(saved[name])
        try:
            self.optimizer.load_state_dict(found.state["optimizer"])
        except ValueError:  # the masters are the same, and cut into other parts
            raise TrainingError(f"{found.path}: made by another version of rlaif; delete {found.path.parent}") from None
        return found.step, found.state["extra"]


def _local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor; the tensor itself where it is whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _forms(tensors: Mapping[str, Tensor | None]) -> dict[str, Any]:
    return {name: None if tensor is None else (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _add_up_gradients(parameters: Sequence[Tensor]) -> None:
    """Gradients of whole parameters become their sum over processes; none anywhere stays none."""
    if parallel.size() == 1:
        return
    whole = [p for p in parameters if not isinstance(p, DTensor)]
    if not whole:
        return
    there = parallel.add_up(torch.tensor([float(p.grad is not None) for p in whole], device=whole[0].device))
    used = [p for p, count in zip(whole, there.tolist(), strict=True) if count]
    for parameter in used:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    parallel.add_up_all([parameter.grad for parameter in used if parameter.grad is not None])


def _norm(group: Group) -> Tensor:
    """The L2 norm of the group's gradients, in float32, over all processes' parts where they are sharded."""
    norms = [_l2(p.grad) for p in group.tensors if p.grad is not None and not isinstance(p, DTensor)]
    shards = [p for p in group.tensors if isinstance(p, DTensor)]
    if shards:
        parts = [_l2(_local(p.grad)) for p in shards if p.grad is not None]
        square = torch.stack(parts).square().sum() if parts else torch.zeros((), device=_local(shards[0]).device)
        norms.append(parallel.add_up(square).sqrt())
    return _l2(torch.stack(norms)) if norms else torch.zeros(())


def _part(tensor: Tensor | None) -> int:
    return PART if tensor is None or tensor.device.type == "cpu" else GPU_PART


def _l2(tensor: Tensor) -> Tensor:
    parts = [torch.linalg.vector_norm(part.float()) for part in tensor.reshape(-1).split(_part(tensor))]
    return torch.linalg.vector_norm(torch.stack(parts)) if len(parts) > 1 else parts[0]


def check_finite(loss: Tensor, where: str) -> None:
    """TrainingError when the loss is not finite, naming stage, step and batch; a bad step is never skipped."""
    if not bool(torch.isfinite(loss)):
        value = float(loss.detach())
        raise TrainingError(f"{where}: the loss is {value}; lower the learning rate or look at these rows")


def warmup_then_linear(step: int, total: int, warmup_share: float) -> float:
    """Learning-rate factor: up over the first share of steps, then down in a line to 0 after the last."""
    warmup = max(1, round(total * warmup_share))
    return min((step + 1) / warmup, (total - step) / max(1, total - warmup), 1.0)
