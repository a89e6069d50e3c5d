"""Proximal policy optimisation against the reward model: one step is one page, `take_step`.

Not here: the mathematics (losses.py), sampling (rollout.py), optimiser and checkpoints (session.py).
Shape suffixes: B responses, T response tokens.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from rlaif.config.sections import Ppo
from rlaif.models.local.packing import microbatches
from rlaif.records import Prompt, derive_seed
from rlaif.training import losses
from rlaif.training.lora import trainable
from rlaif.training.optimise.rollout import Actors, Rollouts, describe, prompts_of_step, roll_out
from rlaif.training.session import Group, Session, check_finite
from rlaif.training.tracking import Tracker

TextChecks = Callable[[Sequence[str]], dict[str, float]]
"""From response texts to pass rates by name: lets the log show checked principles; training never sees them."""


class Targets(NamedTuple):
    """What a step's rollouts teach: fixed before the first update."""

    advantages_BT: Tensor
    returns_BT: Tensor
    kl_BT: Tensor
    reward_B: Tensor


@dataclass
class Means:
    """Weighted means of what the updates of a step saw."""

    sums: dict[str, float] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, value: Tensor, weight: float) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + float(value.detach()) * weight
        self.weights[name] = self.weights.get(name, 0.0) + weight

    def all(self) -> dict[str, float]:
        return {name: self.sums[name] / self.weights[name] for name in self.sums}


def train_ppo(
    actors: Actors,
    prompts: Sequence[Prompt],
    section: Ppo,
    seed: int,
    checkpoints: Path,
    tracker: Tracker,
    pass_rates: TextChecks,
) -> None:
    """Train the policy in place. Goes on from the newest checkpoint, to the same numbers."""
    session = Session(
        [
            Group(trainable(actors.policy.model), section.learning_rate),
            Group(trainable(actors.critic.backbone, actors.critic.head), section.critic_learning_rate),
        ],
        checkpoints,
        section.max_grad_norm,
    )
    done, extra = session.restore()
    tracker.rewind(done)
    kl_coef = extra.get("kl_coef", section.kl.coef)
    per_step = section.rollouts_per_step // section.responses_per_prompt
    for step in range(done, section.steps):
        chosen = prompts_of_step(prompts, per_step, step, seed)
        rollouts = roll_out(actors, chosen, section, step, seed)
        targets = make_targets(rollouts, section, kl_coef)
        learnt = take_step(actors, session, rollouts, targets, section, step, seed)
        row = summarise(rollouts, targets) | learnt | {"kl_coef": kl_coef} | pass_rates(rollouts.texts)
        tracker.log(step, row)
        if step % section.print_every == 0:
            tracker.say(describe(rollouts, targets.kl_BT.sum(1), step % len(rollouts.rows)))
        kl_coef = losses.next_kl_coef(section.kl, kl_coef, row["kl"])
        if (step + 1) % section.checkpoint_every == 0:
            session.save(step + 1, {"kl_coef": kl_coef})


def make_targets(rollouts: Rollouts, section: Ppo, kl_coef: float) -> Targets:
    """Rewards, then advantages and returns; advantages are whitened after returns are taken (N+ details 15-21)."""
    mask_BT = rollouts.mask_BT
    cut_off_B = torch.tensor([not finished for finished in rollouts.finished], device=mask_BT.device)
    reward_B = rollouts.score_B - section.missing_eos_penalty * cut_off_B
    kl_BT = losses.kl_k1(rollouts.logprobs_BT, rollouts.ref_logprobs_BT) * mask_BT
    rewards_BT = losses.token_rewards(reward_B, kl_BT, mask_BT, kl_coef)
    if section.whiten_rewards:
        rewards_BT = losses.whiten(rewards_BT, mask_BT, shift_mean=False)
    advantages_BT, returns_BT = losses.gae(rewards_BT, rollouts.values_BT, mask_BT, section.gamma, section.gae_lambda)
    if section.whiten_advantages:
        advantages_BT = losses.whiten(advantages_BT, mask_BT)
    return Targets(advantages_BT, returns_BT, kl_BT, rewards_BT.sum(1))


def take_step(
    actors: Actors,
    session: Session,
    rollouts: Rollouts,
    targets: Targets,
    section: Ppo,
    step: int,
    seed: int,
) -> dict[str, float]:
    """Several epochs of minibatch updates on one set of rollouts; stops early past `target_kl`."""
    means = Means()
    for epoch in range(section.epochs):
        for minibatch in _minibatches(rollouts, section, derive_seed(seed, "ppo", step, "epoch", epoch)):
            where = f"ppo step {step}, epoch {epoch}, prompts {[rollouts.prompts[i].id for i in minibatch][:4]}"
            moved = _accumulate(actors, rollouts, targets, minibatch, section, means, where)
            if section.target_kl is not None and moved > section.target_kl:
                session.drop_gradients()
                return means.all() | {"early_stop": 1.0}
            norm = session.update(where, frozen=(0,) if step < section.warmup_steps else ())
            means.add("gradient_norm", torch.tensor(norm), 1.0)
    return means.all() | {"early_stop": 0.0}


def _minibatches(rollouts: Rollouts, section: Ppo, seed: int) -> list[list[int]]:
    """Rollouts in seeded order, those of one prompt together, cut into minibatches."""
    n = section.responses_per_prompt
    prompts = list(range(len(rollouts.rows) // n))
    random.Random(seed).shuffle(prompts)
    order = [p * n + i for p in prompts for i in range(n)]
    return [order[i : i + section.minibatch_size] for i in range(0, len(order), section.minibatch_size)]


def _accumulate(
    actors: Actors,
    rollouts: Rollouts,
    targets: Targets,
    minibatch: Sequence[int],
    section: Ppo,
    means: Means,
    where: str,
) -> float:
    """Add up the gradients of one minibatch, in microbatches. Returns how far the policy has moved (nats a token)."""
    total = sum(len(rollouts.rows[i].response) for i in minibatch)
    moved = 0.0
    for group in microbatches([rollouts.rows[i] for i in minibatch], section.microbatch_tokens):
        chosen = [minibatch[i] for i in group]
        rows = [rollouts.rows[i] for i in chosen]
        width = max(len(row.response) for row in rows)
        mask_BT = rollouts.mask_BT[chosen, :width]
        old_BT = rollouts.logprobs_BT[chosen, :width]
        tokens = float(mask_BT.sum())

        logprobs_BT = actors.policy.token_logprobs(rows, section.temperature)
        policy = losses.policy_loss(logprobs_BT, old_BT, targets.advantages_BT[chosen, :width], section.clip)
        policy_mean = losses.masked_mean(policy.loss_BT, mask_BT)
        check_finite(policy_mean, where)
        (policy_mean * tokens / total).backward()

        values_BT = actors.critic.values(rows)
        value = losses.value_loss(
            values_BT,
            rollouts.values_BT[chosen, :width],
            targets.returns_BT[chosen, :width],
            section.value_clip,
        )
        value_mean = losses.masked_mean(value.loss_BT, mask_BT)
        check_finite(value_mean, where)
        (section.value_coef * value_mean * tokens / total).backward()

        with torch.no_grad():
            step_kl = losses.masked_mean(losses.kl_k3(old_BT, logprobs_BT), mask_BT)
        moved += float(step_kl) * tokens / total
        means.add("policy_loss", policy_mean, tokens)
        means.add("value_loss", value_mean, tokens)
        means.add("clip_fraction", losses.masked_mean(policy.clipped_BT.float(), mask_BT), tokens)
        means.add("value_clip_fraction", losses.masked_mean(value.clipped_BT.float(), mask_BT), tokens)
        means.add("step_kl", step_kl, tokens)
    return moved


def summarise(rollouts: Rollouts, targets: Targets) -> dict[str, float]:
    """What a person watches: score, KL, length, entropy, critic."""
    mask_BT = rollouts.mask_BT
    lengths_B = mask_BT.sum(1).float()
    return {
        "score": float(rollouts.score_B.mean()),
        "score_std": float(rollouts.score_B.std(unbiased=False)),
        "reward": float(targets.reward_B.mean()),
        "kl": float(targets.kl_BT.sum(1).mean()),
        "response_tokens": float(lengths_B.mean()),
        "finished": sum(rollouts.finished) / len(rollouts.finished),
        "entropy": float(losses.masked_mean(rollouts.entropy_BT, mask_BT)),
        "value": float(losses.masked_mean(rollouts.values_BT, mask_BT)),
        "explained_variance": float(losses.explained_variance(rollouts.values_BT, targets.returns_BT, mask_BT)),
    }
