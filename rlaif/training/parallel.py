"""Several processes, one result: who has which microbatch, and sums over all processes.

Every process holds the same data and forms the same global batches; only the forward and backward passes of the
microbatches are divided. Losses are sums over global totals, so adding gradients up over processes gives exactly what
one process would have computed. Without `accelerate launch` (or torchrun) there is one process and nothing happens.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def start() -> None:
    """Join the other processes, where a launcher started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        from accelerate import PartialState  # noqa: PLC0415 (only where it is needed)

        PartialState()


def rank() -> int:
    """Which process this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def turns(groups: Sequence[T]) -> Iterator[tuple[T, float]]:
    """This process's share of the groups, each with the weight 1.

    All processes take equally many turns: where the groups do not divide, some get a last one of weight 0, to be
    computed (a sharded model needs everyone at every pass) and not to count.
    """
    for first in range(0, len(groups), size()):
        place = first + rank()
        yield (groups[place], 1.0) if place < len(groups) else (groups[-1], 0.0)


def add_up(tensor: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if size() > 1:
        dist.all_reduce(tensor)
    return tensor


def gather(value: T) -> list[T]:
    """Everyone's value, by rank."""
    if size() == 1:
        return [value]
    values: list[T] = [value] * size()
    dist.all_gather_object(values, value)
    return values


def wait() -> None:
    """Until all processes are here."""
    if size() > 1:
        dist.barrier()
