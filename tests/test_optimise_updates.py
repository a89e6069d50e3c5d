"""The updates of a step: whose gradient it is, with KL in the loss, a shared critic, or another program's tokens."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlaif.config.rollouts import VllmRollouts
from rlaif.config.scoring import ChecksScore
from rlaif.run_folder import Run
from rlaif.training.lora import trainable
from rlaif.training.optimise.actors import Actors
from rlaif.training.optimise.estimators import State, Targets, make_targets
from rlaif.training.optimise.loop import groups_of, train_policy
from rlaif.training.optimise.rollout import Rollouts, roll_out
from rlaif.training.optimise.updates import Means, Task, accumulate, take_step
from rlaif.training.session import Session
from tests.tiny_training import TextReward, accumulate_both, no_checks, prompts, tiny_actors, tiny_method, tiny_tracker

PROMPTS = prompts(6)


def gradients(*modules: Any) -> Tensor:
    """Of everything that learns in them, which is cleared."""
    parameters = list(trainable(*modules).values())
    found = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    for parameter in parameters:
        parameter.grad = None
    return found


def moved(actors: Actors, section: Any, folder: Path, rate: float = 3e-2) -> tuple[Rollouts, Targets]:
    """Rollouts, and a policy that has since learnt a little: ratios differ from 1, some are clipped."""
    took = roll_out(actors, PROMPTS[:2], section, 0, 0)
    targets = make_targets(took, section, State(0.3))
    fast = section.model_copy(update={"learning_rate": rate})
    take_step(actors, Session(groups_of(actors, fast), folder, 1.0), took, targets, fast, 0, 0)
    return took, targets


def token_logprobs(actors: Actors, took: Rollouts, i: int, temperature: float) -> Tensor:
    """logprob_T of one response from a plain forward pass over it alone."""
    row = took.rows[i]
    logits_SV = actors.policy.model(input_ids=torch.tensor([[*row.prompt, *row.response]])).logits[0]
    logprobs_TV = (logits_SV[len(row.prompt) - 1 : -1] / temperature).log_softmax(-1)
    return logprobs_TV[range(len(row.response)), list(row.response)]


@pytest.mark.parametrize("average", ["response", "token"])
@pytest.mark.parametrize("budget", [4096, 60])
def test_grpos_gradient_is_that_of_its_definition(average: str, budget: int, tiny_folder: str, tmp_path: Path) -> None:
    """arXiv 2402.03300, eq. 3 and 4, written out row by row; `token` divides by all tokens instead (DAPO)."""
    section = tiny_method("grpo", average=average, clip=0.1, microbatch_tokens=budget, max_tokens=10)
    actors = tiny_actors(tiny_folder, section)
    took, targets = moved(actors, section, tmp_path)
    # In a first step the reference is the policy that wrote; in every later one it is not.
    apart_BT = -0.5 * torch.rand(took.mask_BT.shape, generator=torch.Generator().manual_seed(1)) * took.mask_BT
    took = dataclasses.replace(took, ref_logprobs_BT=took.ref_logprobs_BT + apart_BT)
    minibatch = [5, 0, 3, 1]
    means = Means()
    accumulate(actors, Task(took, targets, minibatch, section, means, "here"))
    ours = gradients(actors.policy.model)
    total = torch.zeros(())
    tokens = sum(len(took.rows[i].response) for i in minibatch)
    for i in minibatch:
        n = len(took.rows[i].response)
        logprob_T = token_logprobs(actors, took, i, section.temperature)
        advantage_T = targets.advantages_BT[i, :n]
        ratio_T = (logprob_T - took.logprobs_BT[i, :n]).exp()
        log_ratio_T = took.ref_logprobs_BT[i, :n] - logprob_T
        kl_T = log_ratio_T.exp() - log_ratio_T - 1
        loss_T = -torch.minimum(ratio_T * advantage_T, ratio_T.clamp(0.9, 1.1) * advantage_T) + 0.3 * kl_T
        total = total + loss_T.sum() / (n * len(minibatch) if average == "response" else tokens)
    total.backward()
    torch.testing.assert_close(ours, gradients(actors.policy.model), atol=1e-6, rtol=1e-3)
    assert means.all()["policy_loss"] == pytest.approx(float(total.detach()), abs=1e-5)
    assert means.all()["kl_loss"] > 0


def test_a_shared_critics_error_teaches_the_trunk_and_its_head(tiny_folder: str, tmp_path: Path) -> None:
    section = tiny_method("ppo", critic="shared", value_clip=0.01, value_coef=0.7, max_tokens=10)
    actors = tiny_actors(tiny_folder, section)
    critic: Any = actors.critic
    with torch.no_grad():
        critic.head.weight.copy_(torch.linspace(-0.5, 0.5, 32))
        critic.head.bias.fill_(0.1)
    took, targets = moved(actors, section, tmp_path)
    assert took.values_BT is not None
    to_and_fro_T = torch.tensor([1.0, -1.0]).repeat(5)[: took.mask_BT.shape[1]]
    targets = targets._replace(
        advantages_BT=torch.zeros_like(targets.advantages_BT), returns_BT=took.values_BT + to_and_fro_T
    )
    minibatch = [5, 0, 3]
    means = Means()
    accumulate(actors, Task(took, targets, minibatch, section, means, "here"))
    ours = gradients(actors.policy.model, critic.head)
    total = torch.zeros(())
    count = sum(len(took.rows[i].response) for i in minibatch)
    for i in minibatch:
        row, n = took.rows[i], len(took.rows[i].response)
        states_SH = actors.policy.backbone(input_ids=torch.tensor([[*row.prompt, *row.response]])).last_hidden_state[0]
        value_T = critic.head(states_SH[len(row.prompt) - 1 : -1]).squeeze(-1)
        assert targets.returns_BT is not None
        old_T, return_T = took.values_BT[i, :n], targets.returns_BT[i, :n]
        near_T = torch.maximum(torch.minimum(value_T, old_T + 0.01), old_T - 0.01)
        worst_T = torch.maximum((value_T - return_T) ** 2, (near_T - return_T) ** 2)
        total = total + 0.7 * 0.5 * worst_T.sum() / count
    total.backward()
    theirs = gradients(actors.policy.model, critic.head)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-3)
    assert float(ours[: -critic.head.weight.numel() - 1].abs().max()) > 1e-4
    assert 0 < means.all()["value_clip_fraction"] < 1


def test_a_shared_critic_takes_no_further_pass(tiny_folder: str, tmp_path: Path) -> None:
    counts = {}
    for critic in ("own", "shared"):
        section = tiny_method("ppo", critic=critic, minibatch_size=8, epochs=1)
        actors = tiny_actors(tiny_folder, section)
        took = roll_out(actors, PROMPTS[:2], section, 0, 0)
        passes = [0]
        for backbone in {
            id(b): b for b in (actors.policy.backbone, getattr(actors.critic, "backbone", None)) if b
        }.values():
            backbone.register_forward_hook(lambda *_, passes=passes: passes.__setitem__(0, passes[0] + 1))
        accumulate_both(actors, took, make_targets(took, section, State(0.1)), range(8), section, Means(), "here")
        counts[critic] = passes[0]
    assert counts == {"own": 2, "shared": 1}


def test_a_shared_critic_learns_what_to_expect(tiny_folder: str, tmp_path: Path) -> None:
    """The score depends on the prompt alone: at first the critic says 0 to all, then it tells the prompts apart."""
    liked = {prompt.id: float(place % 2) * 2 - 1 for place, prompt in enumerate(PROMPTS)}
    section = tiny_method(
        "ppo",
        critic="shared",
        scoring=ChecksScore(),
        steps=16,
        rollouts_per_step=12,
        responses_per_prompt=2,
        minibatch_size=12,
        epochs=4,
        learning_rate=3e-3,
        critic_learning_rate=2e-2,
        value_coef=1.0,
        missing_eos_penalty=0.0,
        kl={"kind": "fixed", "coef": 0.0},
        lora=None,
        warmup_steps=0,
    )
    actors = tiny_actors(
        tiny_folder, section, text=lambda source: TextReward(lambda ps, texts: [liked[p.id] for p in ps])
    )
    train_policy(actors, PROMPTS, section, 0, tmp_path / "checkpoints", tiny_tracker(tmp_path), no_checks)
    explained = [row["explained_variance"] for row in Run(tmp_path).read_metrics("optimise")]
    assert abs(explained[0]) < 1e-6
    assert min(explained[-3:]) > 0.6


def test_another_programs_tokens_are_weighted_by_how_far_it_was_off(tiny_folder: str, tmp_path: Path) -> None:
    """min(cap, pi_trainer / pi_sampler) on each token's loss, fixed when the rollouts are made."""
    section = tiny_method("rloo", max_tokens=10, rollouts=VllmRollouts(importance_cap=1.5), clip=0.1)
    actors = tiny_actors(tiny_folder, section)
    took, targets = moved(actors, section, tmp_path)
    off_BT = torch.linspace(-1, 1, took.mask_BT.numel()).reshape(took.mask_BT.shape)
    foreign = dataclasses.replace(took, sampler_logprobs_BT=took.logprobs_BT - off_BT)
    minibatch = [5, 0, 3]
    means = Means()
    accumulate(actors, Task(foreign, targets, minibatch, section, means, "here"))
    ours = gradients(actors.policy.model)
    total = torch.zeros(())
    count = sum(len(took.rows[i].response) for i in minibatch)
    for i in minibatch:
        n = len(took.rows[i].response)
        ratio_T = (token_logprobs(actors, took, i, section.temperature) - took.logprobs_BT[i, :n]).exp()
        advantage_T = targets.advantages_BT[i, :n]
        weight_T = off_BT[i, :n].exp().clamp(max=1.5)
        loss_T = -torch.minimum(ratio_T * advantage_T, ratio_T.clamp(0.9, 1.1) * advantage_T)
        total = total + (weight_T * loss_T).sum() / count
    total.backward()
    torch.testing.assert_close(ours, gradients(actors.policy.model), atol=1e-6, rtol=1e-3)
