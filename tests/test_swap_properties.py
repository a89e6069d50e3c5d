"""Exchanging a and b changes p to 1 - p and nothing else, from one verdict to the preference row."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlaif.config.feedback import LabelSection, Lexicographic, Mean, PreferencesSection, SampleOne
from rlaif.config.judging import CompareMode
from rlaif.constitution import Constitution, Principle
from rlaif.feedback.judge import SingleJudge
from rlaif.feedback.pairs import WeightedJudgment, to_preferences
from rlaif.feedback.verdict import Aggregation, aggregate, checked, judged, verdict_logit
from rlaif.models.engine import ChatRequest
from rlaif.models.scripted import ScriptedChatModel
from rlaif.records import Judgment, Message, Pair, PrincipleJudgment, Prompt, Verdict, content_id
from rlaif.templates import load_template

EXACT = 1e-12
LOGPROBS = st.floats(-40, 0)
HOW = st.one_of(st.just(Mean()), st.just(SampleOne()), st.floats(0, 0.5).map(lambda d: Lexicographic(decided=d)))
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
MARGIN = 4.0


def swap_verdict(verdict: Verdict) -> Verdict:
    return verdict.model_copy(update={"first": "b" if verdict.first == "a" else "a"})


def swap_judgment(judgment: PrincipleJudgment) -> PrincipleJudgment:
    """The judgment of the exchanged pair: the same replies, read for the other names."""
    if judgment.checked:
        return judgment.model_copy(update={"p_a": 1 - judgment.p_a})
    v_ab, v_ba = judgment.verdicts
    return judged(judgment.principle, swap_verdict(v_ba), swap_verdict(v_ab))


@st.composite
def judgments(draw: st.DrawFn, name: str) -> PrincipleJudgment:
    if draw(st.booleans()):
        return checked(name, draw(st.booleans()), draw(st.booleans()), MARGIN)
    v_ab, v_ba = (
        Verdict(first=first, logprob_first=draw(LOGPROBS), logprob_second=draw(LOGPROBS)) for first in ("a", "b")
    )
    return judged(name, v_ab, v_ba)


@st.composite
def decided(draw: st.DrawFn) -> list[tuple[Principle, PrincipleJudgment]]:
    items = []
    for i in range(draw(st.integers(1, 5))):
        principle = Principle.model_validate(
            {
                "id": f"p{i}",
                "compare": "Which?",
                "weight": draw(st.floats(0.01, 100)),
                "priority": draw(st.integers(0, 2)),
                "veto": draw(st.booleans()),
            }
        )
        items.append((principle, draw(judgments(f"p{i}"))))
    return items


@given(LOGPROBS, LOGPROBS, st.sampled_from(["a", "b"]))
def test_verdict(first: float, second: float, side: Any) -> None:
    verdict = Verdict(first=side, logprob_first=first, logprob_second=second)
    assert verdict_logit(swap_verdict(verdict)) == -verdict_logit(verdict)


@given(judgments("x"))
def test_principle_judgment(judgment: PrincipleJudgment) -> None:
    swapped = swap_judgment(judgment)
    assert swapped.p_a == pytest.approx(1 - judgment.p_a, abs=EXACT)
    assert swapped.swap_gap == (None if judgment.swap_gap is None else pytest.approx(judgment.swap_gap, abs=EXACT))


@given(decided(), HOW, st.integers(0, 100))
def test_aggregate(items: list[tuple[Principle, PrincipleJudgment]], how: Aggregation, seed: int) -> None:
    swapped = [(principle, swap_judgment(judgment)) for principle, judgment in items]
    p_a = aggregate(items, how, MARGIN, seed, "pair")
    assert aggregate(swapped, how, MARGIN, seed, "pair") == pytest.approx(1 - p_a, abs=EXACT)


@given(decided(), HOW, st.randoms(use_true_random=False))
def test_the_order_of_principles_does_not_matter(
    items: list[tuple[Principle, PrincipleJudgment]], how: Aggregation, random: Any
) -> None:
    p_a = aggregate(items, how, MARGIN, 0, "pair")
    random.shuffle(items)
    assert aggregate(items, how, MARGIN, 0, "pair") == p_a


CONSTITUTION = Constitution.model_validate(
    {
        "schema": "rlaif/constitution/v1",
        "id": "c",
        "version": "1.0.0",
        "title": "C",
        "principles": [
            {"id": "x", "compare": "Which response is x?", "weight": 2.0},
            {"id": "y", "compare": "Which response is y?", "priority": 0},
            {"id": "short", "check": {"kind": "max_words", "limit": 1}, "veto": True},
            {"id": "z", "compare": "Which response is z?", "check": {"kind": "max_words", "limit": 2}},
        ],
    }
)
TEMPLATE = load_template("compare")


def moody(request: ChatRequest) -> dict[str, float]:
    """Log-probs that hang on every byte of the question: opinions, position bias, noise, all at once."""
    digest = int(content_id(request.messages[-1].content), 16)
    return {"A": -0.7 - (digest % 997) / 400, "B": -0.7 - (digest % 991) / 400}


@settings(max_examples=50)
@given(TEXTS, TEXTS, TEXTS, HOW, st.integers(0, 5))
def test_the_whole_judge(question: str, a: str, b: str, how: Aggregation, seed: int) -> None:
    if a == b:
        return
    pair = Pair.of(Prompt.of((Message(role="user", content=question),)), a, b)
    section = LabelSection(aggregation=how, check_margin=MARGIN)
    model = ScriptedChatModel(moody)
    judge = SingleJudge(CompareMode(), CONSTITUTION, section, seed, TEMPLATE)
    one, other = (judge(model, [p]) for p in (pair, pair.swapped()))
    assert one.failures == other.failures == ()
    left, right = one.judgments[0], other.judgments[0]
    assert right.p_a == pytest.approx(1 - left.p_a, abs=EXACT)
    assert [p.principle for p in left.principles] == [p.principle for p in right.principles]
    for mine, theirs in zip(left.principles, right.principles, strict=True):
        assert theirs.p_a == pytest.approx(1 - mine.p_a, abs=EXACT)
        assert theirs.verdicts == tuple(swap_verdict(v) for v in reversed(mine.verdicts))


@given(st.floats(0, 1), TEXTS, TEXTS, st.sampled_from(["drop", "keep"]), st.floats(0, 0.4))
def test_preference(p_a: float, a: str, b: str, ties: Any, margin: float) -> None:
    if a == b:
        return
    pair = Pair.of(Prompt.of((Message(role="user", content="q"),)), a, b)
    section = PreferencesSection(ties=ties, tie_margin=margin)
    one, other = (
        to_preferences([WeightedJudgment(Judgment(pair=p, source="ai", annotator="x", p_a=q), 1.0)], section)
        for p, q in ((pair, p_a), (pair.swapped(), 1 - p_a))
    )
    assert one.counts == other.counts
    for mine, theirs in zip(one.rows, other.rows, strict=True):
        assert (mine.chosen, mine.rejected, mine.split) == (theirs.chosen, theirs.rejected, theirs.split)
        assert mine.p_chosen == pytest.approx(theirs.p_chosen, abs=EXACT)
        assert mine.p_chosen == pytest.approx(max(p_a, 1 - p_a), abs=EXACT)


@given(st.floats(-6, 6), st.floats(-6, 6), st.floats(-2, 2))
def test_an_additive_bias_changes_no_label(taste_a: float, taste_b: float, bias: float) -> None:
    """End to end: a judge with taste and a constant bias to the first place labels as if it had no bias."""

    def script(request: ChatRequest) -> dict[str, float]:
        text = request.messages[-1].content
        first = re.search(r"<response_a>\n(\w+)", text)[1]  # type: ignore[index]
        lead = bias + (taste_a - taste_b if first == "alpha" else taste_b - taste_a)
        p = 1 / (1 + math.exp(-lead))
        return {"A": math.log(p), "B": math.log1p(-p)}

    pair = Pair.of(Prompt.of((Message(role="user", content="q"),)), "alpha", "beta")
    one = Constitution.model_validate(
        {**CONSTITUTION.model_dump(by_alias=True), "principles": [{"id": "x", "compare": "Which?"}]}
    )
    judge = SingleJudge(CompareMode(), one, LabelSection(min_label_mass=0), 0, TEMPLATE)
    result = judge(ScriptedChatModel(script), [pair])
    expected = 1 / (1 + math.exp(taste_b - taste_a))
    assert result.judgments[0].p_a == pytest.approx(expected, abs=1e-9)
