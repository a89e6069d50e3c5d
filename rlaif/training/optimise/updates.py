"""From one set of rollouts and targets to new weights: epochs, minibatches, microbatches, and what they showed.

Every method has the same updates: the clipped surrogate of the advantages, a critic's value loss where there is a
critic, and the KL where the method has it in the loss. Shape suffixes: B responses, T response tokens.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlaif.config.optimise import Grpo, OnPolicy, Ppo
from rlaif.config.rollouts import VllmRollouts
from rlaif.models.local.packing import Row, microbatches
from rlaif.records import derive_seed
from rlaif.training import parallel
from rlaif.training.losses import policy as losses
from rlaif.training.optimise.actors import Actors, SharedCritic
from rlaif.training.optimise.estimators import Targets
from rlaif.training.optimise.rollout import Rollouts
from rlaif.training.scalar_model import ScalarModel
from rlaif.training.session import Session, check_finite


@dataclass
class Means:
    """Weighted means of what the updates of a step saw."""

    sums: dict[str, float] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, value: Tensor, weight: float) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + float(value.detach()) * weight
        self.weights[name] = self.weights.get(name, 0.0) + weight

    def all(self) -> dict[str, float]:
        """Over all processes."""
        everyone = parallel.gather((self.sums, self.weights))
        return {
            name: sum(sums[name] for sums, _ in everyone) / sum(weights[name] for _, weights in everyone)
            for name in self.sums
        }


class Task(NamedTuple):
    """One minibatch to learn from: these places in the rollouts."""

    rollouts: Rollouts
    targets: Targets
    minibatch: Sequence[int]
    section: OnPolicy
    means: Means
    where: str

    @property
    def tokens(self) -> int:
        """Of the whole minibatch, over all processes: what losses are divided by."""
        return sum(len(self.rollouts.rows[i].response) for i in self.minibatch)


class Batch(NamedTuple):
    """One microbatch: the rows, and what is fixed while the policy learns from them."""

    rows: list[Row]
    mask_BT: Tensor
    old_BT: Tensor
    advantages_BT: Tensor
    ref_BT: Tensor
    old_values_BT: Tensor | None
    returns_BT: Tensor | None
    importance_BT: Tensor | None
    weight: float
    """0: this process computes it for company alone, another one counts it (`parallel.turns`)."""

    @property
    def tokens(self) -> float:
        """How many real ones count here."""
        return float(self.mask_BT.sum()) * self.weight


def take_step(
    actors: Actors,
    session: Session,
    rollouts: Rollouts,
    targets: Targets,
    section: OnPolicy,
    step: int,
    seed: int,
) -> dict[str, float]:
    """Several epochs of minibatch updates on one set of rollouts; stops early past `target_kl`."""
    means = Means()
    apart = actors.critic if isinstance(actors.critic, ScalarModel) else None
    warms_up = isinstance(section, Ppo) and step < section.warmup_steps
    with_policy = [0, 1] if apart is None else [0]  # places in session.groups; a shared critic's head is the second
    for epoch in range(section.epochs):
        for minibatch in minibatches(rollouts, section, derive_seed(seed, "ppo", step, "epoch", epoch)):
            ids = [rollouts.prompts[i].id for i in minibatch][:4]
            where = f"{section.kind} step {step}, epoch {epoch}, prompts {ids}"
            task = Task(rollouts, targets, minibatch, section, means, where)
            moved = accumulate(actors, task)
            if section.target_kl is not None and moved > section.target_kl:  # before this update, which is dropped
                session.drop_gradients()
                return means.all() | {"early_stop": 1.0}
            norm = session.update(where, moving=with_policy[warms_up:])
            means.add("gradient_norm", torch.tensor(norm), 1.0)
            if apart is not None:  # after the policy has moved: the two models' gradients are never held at once
                accumulate_values(apart, task)
                session.update(where, moving=[1])
    return means.all() | {"early_stop": 0.0}


def minibatches(rollouts: Rollouts, section: OnPolicy, seed: int) -> list[list[int]]:
    """Rollouts in seeded order, those of one prompt together, cut into minibatches of places in the step.

    A response without a score leaves its place empty: it moves nobody else into another minibatch.
    """
    n = section.responses_per_prompt
    prompts = list(range(rollouts.written // n))
    random.Random(seed).shuffle(prompts)
    index_of = {place: index for index, place in enumerate(rollouts.places)}
    places = [p * n + i for p in prompts for i in range(n)]
    size = section.minibatch_size
    cut = [[index_of[p] for p in places[i : i + size] if p in index_of] for i in range(0, len(places), size)]
    return [minibatch for minibatch in cut if minibatch]


def accumulate(actors: Actors, task: Task) -> float:
    """Add up one minibatch's gradients of the policy, and of a critic on its trunk, in microbatches.

    Returns how far the policy has moved (nats per token).
    """
    moved = torch.zeros((), dtype=torch.float64, device=task.rollouts.mask_BT.device)
    for batch in _batches(task):
        read = actors.policy.read(batch.rows, task.section.temperature)
        loss = _policy_term(read.logprobs_BT, batch, task)
        if isinstance(actors.critic, SharedCritic):
            loss = loss + _value_term(actors.critic.values(read.hidden_NH, batch.mask_BT), batch, task)
        loss.backward()
        logprobs_BT = read.logprobs_BT.detach()
        del read, loss  # the graph: the next microbatch needs its memory
        # KL(old || new), since the old policy drew these tokens.
        step_kl = losses.masked_mean(losses.kl_k3(batch.old_BT, logprobs_BT), batch.mask_BT)
        moved += float(step_kl) * batch.tokens / task.tokens
        task.means.add("step_kl", step_kl, batch.tokens)
    return float(parallel.add_up(moved))


def accumulate_values(critic: ScalarModel, task: Task) -> None:
    """Add up one minibatch's gradients of a critic with a trunk of its own."""
    for batch in _batches(task):
        _value_term(critic.values(batch.rows), batch, task).backward()


def _batches(task: Task) -> Iterator[Batch]:
    """This process's microbatches."""
    groups = list(microbatches([task.rollouts.rows[i] for i in task.minibatch], task.section.microbatch_tokens))
    for group, weight in parallel.turns(groups):
        yield _batch(task, [task.minibatch[i] for i in group], weight)


def _batch(task: Task, chosen: list[int], weight: float) -> Batch:
    """These rollouts, cut to the longest of them."""
    rollouts, targets, server = task.rollouts, task.targets, task.section.rollouts
    rows = [rollouts.rows[i] for i in chosen]
    width = max(len(row.response) for row in rows)

    def cut(whole_BT: Tensor | None) -> Any:
        return None if whole_BT is None else whole_BT[chosen, :width]  # padding is on the right

    mask_BT, old_BT, sampler_BT = cut(rollouts.mask_BT), cut(rollouts.logprobs_BT), cut(rollouts.sampler_logprobs_BT)
    importance_BT = None
    # Of the weights that wrote, by trainer and server: it corrects for numerics, the ratio in the loss for updates.
    if sampler_BT is not None and isinstance(server, VllmRollouts):
        importance_BT = losses.importance_weights(old_BT, sampler_BT, mask_BT, server.importance_cap)
    return Batch(
        rows=rows,
        mask_BT=mask_BT,
        old_BT=old_BT,
        advantages_BT=cut(targets.advantages_BT),
        ref_BT=cut(rollouts.ref_logprobs_BT),
        old_values_BT=cut(rollouts.values_BT),
        returns_BT=cut(targets.returns_BT),
        importance_BT=importance_BT,
        weight=weight,
    )


def _policy_term(logprobs_BT: Tensor, batch: Batch, task: Task) -> Tensor:
    """This microbatch's share of the minibatch's policy loss."""
    section = task.section
    policy = losses.policy_loss(logprobs_BT, batch.old_BT, batch.advantages_BT, section.clip)
    loss_BT = policy.loss_BT if batch.importance_BT is None else policy.loss_BT * batch.importance_BT
    if task.targets.kl_loss_coef:
        kl_BT = losses.kl_k3(logprobs_BT, batch.ref_BT)
        loss_BT = loss_BT + task.targets.kl_loss_coef * kl_BT
        task.means.add("kl_loss", losses.masked_mean(kl_BT, batch.mask_BT), batch.tokens)
    task.means.add("clip_fraction", losses.masked_mean(policy.clipped_BT.float(), batch.mask_BT), batch.tokens)
    if isinstance(section, Grpo) and section.average == "response":
        mean, count, total = (
            losses.response_mean(loss_BT, batch.mask_BT),
            len(batch.rows) * batch.weight,  # responses that count here
            len(task.minibatch),  # of all
        )
    else:
        mean, count, total = losses.masked_mean(loss_BT, batch.mask_BT), batch.tokens, task.tokens
    check_finite(mean, task.where)
    task.means.add("policy_loss", mean, count)
    return mean * count / total  # shares of all microbatches add up to the minibatch's mean


def _value_term(values_BT: Tensor, batch: Batch, task: Task) -> Tensor:
    """This microbatch's share of the minibatch's value loss, times its coefficient."""
    section = task.section
    assert isinstance(section, Ppo)
    assert batch.old_values_BT is not None
    assert batch.returns_BT is not None
    value = losses.value_loss(values_BT, batch.old_values_BT, batch.returns_BT, section.value_clip)
    mean = losses.masked_mean(value.loss_BT, batch.mask_BT)
    check_finite(mean, task.where)
    task.means.add("value_loss", mean, batch.tokens)
    task.means.add("value_clip_fraction", losses.masked_mean(value.clipped_BT.float(), batch.mask_BT), batch.tokens)
    return section.value_coef * mean * batch.tokens / task.tokens
