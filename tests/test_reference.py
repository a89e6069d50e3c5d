"""Fast is the same: training agrees, update by update, with an implementation that has no tricks at all.

The plain side below reads one sequence at a time through transformers' own forward pass (own attention, whole
vocabulary, no packing, no microbatches) and steps torch's AdamW. Float32, tolerance 1e-5. Shape suffixes: T response
tokens, S all tokens, V vocabulary.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rlaif.models.local.packing import Row
from rlaif.records import derive_seed
from rlaif.run_folder import Run
from rlaif.testing import tiny_tokenizer
from rlaif.training.optimise.loop import train_policy
from rlaif.training.reward.data import encode_pairs
from rlaif.training.reward.train import RewardStage, train_reward_model
from tests.tiny_training import (
    no_checks,
    planted,
    prompts,
    reward_section,
    tiny_actors,
    tiny_scalar,
    tiny_section,
    tiny_tracker,
)

CLOSE = {"abs": 1e-5, "rel": 1e-5}


def states(backbone: Any, row: Row) -> Tensor:
    """states_SH of the sequence alone."""
    return backbone(input_ids=torch.tensor([[*row.prompt, *row.response]])).last_hidden_state[0]


def step(optimizer: torch.optim.AdamW, parameters: Sequence[Tensor], rate: float) -> None:
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()


def test_reward_model_training_is_the_plain_one(tiny_folder: str, tmp_path: Path) -> None:
    section = reward_section(epochs=2, minibatch_size=4, microbatch_tokens=64, warmup_share=0.1)
    rows = planted(24)
    rows = [p.model_copy(update={"p_chosen": 0.6 + 0.016 * i, "weight": 1 + i % 3}) for i, p in enumerate(rows)]
    model = tiny_scalar(tiny_folder)
    plain = copy.deepcopy(model.model)
    train_reward_model(
        RewardStage(model, tiny_tokenizer(), section, 0), rows, tmp_path / "c", tiny_tracker(tmp_path, "reward", 8)
    )
    measured = [row["loss"] for row in Run(tmp_path).read_metrics("reward")]

    pairs = encode_pairs(tiny_tokenizer(), [p for p in rows if p.split == "train"], section.max_length)
    parameters = list(plain.parameters())
    optimizer = torch.optim.AdamW(parameters, eps=1e-5, weight_decay=0.0)
    expected = []
    order = [i for epoch in range(2) for i in shuffled(len(pairs), derive_seed(0, "reward", epoch))]
    per_epoch = -(-len(pairs) // 4)
    batches = [order[e * len(pairs) :][: len(pairs)][i : i + 4] for e in range(2) for i in range(0, len(pairs), 4)]
    warmup = max(1, round(len(batches) * 0.1))
    assert len(batches) == 2 * per_epoch == len(measured)
    for number, batch in enumerate(batches):
        loss = torch.zeros(())
        for pair in (pairs[i] for i in batch):
            margin = (
                states(plain.model, pair.chosen)[-1] - states(plain.model, pair.rejected)[-1]
            ) @ plain.score.weight[0]
            p = pair.preference.p_chosen
            loss = loss - pair.preference.weight * (p * F.logsigmoid(margin) + (1 - p) * F.logsigmoid(-margin))
        loss = loss / sum(pairs[i].preference.weight for i in batch)
        loss.backward()
        expected.append(loss.item())
        rate = min((number + 1) / warmup, (len(batches) - number) / max(1, len(batches) - warmup), 1.0)
        step(optimizer, parameters, section.learning_rate * rate)
    assert min(expected) < expected[0]
    assert measured == pytest.approx(expected, **CLOSE)


def shuffled(count: int, seed: int) -> list[int]:
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order


def as_a_turn(response: tuple[int, ...]) -> tuple[int, ...]:
    """What the tiny template makes of it: the words, its end token, a line end."""
    words = list(response)
    while words and words[-1] in {0, 1, 2}:
        words.pop()
    return (*words, 2, *tiny_tokenizer().encode("\n"))


def test_ppo_is_the_plain_one(tiny_folder: str, tmp_path: Path) -> None:
    """One step of six updates, all weights, a separate critic, GAE: what is logged, and the weights at the end."""
    section = tiny_section(steps=1, lora=None, critic_lora=None, epochs=3, minibatch_size=4, gae_lambda=0.9, gamma=0.98)
    actors = tiny_actors(tiny_folder, section)
    policy, critic = copy.deepcopy(actors.policy.model), copy.deepcopy(actors.critic.model)
    policy.requires_grad_(True)
    kept: list[Any] = []
    sample = actors.sampler.sample
    actors.sampler.sample = lambda *words: kept.append((words[0], sample(*words))) or kept[-1][1]
    train_policy(actors, prompts(4), section, 0, tmp_path / "c", tiny_tracker(tmp_path, total=1), no_checks)
    (measured,) = Run(tmp_path).read_metrics("optimise")

    encoded, written = kept[0]
    rows = [Row(tuple(ids), tuple(each.tokens)) for ids, each in zip(encoded, written, strict=True)]
    with torch.no_grad():
        old = [token_logprobs(policy, row, section.temperature) for row in rows]
        old_values = [values(critic, row) for row in rows]
        ended = [Row(row.prompt, as_a_turn(row.response)) for row in rows]
        scorer = tiny_scalar(tiny_folder)
        scores = [float(states(scorer.backbone, row)[-1] @ scorer.head.weight[0]) for row in ended]
    advantages, returns = [], []
    for i, row in enumerate(rows):
        rewards = [0.0] * len(row.response)  # the policy is still the reference: no KL
        rewards[-1] = scores[i] - (0.0 if written[i].finished else 1.0)
        found, running = [0.0] * len(rewards), 0.0
        for t in reversed(range(len(rewards))):
            after = float(old_values[i][t + 1]) if t + 1 < len(rewards) else 0.0
            running = rewards[t] + 0.98 * after - float(old_values[i][t]) + 0.98 * 0.9 * running
            found[t] = running
        advantages.append(torch.tensor(found))
        returns.append(torch.tensor(found) + old_values[i])
    every = torch.cat(advantages)
    advantages = [(a - every.mean()) / (every.var(unbiased=False) + 1e-8).sqrt() for a in advantages]

    parts = [list(policy.parameters()), list(critic.parameters())]
    optimizers = [torch.optim.AdamW(p, eps=1e-5, weight_decay=0.0) for p in parts]
    seen: list[tuple[float, float, int]] = []
    for epoch in range(3):
        chosen = shuffled(4, derive_seed(0, "ppo", 0, "epoch", epoch))
        order = [p * 2 + i for p in chosen for i in range(2)]
        for batch in (order[:4], order[4:]):
            tokens = sum(len(rows[i].response) for i in batch)
            policy_loss = value_loss = torch.zeros(())
            for i in batch:
                ratio = torch.exp(token_logprobs(policy, rows[i], section.temperature) - old[i])
                gain = torch.minimum(ratio * advantages[i], ratio.clamp(0.8, 1.2) * advantages[i])
                policy_loss = policy_loss - gain.sum() / tokens
                now = values(critic, rows[i])
                near = old_values[i] + (now - old_values[i]).clamp(-0.2, 0.2)
                worse = torch.maximum((now - returns[i]) ** 2, (near - returns[i]) ** 2)
                value_loss = value_loss + 0.5 * worse.sum() / tokens
            (policy_loss + 0.1 * value_loss).backward()
            seen.append((policy_loss.item(), value_loss.item(), tokens))
            for optimizer, parameters in zip(optimizers, parts, strict=True):
                step(optimizer, parameters, 1e-3)
    total = sum(tokens for *_, tokens in seen)
    assert measured["policy_loss"] == pytest.approx(sum(p * n for p, _, n in seen) / total, **CLOSE)
    assert measured["value_loss"] == pytest.approx(sum(v * n for _, v, n in seen) / total, **CLOSE)
    for plain, ours in ((policy, actors.policy.model), (critic, actors.critic.model)):
        for (name, one), other in zip(plain.named_parameters(), ours.parameters(), strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=0, msg=name)


def token_logprobs(model: Any, row: Row, temperature: float) -> Tensor:
    logits_SV = model(input_ids=torch.tensor([[*row.prompt, *row.response]])).logits[0] / temperature
    at_TV = torch.log_softmax(logits_SV, -1)[len(row.prompt) - 1 : -1]
    return at_TV.gather(1, torch.tensor(row.response).unsqueeze(1)).squeeze(1)


def values(critic: Any, row: Row) -> Tensor:
    return (states(critic.model, row) @ critic.score.weight[0])[len(row.prompt) - 1 : -1]
