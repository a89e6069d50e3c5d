"""A real vLLM server on the CPU as the writer of rollouts: it is the policy, after every sync and only then.

One server for the module, in float32: the two agree to rounding, so what differs is a fault. The tests go on from one
another's weights and never back.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
import torch

from rlaif.config.rollouts import VllmRollouts
from rlaif.config.training import Lora
from rlaif.errors import TrainingError
from rlaif.models.client.tokens import TokenClient
from rlaif.models.local.generate import Sampling
from rlaif.models.local.packing import Row
from rlaif.run_folder import Run
from rlaif.testing import save_tiny
from rlaif.training.optimise.loop import train_policy
from rlaif.training.policy_model import PolicyModel
from rlaif.training.samplers import SampledResponse
from rlaif.training.samplers.vllm import VllmSampler
from tests.tiny_training import no_checks, prompts, same, tiny_actors, tiny_method, tiny_tracker, weights

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]

SAMPLING = Sampling(max_tokens=12, temperature=0.7)
PROMPTS = [[1, *range(60 + i, 100 + i), 2, 1] for i in range(6)]
SEEDS = [11, 12, 13, 14, 15, 16]
ENDS = (2, *range(140, 156))


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> PolicyModel:
    """Peaked distributions, a tied head, a LoRA adapter; heads of 32 because vLLM on a CPU has none of 8."""
    shape = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.2}
    policy = PolicyModel.load(save_tiny(tmp_path_factory.mktemp("peaked"), **shape), None, torch.float32)
    policy.make_trainable(Lora(rank=4, alpha=8.0), seed=3)
    policy.model.generation_config.eos_token_id = list(ENDS)
    return policy


@pytest.fixture(scope="module")
def sampler(policy: PolicyModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmSampler]:
    """Started, with the weights of the beginning; the last test stops it."""
    sampler = VllmSampler(VllmRollouts(max_model_len=1024), policy, tmp_path_factory.mktemp("run") / "served")
    sampler.sync()
    yield sampler
    sampler.close()


def learn(policy: PolicyModel, name: str, size: float) -> None:
    """Move the weights of this name, as updates would."""
    with torch.no_grad():
        for found, parameter in policy.model.named_parameters():
            if name in found:
                parameter.add_(size * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))


def gap(policy: PolicyModel, written: Sequence[SampledResponse], temperature: float = SAMPLING.temperature) -> float:
    """Largest difference of a token's log-probability between the server that wrote it and the policy."""
    rows = [Row(tuple(prompt), tuple(one.tokens)) for prompt, one in zip(PROMPTS, written, strict=True)]
    scored_BT = policy.without_gradients(rows, temperature, 999).logprobs_BT
    return max(
        abs(mine - its)
        for scored_T, one in zip(scored_BT.tolist(), written, strict=True)
        for mine, its in zip(scored_T, one.logprobs or (), strict=False)
    )


def test_it_starts_in_step_and_tells_log_probabilities_at_the_temperature(
    sampler: VllmSampler, policy: PolicyModel
) -> None:
    assert sampler.parity is not None and sampler.parity.gap < 1e-4 and sampler.parity.followed is None
    written = sampler.sample(PROMPTS, SAMPLING, SEEDS)
    assert gap(policy, written) < 1e-3
    assert gap(policy, written, temperature=1.0) > 0.1, "the raw ones are others"
    for one in written:
        assert one.logprobs is not None and len(one.logprobs) == len(one.tokens) <= SAMPLING.max_tokens
        assert one.finished == (one.tokens[-1] in ENDS) and not set(one.tokens[:-1]) & set(ENDS)
        assert one.finished or len(one.tokens) == SAMPLING.max_tokens
    assert {one.finished for one in written} == {True, False}
    assert sampler.sample(PROMPTS, SAMPLING, SEEDS) == written, "the seeds decide"
    assert sampler.sample(PROMPTS, SAMPLING, SEEDS[::-1]) != written


def test_an_adapter_that_learnt_is_served_after_a_sync_and_not_before(
    sampler: VllmSampler, policy: PolicyModel
) -> None:
    learn(policy, "lora_B", 0.1)
    assert gap(policy, sampler.sample(PROMPTS, SAMPLING, SEEDS)) > 0.1
    sampler.sync()
    assert sampler.parity is not None and sampler.parity.gap < 1e-4
    assert sampler.parity.followed == pytest.approx(1.0, abs=1e-2)
    assert gap(policy, sampler.sample(PROMPTS, SAMPLING, SEEDS)) < 1e-3


def test_a_step_of_ordinary_size_is_followed_visibly(sampler: VllmSampler, policy: PolicyModel) -> None:
    learn(policy, "lora_B", 2e-4)
    sampler.sync()
    assert sampler.parity is not None and sampler.parity.followed == pytest.approx(1.0, abs=1e-2)


def test_a_head_tied_to_the_embedding_follows_too(sampler: VllmSampler, policy: PolicyModel) -> None:
    """vLLM 0.32 on a CPU keeps the head it started with, where it is tied (weights.py says what is done)."""
    learn(policy, "embed_tokens", 0.05)
    sampler.sync()
    assert gap(policy, sampler.sample(PROMPTS, SAMPLING, SEEDS)) < 1e-3


def test_a_reload_that_does_nothing_is_found_out(
    sampler: VllmSampler, policy: PolicyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn(policy, "lora_B", 2e-4)
    monkeypatch.setattr(VllmSampler, "_reload", lambda self: None)
    with pytest.raises(TrainingError, match=r"stale weights: .* moved -?0% of the way"):
        sampler.sync()
    monkeypatch.undo()
    sampler.sync()


def test_a_prefix_cache_that_outlives_its_weights_is_found_out(
    sampler: VllmSampler, policy: PolicyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = TokenClient.control
    monkeypatch.setattr(
        TokenClient,
        "control",
        lambda self, path, body: b"" if path == "/reset_prefix_cache" else control(self, path, body),
    )
    learn(policy, "lora_B", 0.1)
    with pytest.raises(TrainingError, match=r"differ from the policy's by"):
        sampler.sync()
    monkeypatch.undo()
    sampler.sync()


def test_policy_optimisation_runs_on_it(
    sampler: VllmSampler, policy: PolicyModel, tiny_folder: str, tmp_path: Path
) -> None:
    config = VllmRollouts(max_model_len=1024)
    section = tiny_method("rloo", steps=2, rollouts=config, learning_rate=1e-2, max_tokens=12)
    actors = dataclasses.replace(tiny_actors(tiny_folder, section), policy=policy, sampler=sampler)
    before = weights(policy.model)
    train_policy(actors, prompts(6), section, 0, tmp_path / "checkpoints", tiny_tracker(tmp_path), no_checks)
    rows = Run(tmp_path).read_metrics("optimise")
    assert len(rows) == 2 and all(row["sampler_gap"] < 1e-3 for row in rows)
    assert not same(before, weights(policy.model))
    assert sampler.parity is not None and sampler.parity.followed == pytest.approx(1.0, abs=1e-2)


def test_after_close_neither_process_nor_weights_are_left(sampler: VllmSampler, policy: PolicyModel) -> None:
    assert sampler._process is not None
    guard = psutil.Process(sampler._process._guard.pid)
    family = [guard, *guard.children(recursive=True)]
    folder: Path = sampler._folder
    assert len(family) >= 3 and folder.is_dir()
    sampler.close()
    assert [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []
    assert not folder.exists()
