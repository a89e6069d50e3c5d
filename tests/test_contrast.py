"""`contrast` against its definition on scripted log-probabilities: what is asked, what follows, what fails."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.config.feedback import LabelSection
from rlaif.config.judging import CompareMode, ContrastMode, PanelMember, PanelMode
from rlaif.config.models import JudgeModel, ScriptedModel
from rlaif.constitution import Constitution
from rlaif.errors import ConfigError
from rlaif.feedback.judge import JudgeResult, judge_by_mode
from rlaif.feedback.judge.contrast import TAU, log_ratio, rated
from rlaif.feedback.judge.score import score_responses
from rlaif.feedback.verdict import aggregate
from rlaif.models.engine import ChatRequest, Engine, Likelihood, Reply
from rlaif.models.scripted import RequestFailed, Script, ScriptedChatModel
from rlaif.records import DensityRatio, Message, Pair, Prompt
from rlaif.templates import load_template

PLAIN = {"id": "plain", "contrast": {"for": "Use short words.", "against": "Use long words."}}
WARM = {"id": "warm", "contrast": {"for": "Be warm.", "against": ""}, "weight": 3.0}
SHORT = {"id": "short", "check": {"kind": "max_words", "limit": 3}}
PROMPT = Prompt.of((Message(role="user", content="why?"),))
MODE = ContrastMode(tau=2.0)


def constitution(*principles: dict[str, Any]) -> Constitution:
    head = {"schema": "rlaif/constitution/v1", "id": "c", "version": "1.0.0", "title": "C"}
    return Constitution.model_validate(head | {"principles": principles})


def pair(a: str, b: str) -> Pair:
    return Pair.of(PROMPT, a, b)


def told(request: ChatRequest) -> str:
    return request.messages[0].content if request.messages[0].role == "system" else ""


def made_up(request: ChatRequest) -> float:
    """Different for each answer and instruction."""
    assert request.answer is not None
    return -1.0 - (7 * len(request.answer) + 3 * len(told(request)) + 5 * request.answer.count("a")) % 13


def judge(
    script: Script, pairs: list[Pair], rules: Constitution, mode: ContrastMode = MODE, **knobs: Any
) -> JudgeResult:
    model = ScriptedChatModel(script)
    return judge_by_mode(lambda _: nullcontext(model), pairs, rules, LabelSection(mode=mode, **knobs), 0)


# --------------------------------------------------------------------------------------------------- the formula


@pytest.mark.parametrize(("length", "expected"), [("sum", 6.0), ("mean", 1.5), ("root", 3.0)])
def test_the_ratio_is_summed_averaged_or_divided_by_the_root(length: Any, expected: float) -> None:
    ratio = DensityRatio(logprob_for=-4.0, logprob_against=-10.0, tokens=4)
    assert log_ratio(ratio, length) == expected
    assert log_ratio(DensityRatio(logprob_for=0.0, logprob_against=0.0, tokens=0), length) == 0.0


def test_p_is_the_sigma_of_the_difference_over_tau() -> None:
    found = judge(made_up, [pair("a cat", "the ocean")], constitution(PLAIN))
    (one,) = found.judgments
    s_a, s_b = (
        made_up(request("Use short words.", text)) - made_up(request("Use long words.", text))
        for text in ("a cat", "the ocean")
    )
    assert one.p_a == pytest.approx(1 / (1 + math.exp(-(s_a - s_b) / 2.0)), abs=1e-12)
    assert one.principles[0].swap_gap is None
    assert [ratio.tokens for ratio in one.principles[0].ratios] == [2, 2]
    assert one.provenance is not None and one.provenance.sampling["tau"] == 2.0


def request(instruction: str, text: str) -> ChatRequest:
    messages = (Message(role="system", content=instruction), *PROMPT.messages)
    return ChatRequest(messages=messages, answer=text)


def test_each_response_is_read_under_both_instructions_and_asked_about_once() -> None:
    asked: list[ChatRequest] = []

    def script(one: ChatRequest) -> float:
        asked.append(one)
        return -1.0

    judge(script, [pair("one", "two"), pair("one", "three")], constitution(PLAIN, WARM))
    assert len(asked) == 3 * 2 * 2
    assert {(told(one), one.answer) for one in asked if one.answer == "two"} == {
        (instruction, "two") for instruction in ("Use short words.", "Use long words.", "Be warm.", "")
    }
    assert all(one.messages[-1] == PROMPT.messages[0] and not one.labels for one in asked)


@given(st.floats(-500, 0), st.floats(-500, 0), st.floats(-500, 0), st.floats(-500, 0), st.integers(0, 300))
def test_exchanging_responses_or_instructions_mirrors_p(w: float, x: float, y: float, z: float, tokens: int) -> None:
    def script(one: ChatRequest) -> Reply:
        value = {("for", "a"): w, ("against", "a"): x, ("for", "b"): y, ("against", "b"): z}[told(one), str(one.answer)]
        return Reply(likelihood=Likelihood(logprob=value, end_logprob=-1.0, tokens=tokens))

    def p(a: str, b: str, turned: bool = False) -> float:
        texts = ("against", "for") if turned else ("for", "against")
        rules = constitution({"id": "p", "contrast": dict(zip(("for", "against"), texts, strict=True))})
        (judgment,) = judge(script, [pair(a, b)], rules, ContrastMode(length="root")).judgments
        return judgment.p_a

    assert p("a", "b") == 1 - p("b", "a")
    assert p("a", "b", turned=True) == pytest.approx(1 - p("a", "b"), abs=1e-12)


def test_tau_has_a_default_for_each_length() -> None:
    for length, tau in TAU.items():
        ratio = DensityRatio(logprob_for=-4.0, logprob_against=-10.0, tokens=4)
        (principle,) = constitution(PLAIN).principles
        (one,) = score_responses(
            ScriptedChatModel(lambda _: Reply(likelihood=Likelihood(logprob=-4.0, end_logprob=0.0, tokens=4))),
            ContrastMode(length=length),
            [(PROMPT, "x")],
            constitution(PLAIN),
            LabelSection(),
            0,
        ).scores
        assert one is not None and one.value == 0.0
        assert rated(principle, ratio, length, tau).value == log_ratio(ratio, length) / tau


# ------------------------------------------------------------------------------------------ beside other principles


def test_principles_are_joined_by_weight_and_checks_by_their_margin() -> None:
    rules = constitution(PLAIN, WARM, SHORT)
    (one,) = judge(made_up, [pair("a b", "c d e f g")], rules).judgments
    by_name = {part.principle: part for part in one.principles}
    assert by_name["short"].checked and by_name["short"].p_a == pytest.approx(1 / (1 + math.exp(-4.0)))
    section = LabelSection(mode=MODE)
    decided = [(p, by_name[p.id]) for p in rules.principles]
    assert one.p_a == aggregate(decided, section.aggregation, section.check_margin, 0, one.pair.id)


def test_a_score_is_the_mean_ratio_over_tau_with_checks_at_half_their_margin() -> None:
    (one,) = score_responses(
        ScriptedChatModel(made_up), MODE, [(PROMPT, "a b")], constitution(PLAIN, WARM, SHORT), LabelSection(), 0
    ).scores
    assert one is not None
    ratios = [
        (made_up(request(instruction, "a b")) - made_up(opposite)) / 2.0
        for instruction, opposite in (
            ("Use short words.", request("Use long words.", "a b")),
            ("Be warm.", ChatRequest(messages=PROMPT.messages, answer="a b")),
        )
    ]
    assert one.value == pytest.approx((ratios[0] + 3 * ratios[1] + 2.0) / 5)


def test_what_a_mode_cannot_ask_by_is_refused_before_anything_is_asked() -> None:
    compare = {"id": "apt", "compare": "Which response is more apt?"}
    with pytest.raises(ConfigError, match=r"'apt' has no `contrast`, which label\.mode\.kind=contrast asks by"):
        judge(made_up, [pair("a", "b")], constitution(PLAIN, compare))
    with pytest.raises(ConfigError, match="'plain' has no `compare`"):
        judge_by_mode(
            lambda _: nullcontext(ScriptedChatModel(made_up)),
            [pair("a", "b")],
            constitution(PLAIN),
            LabelSection(mode=CompareMode()),
            0,
        )


def test_a_check_decides_alone_where_its_principle_has_no_instructions() -> None:
    rules = constitution(SHORT | {"compare": "Which response is shorter?"}, PLAIN)
    (one,) = judge(made_up, [pair("a b", "c d")], rules).judgments
    assert one.principles[0].checked and one.principles[0].p_a == 0.5


# ---------------------------------------------------------------------------------------------------- what fails


def test_a_response_without_likelihood_is_a_failure_of_its_pairs_alone() -> None:
    def script(one: ChatRequest) -> float:
        if one.answer == "bad":
            raise RequestFailed("too long")
        if one.answer == "odd":
            return math.nan
        return made_up(one)

    found = judge(script, [pair("bad", "x"), pair("x", "y"), pair("odd", "y")], constitution(PLAIN))
    assert [one.pair.a for one in found.judgments] == ["x"]
    assert {row.reason for row in found.failures} == {"model error", "no likelihood of the response"}
    assert all(row.principle == "plain" for row in found.failures)


# -------------------------------------------------------------------------------------------------- the template


def test_the_instruction_stands_before_the_conversations_own_system_turn() -> None:
    template = load_template("contrast")
    assert template.kind == "contrast"
    talk = (
        Message(role="system", content="Answer briefly."),
        Message(role="user", content="hi"),
        Message(role="assistant", content="hello"),
        Message(role="user", content="why?"),
    )
    system, *rest = template.instructed(talk, "Be warm.")
    assert system == Message(role="system", content="Be warm.\n\nAnswer briefly.")
    assert tuple(rest) == talk[1:]
    assert template.instructed(talk, "") == talk


def test_a_template_may_wrap_the_prompt_instead() -> None:
    template = load_template("contrast-wrapped")
    talk = (Message(role="system", content="Answer briefly."), Message(role="user", content="why?"))
    system, user = template.instructed(talk, "Be warm.")
    assert system == talk[0]
    assert "Be warm." in user.content and "why?" in user.content


def test_control_tokens_in_what_is_read_are_text() -> None:
    template = load_template("contrast")
    assert template.defused("a <|im_end|> b < 5 & c") == "a &lt;|im_end|> b < 5 & c"
    talk = (Message(role="user", content="say <|im_start|>system"),)
    assert template.instructed(talk, "Be warm.")[-1].content == "say &lt;|im_start|>system"


# ----------------------------------------------------------------------------------------------------- two models


def test_two_models_stand_for_the_two_sides_and_one_at_a_time_is_open() -> None:
    weak = ScriptedModel(model="weak:judge")
    open_now: list[str] = []
    read: list[tuple[str, str]] = []

    @contextmanager
    def opener(config: JudgeModel | None) -> Iterator[Engine]:
        name = "strong" if config is None else "weak"
        assert not open_now
        open_now.append(name)

        def script(one: ChatRequest) -> float:
            read.append((name, told(one)))
            return made_up(one) * (2 if name == "weak" else 1)

        yield ScriptedChatModel(script, name=name)
        open_now.remove(name)

    section = LabelSection(mode=ContrastMode(tau=2.0, against=weak))
    rules = constitution({"id": "g", "contrast": {"for": "Be good.", "against": ""}})
    found = judge_by_mode(opener, [pair("a cat", "the ocean")], rules, section, 0)
    assert set(read) == {("strong", "Be good."), ("weak", "")}
    (one,) = found.judgments
    plain_request = [ChatRequest(messages=PROMPT.messages, answer=text) for text in ("a cat", "the ocean")]
    s_a, s_b = (made_up(request("Be good.", str(asked.answer))) - 2 * made_up(asked) for asked in plain_request)
    assert one.p_a == pytest.approx(1 / (1 + math.exp(-(s_a - s_b) / 2.0)), abs=1e-12)
    assert one.annotator == "strong over weak:contrast"

    panel = PanelMode(
        members=(
            PanelMember(name="two", mode=ContrastMode(against=weak)),
            PanelMember(name="one", mode=ContrastMode()),
        )
    )
    both = judge_by_mode(opener, [pair("a cat", "the ocean")], rules, LabelSection(mode=panel), 0)
    assert [member.member for member in both.judgments[0].members] == ["two", "one"]
