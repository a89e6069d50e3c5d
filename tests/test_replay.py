"""Replay by truncated importance weights: the gradient and its bias are the definition's, what is replayed is what was
written, and a policy learns faster per rollout. A2C: PPO with the knobs that docs/training.md names is it, exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlaif.config.rollouts import Replay
from rlaif.training.losses.policy import replay_loss
from rlaif.training.optimise import updates
from rlaif.training.optimise.estimators import State, make_targets
from rlaif.training.optimise.loop import groups_of
from rlaif.training.optimise.replay import Memory, draw, remember, replay
from rlaif.training.optimise.rollout import roll_out
from rlaif.training.session import Session
from tests.test_optimise_learning import train
from tests.test_optimise_updates import gradients, moved, token_logprobs
from tests.tiers import seeds
from tests.tiny_training import prompts, tiny_actors, tiny_method

PROMPTS = prompts(6)


@pytest.mark.parametrize("cap", [1.2, 2.0, 1e9])
def test_the_gradient_is_the_policys_own_less_the_part_above_the_cap(cap: float) -> None:
    """In float64, by enumeration over a vocabulary: E_mu[rho A grad log pi] - E_mu[(rho - cap)+ A grad log pi], and the
    first term is E_pi[A grad log pi]."""
    torch.manual_seed(0)
    logits_V = (torch.randn(9, dtype=torch.float64) * 2).requires_grad_()
    mu_V, advantage_V = torch.randn(9, dtype=torch.float64).softmax(-1), torch.randn(9, dtype=torch.float64)
    pi_V = logits_V.softmax(-1)
    rho_V = (pi_V / mu_V).detach()
    every = torch.ones(1, 9, dtype=torch.bool)
    found = replay_loss(pi_V.log()[None], mu_V.log()[None], advantage_V[None], every, cap)
    assert found.clipped_BT.tolist() == [(rho_V > cap).tolist()]
    (ours,) = torch.autograd.grad(-(mu_V * found.loss_BT[0]).sum(), logits_V, retain_graph=True)

    def expected(weight_V: Tensor) -> Tensor:
        """E[A grad log pi] under these weights."""
        (gradient,) = torch.autograd.grad((weight_V * advantage_V * pi_V.log()).sum(), logits_V, retain_graph=True)
        return gradient

    on_policy, bias = expected(pi_V.detach()), expected(mu_V * (rho_V - cap).clamp(min=0))
    torch.testing.assert_close(ours, on_policy - bias, rtol=1e-12, atol=1e-12)
    assert (bias.norm() == 0) == (cap == 1e9)
    assert cap == 1e9 or bias.norm() > 0.05


def test_a_replayed_update_is_that_of_the_definition(tiny_folder: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Row by row, from plain forward passes of a policy that has learnt since, at the sampling temperature."""
    section = tiny_method("rloo", replay=Replay(steps=1, updates=1, responses=99, cap=1.05), microbatch_tokens=60)
    actors = tiny_actors(tiny_folder, section)
    took, targets = moved(actors, section, tmp_path)
    memory: Memory = []
    remember(memory, section.replay, took, targets)
    session = Session(groups_of(actors, section), tmp_path / "s", 1.0)
    monkeypatch.setattr(session, "update", lambda *arguments, **options: 0.0)
    shown = replay(actors, session, memory, section, 1, 0)
    ours = gradients(actors.policy.model)
    total, tokens, beyond = torch.zeros(()), 0, 0
    for i in range(len(took.rows)):
        n = len(took.rows[i].response)
        logprob_T = token_logprobs(actors, took, i, section.temperature)
        rho_T = (logprob_T - took.logprobs_BT[i, :n]).exp().detach()
        total = total - (rho_T.clamp(max=1.05) * targets.advantages_BT[i, :n] * logprob_T).sum()
        tokens, beyond = tokens + n, beyond + int((rho_T > 1.05).sum())
    (total / tokens).backward()
    torch.testing.assert_close(ours, gradients(actors.policy.model), atol=1e-6, rtol=1e-3)
    assert 0 < beyond < tokens
    assert shown["replay_truncated"] == pytest.approx(beyond / tokens)


def test_the_memory_holds_the_last_steps_and_draws_from_all(tiny_folder: str, tmp_path: Path) -> None:
    section = tiny_method("rloo", replay=Replay(steps=2, responses=6))
    actors = tiny_actors(tiny_folder, section)
    memory: Memory = []
    none: Memory = []
    steps = [roll_out(actors, PROMPTS[:2], section, step, 0) for step in range(3)]
    for took in steps:
        for one, replayed in ((memory, section.replay), (none, None)):
            remember(one, replayed, took, make_targets(took, section, State(0.1)))
    assert none == [] and len(memory) == 2
    kept = [tuple(row["response"]) for step in memory for row in step]
    assert kept == [row.response for took in steps[1:] for row in took.rows]
    drawn = draw(memory, 6, 3, 0, 0)
    assert len(drawn) == 6 and drawn == draw(memory, 6, 3, 0, 0)
    assert drawn != draw(memory, 6, 3, 1, 0) and drawn != draw(memory, 6, 4, 0, 0)


@pytest.mark.slow
@seeds(2)
def test_replay_learns_more_from_the_same_rollouts(seed: int, tmp_path: Path) -> None:
    """A task of known reward; the same rollouts a step, with and without three replayed updates of the last steps."""
    settings: dict[str, Any] = {"steps": 8, "learning_rate": 1e-2}
    more: dict[str, Any] = {"replay": {"steps": 3, "updates": 3, "responses": 32, "cap": 5.0}}
    plain, replayed = (
        train(tmp_path / name, "rloo", seed, **settings, **changes) for name, changes in (("a", {}), ("b", more))
    )
    assert plain[0]["score"] == replayed[0]["score"] and "replay_loss" not in plain[3] and "replay_loss" in replayed[3]
    last = [sum(row["score"] for row in rows[-2:]) / 2 for rows in (plain, replayed)]
    assert last[1] - last[0] > 0.3


def test_replay_moves_no_policy_that_is_to_stand_still(tmp_path: Path) -> None:
    """While a critic warms up, and once the step has moved it by target_kl."""
    few = {"steps": 4, "rollouts_per_step": 16, "minibatch_size": 16, "replay": {"steps": 2, "responses": 8}}
    warms = train(tmp_path / "a", "ppo", 0, warmup_steps=2, **few)
    assert ["replay_loss" in row for row in warms] == [False, False, True, True]
    stopped = train(tmp_path / "b", "rloo", 0, epochs=3, target_kl=1e-9, **few)
    assert {(row["early_stop"], "replay_loss" in row) for row in stopped} == {(1.0, False)}


def test_a_recipe_without_replay_says_nothing_of_it() -> None:
    assert "replay" not in tiny_method("rloo").model_dump(mode="json")
    assert tiny_method("rloo", replay=Replay()).model_dump(mode="json")["replay"]["cap"] == 10.0


def test_ppo_with_these_knobs_is_a2c(tiny_folder: str, tmp_path: Path, monkeypatch: Any) -> None:
    """One epoch in one minibatch: no ratio differs from 1, so nothing is clipped, and the gradient is that of
    -(return - value) log pi and of half the squared error of the value (arXiv 1602.01783)."""
    a2c = {"epochs": 1, "minibatch_size": 8, "rollouts_per_step": 8, "gae_lambda": 1.0, "whiten_advantages": False}
    section = tiny_method("ppo", critic="shared", value_coef=0.5, **a2c)
    actors = tiny_actors(tiny_folder, section)
    took = roll_out(actors, PROMPTS[:2], section, 0, 0)
    targets = make_targets(took, section, State(0.1))
    means = updates.Means()
    updates.accumulate(actors, updates.Task(took, targets, range(8), section, means, "here"))
    assert means.all()["clip_fraction"] == 0
    ours = gradients(actors.policy.model)
    total, tokens = torch.zeros(()), 0
    for i, row in enumerate(took.rows):
        n = len(row.response)
        rewards_T = -0.1 * (took.logprobs_BT - took.ref_logprobs_BT)[i, :n]
        penalty = section.missing_eos_penalty * (not took.finished[i])
        rewards_T[-1] += took.score_B[i] - penalty
        return_T = rewards_T.flip(0).cumsum(0).flip(0)
        advantage_T = return_T - took.values_BT[i, :n]
        total = total - (advantage_T * token_logprobs(actors, took, i, section.temperature)).sum()
        value_T = actors.critic.values(
            actors.policy.read([row], section.temperature).hidden_NH, took.mask_BT[i : i + 1, :n]
        )
        total, tokens = total + 0.5 * 0.5 * ((value_T[0] - return_T) ** 2).sum(), tokens + n
    (total / tokens).backward()
    torch.testing.assert_close(ours, gradients(actors.policy.model), atol=1e-6, rtol=1e-3)
