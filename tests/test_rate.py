"""`score` and `checklist` end to end on judges with known probabilities: what is asked, what is kept, what fails."""

from __future__ import annotations

import math
import re
from contextlib import nullcontext
from typing import Any

import pytest

from rlaif.config.feedback import LabelSection, Lexicographic, SampleOne
from rlaif.config.judging import ChecklistMode, ScoreMode
from rlaif.config.models import JudgeModel
from rlaif.constitution import Constitution
from rlaif.errors import ConfigError
from rlaif.feedback.judge import JudgeResult, judge_by_mode
from rlaif.feedback.judge.score import score_responses
from rlaif.feedback.verdict import draw
from rlaif.jsonl import read_jsonl, write_jsonl
from rlaif.models.engine import ChatRequest, Reply
from rlaif.models.scripted import RequestFailed, Script, ScriptedChatModel
from rlaif.records import Failure, Message, Pair, Prompt, Score, content_id, plain
from rlaif.templates import load_template

DIGITS = "0123456789"
ANSWERS = ("Yes", "No", "Unknown")
MODES = [ScoreMode(), ChecklistMode()]


def constitution(*principles: dict[str, Any]) -> Constitution:
    head = {"schema": "rlaif/constitution/v1", "id": "c", "version": "1.0.0", "title": "C"}
    return Constitution.model_validate(head | {"principles": principles})


def judged(name: str, desired: str = "yes", **more: Any) -> dict[str, Any]:
    texts = {"compare": f"Which response is more {name}?", "question": f"Is the response {name}?", "desired": desired}
    return {"id": name} | texts | more


SHORT = {"id": "short", "check": {"kind": "max_words", "limit": 3}}
TWO = constitution(judged("apt"), judged("kind", "no", weight=3.0))
PROMPT = Prompt.of((Message(role="user", content="why?"),))


def pair(a: str, b: str, tags: tuple[str, ...] = ()) -> Pair:
    return Pair.of(Prompt.of(PROMPT.messages, tags), a, b)


def shown(request: ChatRequest) -> tuple[str, str]:
    """The response, and the word that the principle asks about."""
    text = request.messages[-1].content
    response = re.search(r"<response>\n(.*)\n</response>", text, re.S)
    word = re.search(r"Is the response (\S+)\?", text)
    assert response and word
    return response[1], word[1]


def chances(text: str, word: str, labels: tuple[str, ...]) -> list[float]:
    """Different for each response, word and label; they add up to 0.9."""
    raw = [1 + (7 * len(text) + 3 * len(word) + 5 * k * (text.count("a") + 1)) % 11 for k in range(len(labels))]
    return [0.9 * value / sum(raw) for value in raw]


def opinion(request: ChatRequest) -> Reply:
    values = chances(*shown(request), request.labels)
    logprobs = {label: math.log(p) for label, p in zip(request.labels, values, strict=True)}
    return Reply(label_logprobs=logprobs, prompt_tokens=10, completion_tokens=1)


def run(mode: ScoreMode | ChecklistMode, pairs: list[Pair], principles: Constitution = TWO, **more: Any) -> JudgeResult:
    script: Script = more.pop("script", opinion)
    section = LabelSection(mode=mode, **more.pop("section", {}))
    judge = ScriptedChatModel(script, name="judge")

    def open_judge(_: JudgeModel | None) -> Any:
        return nullcontext(judge)

    return judge_by_mode(open_judge, pairs, principles, section, more.pop("seed", 0), **more)


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_score_end_to_end() -> None:
    one, other = "a tale", "banana and papaya"
    result = run(ScoreMode(), [pair(one, other)])

    def normal(text: str, word: str) -> list[float]:
        return [p / 0.9 for p in chances(text, word, tuple(DIGITS))]

    def value(text: str, word: str) -> float:
        return 2 * (sum(i * p for i, p in enumerate(normal(text, word), start=1)) - 1) / 9 - 1

    def p_a(word: str) -> float:
        double = [
            p * q * (1.0 if i > j else 0.5 if i == j else 0.0)
            for i, p in enumerate(normal(one, word))
            for j, q in enumerate(normal(other, word))
        ]
        return sum(double)

    first, second = result.scores
    for score, text in ((first, one), (second, other)):
        assert score.text == text
        assert [p.value for p in score.principles] == pytest.approx([value(text, "apt"), value(text, "kind")], abs=1e-6)
        assert score.value == pytest.approx((value(text, "apt") + 3 * value(text, "kind")) / 4, abs=1e-6)
    (judgment,) = result.judgments
    assert [p.p_a for p in judgment.principles] == pytest.approx([p_a("apt"), p_a("kind")], abs=1e-6)
    assert judgment.p_a == pytest.approx(sigma((logit(p_a("apt")) + 3 * logit(p_a("kind"))) / 4), abs=1e-6)
    assert abs(judgment.p_a - 0.5) > 0.01, "else this shows nothing"
    assert result.cost == (4, 40, 4)
    assert result.failures == ()


def test_checklist_end_to_end() -> None:
    one, other = "a tale", "banana"
    result = run(ChecklistMode(), [pair(one, other)])

    def follows(text: str, word: str) -> float:
        yes, no, unknown = (p / 0.9 for p in chances(text, word, ANSWERS))
        return (no if word == "kind" else yes) + unknown / 2

    first, second = result.scores
    for score, text in ((first, one), (second, other)):
        apt, kind = follows(text, "apt"), follows(text, "kind")
        assert [p.value for p in score.principles] == pytest.approx([apt, kind], abs=1e-6)
        assert score.value == pytest.approx((apt + 3 * kind) / 4, abs=1e-6)
        unknown = [chances(text, word, ANSWERS)[2] / 0.9 for word in ("apt", "kind")]
        assert [p.unknown for p in score.principles] == pytest.approx(unknown, abs=1e-6)
    (judgment,) = result.judgments
    expected = [0.5 + (follows(one, word) - follows(other, word)) / 2 for word in ("apt", "kind")]
    assert [p.p_a for p in judgment.principles] == pytest.approx(expected, abs=1e-6)
    assert judgment.p_a == pytest.approx(sigma((logit(expected[0]) + 3 * logit(expected[1])) / 4), abs=1e-6)
    assert abs(judgment.p_a - 0.5) > 0.01, "else this shows nothing"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "aggregation", [{"kind": "mean"}, {"kind": "sample"}, {"kind": "lexicographic", "decided": 0.01}]
)
def test_the_swapped_pair_has_the_mirrored_judgment(
    mode: ScoreMode | ChecklistMode, aggregation: dict[str, Any]
) -> None:
    principles = constitution(judged("apt", priority=2), judged("kind", "no"), SHORT, judged("dear", veto=True))
    pairs = [pair(a, b) for a in ("a tale", "a b c d e", "banana") for b in ("papaya fruit", "k l m n")]
    section = {"aggregation": aggregation}
    there = run(mode, pairs, principles, section=section).judgments
    back = run(mode, [p.swapped() for p in pairs], principles, section=section).judgments
    assert len(there) == len(back) == 6
    for one, other in zip(there, back, strict=True):
        assert one.p_a == 1 - other.p_a
        assert [p.p_a for p in one.principles] == [1 - p.p_a for p in other.principles]
    assert len({one.p_a for one in there}) > 3


# ------------------------------------------------------------------------------------------------ what is asked


@pytest.mark.parametrize("mode", MODES)
def test_a_response_in_many_pairs_is_asked_about_once_and_shares_its_prefix(mode: ScoreMode | ChecklistMode) -> None:
    requests: list[ChatRequest] = []

    def note(request: ChatRequest) -> Reply:
        requests.append(request)
        return opinion(request)

    result = run(mode, [pair("one", "two"), pair("three", "one"), pair("two", "three")], script=note)
    asked = [shown(request) for request in requests]
    assert asked == [(text, word) for text in ("one", "two", "three") for word in ("apt", "kind")]
    for request in requests:
        assert request.messages[-1].content[: request.shared_prefix].endswith("Is the response ")
    assert len(result.judgments) == 3
    assert [score.text for score in result.scores] == ["one", "two", "three"]
    assert [score.id for score in result.scores] == [content_id(plain(PROMPT.messages), s.text) for s in result.scores]
    assert result.cost.calls == 6


def test_a_rating_says_which_reply_is_wished_for() -> None:
    texts: list[str] = []

    def note(request: ChatRequest) -> Reply:
        texts.append(request.messages[-1].content)
        return opinion(request)

    run(ScoreMode(), [pair("one", "two")], script=note)
    assert "Is the response apt? The desired reply is Yes.\n" in texts[0]
    assert "Is the response kind? The desired reply is No.\n" in texts[1]
    texts.clear()
    run(ChecklistMode(), [pair("one", "two")], script=note)
    assert "Is the response kind?\n" in texts[1]
    assert "desired" not in texts[1]


def test_the_preamble_is_shown() -> None:
    seen: list[bool] = []

    def note(request: ChatRequest) -> Reply:
        seen.append("Be strict." in request.messages[-1].content)
        return opinion(request)

    run(ScoreMode(), [pair("one", "two")], TWO.model_copy(update={"preamble": "Be strict."}), script=note)
    assert all(seen) and seen


def test_the_recipe_names_the_template(tmp_path: Any) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(
        "{% block user %}<c>\n{{ conversation }}\n</c>"
        "<response>\n{{ response }}\n</response>{{ principle }}{% endblock %}"
    )
    (judgment,) = run(ScoreMode(template=str(path)), [pair("one", "two")]).judgments
    assert judgment.annotator == "judge:mine"


@pytest.mark.parametrize("mode", MODES)
def test_a_principle_without_a_question_is_refused_before_anything_is_asked(mode: ScoreMode | ChecklistMode) -> None:
    def never(request: ChatRequest) -> Reply:
        raise AssertionError("asked")

    bare = {"id": "bare", "compare": "Which response is better dressed?", "tags": ["rare"]}
    with pytest.raises(ConfigError, match=rf"'bare' has no `question`.*{mode.kind}.*add `question` and `desired`"):
        run(mode, [pair("one", "two")], constitution(judged("apt"), bare), script=never)


def test_checks_alone_ask_nothing() -> None:
    def never(request: ChatRequest) -> Reply:
        raise AssertionError("asked")

    result = run(ChecklistMode(), [pair("one", "one two three four")], constitution(SHORT), script=never)
    assert [score.value for score in result.scores] == [1.0, 0.0]
    (judgment,) = result.judgments
    assert judgment.p_a == pytest.approx(sigma(4.0), abs=1e-12)
    assert judgment.principles[0].checked


def test_a_principle_with_a_check_is_asked_about_where_it_passes() -> None:
    both = constitution(judged("apt", check={"kind": "max_words", "limit": 3}))
    asked: list[str] = []

    def note(request: ChatRequest) -> Reply:
        asked.append(shown(request)[0])
        return opinion(request)

    long, longer = "one two three four", "one two three four five"
    result = run(ScoreMode(), [pair("a tale", long), pair("a tale", "banana"), pair(long, longer)], both, script=note)
    assert asked == ["a tale", "banana"]
    assert [score.principles[0].checked for score in result.scores] == [False, True, False, True]
    decided, compared, even = (judgment.principles[0] for judgment in result.judgments)
    assert (decided.checked, compared.checked, even.checked) == (True, False, True)
    assert decided.p_a == pytest.approx(sigma(4.0), abs=1e-12)
    assert even.p_a == 0.5


def test_tags_choose_principles_and_the_same_text_may_have_two_scores() -> None:
    tagged = constitution(judged("apt"), judged("kind", tags=["soft"]))
    result = run(ScoreMode(), [pair("one", "two"), pair("one", "two", tags=("soft",))], tagged)
    assert [len(judgment.principles) for judgment in result.judgments] == [1, 2]
    assert [len(score.principles) for score in result.scores] == [1, 1, 2, 2]


def test_sample_counts_the_drawn_principle_but_scores_by_all() -> None:
    three = constitution(judged("apt"), judged("kind"), judged("dear"), {"veto": True, **SHORT})
    pairs = [pair(f"text {'a' * n}", f"other {'a' * n}") for n in range(8)]
    result = run(ChecklistMode(), pairs, three, section={"aggregation": SampleOne()}, seed=5)
    seen = set()
    for judgment in result.judgments:
        drawn = draw(three.principles, 5, judgment.pair.id).id
        seen.add(drawn)
        assert [p.principle for p in judgment.principles] == [n for n in (drawn, "short") if n != "short"] + ["short"]
        assert judgment.p_a == pytest.approx(judgment.principles[0].p_a, abs=1e-9)
    assert len(seen) > 1
    assert all(len(score.principles) == 4 for score in result.scores)


def test_sample_leaves_other_vetoes_to_code() -> None:
    """As in compare: of a veto principle that was not drawn only the check counts, whatever the judge says of it."""
    principles = constitution(
        judged("apt", weight=1e6), judged("kind", weight=1e-6, veto=True, check={"kind": "max_words", "limit": 3})
    )
    pairs = [pair("a tale", "banana"), pair("a tale", "one two three four")]
    passing, failing = run(ScoreMode(), pairs, principles, section={"aggregation": SampleOne()}).judgments
    assert [(p.principle, p.checked) for p in passing.principles] == [("apt", False), ("kind", True)]
    assert passing.p_a == passing.principles[0].p_a != 0.5
    assert failing.p_a == pytest.approx(sigma(4.0), abs=1e-12)


# -------------------------------------------------------------------------------------------- vetoes, provenance


def test_a_veto_sets_the_score_to_the_floor() -> None:
    principles = constitution(judged("apt"), {**SHORT, "veto": True}, judged("kind", "no", veto=True))
    certain = {"apt": "Yes", "kind": "No"}

    def sure(request: ChatRequest) -> dict[str, float]:
        text, word = shown(request)
        said = "Yes" if (text, word) == ("rude", "kind") else certain[word]
        return {label: 0.0 if label == said else -9999.0 for label in request.labels}

    result = run(ChecklistMode(), [pair("fine", "one two three four"), pair("fine", "rude")], principles, script=sure)
    assert [(score.value, score.vetoed) for score in result.scores] == [(1.0, False), (0.0, True), (0.0, True)]
    assert result.judgments[0].p_a == pytest.approx(sigma(4.0), abs=1e-12), "the check's margin"
    assert result.judgments[1].p_a == pytest.approx(sigma(30.0), abs=1e-12), "the judge is certain"


def test_provenance_is_enough_to_make_it_again() -> None:
    section = {"aggregation": Lexicographic(decided=0.2)}
    result = run(ScoreMode(), [pair("one", "two")], section=section, seed=7)
    (judgment,) = result.judgments
    provenance = judgment.provenance
    assert provenance is not None
    template = load_template("score", "score")
    assert (judgment.source, judgment.annotator) == ("ai", "judge:score")
    assert (provenance.constitution_hash, provenance.template_hash) == (TWO.hash, template.hash)
    assert provenance.judge_revision == ScriptedChatModel(opinion).revision
    assert provenance.sampling == {
        "labels": "0 1 2 3 4 5 6 7 8 9",
        "temperature": 0.0,
        "max_tokens": 1,
        "seed": 7,
        "check_margin": 4.0,
    }
    assert provenance.aggregation == "lexicographic(decided=0.2)"
    for score in result.scores:
        assert (score.provenance, score.annotator) == (provenance, judgment.annotator)


def test_scores_are_records(tmp_path: Any) -> None:
    scores = run(ChecklistMode(), [pair("one", "two")]).scores
    write_jsonl(tmp_path / "scores.jsonl", scores)
    assert tuple(read_jsonl(tmp_path / "scores.jsonl", Score)) == scores


# ----------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("mode", MODES)
def test_a_failed_question_fails_every_pair_of_its_response_and_no_other(mode: ScoreMode | ChecklistMode) -> None:
    def moody(request: ChatRequest) -> Reply:
        if shown(request) == ("two", "kind"):
            raise RequestFailed("timed out")
        if shown(request) == ("four", "apt"):
            return Reply(label_logprobs=dict.fromkeys(request.labels, -20.0))
        return opinion(request)

    pairs = [pair("one", "two"), pair("one", "three"), pair("two", "four"), pair("three", "four")]
    result = run(mode, pairs, script=moody)
    assert [judgment.pair for judgment in result.judgments] == [pairs[1]]
    assert [score.text for score in result.scores] == ["one", "three"]
    two, four = (content_id(plain(PROMPT.messages), text) for text in ("two", "four"))
    rows = [(row.id, row.reason, row.principle, row.detail.partition(":")[0]) for row in result.failures]
    assert rows == [
        (pairs[0].id, "model error", "kind", f"response {two}"),
        (pairs[2].id, "model error", "kind", f"response {two}"),
        (pairs[2].id, "too little probability on the labels", "apt", f"response {four}"),
        (pairs[3].id, "too little probability on the labels", "apt", f"response {four}"),
    ]
    assert result.failures[0].detail == f"response {two}: timed out"
    assert result.cost.calls == 8


def test_no_principle_applies() -> None:
    tagged = constitution(judged("apt", tags=["soft"]))
    pairs = [pair("one", "two"), pair("one", "two", tags=("soft",))]
    result = run(ScoreMode(), pairs, tagged)
    assert [judgment.pair for judgment in result.judgments] == [pairs[1]]
    expected = Failure(stage="label", id=pairs[0].id, reason="no principle applies", detail="prompt tags: none")
    assert result.failures == (expected,)


def test_nothing_to_judge() -> None:
    assert run(ScoreMode(), []) == JudgeResult((), ())


def test_a_pair_of_one_text_is_refused() -> None:
    with pytest.raises(ValueError, match="same text"):
        run(ScoreMode(), [pair("one", "one")])


@pytest.mark.parametrize("mode", MODES)
def test_progress_counts_every_pair(mode: ScoreMode | ChecklistMode) -> None:
    texts = ["one", "two", "three", "four"]
    prompts = [PROMPT, Prompt.of((Message(role="user", content="how?"),))]
    pairs = [Pair.of(p, a, b) for p in prompts for i, a in enumerate(texts) for b in texts[i + 1 :]]
    steps: list[int] = []
    run(mode, pairs, progress=steps.append)
    assert steps == [6, 6], "as the prompts are finished, not all at the end"
    steps.clear()
    run(mode, pairs, constitution(SHORT), progress=steps.append)
    assert sum(steps) == 12


# ----------------------------------------------------------------------------------------------------- as a reward


def test_scores_of_responses_come_in_their_order() -> None:
    """What direct RLAIF asks for: a value for each response given, repeats included."""

    def moody(request: ChatRequest) -> Reply:
        if shown(request)[0] == "two":
            raise RequestFailed("timed out")
        return opinion(request)

    judge = ScriptedChatModel(moody, name="judge")
    given = [(PROMPT, text) for text in ("one", "two", "one", "three")]
    steps: list[int] = []
    rated = score_responses(judge, ScoreMode(), given, TWO, LabelSection(), 0, steps.append)
    assert [score and score.text for score in rated.scores] == ["one", None, "one", "three"]
    assert [[(row.reason, row.principle) for row in rows] for rows in rated.failures] == [
        [],
        [("model error", "apt"), ("model error", "kind")],
        [],
        [],
    ]
    assert {row.id for row in rated.failures[1]} == {content_id(plain(PROMPT.messages), "two")}
    assert rated.cost.calls == 6
    assert sum(steps) == 4
    values = [score.value for score in run(ScoreMode(), [pair("one", "three")]).scores]
    assert [score.value for score in rated.scores[2:] if score] == values
