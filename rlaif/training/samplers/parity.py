"""Whether the server that writes and the policy that learns are the same model: what each says of the same tokens.

Two questions, for two ways to be wrong. Are they close? Another temperature, tokenizer or arithmetic makes them differ
at once. And did the server follow? A stale server stays close while steps are small, so what counts is whether its
log-probabilities of a fixed text moved as the policy's did.

N tokens of the probe.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rlaif.errors import TrainingError

FOLLOWS = 0.5
"""Share of the policy's movement that a server must have made; a stale one has made 0, one in step nearly 1."""
VISIBLE = 2.0
"""Movement over the gap between the two sides, both as root mean squares, from which on the share is worth believing.
Rounding moves the policy's own log-probabilities a little with any change: at 2 a server in step shows a share of 0.75
or more, known to 0.04 over 150 tokens."""


class LogprobPair(NamedTuple):
    """Log-probabilities of one fixed text, from both sides at one moment."""

    server_N: Tensor
    policy_N: Tensor

    @property
    def gap(self) -> float:
        """Mean |log-probability of the server - of the policy|, nats per token."""
        return float((self.server_N - self.policy_N).abs().mean())


class Parity(NamedTuple):
    """What one check found."""

    gap: float
    """As of `LogprobPair`: of what was written now, or of the fixed text, whichever is more."""
    followed: float | None
    """Share of the policy's movement that the server made too; none where that is too small to be seen."""


class Follower:
    """Remembers what both sides said of one fixed text, and judges by it whether the server keeps in step."""

    def __init__(self) -> None:
        self._last: LogprobPair | None = None
        self._in_step: LogprobPair | None = None
        """When the server was last seen to have followed: small movements add up until they can be seen."""

    def look(self, now: LogprobPair) -> float | None:
        """Share of the policy's movement that the server made: 1 in step, 0 stale, None where none can be seen yet."""
        share = None
        if self._last is not None and self._in_step is not None:
            share = 0.0 if _stood_still(self._last, now) else _share_followed(self._in_step, now)
        self._last = now
        if self._in_step is None or (share is not None and share >= FOLLOWS):
            self._in_step = now
        return share


def _stood_still(before: LogprobPair, now: LogprobPair) -> bool:
    """Whether the server says the very same of every token while the policy has changed its mind about most.

    No new weights do that, however near to the old: rounding alone would show.
    """
    changed = float((now.policy_N != before.policy_N).double().mean())
    return changed > 0.5 and torch.equal(now.server_N, before.server_N)


def _share_followed(before: LogprobPair, now: LogprobPair) -> float | None:
    """The projection of the server's movement on the policy's; None where that is too small."""
    moved_N = now.policy_N - before.policy_N
    gap = float((before.server_N - before.policy_N).square().mean().sqrt())
    if float(moved_N.square().mean().sqrt()) <= VISIBLE * gap:
        return None
    return float((now.server_N - before.server_N) @ moved_N / moved_N.square().sum())


def check(parity: Parity, tolerance: float, log: str) -> None:
    """TrainingError where the server does not hold the policy's weights."""
    if parity.followed is not None and not parity.followed >= FOLLOWS:
        raise TrainingError(
            f"the vLLM server has stale weights: after a sync its log-probabilities moved {parity.followed:.0%} of the "
            f"way that the policy's did; look for what it says of the reload in {log}"
        )
    if not parity.gap <= tolerance:
        raise TrainingError(
            f"after a sync the vLLM server's log-probabilities differ from the policy's by {parity.gap:.3g} a token "
            f"(optimise.rollouts.parity_tolerance {tolerance:g}): its weights are stale, or its precision or arguments "
            f"make it another model; look into {log}"
        )
