"""Several processes, one result: who has which microbatch, sums over all processes, and one end for all.

Every process holds the same data and forms the same global batches; only the forward and backward passes of the
microbatches are divided. Losses are sums over global totals, so adding gradients up over processes gives exactly what
one process would have computed. Without `accelerate launch` (or torchrun) there is one process and nothing happens.

Tensors travel in the default group (nccl on GPUs, gloo on CPUs). Objects travel in a second one, over the CPU and
without a time limit: while the first process asks a judge for hours, the others wait.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from rlaif.errors import RlaifError, TrainingError
from rlaif.processes import several

T = TypeVar("T")
PATIENCE = timedelta(days=30)
BUCKET = 2**24
"""Numbers in one sum over processes: 64 MB of float32."""

_objects: dict[str, Any] = {}
"""The group of objects, once there is one."""
_alone: dict[str, bool] = {}
"""Not empty while the first process works and the others wait for it: nothing may wait for them."""


class RemoteFailure(NamedTuple):
    """What the first process hands the others instead of a result."""

    error: RlaifError


def start() -> None:
    """Join the other processes, where a launcher started several."""
    if not several():
        return
    if not dist.is_initialized():
        from accelerate import PartialState  # noqa: PLC0415 (only where it is needed)

        PartialState()
    if "group" not in _objects:
        _objects["group"] = dist.new_group(backend="gloo", timeout=PATIENCE)


def stop() -> None:
    """Part from the others, where all have come to the end."""
    if dist.is_initialized():
        _objects.clear()
        dist.destroy_process_group()


def rank() -> int:
    """Which process this is, from 0."""
    return dist.get_rank() if not _alone and dist.is_initialized() else 0


def size() -> int:
    """How many there are to work with: one inside `first`, where the others wait."""
    return dist.get_world_size() if not _alone and dist.is_initialized() else 1


def turns(groups: Sequence[T]) -> Iterator[tuple[T, float]]:
    """This process's share of the groups, each with the weight 1.

    All processes take equally many turns: where the groups do not divide, some get a last one of weight 0, to be
    computed (a sharded model needs everyone at every pass) and not to count.
    """
    for first in range(0, len(groups), size()):
        place = first + rank()
        yield (groups[place], 1.0) if place < len(groups) else (groups[-1], 0.0)


def add_up(tensor: Tensor) -> Tensor:
    """The sum over all processes, in place; on whichever device the tensor is."""
    if size() > 1:
        with _together():
            dist.all_reduce(tensor, group=_objects.get("group") if tensor.device.type == "cpu" else None)
    return tensor


def add_up_all(tensors: Sequence[Tensor]) -> None:
    """The sums over all processes, in place, in float32 and in few large messages."""
    if size() == 1:
        return
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(t.numel() for t in bucket) + tensor.numel() > BUCKET:
            _add_bucket(bucket)
            bucket = []
        bucket.append(tensor)
    if bucket:
        _add_bucket(bucket)


def _add_bucket(tensors: Sequence[Tensor]) -> None:
    flat = torch.cat([tensor.flatten().float() for tensor in tensors])
    add_up(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view(tensor.shape))


def gather(value: T) -> list[T]:
    """Everyone's value, by rank."""
    if size() == 1:
        return [value]
    values: list[T] = [value] * size()
    with _together():
        dist.all_gather_object(values, value, group=_objects.get("group"))
    return values


def first(work: Callable[[], T]) -> T:
    """What `work` returns on the first process, on all of them; the others wait. Its error is raised on all."""
    if size() == 1:
        return work()
    box: list[T | RemoteFailure] = []
    if rank() == 0:
        _alone["first"] = True
        try:
            box = [work()]
        except RlaifError as error:
            box = [RemoteFailure(error)]
        finally:
            _alone.clear()
    else:
        box = [RemoteFailure(TrainingError("nothing came from the first process"))]
    with _together():
        dist.broadcast_object_list(box, src=0, group=_objects.get("group"))
    if isinstance(box[0], RemoteFailure):
        raise box[0].error
    return box[0]


def wait() -> None:
    """Until all processes are here."""
    gather(None)


def speaks_first() -> bool:
    """Whether this process is the first to report a failure: of several that end together one says why."""
    if size() == 1:
        return True
    try:
        # The store outlives the groups: it answers also when other processes have gone.
        return dist.distributed_c10d._get_default_store().add("rlaif/failed", 1) == 1
    except (RuntimeError, ValueError):
        return False


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """TrainingError where another process has gone."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise TrainingError(f"process {rank()} lost the others, look for what they said last ({reason})") from None
