"""How likely the local engine says an answer is, against transformers' own pass over the whole conversation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlaif.config.models import LocalModel
from rlaif.models.engine import ChatRequest, Likelihood, Reply
from rlaif.models.engine import ask as replies_of
from rlaif.models.local.answers import answer_rows
from rlaif.models.local.model import LocalChatModel
from rlaif.models.local.tokens import encode_prompt, render, turn_of
from rlaif.records import Message, plain
from rlaif.testing import save_tiny
from tests.tiny import save_family

TEXTS = ("yes", "a longer one, with words", "", "b")


def asked(text: str, answer: str, system: str = "", **more: Any) -> ChatRequest:
    told = (Message(role="system", content=system),) if system else ()
    return ChatRequest(messages=(*told, Message(role="user", content=text)), answer=answer, **more)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> LocalChatModel:
    return LocalChatModel(LocalModel(model=save_tiny(tmp_path_factory.mktemp("tiny")), dtype="float32", batch_size=4))


def by_definition(model: LocalChatModel, request: ChatRequest) -> Likelihood:
    """From one plain pass over the conversation as its chat template has it."""
    tokenizer: Any = model._tokenizer
    before = encode_prompt(tokenizer, request.messages)
    whole = render(tokenizer, (*request.messages, Message(role="assistant", content=request.answer or "")))
    assert whole[: len(before)] == before
    turn = turn_of(tokenizer)
    text = len(whole) - len(before) - len(turn.end)
    with torch.no_grad():
        logprobs = torch.log_softmax(model._model(torch.tensor([whole])).logits[0].double(), -1)
    own = [float(logprobs[place - 1, whole[place]]) for place in range(len(before), len(whole))]
    return Likelihood(logprob=sum(own[:text]), end_logprob=sum(own[text : text + len(turn.written)]), tokens=text)


def assert_near(reply: Reply, expected: Likelihood) -> None:
    assert reply.error is None and reply.likelihood is not None
    assert reply.likelihood.tokens == expected.tokens
    assert reply.likelihood.logprob == pytest.approx(expected.logprob, abs=1e-3)
    assert reply.likelihood.end_logprob == pytest.approx(expected.end_logprob, abs=1e-3)


@pytest.mark.parametrize("shared_prefix", [0, 3, 8])
def test_answers_are_as_likely_as_the_definition_says(local: LocalChatModel, shared_prefix: int) -> None:
    """Whatever is read together: other answers to the prompt, other instructions, other prompts."""
    requests = [
        asked(f"why is {word}?", text, system, shared_prefix=shared_prefix)
        for word in ("it", "that so")
        for system in ("", "Be warm.", "Be cold and distant.")
        for text in TEXTS
    ]
    for request, reply in zip(requests, replies_of(local, requests), strict=True):
        assert_near(reply, by_definition(local, request))
        assert reply.text == "" and reply.label_logprobs is None


def test_answers_after_instructions_at_the_end_share_what_stands_before_these(local: LocalChatModel) -> None:
    """As `contrast-wrapped` has it: the rows' answers begin somewhere after what is shared."""
    talk = "why is it so, and not otherwise, as everybody has always said that it would be? " * 4
    requests = [
        asked(f"{talk}({instruction})", text, shared_prefix=len(talk))
        for instruction in ("Be warm.", "Be cold.")
        for text in TEXTS
    ]
    for request, reply in zip(requests, replies_of(local, requests), strict=True):
        assert_near(reply, by_definition(local, request))


def test_a_template_that_thinks_is_read_without_thinking(tmp_path: Path) -> None:
    model = LocalChatModel(LocalModel(model=save_family("says how it thinks", tmp_path), dtype="float32"))
    tokenizer: Any = model._tokenizer
    request = asked("why?", "yes")
    before = encode_prompt(tokenizer, request.messages)
    whole = [*before, *tokenizer.encode("yes", add_special_tokens=False)]
    with torch.no_grad():
        logprobs = torch.log_softmax(model._model(torch.tensor([whole])).logits[0].double(), -1)
    expected = sum(float(logprobs[place - 1, whole[place]]) for place in range(len(before), len(whole)))
    (reply,) = replies_of(model, [request])
    assert reply.likelihood is not None
    assert reply.likelihood.logprob == pytest.approx(expected, abs=1e-3)
    assert plain(request.messages)[0]["role"] == "user"


def test_an_answer_that_does_not_fit_is_an_error_of_its_own(tmp_path: Path) -> None:
    model = LocalChatModel(LocalModel(model=save_tiny(tmp_path, max_position_embeddings=64), dtype="float32"))
    good, bad = replies_of(model, [asked("why?", "yes"), asked("why?", "x" * 200)])
    assert good.likelihood is not None and bad.likelihood is None
    assert "does not fit a context of 64" in (bad.error or "")


def test_labels_texts_and_answers_may_be_asked_for_in_one_call(local: LocalChatModel) -> None:
    mixed = [
        asked("why?", "yes"),
        asked("why?", "no").model_copy(update={"answer": None, "labels": ("A", "B")}),
        asked("why?", "no").model_copy(update={"answer": None, "max_tokens": 3}),
        asked("why?", "no"),
    ]
    one, two, three, four = replies_of(local, mixed)
    assert one.likelihood and four.likelihood and two.label_logprobs and three.completion_tokens
    assert one.likelihood != four.likelihood


def test_answers_share_one_prompt_or_all_that_prompts_have_in_common() -> None:
    """Whichever is less to read."""
    long, short = list(range(100)), list(range(5))
    wrapped = [([*long, instruction, *answer], len(answer)) for instruction in (200, 201) for answer in ([7, 8], [9])]
    assert {row.prompt for row in answer_rows(wrapped)} == {tuple(long)}
    assert [row.response for row in answer_rows(wrapped)] == [(200, 7, 8), (200, 9), (201, 7, 8), (201, 9)]
    led = [([instruction, *short, *answer], len(answer)) for instruction in (200, 201) for answer in ([7, 8], [9])]
    assert [row.prompt for row in answer_rows(led)] == [(200, *short)] * 2 + [(201, *short)] * 2
    # Answers that begin alike are not taken for a part of the prompt.
    alike = [([*short, 7, 8, 9], 3), ([*short, 7, 8, 6], 3)]
    assert [len(row.response) for row in answer_rows(alike)] == [3, 3]
