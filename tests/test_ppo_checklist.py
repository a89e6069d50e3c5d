"""The details without which PPO quietly fails (arXiv 2403.17031, "N+"), one test each, named after the item."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor

from rlaif.models.local import generate as generate_module
from rlaif.models.local.generate import caches, pick_tokens
from rlaif.models.local.packing import Row, response_mask
from rlaif.rewards.model import ModelReward
from rlaif.run_folder import Run
from rlaif.testing import save_tiny, tiny_tokenizer
from rlaif.training.lora import trainable
from rlaif.training.losses.policy import gae
from rlaif.training.optimise import loop as ppo
from rlaif.training.optimise import updates
from rlaif.training.optimise.actors import Actors
from rlaif.training.optimise.estimators import State, make_targets
from rlaif.training.optimise.loop import train_policy
from rlaif.training.optimise.rollout import Rollouts, roll_out
from rlaif.training.optimise.updates import take_step
from rlaif.training.policy_model import PolicyModel
from rlaif.training.reward.data import encode_pairs
from rlaif.training.reward.train import RewardStage, set_reference
from rlaif.training.scalar_model import as_ended
from rlaif.training.session import Group, Session
from tests.tiny_training import (
    LORA,
    accumulate_both,
    no_checks,
    preference,
    prompts,
    random_rows,
    reward_section,
    tiny_actors,
    tiny_scalar,
    tiny_section,
    tiny_tracker,
)

PROMPTS = prompts(4)
SECTION = tiny_section(max_tokens=10)


@pytest.fixture
def actors(tiny_folder: str) -> Actors:
    return tiny_actors(tiny_folder, SECTION)


@pytest.fixture
def rollouts(actors: Actors) -> Rollouts:
    return roll_out(actors, PROMPTS, SECTION, step=0, seed=0)


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor, float]]:
    """What the sampler does: (logits_BV, tokens_B, temperature) of each token position."""
    seen: list[tuple[Tensor, Tensor, float]] = []

    def spy(logits_BV: Tensor, uniform_B: Tensor, temperature: float, top_p: float) -> Tensor:
        tokens_B = pick_tokens(logits_BV, uniform_B, temperature, top_p)
        seen.append((logits_BV, tokens_B, temperature))
        return tokens_B

    monkeypatch.setattr(generate_module, "pick_tokens", spy)
    return seen


def by_hand(lengths: tuple[int, ...] = (4, 2, 1), **changes: Any) -> Rollouts:
    """Rollouts with chosen numbers; policy and reference agree and the critic says 0 unless changed."""
    rows = [Row((5, 6), tuple(range(10, 10 + length))) for length in lengths]
    mask_BT = response_mask(rows, "cpu")
    zeros_BT = torch.zeros(mask_BT.shape)
    fields: dict[str, Any] = {
        "prompts": PROMPTS[: len(rows)],
        "rows": rows,
        "texts": [""] * len(rows),
        "finished": [True] * len(rows),
        "mask_BT": mask_BT,
        "logprobs_BT": zeros_BT,
        "ref_logprobs_BT": zeros_BT,
        "entropy_BT": zeros_BT,
        "values_BT": zeros_BT,
        "score_B": torch.zeros(len(rows)),
        "places": list(range(len(rows))),
    }
    return Rollouts(**(fields | changes))


def token_rewards_of(rollouts: Rollouts, kl_coef: float, **changes: Any) -> Tensor:
    """The rewards behind the targets: without discount or critic a return is the sum of rewards still to come."""
    section = tiny_section(gamma=1.0, gae_lambda=1.0, **changes)
    returns_BT = make_targets(rollouts, section, State(kl_coef)).returns_BT
    return returns_BT - torch.cat([returns_BT[:, 1:], torch.zeros(len(returns_BT), 1)], dim=1)


def session_of(actors: Actors, folder: Path, max_grad_norm: float = 1.0) -> Session:
    groups = [
        Group(trainable(actors.policy.model), 1e-3),
        Group(trainable(actors.critic.backbone, actors.critic.head), 1e-3),
    ]
    return Session(groups, folder, max_grad_norm)


# ------------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize("lora", [None, LORA])
def test_dropout_is_off_in_all_four_models(lora: Any, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, attention_dropout=0.5)
    section = tiny_section(lora=lora, critic_lora=lora)
    actors = tiny_actors(folder, section)
    rows = random_rows(0, prompts=2, responses=2)
    readings: list[Callable[[], Tensor]] = [
        lambda: actors.policy.token_logprobs(rows, 1.0),
        lambda: actors.policy.reference_logprobs(rows, 1.0),
        lambda: actors.reward_model.scores(rows),
        lambda: actors.critic.values(rows),
    ]
    with torch.no_grad():
        assert all(torch.equal(read(), read()) for read in readings)
    take = roll_out(actors, PROMPTS, section, 0, 0)
    take_step(actors, session_of(actors, tmp_path), take, make_targets(take, section, State(0.05)), section, 0, 0)
    with torch.no_grad():
        assert all(torch.equal(read(), read()) for read in readings)  # training did not switch it on


def test_sampling_and_every_logprob_use_the_same_temperature(
    tiny_folder: str, sampled: list[tuple[Tensor, Tensor, float]]
) -> None:
    section = tiny_section(temperature=0.5, max_tokens=1)
    actors = tiny_actors(tiny_folder, section)
    rollouts = roll_out(actors, PROMPTS, section, 0, 0)
    [(logits_BV, tokens_B, temperature)] = sampled
    assert temperature == 0.5
    expected_B = (logits_BV / 0.5).log_softmax(-1).gather(1, tokens_B.unsqueeze(1)).squeeze(1)
    with torch.no_grad():
        trained_BT = actors.policy.token_logprobs(rollouts.rows, section.temperature)
    for logprobs_BT in (rollouts.logprobs_BT, rollouts.ref_logprobs_BT, trained_BT):
        torch.testing.assert_close(logprobs_BT[:, 0], expected_B, atol=1e-5, rtol=0)


def test_prompts_are_left_padded_with_position_ids(actors: Actors, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs: list[dict[str, Any]] = []
    caches(actors.policy.model, 0)  # the trial is not spied on
    forward = actors.policy.model.forward

    @wraps(forward)
    def spy(**arguments: Any) -> Any:
        inputs.append(dict(arguments))
        return forward(**arguments)

    monkeypatch.setattr(actors.policy.model, "forward", spy)
    roll_out(actors, PROMPTS, SECTION, 0, 0)
    first, second = inputs[0], inputs[1]
    mask_BS, tokens_BS, positions_BS = first["attention_mask"], first["input_ids"], first["position_ids"]
    assert len(set(mask_BS.sum(1).tolist())) > 1
    assert bool((mask_BS[:, -1] == 1).all())
    assert bool((tokens_BS[mask_BS == 0] == actors.policy.tokenizer.pad_token_id).all())
    lengths = [int(mask_S.sum()) for mask_S in mask_BS]
    for mask_S, positions_S, length in zip(mask_BS, positions_BS, lengths, strict=True):
        assert positions_S[mask_S == 1].tolist() == list(range(length))
    each, rest = divmod(len(second["position_ids"]), len(lengths))  # a prompt is read once for all its responses
    assert rest == 0
    assert second["position_ids"].tolist() == [[length] for length in lengths for _ in range(each)]


def test_a_response_is_cut_at_its_first_eos_which_the_mask_keeps(rollouts: Rollouts, actors: Actors) -> None:
    ends = set(actors.policy.model.generation_config.eos_token_id)
    assert set(rollouts.finished) == {True, False}
    for row, finished, mask_T in zip(rollouts.rows, rollouts.finished, rollouts.mask_BT, strict=True):
        assert not ends & set(row.response[:-1])
        assert finished is (row.response[-1] in ends)
        assert mask_T.tolist() == [t < len(row.response) for t in range(len(mask_T))]
        assert bool(mask_T[len(row.response) - 1])


def test_a_missing_eos_is_penalised() -> None:
    scored = by_hand(score_B=torch.tensor([3.0, 3.0, 3.0]), finished=[True, False, True])
    reward_B = make_targets(scored, tiny_section(missing_eos_penalty=1.25), State(0.05)).reward_B
    assert reward_B.tolist() == pytest.approx([3.0, 1.75, 3.0])


def test_the_critic_starts_from_the_reward_model(actors: Actors) -> None:
    rows = random_rows(1, prompts=3, responses=2)
    longer = [Row(row.prompt, (*row.response, 9)) for row in rows]
    values_BT = actors.critic.values(longer)
    at_end_B = torch.stack([values_BT[b, len(row.response)] for b, row in enumerate(rows)])
    torch.testing.assert_close(at_end_B, actors.reward_model.score_all(rows, 1000), atol=1e-5, rtol=0)


def test_rewards_are_centred_on_reference_responses(tiny_folder: str) -> None:
    tokenizer, model = tiny_tokenizer(), tiny_scalar(tiny_folder)
    rows = as_ended(random_rows(2, prompts=4, responses=2), tokenizer)
    assert abs(float(model.score_all(rows, 1000).mean())) > 1e-3
    set_reference(RewardStage(model, tokenizer, reward_section(), seed=0), rows)
    reward = ModelReward(lambda: [model], lambda: tokenizer, 1000)
    assert fmean(reward.measure([], [], rows).values) == pytest.approx(0.0, abs=1e-5)


def test_the_reward_model_reads_the_last_real_token(actors: Actors) -> None:
    rows = random_rows(3, prompts=4, responses=2)
    scorer = actors.reward_model
    score_B = scorer.score_all(rows, 1000)  # of different lengths, padded and packed
    for row, score in zip(rows, score_B.tolist(), strict=True):
        with torch.no_grad(), actors.critic.adapter.off():  # type: ignore[union-attr]
            states = scorer.backbone(input_ids=torch.tensor([[*row.prompt, *row.response]])).last_hidden_state
            assert score == pytest.approx(float(scorer.head(states[0, -1])), abs=1e-5)


def test_pairs_identical_after_truncation_are_dropped() -> None:
    alike, different = preference("Hi", "abcdefgh1", "abcdefgh2"), preference("Hi", "abcdefgh1", "bcdefghi2")
    assert [pair.preference for pair in encode_pairs(tiny_tokenizer(), [alike, different], 9)] == [different]


# ------------------------------------------------------------------------------------------------ targets


def test_the_kl_is_in_every_tokens_reward_and_the_score_on_the_last_real_one() -> None:
    logprobs_BT, ref_logprobs_BT = -torch.rand(3, 4), -torch.rand(3, 4)
    mask_BT = by_hand().mask_BT
    took = by_hand(
        logprobs_BT=logprobs_BT * mask_BT,
        ref_logprobs_BT=ref_logprobs_BT * mask_BT,
        score_B=torch.tensor([10.0, 20.0, 30.0]),
    )
    expected = -0.1 * (logprobs_BT - ref_logprobs_BT) * mask_BT
    expected[0, 3] += 10
    expected[1, 1] += 20
    expected[2, 0] += 30
    torch.testing.assert_close(token_rewards_of(took, kl_coef=0.1), expected, atol=1e-5, rtol=0)


def test_advantages_are_whitened_over_real_tokens_after_returns_are_taken() -> None:
    values_BT = torch.tensor([[0.3, -0.2, 0.5, 0.1], [1.0, 0.4, 7.0, 7.0], [-0.6, 7.0, 7.0, 7.0]])
    took = by_hand(score_B=torch.tensor([5.0, -2.0, 1.0]), values_BT=values_BT)
    section = tiny_section(gamma=1.0, gae_lambda=0.9)
    rewards_BT = torch.tensor([[0, 0, 0, 5.0], [0, -2.0, 0, 0], [1.0, 0, 0, 0]])
    plain = gae(rewards_BT, values_BT, took.mask_BT, 1.0, 0.9)
    targets = make_targets(took, section, State(0.0))
    torch.testing.assert_close(targets.returns_BT, plain.returns_BT)
    real = targets.advantages_BT[took.mask_BT]
    assert float(real.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(real.std(unbiased=False)) == pytest.approx(1.0, abs=1e-5)
    assert bool((targets.advantages_BT[~took.mask_BT] == 0).all())
    raw = make_targets(took, tiny_section(gamma=1.0, gae_lambda=0.9, whiten_advantages=False), State(0.0))
    torch.testing.assert_close(raw.advantages_BT, plain.advantages_BT)


def test_rewards_are_whitened_without_moving_their_mean_if_asked() -> None:
    took = by_hand(score_B=torch.tensor([5.0, -2.0, 1.0]))
    whitened = token_rewards_of(took, 0.0, whiten_rewards=True)[took.mask_BT]
    plain = token_rewards_of(took, 0.0)[took.mask_BT]
    assert float(whitened.std(unbiased=False)) == pytest.approx(1.0, abs=1e-5)
    assert float(whitened.mean()) == pytest.approx(float(plain.mean()), abs=1e-5)


# ------------------------------------------------------------------------------------------------ updates


def test_old_logprobs_come_from_the_training_forward(actors: Actors, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were they the sampler's, its other kernels would give a first ratio that is not 1."""
    generate = generate_module.generate

    def distorted(model: Any, *rest: Any) -> Any:
        """The same policy, as a sampler with other numerics would see it."""
        with torch.no_grad():
            model.model.norm.weight.mul_(1.1)
        samples = generate(model, *rest)
        with torch.no_grad():
            model.model.norm.weight.div_(1.1)
        return samples

    monkeypatch.setattr("rlaif.training.samplers.generate", distorted)
    took = roll_out(actors, PROMPTS, SECTION, 0, 0)
    logprobs_BT = actors.policy.token_logprobs(took.rows, SECTION.temperature)
    torch.testing.assert_close(took.logprobs_BT, logprobs_BT.detach(), atol=1e-5, rtol=0)


def test_values_are_clipped(actors: Actors, rollouts: Rollouts) -> None:
    """Values that have already moved past the clip, towards their return, get no gradient."""
    targets = make_targets(rollouts, SECTION, State(0.05))
    moved = dataclasses.replace(rollouts, values_BT=rollouts.values_BT - 1.0)
    targets = targets._replace(returns_BT=rollouts.values_BT + 0.5, advantages_BT=0 * targets.advantages_BT)

    def head_gradient(value_clip: float) -> Tensor:
        section = tiny_section(value_clip=value_clip)
        actors.critic.head.weight.grad = None
        means = updates.Means()
        accumulate_both(actors, moved, targets, range(8), section, means, "here")
        assert means.all()["value_clip_fraction"] == (1.0 if value_clip < 1 else 0.0)
        return actors.critic.head.weight.grad

    assert bool((head_gradient(0.2) == 0).all())
    assert float(head_gradient(1.5).abs().max()) > 1e-4


def test_gradients_are_clipped(
    actors: Actors, rollouts: Rollouts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_of(actors, tmp_path, max_grad_norm=1e-3)
    norms: list[float] = []
    step = session.optimizer.step

    def spy() -> None:
        for group in session.optimizer.param_groups:
            if all(p.grad is not None for p in group["params"]):  # policy and critic move one after the other
                norms.append(float(torch.cat([p.grad.flatten() for p in group["params"]]).norm()))
        step()

    monkeypatch.setattr(session.optimizer, "step", spy)
    row = take_step(actors, session, rollouts, make_targets(rollouts, SECTION, State(0.05)), SECTION, 0, 0)
    assert len(norms) == 2 * 4  # policy and critic, four updates
    assert max(norms) == pytest.approx(1e-3, rel=1e-3)
    assert row["gradient_norm"] > 1e-2  # as it was before


def test_kl_clip_fraction_explained_variance_length_and_eos_rate_are_logged(tiny_folder: str, tmp_path: Path) -> None:
    section = tiny_section(steps=2, max_tokens=10)
    actors = tiny_actors(tiny_folder, section)
    seen: list[Rollouts] = []

    def rates(texts: Any, prompts: Any) -> dict[str, float]:
        return {"pass/all": 0.5}

    original = ppo.roll_out

    def spy(*arguments: Any) -> Rollouts:
        seen.append(original(*arguments))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ppo, "roll_out", spy)
        train_policy(actors, PROMPTS, section, 0, tmp_path / "checkpoints", tiny_tracker(tmp_path), rates)
    rows = Run(tmp_path).read_metrics("optimise")
    assert [row["step"] for row in rows] == [0, 1]
    for row, took in zip(rows, seen, strict=True):
        mask_BT = took.mask_BT
        kl_B = ((took.logprobs_BT - took.ref_logprobs_BT) * mask_BT).sum(1)
        assert row["kl"] == pytest.approx(float(kl_B.mean()), abs=1e-6)
        assert row["response_tokens"] == pytest.approx(sum(len(r.response) for r in took.rows) / 8)
        assert row["finished"] == pytest.approx(sum(took.finished) / 8)
        assert row["score"] == pytest.approx(float(took.score_B.mean()), abs=1e-6)
        assert row["entropy"] == pytest.approx(float(took.entropy_BT[mask_BT].mean()), rel=1e-5)
        assert 0 <= row["clip_fraction"] <= 1
        assert row["explained_variance"] <= 1
        assert row["kl_coef"] == 0.05
        assert row["pass/all"] == 0.5
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-5)  # the policy is still the reference
    assert rows[1]["kl"] != 0


def test_the_reference_stays_the_starting_policy(tiny_folder: str, tmp_path: Path) -> None:
    actors = tiny_actors(tiny_folder, SECTION)
    train_policy(actors, PROMPTS, SECTION, 0, tmp_path / "checkpoints", tiny_tracker(tmp_path), no_checks)
    rows = random_rows(4, prompts=3, responses=2)
    start = PolicyModel.load(tiny_folder, None, torch.float32)
    expected = start.without_gradients(rows, 0.7, 1000).logprobs_BT
    torch.testing.assert_close(actors.policy.reference_logprobs(rows, 0.7), expected, atol=1e-5, rtol=0)
    assert (actors.policy.without_gradients(rows, 0.7, 1000).logprobs_BT - expected).abs().max() > 1e-2
