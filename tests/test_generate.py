"""Sampling: a batch is its rows one by one, tokens come from the plain forward pass, the nucleus is exact."""

from __future__ import annotations

import random
from functools import wraps
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from rlaif.models.local import generate as module
from rlaif.models.local import shaping
from rlaif.models.local.generate import RoomyLayer, Sample, Sampling, caches, generate, pick_tokens
from rlaif.models.local.tokens import encode_prompt
from rlaif.records import Message
from rlaif.testing import tiny_model, tiny_tokenizer

MODEL = tiny_model(1)
MODEL.generation_config.eos_token_id = [2, *range(100, 130)]  # about one token in nine ends a response
ENDS = set(MODEL.generation_config.eos_token_id)
RNG = random.Random(0)
PROMPTS = [[RNG.randrange(3, 250) for _ in range(length)] for length in (3, 20, 7, 1, 12, 5, 16, 9)]
SEEDS = list(range(40, 48))
SAMPLINGS = [Sampling(12, 0.0), Sampling(12, 1.0), Sampling(12, 0.7, top_p=0.8)]


def one_by_one(sampling: Sampling) -> list[Sample]:
    return [generate(MODEL, [p], sampling, [seed], 0)[0] for p, seed in zip(PROMPTS, SEEDS, strict=True)]


@torch.no_grad()
def plain_logits(prompt: list[int], response: list[int]) -> Tensor:
    """logits_TV in which each response token was chosen: one unpadded forward pass, no cache."""
    return MODEL(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_left_padded_batch_equals_its_rows_one_by_one(sampling: Sampling) -> None:
    assert generate(MODEL, PROMPTS, sampling, SEEDS, 0) == one_by_one(sampling)


def test_absolute_positions_count_real_tokens_only() -> None:
    """Rotary positions forgive a shift; GPT-2's learned ones do not."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=262, n_positions=64, n_embd=32, n_layer=2, n_head=4, eos_token_id=2, bos_token_id=1)
    model = GPT2LMHeadModel(config).eval()
    model.transformer.wpe.weight.data.mul_(30)
    samples = generate(model, PROMPTS, Sampling(12, 1.0), SEEDS, 0)
    alone = [generate(model, [p], Sampling(12, 1.0), [seed], 0)[0] for p, seed in zip(PROMPTS, SEEDS, strict=True)]
    assert samples == alone


def test_a_sample_does_not_depend_on_what_runs_beside_it() -> None:
    sampling = Sampling(12, 1.0)
    whole = generate(MODEL, PROMPTS, sampling, SEEDS, 0)
    order = [5, 1, 6]
    part = generate(MODEL, [PROMPTS[i] for i in order], sampling, [SEEDS[i] for i in order], 0)
    assert part == [whole[i] for i in order]
    twice = generate(MODEL, [PROMPTS[0]] * 3, sampling, [1, 2, 1], 0)
    assert twice[0] == twice[2] != twice[1]


def test_a_prompt_that_rows_share_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sampling = Sampling(6, 1.0)
    shared = [PROMPTS[1], PROMPTS[0], PROMPTS[1], PROMPTS[1]]
    alone = [generate(MODEL, [p], sampling, [seed], 0)[0] for p, seed in zip(shared, SEEDS, strict=False)]
    read: list[tuple[int, ...]] = []
    forward = MODEL.forward

    @wraps(forward)
    def counted(input_ids: Tensor, **options: Any) -> Any:
        read.append(tuple(input_ids.shape))
        return forward(input_ids=input_ids, **options)

    monkeypatch.setattr(MODEL, "forward", counted)
    assert generate(MODEL, shared, sampling, SEEDS[:4], 0) == alone
    assert read[0] == (2, len(PROMPTS[1])) and read[1][1] == 1


def test_padding_tokens_do_not_matter() -> None:
    sampling = Sampling(8, 1.0)
    assert generate(MODEL, PROMPTS, sampling, SEEDS, 0) == generate(MODEL, PROMPTS, sampling, SEEDS, 77)


def test_a_response_ends_at_its_first_end_token_and_keeps_it() -> None:
    samples = generate(MODEL, PROMPTS, Sampling(12, 1.0), SEEDS, 0)
    for sample in samples:
        assert not ENDS & set(sample.tokens[:-1])
        assert sample.finished is (sample.tokens[-1] in ENDS)
        assert sample.finished or len(sample.tokens) == 12
    assert {sample.finished for sample in samples} == {True, False}
    assert len({len(sample.tokens) for sample in samples}) > 3  # rows left the batch at different times


def test_a_limit_reached_with_the_end_token_counts_as_finished() -> None:
    whole = next(s for s in generate(MODEL, PROMPTS, Sampling(12, 1.0), SEEDS, 0) if s.finished)
    index = generate(MODEL, PROMPTS, Sampling(12, 1.0), SEEDS, 0).index(whole)
    limit = len(whole.tokens)
    assert generate(MODEL, [PROMPTS[index]], Sampling(limit, 1.0), [SEEDS[index]], 0) == [whole]
    if limit > 1:
        short = generate(MODEL, [PROMPTS[index]], Sampling(limit - 1, 1.0), [SEEDS[index]], 0)[0]
        assert short == Sample(whole.tokens[:-1], False)


def test_the_end_token_of_the_config_stands_in_for_a_missing_one() -> None:
    model = tiny_model(1)
    model.generation_config.eos_token_id = None
    assert module.end_tokens(model) == [2]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_left_padded_cached_logprobs_are_those_of_a_plain_forward(
    sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def spy(logits_BV: Tensor, uniform_B: Tensor, temperature: float, top_p: float) -> Tensor:
        seen.append((logits_BV, uniform_B))
        return pick_tokens(logits_BV, uniform_B, temperature, top_p)

    monkeypatch.setattr(module, "pick_tokens", spy)
    samples = generate(MODEL, PROMPTS[:3], sampling, SEEDS[:3], 0)
    assert all(len(logits_BV) == 3 for logits_BV, _ in seen[:2])
    for row, (prompt, sample) in enumerate(zip(PROMPTS[:3], samples, strict=True)):
        expected_TV = plain_logits(prompt, sample.tokens).log_softmax(-1)
        for t in range(min(2, len(sample.tokens))):  # no row has left the batch yet
            torch.testing.assert_close(seen[t][0][row].log_softmax(-1), expected_TV[t], atol=1e-5, rtol=0)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_every_token_is_drawn_from_a_plain_forward_over_what_stands_before_it(sampling: Sampling) -> None:
    samples = generate(MODEL, PROMPTS, sampling, SEEDS, 0)
    for prompt, seed, sample in zip(PROMPTS, SEEDS, samples, strict=True):
        uniforms = torch.rand(sampling.max_tokens, generator=torch.Generator().manual_seed(seed))
        logits_TV = plain_logits(prompt, sample.tokens)
        drawn = pick_tokens(logits_TV, uniforms[: len(logits_TV)], sampling.temperature, sampling.top_p)
        assert drawn.tolist() == sample.tokens


def test_long_responses_outgrow_the_cache_without_a_change() -> None:
    model = tiny_model(1)  # one end token: rows run long
    samples = generate(model, PROMPTS[:4], Sampling(200, 1.0), SEEDS[:4], 0)
    assert max(len(sample.tokens) for sample in samples) > 150
    assert len({len(sample.tokens) for sample in samples}) > 1
    for prompt, seed, sample in zip(PROMPTS, SEEDS, samples, strict=False):
        uniforms = torch.rand(200, generator=torch.Generator().manual_seed(seed))[: len(sample.tokens)]
        with torch.no_grad():
            logits_TV = model(input_ids=torch.tensor([prompt + sample.tokens])).logits[0, len(prompt) - 1 : -1]
        assert pick_tokens(logits_TV, uniforms, 1.0, 1.0).tolist() == sample.tokens


# ------------------------------------------------------------------------------------------- pick_tokens


def test_temperature_zero_is_greedy() -> None:
    logits = torch.randn(5, 30, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pick_tokens(logits, torch.full((5,), 0.99), 0.0, 0.5), logits.argmax(-1))


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.7), (2.0, 0.9)])
def test_frequencies_match_the_probabilities(temperature: float, top_p: float) -> None:
    logits = torch.tensor([1.5, 0.3, -0.4, 2.0, 0.0, -1.0, 1.0, 0.6])
    expected = nucleus(torch.softmax(logits.double() / temperature, -1).tolist(), top_p)
    count = 20_000
    uniforms = torch.rand(count, generator=torch.Generator().manual_seed(3))
    tokens = pick_tokens(logits.expand(count, -1), uniforms, temperature, top_p)
    observed = torch.bincount(tokens, minlength=len(logits)).tolist()
    possible = [i for i, p in enumerate(expected) if p > 0]
    assert sum(observed[i] for i in possible) == count  # nothing from outside the nucleus
    test: Any = stats.chisquare([observed[i] for i in possible], [expected[i] * count for i in possible])
    assert test.pvalue > 1e-3


def nucleus(probs: list[float], top_p: float) -> list[float]:
    """By definition: the smallest set of most likely tokens that reaches top_p, renormalised."""
    kept: set[int] = set()
    for token in sorted(range(len(probs)), key=lambda i: -probs[i]):
        if sum(probs[i] for i in kept) >= top_p:
            break
        kept.add(token)
    total = sum(probs[i] for i in kept)
    return [p / total if i in kept else 0.0 for i, p in enumerate(probs)]


@pytest.mark.parametrize("flat", [False, True])
def test_the_nucleus_is_exact_also_where_the_sorted_head_does_not_reach_it(flat: bool) -> None:
    """Flat: 1,000 tokens of similar probability, so that 256 of them do not reach top_p."""
    scale = 0.1 if flat else 5.0
    logits = scale * torch.randn(1000, generator=torch.Generator().manual_seed(7))
    probs = torch.softmax(logits.double(), -1)
    head = float(probs.sort(descending=True).values[: shaping.SORTED_TOKENS].sum())
    assert (head < 0.9) is flat
    expected = {i for i, p in enumerate(nucleus(probs.tolist(), 0.9)) if p > 0}
    uniforms = (torch.arange(20_000) + 0.5) / 20_000  # finer than the least likely token of the nucleus
    drawn = set(pick_tokens(logits.expand(20_000, -1), uniforms, 1.0, 0.9).tolist())
    assert drawn <= expected
    likely = {i for i in expected if float(probs[i]) > 1 / 10_000}
    assert drawn >= likely


def test_the_head_and_the_whole_sort_draw_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = 4 * torch.randn(64, 1000, generator=torch.Generator().manual_seed(8))
    uniforms = torch.rand(64, generator=torch.Generator().manual_seed(9))
    head = pick_tokens(logits, uniforms, 1.0, 0.8)
    monkeypatch.setattr(shaping, "SORTED_TOKENS", 1)  # never enough
    assert torch.equal(pick_tokens(logits, uniforms, 1.0, 0.8), head)


def test_the_largest_uniform_number_still_draws_a_possible_token() -> None:
    logits = torch.tensor([[0.0, 5.0, 0.0, -200.0]])
    top = torch.tensor([1 - 2**-24])
    assert int(pick_tokens(logits, top, 1.0, 1.0)) == 2
    assert int(pick_tokens(logits, top, 1.0, 0.5)) == 1
    assert int(pick_tokens(logits, torch.zeros(1), 1.0, 1.0)) == 0


def test_the_cache_copies_itself_only_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    held: dict[int, Tensor] = {}  # every buffer there ever was
    original = RoomyLayer.update

    def update(self: RoomyLayer, *states: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        found = original(self, *states, **options)
        assert self._buffers is not None
        held.update((id(buffer), buffer) for buffer in self._buffers)
        return found

    model = tiny_model(1)
    caches(model, 0)
    monkeypatch.setattr(RoomyLayer, "update", update)
    generate(model, [[1, 5, 6]], Sampling(40, 1.0), [3], 0)
    assert len(held) == 2 * 2  # keys and values of two layers, once each: the first buffer holds all 40 tokens


def test_wherever_a_model_thinks_it_is_told_not_to() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template += "{% if enable_thinking is not defined or enable_thinking %}<think>{% endif %}"
    plain_turn = encode_prompt(tokenizer, (Message(role="user", content="hi"),))
    assert not tokenizer.decode(plain_turn).endswith("<think>")
