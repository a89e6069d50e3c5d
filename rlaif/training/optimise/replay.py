"""Replay: earlier steps' rollouts are learnt from again, each token's gradient times min(cap, pi / mu), where mu is the
policy that wrote it (the truncated importance weights of ACER, arXiv 1611.01224).

What is kept of a step is what its updates read: tokens, log-probabilities then, advantages then. It is part of every
checkpoint. The estimate is biased, and how is said in docs/training.md. Shape suffixes: B responses, T response tokens.
"""

from __future__ import annotations

import random
from typing import Any

import torch

from rlaif.config.optimise import OnPolicy, Ppo
from rlaif.config.rollouts import Replay
from rlaif.models.local.packing import Row, microbatches, response_mask, right_pad
from rlaif.records import derive_seed
from rlaif.training import parallel
from rlaif.training.losses import policy as losses
from rlaif.training.optimise.actors import Actors
from rlaif.training.optimise.estimators import Targets
from rlaif.training.optimise.rollout import Rollouts
from rlaif.training.session import Session, check_finite

Kept = dict[str, Any]
"""A response: its prompt's and its own token ids, log-probabilities and advantages by token. Numbers alone."""

Memory = list[list[Kept]]
"""The rollouts of the last steps, oldest first."""


def remember(memory: Memory, section: Replay | None, rollouts: Rollouts, targets: Targets) -> None:
    """Add what this step wrote; the oldest step goes. Nothing is kept without replay."""
    if section is None:
        return
    columns = zip(rollouts.rows, rollouts.logprobs_BT.tolist(), targets.advantages_BT.tolist(), strict=True)
    step = [
        {"prompt": [*row.prompt], "response": [*row.response], "mu": mu[:width], "advantages": advantages[:width]}
        for row, mu, advantages in columns
        for width in [len(row.response)]
    ]
    memory.append(step)
    del memory[: -section.steps]


def draw(memory: Memory, count: int, step: int, update: int, seed: int) -> list[Kept]:
    """The responses of one update, of all steps alike."""
    every = [kept for one in memory for kept in one]
    return random.Random(derive_seed(seed, "replay", step, update)).sample(every, min(count, len(every)))


def replay(
    actors: Actors, session: Session, memory: Memory, section: OnPolicy, step: int, seed: int
) -> dict[str, float]:
    """The replayed updates of one step, which only the policy learns from; what they showed. None while it stands still
    for a critic to warm up."""
    warms_up = isinstance(section, Ppo) and step < section.warmup_steps
    if section.replay is None or not memory or warms_up:
        return {}
    device, sums = actors.policy.model.device, torch.zeros(2, dtype=torch.float64)
    for update in range(section.replay.updates):
        where = f"{section.kind} step {step}, replayed update {update}"
        drawn = draw(memory, section.replay.responses, step, update, seed)
        rows = [Row(tuple(kept["prompt"]), tuple(kept["response"])) for kept in drawn]
        total = sum(len(row.response) for row in rows)
        for group, weight in parallel.turns(list(microbatches(rows, section.microbatch_tokens))):
            some = [rows[i] for i in group]
            mu_BT, advantages_BT = (
                right_pad([tuple(drawn[i][name]) for i in group], 0.0, torch.float32, device)
                for name in ("mu", "advantages")
            )
            logprobs_BT, mask_BT = actors.policy.token_logprobs(some, section.temperature), response_mask(some, device)
            found = losses.replay_loss(logprobs_BT, mu_BT, advantages_BT, mask_BT, section.replay.cap)
            loss = found.loss_BT.sum() / total * weight
            check_finite(loss, where)
            loss.backward()
            beyond = found.clipped_BT.sum() * weight
            sums += torch.tensor([float(loss.detach()), float(beyond) / total], dtype=torch.float64)
        session.update(where, moving=[0])
    loss_sum, truncated = parallel.add_up(sums).tolist()
    return {"replay_loss": loss_sum / section.replay.updates, "replay_truncated": truncated / section.replay.updates}
