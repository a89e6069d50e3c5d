"""Frozen models in a mapped file: the same weights, no memory while they rest, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlaif.testing import tiny_model
from rlaif.training.policy_model import PolicyModel
from rlaif.training.resting import RestingWeights
from tests.tiny_training import random_rows, same, weights


def in_memory(address: int) -> int:
    """Bytes of the mapping that begins here which are this process's at the moment."""
    here = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(maxsplit=1)[0]:
            here = int(line.split("-")[0], 16) == address
        elif here and line.startswith("Rss:"):
            return 1024 * int(line.split()[1])
    raise AssertionError("no such mapping")


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resting_weights_take_no_memory_and_come_back_as_they_were(tmp_path: Path, dtype: torch.dtype) -> None:
    models = [tiny_model(seed, hidden_size=128).to(dtype).requires_grad_(False) for seed in (0, 1)]
    before = [weights(model) for model in models]
    tied = models[0].lm_head.weight is models[0].model.embed_tokens.weight
    resting = RestingWeights(models, tmp_path)
    assert list(tmp_path.iterdir()) == []
    address = models[0].model.embed_tokens.weight.untyped_storage().data_ptr()
    size = models[0].model.embed_tokens.weight.untyped_storage().nbytes()
    assert in_memory(address) == 0
    for _ in range(2):
        assert all(same(weights(model), was) for model, was in zip(models, before, strict=True))
        assert in_memory(address) >= size
        resting.rest()
        assert in_memory(address) == 0
    assert tied == (models[0].lm_head.weight is models[0].model.embed_tokens.weight)


def test_what_learns_is_left_alone(tiny_folder: str, tmp_path: Path) -> None:
    policy = PolicyModel.load(tiny_folder, None, torch.float32)
    policy.make_trainable(None, 0)
    rows = random_rows(1, prompts=2, responses=2)
    was = policy.reference_logprobs(rows, 1.0)
    trained = next(policy.model.parameters()).data_ptr()
    RestingWeights([policy.model, policy.reference], tmp_path)
    assert next(policy.model.parameters()).data_ptr() == trained
    assert torch.equal(policy.reference_logprobs(rows, 1.0), was)


def test_with_nothing_to_rest_nothing_happens(tmp_path: Path) -> None:
    RestingWeights([], tmp_path / "none").rest()
    assert not (tmp_path / "none").exists()
