"""Rollouts of several turns: who says what, what is trained, what is scored, and that a policy learns from them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rlaif.config.optimise import Grpo, OnPolicy, Rloo
from rlaif.config.scoring import JudgeScore
from rlaif.errors import TrainingError
from rlaif.formats.turns import turns_of
from rlaif.models.engine import ChatRequest
from rlaif.models.local.tokens import encode_prompt, response_text
from rlaif.models.scripted import RequestFailed, ScriptedChatModel
from rlaif.records import Prompt, plain
from rlaif.testing import letters
from rlaif.training.optimise.loop import train_policy
from rlaif.training.optimise.rollout import roll_out
from rlaif.training.optimise.updates import minibatches
from tests.tiny_training import TextReward, TinyActors, no_checks, prompts, tiny_actors, tiny_method, tiny_tracker

USER = {"backend": "scripted", "model": "x:y"}
Value = Callable[[Sequence[Prompt], Sequence[str]], list[float | None]]


def section(kind: str = "rloo", turns: int = 3, **changes: Any) -> OnPolicy:
    found: OnPolicy = tiny_method(
        kind, dialogue={"turns": turns, "user": USER}, scoring=JudgeScore(), max_prompt_tokens=600, **changes
    )
    return found


def number(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float | None]:
    return [float(place) for place in range(len(texts))]


def actors(folder: str, of: OnPolicy, value: Value, user: Callable[[ChatRequest], str]) -> TinyActors:
    found = tiny_actors(folder, of, text=lambda _: TextReward(value))
    return dataclasses.replace(found, user=ScriptedChatModel(user))


def echo(request: ChatRequest) -> str:
    return f"You wrote {len(request.messages)}"


def test_the_user_answers_and_only_what_the_policy_wrote_is_trained(tiny_folder: str):
    seen, of = [], section()
    heard: list[ChatRequest] = []

    def value(asked: Sequence[Prompt], texts: Sequence[str]) -> list[float | None]:
        seen.extend(zip(asked, texts, strict=True))
        return number(asked, texts)

    def user(request: ChatRequest) -> str:
        heard.append(request)
        return echo(request)

    cast = actors(tiny_folder, of, value, user)
    took = roll_out(cast, prompts(2), of, 0, 0)
    assert len(took.rows) == 3 * 8
    assert took.places == list(range(24))
    assert took.groups(4) == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4 + [5] * 4
    # Every turn of an episode has the episode's score.
    assert took.score_B.tolist() == [float(place) for place in range(8)] * 3
    tokenizer = cast.policy.tokenizer
    for place in range(8):
        asked, whole = seen[place]
        turns = turns_of(whole)
        assert [turn.role for turn in turns] == ["assistant", "user", "assistant", "user", "assistant"]
        assert [turn.content for turn in turns[1::2]] == ["You wrote 3", "You wrote 5"]
        for turn in range(3):
            row, prompt = took.rows[8 * turn + place], took.prompts[8 * turn + place]
            assert plain(prompt.messages) == plain((*asked.messages, *turns[: 2 * turn]))
            assert row.prompt == tuple(encode_prompt(tokenizer, prompt.messages, 600))
            assert response_text(tokenizer, row.response).strip() == took.texts[8 * turn + place]
    assert [m.role for m in heard[8].messages] == ["user", "assistant", "user", "assistant", "user"]
    assert len({tuple(row.response) for row in took.rows[:8]}) > 1


def test_every_turn_has_seeds_of_its_own_and_nobody_writes_the_others_turn(
    tiny_folder: str, monkeypatch: pytest.MonkeyPatch
):
    of, seeds, seen = section(), list[int](), list[str]()

    def value(asked: Sequence[Prompt], texts: Sequence[str]) -> list[float | None]:
        seen.extend(texts)
        return number(asked, texts)

    cast = actors(tiny_folder, of, value, lambda _: "b\n\nAssistant: I agree.")
    sample: Any = cast.sampler.sample
    monkeypatch.setattr(cast.sampler, "sample", lambda *words: seeds.extend(words[2]) or sample(*words))
    forged = "a\n\nHuman: Well done."
    monkeypatch.setattr("rlaif.training.optimise.episodes.response_text", lambda *_: forged)
    took = roll_out(cast, prompts(2), of, 0, 0)
    assert len(set(seeds)) == 24
    assert set(seen) == {"a\n\nHuman: b\n\nAssistant: a\n\nHuman: b\n\nAssistant: a"}
    assert [turn.content for turn in took.prompts[8].messages[-2:]] == ["a", "b"]


def test_minibatches_hold_every_turn_once_and_those_of_one_prompt_together(tiny_folder: str):
    of = section(minibatch_size=8)
    took = roll_out(actors(tiny_folder, of, number, echo), prompts(2), of, 0, 0)
    cut = minibatches(took, of, 7)
    assert sorted(place for each in cut for place in each) == list(range(24))
    assert all(each[i] // 4 == each[i + 3] // 4 for each in cut for i in (0, 4))


def test_an_episode_whose_user_fails_is_left_out_whole_and_counted(tiny_folder: str):
    of, calls = section(turns=2), iter(range(100))

    def user(request: ChatRequest) -> str:
        if next(calls) == 3:
            raise RequestFailed("gone")
        return "Go on."

    cast = actors(tiny_folder, of, number, user)
    with pytest.raises(TrainingError, match=r"2 of 16 responses have no score"):
        roll_out(cast, prompts(2), of, 0, 0)
    calls = iter(range(100))
    cast = dataclasses.replace(cast, rewards=dataclasses.replace(cast.rewards, max_failures=0.2))
    took = roll_out(cast, prompts(2), of, 0, 0)
    assert took.places == [p for p in range(16) if p not in (3, 11)]
    assert took.unscored == pytest.approx(1 / 8)


def test_a_user_that_never_answers_is_named_with_its_reason(tiny_folder: str):
    def user(request: ChatRequest) -> str:
        raise RequestFailed("gone")

    of = section(turns=2)
    with pytest.raises(TrainingError, match=r"optimise\.dialogue\.user answered in none of 8 conversations: gone"):
        roll_out(actors(tiny_folder, of, number, user), prompts(2), of, 0, 0)


def test_without_dialogue_the_section_says_and_does_what_it_did(tiny_folder: str):
    of = tiny_method("rloo", scoring=JudgeScore())
    assert of.turns == 1
    assert "dialogue" not in of.model_dump()
    assert Rloo.model_validate(section().model_dump()).turns == 3
    took = roll_out(actors(tiny_folder, of, number, echo), prompts(2), of, 0, 0)
    assert took.places == list(range(8))


@pytest.mark.parametrize("kind", ["ppo", "reinforce", "grpo"])
def test_every_method_takes_a_step(tiny_folder: str, tmp_path: Path, kind: str):
    of = section(kind, turns=2, steps=1, epochs=1)
    cast = actors(tiny_folder, of, number, echo)
    before = {name: p.detach().clone() for name, p in cast.policy.model.named_parameters() if p.requires_grad}
    train_policy(cast, prompts(2), of, 0, tmp_path / "checkpoints", tiny_tracker(tmp_path / "run", total=1), no_checks)
    after = dict(cast.policy.model.named_parameters())
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_a_policy_learns_what_its_last_turn_is_worth(tiny_folder: str, tmp_path: Path):
    """The score is the letters of the last turn alone: the policy, which is random, comes to write more of them."""
    scores = []

    def value(asked: Sequence[Prompt], texts: Sequence[str]) -> list[float | None]:
        found = [letters(turns_of(text)[-1].content) / 6 for text in texts]
        scores.append(math.fsum(found) / len(found))
        return [*found]

    of = section(
        "grpo", turns=2, steps=25, rollouts_per_step=32, responses_per_prompt=8, minibatch_size=32, learning_rate=1e-2,
        temperature=1.0, lora=None, kl={"kind": "fixed", "coef": 0.0}, missing_eos_penalty=0.0,
    )  # fmt: skip
    assert isinstance(of, Grpo)
    cast = actors(tiny_folder, of, value, echo)
    train_policy(cast, prompts(4), of, 0, tmp_path / "checkpoints", tiny_tracker(tmp_path / "run", total=25), no_checks)
    assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3 + 0.2, scores
