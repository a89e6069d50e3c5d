"""Supervised fine-tuning and DPO: against their definitions, and that they learn."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from rlaif.config.optimise import Dpo, Sft
from rlaif.config.training import ComputeSection
from rlaif.errors import TrainingError
from rlaif.models.local.packing import Row
from rlaif.records import Message, Preference
from rlaif.training import parallel
from rlaif.training.lessons import Lesson, Text, encode
from rlaif.training.lora import trainable
from rlaif.training.offline import (
    DpoMethod,
    SftExample,
    SftMethod,
    learn,
    look_at,
    make_learner,
    plan_of,
    train,
)
from rlaif.training.policy_model import PolicyModel
from tests.tiers import some
from tests.tiny_training import LORA, planted, preference, tiny_tracker

END = 2
TURN = (Message(role="user", content="Hi"),)
SFT = Sft(lora=None, minibatch_size=4, learning_rate=5e-3, epochs=4)
DPO = Dpo(lora=None, minibatch_size=16, learning_rate=1e-3, epochs=3)


def policy_of(folder: str) -> PolicyModel:
    return PolicyModel.load(folder, None, torch.float32)


def shown(question: str, answer: str, finished: bool = True) -> SftExample:
    return SftExample(question, (Message(role="user", content=question),), Text(answer, finished))


def gradients(policy: PolicyModel) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in trainable(policy.model).items() if p.grad is not None}
    policy.model.zero_grad()
    return found


def plain_logprob(policy: PolicyModel, prompt: tuple[int, ...], response: tuple[int, ...]) -> torch.Tensor:
    """log pi(response | prompt) from the model's own logits over one unpadded row."""
    logits_SV = policy.model(torch.tensor([[*prompt, *response]])).logits[0].double()
    logprobs_SV = torch.log_softmax(logits_SV, -1)
    return sum(logprobs_SV[len(prompt) - 1 + i, token] for i, token in enumerate(response))  # type: ignore[return-value]


DEMONSTRATIONS = [
    shown("Hi", "hello there"),
    shown("Hi", "yes"),
    shown("A longer question, is it not?", "no", finished=False),
    shown("Why?", "because it is so, and has been for long"),
]


# ---------------------------------------------------------------------------------------------------------- rows


def test_the_end_token_is_learnt_where_the_response_ended_itself(tiny_folder):
    tokenizer = policy_of(tiny_folder).tokenizer
    whole, cut = encode(tokenizer, TURN, [Text("ab"), Text("ab", finished=False)], 100)
    assert whole.response == (*cut.response, END)
    assert whole.prompt == cut.prompt and tokenizer.decode(whole.prompt).endswith("<|im_start|>assistant\n")


def test_too_long_loses_the_oldest_prompt_tokens_then_the_responses_last(tiny_folder):
    tokenizer = policy_of(tiny_folder).tokenizer
    whole = encode(tokenizer, TURN, [Text("abc"), Text("abcdef")], 100)
    short = encode(tokenizer, TURN, [Text("abc"), Text("abcdef")], 10)
    assert [row.response for row in short] == [row.response for row in whole]
    assert {row.prompt for row in short} == {whole[0].prompt[-3:]}, "one prompt for both, cut for the longer response"
    (tiny,) = encode(tokenizer, TURN, [Text("abcdef")], 5)
    assert len(tiny.prompt) == 1 and tiny.response == whole[1].response[:4], "cut off, so without the end token"


def test_what_has_no_token_is_no_lesson(tiny_folder):
    tokenizer = policy_of(tiny_folder).tokenizer
    assert not SftMethod.of(tokenizer, [shown("Hi", "", finished=False)], 100).lessons
    assert not DpoMethod.of(policy_of(tiny_folder), [preference("q", "abcdef", "abcxyz")], Dpo(max_length=4)).lessons


# ----------------------------------------------------------------------------------------------------------- SFT


@pytest.mark.parametrize("max_tokens", [1, 60, 4096])
def test_sft_is_cross_entropy_over_response_tokens_alone(tiny_folder, max_tokens):
    policy = policy_of(tiny_folder)
    method = SftMethod.of(policy.tokenizer, DEMONSTRATIONS, 100)
    make_learner(policy, None, 1, ComputeSection())
    row = learn(policy, method, range(len(method.lessons)), max_tokens, "here")
    found = gradients(policy)

    rows = [lesson.rows[0] for lesson in method.lessons]
    tokens = sum(len(r.response) for r in rows)
    assert tokens == sum(len(d.response.text) + d.response.finished for d in DEMONSTRATIONS)
    loss = -sum(plain_logprob(policy, r.prompt, r.response) for r in rows) / tokens
    loss.backward()
    assert row["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert row["perplexity"] == pytest.approx(float(loss.detach().exp()), rel=1e-5)
    assert row["tokens"] == tokens
    expected = gradients(policy)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_a_demonstration_that_comes_twice_counts_twice(tiny_folder):
    policy = policy_of(tiny_folder)
    twice = SftMethod.of(policy.tokenizer, [DEMONSTRATIONS[0], DEMONSTRATIONS[0], DEMONSTRATIONS[3]], 100)
    make_learner(policy, None, 1, ComputeSection())
    row = learn(policy, twice, range(len(twice.lessons)), 4096, "here")
    one, other = (-plain_logprob(policy, *twice.lessons[i].rows[0]) for i in (0, 2))
    assert row["loss"] == pytest.approx(float((2 * one + other).detach() / row["tokens"]), rel=1e-5)


@some(("seed", "lora"), [(2, LORA)], [(0, None), (1, None)])
def test_sft_learns_what_it_is_shown(tiny_folder, tmp_path, seed, lora):
    answers = {"Hi": "good", "Why?": "abc", "2 + 2": "4", "Name a colour.": "red"}
    section = SFT.model_copy(update={"epochs": 60, "lora": lora, "learning_rate": 2e-2})
    policy = policy_of(tiny_folder)
    method = SftMethod.of(policy.tokenizer, [shown(q, a) for q, a in answers.items()], 100)
    make_learner(policy, section.lora, seed, ComputeSection())
    tracker = tiny_tracker(tmp_path / "run")
    train(policy, method, section, seed, tmp_path / "checkpoints", tracker)
    for lesson, answer in zip(method.lessons, answers.values(), strict=True):
        prompt = torch.tensor([lesson.rows[0].prompt])
        written = policy.model.generate(prompt, max_new_tokens=8, do_sample=False, eos_token_id=END, pad_token_id=0)
        assert policy.tokenizer.decode(written[0, prompt.shape[1] :]) == answer + "<|im_end|>"


# ----------------------------------------------------------------------------------------------------------- DPO


def soft_pairs() -> list[Preference]:
    return [
        preference("q1", "abc", "xy", p_chosen=0.9, weight=2.0),
        preference("q1", "abc", "zzzz", p_chosen=0.6),
        preference("another", "longer answer here", "no", p_chosen=1.0, weight=0.5),
    ]


@pytest.mark.parametrize("max_tokens", [1, 4096])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_dpo_is_its_definition(tiny_folder, max_tokens, smoothing):
    """Eq. 7 with soft labels, from log-probabilities of the plain model, the reference being another set of weights."""
    policy = policy_of(tiny_folder)
    section = Dpo(beta=0.3, label_smoothing=smoothing)
    method = DpoMethod.of(policy, soft_pairs(), section)
    reference_NK = torch.tensor(
        [[plain_logprob(policy, row.prompt, row.response) for row in lesson.rows] for lesson in method.lessons]
    )
    torch.testing.assert_close(method.reference_NK.double(), reference_NK.double(), rtol=1e-5, atol=1e-5)
    with torch.no_grad():  # the policy moves on, the reference does not
        generator = torch.Generator().manual_seed(0)
        for p in policy.model.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=generator))
    make_learner(policy, None, 1, ComputeSection())
    row = learn(policy, method, range(len(method.lessons)), max_tokens, "here")
    found = gradients(policy)

    total, correct = torch.zeros(()), 0.0
    for pair, lesson, (ref_chosen, ref_rejected) in zip(soft_pairs(), method.lessons, reference_NK, strict=True):
        chosen, rejected = (plain_logprob(policy, r.prompt, r.response) for r in lesson.rows)
        h = section.beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
        p = (1 - smoothing) * pair.p_chosen + smoothing * (1 - pair.p_chosen)
        total = total - pair.weight * (p * F.logsigmoid(h) + (1 - p) * F.logsigmoid(-h))
        correct += float(h.detach() > 0) / 3
    loss = total / 3.5
    loss.backward()
    assert row["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert row["accuracy"] == pytest.approx(correct)
    for name, gradient in gradients(policy).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6)


def test_dpo_begins_at_its_reference(tiny_folder):
    policy = policy_of(tiny_folder)
    method = DpoMethod.of(policy, soft_pairs(), DPO)
    make_learner(policy, LORA, 1, ComputeSection())
    row = learn(policy, method, range(len(method.lessons)), 4096, "here")
    assert row["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert (row["margin"], row["chosen_drift"], row["rejected_drift"]) == pytest.approx((0, 0, 0), abs=1e-4)


def test_a_response_that_was_cut_off_has_no_end_to_learn(tiny_folder):
    policy = policy_of(tiny_folder)
    pair = preference("q", "abc", "xyz")
    (lesson,) = DpoMethod.of(policy, [pair], DPO, {(pair.prompt_id, "xyz"), ("other", "abc")}).lessons
    assert (lesson.rows[0].response[-1], lesson.rows[1].response[-1]) == (END, policy.tokenizer.encode("z")[0])


@some(("seed", "lora"), [(2, LORA)], [(0, None), (1, None)])
def test_dpo_ranks_unseen_pairs_and_prefers_what_is_preferred(tiny_folder, tmp_path, seed, lora):
    section = DPO.model_copy(update={"lora": lora, "learning_rate": 3e-3 if lora else 1e-3})
    pairs = planted(240, seed)
    policy = policy_of(tiny_folder)
    seen, unseen = (DpoMethod.of(policy, [p for p in pairs if p.split == s], section) for s in ("train", "heldout"))
    assert unseen.summary(policy)["accuracy"] == pytest.approx(0.5, abs=0.01), "no opinion before: all margins are 0"
    make_learner(policy, lora, seed, ComputeSection())
    train(policy, seen, section, seed, tmp_path / "checkpoints", tiny_tracker(tmp_path / "run"))
    after = unseen.summary(policy)
    assert after["accuracy"] > 0.85
    assert after["chosen_drift"] > after["rejected_drift"]
    assert after["loss"] < 0.69


# ---------------------------------------------------------------------------------------------------------- plan


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 3), st.integers(0, 99))
def test_every_lesson_once_an_epoch_prompts_together(count, size, epochs, seed):
    rng = random.Random(seed)
    pairs = [preference(f"q{rng.randrange(6)}", "a" * (i + 1), "b") for i in range(count)]
    section = Dpo(minibatch_size=size, epochs=epochs)
    lessons = [
        Lesson(p.pair_id, p.prompt_id, (Row((1,), (3, i)), Row((1,), (4, i))), 1.0, 1.0) for i, p in enumerate(pairs)
    ]
    method = SftMethod(lessons)
    plan = plan_of(method, section, seed)
    places = [place for batch in plan for place in batch]
    for epoch in range(epochs):
        assert sorted(places[epoch * count : (epoch + 1) * count]) == list(range(count))
    for batch in plan:
        ids = [lessons[place].prompt_id for place in batch]
        assert len(batch) == sum(lesson.prompt_id in ids for lesson in lessons)
        assert len(batch) - ids.count(ids[-1]) < size, "no more than needed"
    assert plan == plan_of(method, section, seed)


@pytest.mark.parametrize("max_tokens", [40, 4096])
def test_processes_add_up_to_one(tiny_folder, monkeypatch, max_tokens):
    """Three processes' gradients and metrics are the one's; in the last turn some have nothing that counts."""
    policy = policy_of(tiny_folder)
    pairs = planted(24)
    method = DpoMethod.of(policy, pairs, DPO)
    make_learner(policy, None, 1, ComputeSection())
    alone = learn(policy, method, range(len(method.lessons)), max_tokens, "here")
    expected = gradients(policy)
    monkeypatch.setattr(parallel, "size", lambda: 3)
    monkeypatch.setattr(parallel, "add_up", lambda tensor: tensor)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        parts.append(learn(policy, method, range(len(method.lessons)), max_tokens, "here"))
    for name, gradient in gradients(policy).items():  # all three were added to the same weights
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-7)
    for name in ("loss", "accuracy", "margin", "chosen_drift"):
        assert sum(part[name] for part in parts) == pytest.approx(alone[name], rel=1e-4, abs=1e-6)


def test_looking_does_not_depend_on_how_rows_are_gathered(tiny_folder):
    policy = policy_of(tiny_folder)
    lessons = DpoMethod.of(policy, planted(30), DPO).lessons
    torch.testing.assert_close(look_at(policy, lessons, 1), look_at(policy, lessons, 4096), rtol=1e-5, atol=1e-4)


def test_a_loss_that_is_not_finite_names_step_and_rows(tiny_folder, tmp_path: Path):
    policy = policy_of(tiny_folder)
    method = SftMethod.of(policy.tokenizer, DEMONSTRATIONS, 100)
    make_learner(policy, None, 1, ComputeSection())
    with torch.no_grad():
        policy.model.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"sft step 0, rows \['[0-9a-f]{16}'"):
        train(policy, method, SFT, 0, tmp_path / "checkpoints", tiny_tracker(tmp_path / "run"))
