"""A real vLLM server on the CPU beside the model in this process: the same judgments, and nothing left behind.

bf16 logits of this size are multiples of 1/16 to 1/8, so two engines that add in another order differ by about
one such step: 0.03 in probability.
"""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Iterator

import httpx
import psutil
import pytest

from rlaif.config.sections import LabelSection, LocalModel, VllmModel
from rlaif.constitution import Constitution
from rlaif.errors import ModelError
from rlaif.feedback.judge import JudgeResult, judge_pairs
from rlaif.models.chat import ChatModel, ChatRequest
from rlaif.models.embedded import EMBEDDED, resolve_model
from rlaif.models.open import open_model
from rlaif.models.server import VllmChatModel
from rlaif.records import Message, Pair, Prompt
from rlaif.templates import load_template

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.embedded,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]

TOLERANCE = 0.03

CONSTITUTION = Constitution.model_validate(
    {
        "schema": "rlaif/constitution/v1",
        "id": "parity",
        "version": "1.0.0",
        "title": "Parity",
        "principles": [
            {"id": "helpful", "compare": "Which response helps the person more?"},
            {"id": "kind", "compare": "Which response is kinder?"},
        ],
    }
)

# Question, and the two responses.
PAIRS = """
How do I boil an egg? | Put it in boiling water for eight minutes. | I do not know.
What is the capital of France? | Paris. | London, as far as I remember, or maybe Rome.
My dog died today. | I am so sorry. He was lucky to have you. | Dogs die. Get another one.
Name a primary colour. | Red. | A primary colour is a colour that is primary.
How can I sleep better? | Go to bed at the same time each day. | Sleep is when you close your eyes.
What is 2 + 2? | 4 | 5
Write a line about rain. | Rain writes on the window and wipes it clean. | Rain is wet.
I failed my exam. | That hurts. What would help you most now? | You should have studied more.
How do plants eat? | They make sugar from light, air and water. | With their mouths.
Is the earth flat? | No, it is nearly a sphere. | Yes, look outside.
Give me a synonym of big. | Large. | Small.
How do I stop a nosebleed? | Lean forward and pinch your nose for ten minutes. | Lean back and wait.
What should I cook tonight? | Pasta with tomatoes takes twenty minutes. | Food.
Who wrote Hamlet? | William Shakespeare. | Some writer from England wrote it a long time ago.
I am nervous about a talk. | Practise it aloud twice and breathe slowly. | Then do not give it.
How far is the moon? | About 384,000 kilometres. | Very far.
""".strip().splitlines()


def pairs() -> list[Pair]:
    rows = [[part.strip() for part in line.split("|")] for line in PAIRS]
    return [Pair.of(Prompt.of((Message(role="user", content=question),)), a, b) for question, a, b in rows]


@pytest.fixture(scope="module", autouse=True)
def embedded_model() -> None:
    """Skip, with the reason, where the embedded model cannot be had."""
    try:
        resolve_model(EMBEDDED)
    except ModelError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def served() -> Iterator[VllmChatModel]:
    model = open_model(VllmModel(model=EMBEDDED, max_model_len=2048))
    assert isinstance(model, VllmChatModel)
    yield model
    model.close()


def judged_by(model: ChatModel) -> JudgeResult:
    section = LabelSection(min_label_mass=0.0)
    return judge_pairs(model, pairs(), CONSTITUTION, load_template("compare"), section, seed=0)


def test_local_and_served_judge_alike(served: VllmChatModel) -> None:
    local = open_model(LocalModel(model=EMBEDDED))
    here, there = judged_by(local), judged_by(served)
    local.close()
    assert not here.failures and not there.failures
    assert here.prompt_tokens == there.prompt_tokens, "both read the same tokens"
    assert local.revision == served.revision
    gaps = []
    for one, other in zip(here.judgments, there.judgments, strict=True):
        for mine, its in zip(one.principles, other.principles, strict=True):
            gaps.append(abs(mine.p_a - its.p_a))
            for a, b in zip(mine.verdicts, its.verdicts, strict=True):
                assert a.first == b.first
                gaps.append(
                    abs(p_first(a.logprob_first, a.logprob_second) - p_first(b.logprob_first, b.logprob_second))
                )
    print(f"largest gap {max(gaps):.4f}, mean {sum(gaps) / len(gaps):.4f} over {len(gaps)}")
    assert max(gaps) <= TOLERANCE


def p_first(first: float, second: float) -> float:
    return 1 / (1 + math.exp(second - first))


def test_the_prefix_cache_reads_a_pair_once(served: VllmChatModel) -> None:
    judged_by(served)
    metrics = httpx.get(served.base_url.removesuffix("/v1") + "/metrics", timeout=30, trust_env=False).text
    hits = re.search(r"^vllm:prefix_cache_hits_total\{.*\} (\S+)$", metrics, re.M)
    queries = re.search(r"^vllm:prefix_cache_queries_total\{.*\} (\S+)$", metrics, re.M)
    assert hits and queries
    print(f"{hits[1]} of {queries[1]} prompt tokens came from the prefix cache")
    assert float(hits[1]) > 0


def test_a_sampled_request_returns_text_and_heeds_its_seed(served: VllmChatModel) -> None:
    def ask(seed: int) -> ChatRequest:
        turn = Message(role="user", content="Give me one tip for sleeping better.")
        return ChatRequest(messages=(turn,), max_tokens=40, temperature=0.7, seed=seed)

    first, again, other = served.chat([ask(1), ask(1), ask(2)])
    assert first.error is None and first.text.strip() and 0 < first.completion_tokens <= 40
    assert first.text == again.text != other.text


def test_after_close_no_process_is_left(served: VllmChatModel) -> None:
    served.chat([ChatRequest(messages=(Message(role="user", content="hi"),))])
    assert served._process is not None
    guard = psutil.Process(served._process._guard.pid)
    family = [guard, *guard.children(recursive=True)]
    assert len(family) >= 3, "the watchdog, the server and its engine"
    served.close()
    left = [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert left == []
