"""Float32 masters of bf16 weights, of which only the 16 bits are kept that the weights have not.

A weight is its master rounded to bf16, halves away from zero, so its bits are the master's upper half, plus one where
the lower half, read as a signed number, is below zero: master = (weight << 16) + low, exactly and for every value.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


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
    own.view(torch.int16).copy_(bits.sub_(low).bitwise_right_shift_(16))


class MasterPart(NamedTuple):
    """Some neighbouring weights of one parameter, as the optimiser steps them."""

    own: Tensor
    low: Tensor | None
    master: Tensor
    """Float32 weights themselves; of others empty, except between `open` and `close`."""

    @classmethod
    def of(cls, own: Tensor, low: Tensor | None) -> MasterPart:
        """`own` float32, or bf16 with its `low_bits`."""
        return cls(own, low, own if low is None else torch.empty(0, device=own.device))

    def open(self) -> None:
        """Put the masters where the optimiser finds them."""
        if self.low is not None:
            self.master.data = widen(self.own, self.low)

    def close(self) -> None:
        """Round the masters, which have been stepped, into the weights."""
        if self.low is not None:
            narrow(self.master.data, self.own, self.low)
            self.master.data = torch.empty(0, device=self.own.device)
