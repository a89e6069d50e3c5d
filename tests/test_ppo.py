"""The PPO loop: which prompts, which gradients, when it stops, and that a kill changes no bit."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlaif.config.optimise import AdaptiveKl
from rlaif.config.training import ComputeSection
from rlaif.errors import ConfigError, TrainingError
from rlaif.run_folder import Run
from rlaif.testing import save_tiny, tiny_tokenizer
from rlaif.training.compute import layers_of
from rlaif.training.lora import trainable
from rlaif.training.losses import policy as losses
from rlaif.training.optimise import updates
from rlaif.training.optimise.actors import Actors, open_actors
from rlaif.training.optimise.estimators import State, make_targets
from rlaif.training.optimise.loop import train_policy
from rlaif.training.optimise.rollout import Rollouts, describe, prompts_of_step, roll_out
from rlaif.training.optimise.updates import Means, take_step
from rlaif.training.reward.train import open_stage
from rlaif.training.scalar_model import as_ended
from rlaif.training.session import Group, Session
from tests.tiny_training import (
    LORA,
    Killed,
    accumulate_both,
    dies_at,
    no_checks,
    of_models,
    prompt,
    prompts,
    random_rows,
    same,
    tiny_actors,
    tiny_recipe,
    tiny_scalar,
    tiny_section,
    tiny_tracker,
    weights,
)

PROMPTS = prompts(6)


def everything(actors: Actors) -> dict[str, Tensor]:
    return weights(actors.policy.model, actors.critic.model, actors.critic.head)


def train(folder: str, run: Path, checks: Any = no_checks, **changes: Any) -> Actors:
    section = tiny_section(**changes)
    actors = tiny_actors(folder, section)
    train_policy(actors, PROMPTS, section, 0, run / "checkpoints", tiny_tracker(run), checks)
    return actors


def rows_of(run: Path) -> list[dict[str, Any]]:
    return Run(run).read_metrics("optimise")


# ------------------------------------------------------------------------------------------------ rollouts


@pytest.mark.parametrize("per_step", [1, 2, 4, 9])
def test_every_prompt_comes_once_an_epoch_in_a_fresh_order(per_step: int) -> None:
    steps = 36 // per_step
    taken = [p.id for step in range(steps) for p in prompts_of_step(PROMPTS, per_step, step, seed=0)]
    epochs = [taken[i : i + 6] for i in range(0, 36, 6)]
    assert all(sorted(epoch) == sorted(p.id for p in PROMPTS) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 3
    assert [p.id for p in prompts_of_step(PROMPTS, per_step, 0, seed=0)] == taken[:per_step]
    other = [p.id for step in range(steps) for p in prompts_of_step(PROMPTS, per_step, step, seed=1)]
    assert other != taken


def test_rollouts_depend_on_step_and_seed_only(tiny_folder: str) -> None:
    section = tiny_section()
    actors = tiny_actors(tiny_folder, section)

    def responses(step: int, seed: int) -> list[tuple[int, ...]]:
        return [row.response for row in roll_out(actors, PROMPTS[:2], section, step, seed).rows]

    assert responses(0, 0) == responses(0, 0)
    assert len({tuple(responses(step, seed)) for step in (0, 1) for seed in (0, 1)}) == 4


def test_responses_of_one_prompt_differ_also_when_it_comes_twice_in_a_step(tiny_folder: str) -> None:
    section = tiny_section()
    took = roll_out(tiny_actors(tiny_folder, section), [PROMPTS[0], PROMPTS[0]], section, 0, 0)
    assert max(Counter(row.response for row in took.rows).values()) == 1
    assert [p.id for p in took.prompts] == [PROMPTS[0].id] * 4


def test_a_long_prompt_loses_its_oldest_tokens(tiny_folder: str) -> None:
    section = tiny_section(max_prompt_tokens=30)
    took = roll_out(tiny_actors(tiny_folder, section), [prompt("x" * 99), PROMPTS[0]], section, 0, 0)
    assert max(len(row.prompt) for row in took.rows) <= 30
    assert tiny_tokenizer().decode(took.rows[0].prompt).endswith("xx<|im_end|>\n<|im_start|>assistant\n")


def test_a_rollout_is_described_for_a_person(tiny_folder: str) -> None:
    section = tiny_section(max_tokens=10)
    took = roll_out(tiny_actors(tiny_folder, section), PROMPTS, section, 0, 0)
    for i, finished in enumerate(took.finished):
        text = describe(took, torch.full((len(took.rows),), 1.5), i)
        assert took.prompts[i].messages[-1].content in text
        assert "KL 1.50 nats" in text
        assert ("[cut off]" in text) is (not finished)


# ------------------------------------------------------------------------------------------------- updates


def gradients(actors: Actors) -> Tensor:
    parameters = [
        *trainable(actors.policy.model).values(),
        *trainable(actors.critic.backbone, actors.critic.head).values(),
    ]
    found = torch.cat([p.grad.flatten() for p in parameters])
    for p in parameters:
        p.grad = None
    return found


@pytest.fixture
def moved(tiny_folder: str, tmp_path: Path) -> tuple[Actors, Rollouts]:
    """Rollouts, and actors that have since learnt a little: ratios differ from 1, some are clipped."""
    section = tiny_section(max_tokens=10)
    actors = tiny_actors(tiny_folder, section)
    took = roll_out(actors, PROMPTS[:4], section, 0, 0)
    groups = [Group(trainable(actors.policy.model), 3e-2)]
    groups.append(Group(trainable(actors.critic.backbone, actors.critic.head), 1e-2))
    session = Session(groups, tmp_path / "moved", 1.0)
    for _ in range(3):
        accumulate_both(actors, took, make_targets(took, section, State(0.05)), range(8), section, Means(), "here")
        session.update("here")
    return actors, took


def test_microbatches_change_neither_gradient_nor_metrics(moved: tuple[Actors, Rollouts]) -> None:
    actors, took = moved
    section = tiny_section()
    targets = make_targets(took, section, State(0.05))
    results = []
    for budget in (10_000, 120, 1):
        means = Means()
        far = accumulate_both(
            actors, took, targets, range(8), section.model_copy(update={"microbatch_tokens": budget}), means, "here"
        )
        results.append((gradients(actors), means.all(), far))
    assert 0 < results[0][1]["clip_fraction"] < 1
    assert 0 < results[0][1]["value_clip_fraction"] < 1
    for gradient, means, far in results[1:]:
        torch.testing.assert_close(gradient, results[0][0], atol=1e-6, rtol=1e-3)
        assert means == pytest.approx(results[0][1], abs=1e-5)
        assert far == pytest.approx(results[0][2], abs=1e-6)


def test_the_gradient_is_that_of_the_mean_over_the_minibatchs_tokens(moved: tuple[Actors, Rollouts]) -> None:
    """Against the sum written out row by row, from unpadded forward passes."""
    actors, took = moved
    section = tiny_section(clip=0.1, value_clip=0.05, value_coef=0.3)
    targets = make_targets(took, section, State(0.05))
    minibatch = [5, 0, 3]
    accumulate_both(actors, took, targets, minibatch, section, Means(), "here")
    ours = gradients(actors)
    total = torch.zeros(())
    count = sum(len(took.rows[i].response) for i in minibatch)
    for i in minibatch:
        row = took.rows[i]
        n = len(row.response)
        ids = torch.tensor([[*row.prompt, *row.response]])
        at = slice(len(row.prompt) - 1, -1)
        logits_TV = actors.policy.model(input_ids=ids).logits[0, at] / section.temperature
        ratio_T = (logits_TV.log_softmax(-1)[range(n), list(row.response)] - took.logprobs_BT[i, :n]).exp()
        advantage_T, return_T, old_T = (t[i, :n] for t in (targets.advantages_BT, targets.returns_BT, took.values_BT))
        total = total - torch.minimum(ratio_T * advantage_T, ratio_T.clamp(0.9, 1.1) * advantage_T).sum() / count
        hidden_TH = actors.critic.backbone(input_ids=ids).last_hidden_state[0, at]
        value_T = actors.critic.head(hidden_TH).squeeze(-1)
        near_T = torch.maximum(torch.minimum(value_T, old_T + 0.05), old_T - 0.05)
        worst_T = torch.maximum((value_T - return_T) ** 2, (near_T - return_T) ** 2)
        total = total + 0.3 * 0.5 * worst_T.sum() / count
    total.backward()
    torch.testing.assert_close(ours, gradients(actors), atol=1e-6, rtol=1e-3)


def test_minibatches_cover_every_rollout_once_and_keep_prompts_together(tiny_folder: str) -> None:
    section = tiny_section(rollouts_per_step=12, minibatch_size=4)
    took = roll_out(tiny_actors(tiny_folder, section), PROMPTS, section, 0, 0)
    batches = updates.minibatches(took, section, seed=1)
    assert [len(batch) for batch in batches] == [4, 4, 4]
    assert sorted(i for batch in batches for i in batch) == list(range(12))
    for batch in batches:
        assert set(Counter(took.prompts[i].id for i in batch).values()) == {2}
    assert batches != updates.minibatches(took, section, seed=2)


def test_past_the_target_kl_a_step_stops(tiny_folder: str, tmp_path: Path) -> None:
    updates: Counter[str] = Counter()
    update = Session.update

    def counting(self: Session, where: str, *rest: Any, **named: Any) -> float:
        updates[where.split(",", maxsplit=1)[0]] += 1
        return update(self, where, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "update", counting)
        train(tiny_folder, tmp_path / "free", epochs=4, steps=2)
        assert dict(updates) == {"ppo step 0": 16, "ppo step 1": 16}  # policy and critic
        updates.clear()
        train(tiny_folder, tmp_path / "bound", epochs=4, steps=2, target_kl=1e-4)
    assert all(1 <= count < 16 for count in updates.values())
    assert [row["early_stop"] for row in rows_of(tmp_path / "free")] == [0.0, 0.0]
    assert [row["early_stop"] for row in rows_of(tmp_path / "bound")] == [1.0, 1.0]


def test_during_warm_up_only_the_critic_learns(tiny_folder: str, tmp_path: Path) -> None:
    section = tiny_section()
    fresh = tiny_actors(tiny_folder, section)
    warm = train(tiny_folder, tmp_path / "a", steps=2, warmup_steps=2)
    assert same(weights(warm.policy.model), weights(fresh.policy.model))
    assert not same(weights(warm.critic.model), weights(fresh.critic.model))
    assert [row["kl"] for row in rows_of(tmp_path / "a")] == pytest.approx([0.0, 0.0], abs=1e-6)
    later = train(tiny_folder, tmp_path / "b", steps=3, warmup_steps=2)
    assert not same(weights(later.policy.model), weights(fresh.policy.model))


def test_the_adaptive_coefficient_follows_the_kl_of_each_step(tiny_folder: str, tmp_path: Path) -> None:
    kl = AdaptiveKl(coef=0.05, target=0.001, gain=0.5)
    train(tiny_folder, tmp_path, kl=kl)
    rows = rows_of(tmp_path)
    assert rows[0]["kl_coef"] == 0.05
    for row, following in pairwise(rows):
        assert following["kl_coef"] == losses.next_kl_coef(kl, row["kl_coef"], row["kl"])
    assert len({row["kl_coef"] for row in rows}) == 4


def test_a_loss_that_is_not_finite_names_step_and_prompts(tiny_folder: str, tmp_path: Path) -> None:
    section = tiny_section()
    actors = tiny_actors(tiny_folder, section)
    took = roll_out(actors, PROMPTS[:4], section, 0, 0)
    took.values_BT[0, 0] = float("nan")
    session = Session([Group(trainable(actors.policy.model), 1e-3)], tmp_path, 1.0)
    with pytest.raises(TrainingError, match=r"ppo step 3, epoch 0, prompts \["):
        take_step(actors, session, took, make_targets(took, section, State(0.05)), section, 3, 0)


# ----------------------------------------------------------------------------------------------- whole runs


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LORA])
def test_a_killed_run_goes_on_to_the_same_bits(lora: Any, tiny_folder: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "lora": lora,
        "critic_lora": lora,
        "kl": AdaptiveKl(coef=0.05, target=0.01, gain=0.5),
        "learning_rate": 1e-3 if lora else 1e-4,
        "steps": 5,
    }
    undisturbed = train(tiny_folder, tmp_path / "a", **settings)
    with pytest.raises(Killed):
        # In step 3: the checkpoint holds two steps, and the row and the updates of step 2 will be made again.
        train(tiny_folder, tmp_path / "b", checks=dies_at(4), **settings)
    assert len(rows_of(tmp_path / "b")) == 3
    resumed = train(tiny_folder, tmp_path / "b", **settings)
    assert (tmp_path / "b" / "metrics.jsonl").read_bytes() == (tmp_path / "a" / "metrics.jsonl").read_bytes()
    assert same(everything(resumed), everything(undisturbed))


def test_a_finished_run_that_is_repeated_does_nothing_more(tiny_folder: str, tmp_path: Path) -> None:
    first = train(tiny_folder, tmp_path)
    metrics = (tmp_path / "metrics.jsonl").read_bytes()
    again = train(tiny_folder, tmp_path, checks=dies_at(1))
    assert (tmp_path / "metrics.jsonl").read_bytes() == metrics
    assert same(everything(again), everything(first))


def test_full_fine_tuning_moves_all_weights_and_neither_reference_nor_reward_model(
    tiny_folder: str, tmp_path: Path
) -> None:
    section = tiny_section(lora=None, critic_lora=None, learning_rate=1e-4, steps=2)
    actors = tiny_actors(tiny_folder, section)
    policy, scorer = weights(actors.policy.model), weights(actors.reward_model.model)
    took = roll_out(actors, PROMPTS[:4], section, 0, 0)
    train_policy(actors, PROMPTS, section, 0, tmp_path / "checkpoints", tiny_tracker(tmp_path), no_checks)
    assert not any(torch.equal(p, policy[name]) for name, p in weights(actors.policy.model).items())
    assert same(weights(actors.reward_model.model), scorer)
    reference_BT = actors.policy.reference_logprobs(took.rows, section.temperature)
    assert torch.equal(reference_BT, took.ref_logprobs_BT)
    ended = as_ended(took.rows, actors.policy.tokenizer)
    assert torch.equal(actors.reward_model.score_all(ended, 1000), took.score_B)


def test_what_is_said_of_rollouts_does_not_depend_on_the_microbatch(tiny_folder: str) -> None:
    actors = tiny_actors(tiny_folder, tiny_section())
    few, many = (roll_out(actors, PROMPTS[:4], tiny_section(microbatch_tokens=n), 0, 0) for n in (1, 10_000))
    assert few.rows == many.rows and len({len(row.response) for row in few.rows}) > 1
    for name in ("logprobs_BT", "ref_logprobs_BT", "entropy_BT", "values_BT"):
        torch.testing.assert_close(getattr(few, name), getattr(many, name), atol=1e-5, rtol=0)


def test_actors_are_opened_from_a_recipe_and_a_saved_reward_model(tiny_folder: str, tmp_path: Path) -> None:
    scorer = tiny_scalar(tiny_folder)
    scorer.reference = 0.7
    scorer.save(tmp_path / "reward_model", tiny_tokenizer())
    recipe = tiny_recipe(tiny_folder, optimise=tiny_section())
    actors = open_actors(recipe, *of_models(recipe, tmp_path / "reward_model"), tmp_path / "weights")
    assert actors.critic.reference == 0.7
    rows = random_rows(0, prompts=2, responses=2)
    score_B = torch.tensor(actors.rewards.score.measure([], [], rows).values)
    ended = as_ended(rows, tiny_tokenizer())
    torch.testing.assert_close(score_B, scorer.score_all(ended, 1000) - 0.7)
    assert trainable(actors.policy.model)
    assert not {id(p) for p in trainable(actors.policy.model).values()} & {
        id(p) for p in trainable(actors.critic.backbone, actors.critic.head).values()
    }


@pytest.mark.parametrize("lora", [LORA, None])
def test_both_models_that_learn_compute_as_the_recipe_says(lora: Any, tiny_folder: str, tmp_path: Path) -> None:
    tiny_scalar(tiny_folder).save(tmp_path / "reward_model", tiny_tokenizer())
    section = tiny_section(lora=lora, critic_lora=lora)
    recipe = tiny_recipe(tiny_folder, optimise=section, compute=ComputeSection(gradient_checkpointing=True))
    actors = open_actors(recipe, *of_models(recipe, tmp_path / "reward_model"), tmp_path / "weights")
    for model in (actors.policy, actors.critic):
        assert all(layer.training for layer in layers_of(model.backbone))


def test_a_reward_model_with_another_tokenizer_is_refused_before_training(tiny_folder: str, tmp_path: Path) -> None:
    other = save_tiny(tmp_path / "other")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(other)
    recipe = tiny_recipe(tiny_folder)
    recipe = recipe.model_copy(update={"reward": recipe.reward.model_copy(update={"model": other})})
    with pytest.raises(ConfigError, match="another tokenizer"):
        open_stage(recipe)
