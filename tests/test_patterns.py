"""Patterns that people write: what `re` says, in time, or that it cannot be told; and what is made of that."""

from __future__ import annotations

import re
from typing import Any

import pytest

from rlaif import patterns
from rlaif.config.feedback import LabelSection
from rlaif.config.judging import ChecklistMode, CompareMode
from rlaif.config.training import Lora
from rlaif.constitution import Constitution, Principle, lint
from rlaif.evaluation.evaluate import EvaluationInputs, evaluate
from rlaif.feedback.judge import SingleJudge, check_failure_cap
from rlaif.feedback.judge.score import score_responses
from rlaif.feedback.pairs import apart_by_checks
from rlaif.models.scripted import ScriptedChatModel
from rlaif.patterns import Endless, matches, search
from rlaif.records import Message, Pair, Prompt
from rlaif.rewards.sources import checks, vetoes
from tests.fake_run import inputs

PROMPT = Prompt.of((Message(role="user", content="Why?"),))
FOREVER = "so many words " * 12 + "?"
DOUBTFUL = [r"([\w ]+\s?)+!$", r"(?:\w+|\w+ | )*;$", r"^(\w*\W*)*;$"]
"""Each can match a part of FOREVER in more ways than can be tried."""


LIMIT_S = patterns.LIMIT_S


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "LIMIT_S", 0.05)


def constitution(pattern: str, **more: Any) -> Constitution:
    check = {"id": "p", "check": {"kind": "regex_absent", "pattern": pattern}, **more}
    head = {"schema": "rlaif/constitution/v1", "id": "c", "version": "1.0.0", "title": "t"}
    return Constitution.model_validate({**head, "principles": [check]})


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"\bHELLO\b", "oh hello"),
        (r"(?i)\bHELLO\b", "oh hello"),
        (r"(?ms)^b.c$", "a\nb\nc\nd"),
        (r"\w+$", "\u0939\u093f\u0928\u094d\u0926\u0940"),  # vowel signs are no letters to re
        (r"(?i)\u0130|\xdf", "ss"),
        (r"\frac{e}", "\frac{e}"),
        (r"x{e<=1}", "y"),
        (r"(?<=a)b(?!c)", "abd"),
        (r"(a)\1", "aa"),
        (r"\s", "\x1c"),
        ("half \ud800", "half \ud800"),
        ("line\nbreak", "line\nbreak"),
        ("((a{1000}){1000}){1000}", "a" * 9),
    ],
)
def test_a_pattern_means_what_it_means_to_python(pattern: str, text: str) -> None:
    assert search(pattern, text) == bool(re.search(pattern, text))
    assert matches(pattern, text) == bool(re.fullmatch(pattern, text))


@pytest.mark.parametrize("pattern", DOUBTFUL)
def test_what_comes_to_no_end_is_said_and_the_next_text_is_read(pattern: str) -> None:
    for _ in range(2):
        with pytest.raises(Endless, match=r"came to no end on a text of 169 characters"):
            search(pattern, FOREVER)
    assert not search(pattern, "fine,")


def test_a_pattern_that_often_came_to_no_end_gets_less_time(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    monkeypatch.setattr(patterns._worker, "run", lambda pattern, text, seconds, how: given.append(seconds))
    for number in range(patterns.PATIENCE + 2):
        with pytest.raises(Endless):
            search("never", str(number))
    assert given == [0.05] * patterns.PATIENCE + [0.005] * 2


def test_a_pair_on_which_a_check_comes_to_no_end_is_a_failure_and_no_label() -> None:
    rules = constitution(DOUBTFUL[0])
    pairs = [Pair.of(PROMPT, FOREVER, "Short."), Pair.of(PROMPT, "Loud!", "Short.")]
    model = ScriptedChatModel(lambda request: pytest.fail("code decides"))
    found = SingleJudge(CompareMode(), rules, LabelSection(), 0)(model, pairs)
    (failure,), (judgment,) = found.failures, found.judgments
    assert (failure.id, failure.reason, failure.principle) == (pairs[0].id, "a check came to no end", "p")
    assert "came to no end on a text of" in failure.detail
    assert judgment.pair == pairs[1] and judgment.p_a < 0.5
    with pytest.raises(Exception, match="a check came to no end"):
        check_failure_cap(found, len(pairs), LabelSection())


def test_so_is_a_response_that_is_rated() -> None:
    model = ScriptedChatModel(lambda request: pytest.fail("code decides"))
    responses = [(PROMPT, FOREVER), (PROMPT, "Short.")]
    rated = score_responses(model, ChecklistMode(), responses, constitution(DOUBTFUL[1]), LabelSection(), seed=0)
    assert [score and score.value for score in rated.scores] == [None, 1]
    assert [failure.reason for failure in rated.failures[0]] == ["a check came to no end"] and not rated.failures[1]


def test_such_a_text_has_no_score_no_veto_and_no_part_in_pass_rates() -> None:
    rules = constitution(DOUBTFUL[0], veto=True)
    for reward in (checks(rules), vetoes(rules)):
        assert reward.score([PROMPT] * 3, ["Loud!", FOREVER, "Short."]) == [0, None, 1]
    assert rules.pass_rates(["Loud!", FOREVER, "Short.", "So."]) == {
        "pass/undecided": 0.25,
        "pass/p": pytest.approx(2 / 3),
        "pass/all": pytest.approx(2 / 3),
    }
    assert rules.pass_rates([FOREVER]) == {"pass/undecided": 1}
    assert apart_by_checks(rules)(Pair.of(PROMPT, FOREVER, "Short.")) == 0


def test_evaluation_counts_what_it_could_not_tell() -> None:
    given = inputs(prompts=6)
    first = given.before[0].model_copy(update={"text": ";" * 99})
    found = evaluate(
        EvaluationInputs(constitution("(;+)+!"), (first, *given.before[1:]), given.after),
        section=type("Section", (), {"bootstrap_samples": 50, "confidence": 0.95}),  # type: ignore[arg-type]
        seed=0,
    )
    assert found["principles"]["p"]["undecided"] == found["all_checked"]["undecided"] == 1
    assert found["principles"]["p"]["pass_rate"]["difference"]["n"] == len(given.after) - 1


def test_reading_a_long_pattern_is_not_searching_with_it() -> None:
    """It takes longer than the limit, once."""
    assert not search("|".join(f"{i}z" for i in range(20_000)), "abc", seconds=0.02)


def test_a_pattern_that_another_python_reads_otherwise_is_refused() -> None:
    for pattern in ("[[a]", "[a||b]", "[a--b]"):
        with pytest.raises(ValueError, match="not a regular expression: Possible "):
            constitution(pattern)
        with pytest.raises(ValueError, match=r"write a backslash before it \(got "):
            Lora(targets=pattern)


@pytest.mark.parametrize("pattern", [*DOUBTFUL, "(x+x+)+y", r"([a-z]+)*[A-Z]", r"(\d+,?)+;"])
def test_the_lint_warns_of_it(pattern: str) -> None:
    assert any("comes to no end" in warning for warning in lint(constitution(pattern)))


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?i)\bas an ai\b",
        r"^\s*[-*] ",
        r"\d{3}-\d{4}",
        "[\u4e00-\u9fff]",
        "a|b|c",
        r"\s+$",
        "|".join(f"{i}x" for i in range(20_000)),
    ],
)
def test_and_of_no_ordinary_pattern(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "LIMIT_S", LIMIT_S)  # the last takes 0.1 s of computing, on a busy machine 0.3
    assert not any("comes to no end" in warning for warning in lint(constitution(pattern)))


def test_adapters_are_placed_by_a_pattern_that_compiles() -> None:
    assert Lora(targets=r".*\.q_proj").targets == r".*\.q_proj"
    with pytest.raises(ValueError, match="not a regular expression: missing"):
        Lora(targets="(q_proj")


def test_only_a_checked_principle_passes() -> None:
    with pytest.raises(Endless):
        Principle(id="p", check={"kind": "regex_present", "pattern": DOUBTFUL[2]}).passes(FOREVER)  # type: ignore[arg-type]
