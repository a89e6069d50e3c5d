"""A real vLLM server on the CPU beside transformers: the same likelihoods of given answers, token by token.

With prefixes from the cache and without, at many in flight: what vLLM says of a cached token is whatever was in memory,
so a number that is taken from there would show here.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlaif.models.client.model import HttpChatModel
from rlaif.models.engine import ChatRequest, Likelihood, Reply
from rlaif.models.engine import ask as replies_of
from rlaif.models.local.tokens import encode_prompt, encode_response, turn_of
from rlaif.models.server import VllmChatModel
from rlaif.records import Message
from tests.test_vllm_parity import PAIRS

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.embedded,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]

FOR = "Answer in short, plain words that anyone can follow at once, as you would tell a friend who asks."
AGAINST = "Answer in long, learned words that only an expert can follow, as you would write a treatise."
TAUS = (1.0, 3.0, 10.0)


def requests() -> list[ChatRequest]:
    """For each question: both answers under both instructions, and an empty one."""
    rows = [[part.strip() for part in line.split("|")] for line in PAIRS]
    return [
        ChatRequest(messages=messages(instruction, question), answer=answer)
        for question, a, b in rows
        for instruction in (FOR, AGAINST)
        for answer in (a, b)
    ] + [ChatRequest(messages=messages(FOR, rows[0][0]), answer="")]


def messages(instruction: str, question: str) -> tuple[Message, ...]:
    return (Message(role="system", content=instruction), Message(role="user", content=question))


@pytest.fixture(scope="module")
def wanted(embedded_folder: str, embedded_tokenizer: Any) -> list[Likelihood]:
    """By the definition, one row at a time."""
    model = AutoModelForCausalLM.from_pretrained(embedded_folder, dtype=torch.float32).eval()
    found = []
    for request in requests():
        prompt = encode_prompt(embedded_tokenizer, request.messages)
        answer = encode_response(embedded_tokenizer, request.answer or "")
        ids = torch.tensor([[*prompt, *answer]])
        with torch.no_grad():
            logits = model(ids).logits[0, len(prompt) - 1 : -1]
        own = torch.log_softmax(logits.double(), -1).gather(1, ids[0, len(prompt) :, None])[:, 0].tolist()
        count = len(answer) - len(turn_of(embedded_tokenizer).written)
        found.append(Likelihood(logprob=math.fsum(own[:count]), end_logprob=math.fsum(own[count:]), tokens=count))
    return found


def gaps(replies: Sequence[Reply], wanted: Sequence[Likelihood]) -> tuple[float, float]:
    """The largest difference of a log-probability, for each token; and that of p(a)."""
    found = [reply.likelihood for reply in replies]
    assert [reply.error for reply in replies] == [None] * len(replies)
    assert [likely and likely.tokens for likely in found] == [likely.tokens for likely in wanted]
    per_token = [
        max(abs(one.logprob - other.logprob) / max(one.tokens, 1), abs(one.end_logprob - other.end_logprob))
        for one, other in zip(found, wanted, strict=True)
        if one is not None
    ]
    of_pairs = [
        abs(mine - its)
        for tau in TAUS
        for mine, its in zip(chances([r.likelihood for r in replies], tau), chances(wanted, tau), strict=True)
    ]
    print(f"largest gap per token {max(per_token):.2e}, of p(a) {max(of_pairs):.2e}")
    return max(per_token), max(of_pairs)


def chances(found: Sequence[Likelihood | None], tau: float) -> list[float]:
    """p(a) of each question: sigma((s_a - s_b) / tau)."""
    sums = [likely.logprob for likely in found if likely is not None]
    fours = [sums[at : at + 4] for at in range(0, len(sums) - 1, 4)]
    return [
        1 / (1 + math.exp(-((for_a - against_a) - (for_b - against_b)) / tau))
        for for_a, for_b, against_a, against_b in fours
    ]


def test_served_answers_are_as_likely_as_transformers_says(
    served_judge: VllmChatModel, wanted: list[Likelihood]
) -> None:
    replies = replies_of(served_judge, requests())
    per_token, of_pairs = gaps(replies, wanted)
    assert per_token < 1e-3 and of_pairs < 0.02
    assert served_judge._client is not None and served_judge._client._reader._shares, "the prefix cache is used"


def test_so_are_they_where_the_server_shares_no_prefix(served_judge: VllmChatModel, wanted: list[Likelihood]) -> None:
    """As any vLLM server that others have started; asked again, its cache holds the answers too."""
    replies_of(served_judge, requests()[:1])
    assert served_judge._client is not None
    plain = HttpChatModel(served_judge._client._config)
    plain._reader._shares = False
    assert max(gaps(replies_of(plain, requests()), wanted)) < 1e-3
    assert max(gaps(replies_of(served_judge, requests()), wanted)) < 1e-3
