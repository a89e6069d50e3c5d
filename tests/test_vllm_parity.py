"""A real vLLM server on the CPU beside the model in this process: the same judgments.

In float32 the two agree to rounding, so prompts, positions and label tokens are the same. bf16 logits of this size
are multiples of 1/16 or 1/8, and engines that add in another order differ by a step or two.
"""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Iterator

import httpx
import pytest

from rlaif.config.feedback import LabelSection
from rlaif.config.judging import CompareMode
from rlaif.config.models import LocalModel, VllmModel
from rlaif.constitution import Constitution
from rlaif.feedback.judge import JudgeResult, SingleJudge
from rlaif.models.embedded import EMBEDDED
from rlaif.models.engine import ChatRequest, Engine
from rlaif.models.engine import ask as replies_of
from rlaif.models.local.machine import resolve
from rlaif.models.open import open_model
from rlaif.models.server import VllmChatModel
from rlaif.records import Judgment, Message, Pair, Prompt, Verdict

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.embedded,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]

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


@pytest.fixture
def served_in_bf16(embedded_folder: str) -> Iterator[VllmChatModel]:
    """A server of its own, where the CPU multiplies bf16 in hardware: elsewhere the default is float32, and emulated
    bf16 takes minutes."""
    if resolve("auto") != "bfloat16":
        pytest.skip("this CPU only emulates bf16")
    model = VllmChatModel(VllmModel(model=EMBEDDED, max_model_len=2048, dtype="bfloat16"))
    yield model
    model.close()


def judged_by(model: Engine) -> JudgeResult:
    section = LabelSection(min_label_mass=0.0)
    result = SingleJudge(CompareMode(), CONSTITUTION, section, 0)(model, pairs())
    assert not result.failures
    return result


def largest_gaps(here: JudgeResult, there: JudgeResult) -> tuple[float, float]:
    """Of the pairs' p(a), and of the verdicts' P(first)."""
    of_pairs, of_verdicts = [], []
    for mine, its in zip(here.judgments, there.judgments, strict=True):
        of_pairs.append(abs(mine.p_a - its.p_a))
        for a, b in zip(verdicts(mine), verdicts(its), strict=True):
            assert a.first == b.first
            of_verdicts.append(abs(p_first(a) - p_first(b)))
    print(f"p(a): largest gap {max(of_pairs):.4f}, mean {sum(of_pairs) / len(of_pairs):.4f}")
    print(f"one verdict: largest gap {max(of_verdicts):.4f}, mean {sum(of_verdicts) / len(of_verdicts):.4f}")
    return max(of_pairs), max(of_verdicts)


def verdicts(judgment: Judgment) -> list[Verdict]:
    return [verdict for principle in judgment.principles for verdict in principle.verdicts]


def p_first(verdict: Verdict) -> float:
    return 1 / (1 + math.exp(verdict.logprob_second - verdict.logprob_first))


def test_in_float32_local_and_served_are_the_same_judge(served_judge: VllmChatModel) -> None:
    there = judged_by(served_judge)
    local = open_model(LocalModel(model=EMBEDDED, dtype="float32"))
    here = judged_by(local)
    local.close()
    assert here.cost.prompt_tokens == there.cost.prompt_tokens, "both read the same tokens"
    assert local.revision == served_judge.revision
    _, of_verdicts = largest_gaps(here, there)
    assert of_verdicts < 1e-4


def test_in_bf16_local_and_served_agree_on_every_pair(served_in_bf16: VllmChatModel) -> None:
    local = open_model(LocalModel(model=EMBEDDED, dtype="bfloat16"))
    here, there = judged_by(local), judged_by(served_in_bf16)
    local.close()
    of_pairs, of_verdicts = largest_gaps(here, there)
    assert of_pairs <= 0.03
    assert of_verdicts <= 0.06


def test_the_prefix_cache_reads_a_pair_once(served_judge: VllmChatModel) -> None:
    judged_by(served_judge)
    metrics = httpx.get(served_judge.base_url.removesuffix("/v1") + "/metrics", timeout=300, trust_env=False).text
    hits = re.search(r"^vllm:prefix_cache_hits_total\{.*\} (\S+)$", metrics, re.M)
    queries = re.search(r"^vllm:prefix_cache_queries_total\{.*\} (\S+)$", metrics, re.M)
    assert hits and queries
    print(f"{hits[1]} of {queries[1]} prompt tokens came from the prefix cache")
    assert float(hits[1]) > 0


def test_a_sampled_request_returns_text_and_heeds_its_seed(served_judge: VllmChatModel) -> None:
    def ask(seed: int) -> ChatRequest:
        turn = Message(role="user", content="Give me one tip for sleeping better.")
        return ChatRequest(messages=(turn,), max_tokens=40, temperature=0.7, seed=seed)

    first, again, other = replies_of(served_judge, [ask(1), ask(1), ask(2)])
    assert first.error is None and first.text.strip() and 0 < first.completion_tokens <= 40
    assert first.text == again.text != other.text
