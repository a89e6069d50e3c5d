"""The policy in training: log-probabilities and entropies against their definitions, the reference, saving."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from rlaif.config.training import Lora
from rlaif.models.local.packing import Row, response_mask
from rlaif.testing import save_tiny, tiny_tokenizer
from rlaif.training.lora import trainable
from rlaif.training.policy_model import PolicyModel
from tests.tiny_training import LORA, random_rows, same, weights

ROWS = random_rows(1, prompts=3, responses=3)
MASK_BT = response_mask(ROWS, "cpu")
BUDGET = 10_000


@pytest.fixture
def policy(tiny_folder: str) -> PolicyModel:
    return PolicyModel.load(tiny_folder, None, torch.float32)


@torch.no_grad()
def plain_logits(model: torch.nn.Module, row: Row) -> Tensor:
    """logits_TV in which each response token was chosen, from one unpadded forward pass."""
    logits = model(input_ids=torch.tensor([[*row.prompt, *row.response]])).logits[0]
    return logits[len(row.prompt) - 1 : -1]


def learn(policy: PolicyModel, steps: int = 3) -> None:
    optimizer = torch.optim.SGD(trainable(policy.model).values(), lr=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        (-policy.token_logprobs(ROWS, 1.0).sum() / MASK_BT.sum()).backward()
        optimizer.step()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_and_entropy_are_those_of_the_full_softmax(policy: PolicyModel, temperature: float) -> None:
    with torch.no_grad():
        logprobs_BT = policy.token_logprobs(ROWS, temperature)
    scored = policy.without_gradients(ROWS, temperature, BUDGET)
    for b, row in enumerate(ROWS):
        logs_TV = (plain_logits(policy.model, row) / temperature).log_softmax(-1)
        expected_T = logs_TV[range(len(row.response)), list(row.response)]
        entropy_T = torch.distributions.Categorical(logits=logs_TV).entropy()
        length = len(row.response)
        for found in (logprobs_BT, scored.logprobs_BT):
            torch.testing.assert_close(found[b, :length], expected_T, atol=1e-5, rtol=0)
            assert bool((found[b, length:] == 0).all())
        torch.testing.assert_close(scored.entropy_BT[b, :length], entropy_T, atol=1e-5, rtol=0)
        assert bool((scored.entropy_BT[b, length:] == 0).all())


def test_logprobs_do_not_depend_on_microbatches_or_order(policy: PolicyModel) -> None:
    whole = policy.without_gradients(ROWS, 0.7, BUDGET)
    torch.testing.assert_close(policy.without_gradients(ROWS, 0.7, 1), whole, atol=1e-5, rtol=0)
    turned = policy.without_gradients(ROWS[::-1], 0.7, 50)
    torch.testing.assert_close(turned, type(whole)(*(part.flip(0) for part in whole)), atol=1e-5, rtol=0)


def test_gradients_are_those_of_the_plain_logprobs(policy: PolicyModel) -> None:
    policy.make_trainable(None, seed=0)

    def gradient(loss: Tensor) -> Tensor:
        policy.model.zero_grad()
        loss.backward()
        return torch.cat([p.grad.flatten() for p in policy.model.parameters()])

    ours = gradient(policy.token_logprobs(ROWS, 0.7).sum())
    total = torch.zeros(())
    for row in ROWS:
        ids = torch.tensor([[*row.prompt, *row.response]])
        logs_TV = (policy.model(input_ids=ids).logits[0, len(row.prompt) - 1 : -1] / 0.7).log_softmax(-1)
        total = total + logs_TV[range(len(row.response)), list(row.response)].sum()
    torch.testing.assert_close(ours, gradient(total), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("lora", [None, LORA])
def test_the_reference_starts_as_the_policy_and_never_moves(lora: Lora | None, policy: PolicyModel) -> None:
    policy.make_trainable(lora, seed=0)
    start = policy.reference_logprobs(ROWS, 0.6)
    torch.testing.assert_close(start, policy.without_gradients(ROWS, 0.6, BUDGET).logprobs_BT, atol=1e-5, rtol=0)
    learn(policy)
    assert torch.equal(policy.reference_logprobs(ROWS, 0.6), start)
    moved = policy.without_gradients(ROWS, 0.6, BUDGET).logprobs_BT
    assert (moved - start).abs().max() > 1e-2


def test_the_temperature_is_in_policy_and_reference_alike(policy: PolicyModel) -> None:
    policy.make_trainable(LORA, seed=0)
    hot, cold = (policy.reference_logprobs(ROWS, t) for t in (1.0, 0.5))
    assert (hot - cold).abs().max() > 1e-2
    for temperature, expected in ((1.0, hot), (0.5, cold)):
        found = policy.without_gradients(ROWS, temperature, BUDGET).logprobs_BT
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_only_the_adapter_learns_with_lora(policy: PolicyModel) -> None:
    before = weights(policy.model)
    policy.make_trainable(LORA, seed=0)
    names = trainable(policy.model)
    assert names and all("lora_" in name for name in names)
    learn(policy)
    after = {name.replace(".base_layer", ""): value for name, value in weights(policy.model).items()}
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("lora", [None, LORA])
def test_while_generating_the_adapter_is_merged_and_afterwards_nothing_has_changed(
    lora: Lora | None, policy: PolicyModel
) -> None:
    policy.make_trainable(lora, seed=0)
    learn(policy)
    before, trained = weights(policy.model), set(trainable(policy.model))
    expected = policy.without_gradients(ROWS, 1.0, BUDGET).logprobs_BT
    with policy.for_generation():
        for b, row in enumerate(ROWS):
            logs_TV = plain_logits(policy.model, row).log_softmax(-1)
            found_T = logs_TV[range(len(row.response)), list(row.response)]
            torch.testing.assert_close(found_T, expected[b, : len(row.response)], atol=1e-4, rtol=0)
    assert same(weights(policy.model), before)
    assert set(trainable(policy.model)) == trained
    assert torch.equal(policy.without_gradients(ROWS, 1.0, BUDGET).logprobs_BT, expected)


def test_an_adapter_depends_on_its_seed_and_on_no_global_state(tiny_folder: str) -> None:
    def adapter(seed: int, state: int) -> dict[str, Tensor]:
        policy = PolicyModel.load(tiny_folder, None, torch.float32)
        torch.manual_seed(state)
        before = torch.random.get_rng_state()
        policy.make_trainable(LORA, seed)
        assert torch.equal(torch.random.get_rng_state(), before)
        return {name: value.detach() for name, value in trainable(policy.model).items()}

    assert same(adapter(1, 5), adapter(1, 6))
    assert not same(adapter(1, 5), adapter(2, 5))


@pytest.mark.parametrize("lora", [None, LORA])
def test_dropout_is_off_whatever_the_config_says(lora: Lora | None, tmp_path: Path, tiny_folder: str) -> None:
    noisy = PolicyModel.load(save_tiny(tmp_path, attention_dropout=0.5), None, torch.float32)
    noisy.make_trainable(lora, seed=0)
    calm = PolicyModel.load(tiny_folder, None, torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(noisy.token_logprobs(ROWS, 1.0), calm.token_logprobs(ROWS, 1.0), atol=1e-5, rtol=0)


def test_another_architecture_with_dropout_everywhere_works_the_same() -> None:
    """GPT-2: learned positions, dropout on embeddings, attention and residuals by default."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=262, n_positions=64, n_embd=32, n_layer=2, n_head=4, eos_token_id=2, bos_token_id=1)
    assert config.resid_pdrop > 0
    policy = PolicyModel(GPT2LMHeadModel(config).train(), tiny_tokenizer())
    policy.make_trainable(None, seed=0)
    with torch.no_grad():
        logprobs_BT = policy.token_logprobs(ROWS, 1.0)
    for b, row in enumerate(ROWS):
        logs_TV = plain_logits(policy.model, row).log_softmax(-1)
        expected_T = logs_TV[range(len(row.response)), list(row.response)]
        torch.testing.assert_close(logprobs_BT[b, : len(row.response)], expected_T, atol=1e-5, rtol=0)


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_saved_policy_is_an_ordinary_model_with_the_same_logits(
    lora: Lora | None, policy: PolicyModel, tmp_path: Path
) -> None:
    policy.make_trainable(lora, seed=0)
    learn(policy)
    logprobs_BT = policy.without_gradients(ROWS, 1.0, BUDGET).logprobs_BT
    policy.save(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    for b, row in enumerate(ROWS):
        logs_TV = plain_logits(loaded, row).log_softmax(-1)
        expected_T = logs_TV[range(len(row.response)), list(row.response)]
        torch.testing.assert_close(logprobs_BT[b, : len(row.response)], expected_T, atol=1e-4, rtol=0)
    assert not any("lora" in name for name, _ in loaded.named_parameters())
    again = PolicyModel.load(str(tmp_path), None, torch.float32)
    assert again.tokenizer.chat_template == policy.tokenizer.chat_template
