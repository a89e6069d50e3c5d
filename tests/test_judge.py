"""The judge: what is asked and in which order, and that a failure never becomes a label."""

from __future__ import annotations

import math
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.config.feedback import LabelSection, Lexicographic, SampleOne
from rlaif.config.judging import CompareMode
from rlaif.constitution import Constitution
from rlaif.errors import JudgeError
from rlaif.feedback.judge import JudgeResult, SingleJudge, check_failure_cap
from rlaif.feedback.verdict import draw
from rlaif.jsonl import read_jsonl, write_jsonl
from rlaif.models.engine import ChatRequest, Reply
from rlaif.models.scripted import ScriptedChatModel
from rlaif.records import Failure, Judgment, Message, Pair, Prompt
from rlaif.templates import load_template

TEMPLATE = load_template("compare")
SECTION = LabelSection()
BIAS = 1.5  # log-odds this judge adds to whatever stands first


def constitution(*principles: dict[str, Any]) -> Constitution:
    return Constitution.model_validate(
        {
            "schema": "rlaif/constitution/v1",
            "id": "c",
            "version": "1.0.0",
            "title": "C",
            "principles": principles,
        }
    )


def judged(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "compare": f"Which response is more {name}?", **more}


SHORT = {"id": "short", "check": {"kind": "max_words", "limit": 3}}
TWO = constitution(judged("apt"), judged("kind"))


def pair(a: str, b: str, question: str = "why?", tags: tuple[str, ...] = ()) -> Pair:
    return Pair.of(Prompt.of((Message(role="user", content=question),), tags), a, b)


def shown(request: ChatRequest) -> tuple[str, str, str]:
    """First response, second response, and the word that the principle asks about."""
    text = request.messages[-1].content
    first, second = (
        re.search(rf"<response_{x}>\n(.*)\n</response_{x}>", text, re.S)[1]
        for x in "ab"  # type: ignore[index]
    )
    return first, second, re.search(r"Which response is more (\S+)\?", text)[1]  # type: ignore[index]


def taste(text: str, word: str) -> float:
    return text.count(word[0]) * 1.0


def opinion(request: ChatRequest) -> Reply:
    first, second, word = shown(request)
    lead = taste(first, word) - taste(second, word) + BIAS
    p = 1 / (1 + math.exp(-lead))
    return Reply(
        label_logprobs={"A": math.log(0.8 * p), "B": math.log(0.8 * (1 - p))},
        prompt_tokens=10,
        completion_tokens=1,
    )


def run(
    pairs: list[Pair], constitution: Constitution = TWO, section: LabelSection = SECTION, **more: Any
) -> JudgeResult:
    model = ScriptedChatModel(more.pop("script", opinion), name="judge")
    return SingleJudge(CompareMode(), constitution, section, more.pop("seed", 0), TEMPLATE)(model, pairs, **more)


def asked_about(pairs: list[Pair], constitution: Constitution, section: LabelSection = SECTION) -> list[str]:
    words: list[str] = []

    def note(request: ChatRequest) -> Reply:
        words.append(shown(request)[2])
        return opinion(request)

    run(pairs, constitution, section, script=note)
    return words


def test_a_judgment_by_hand() -> None:
    result = run([pair("a a", "k")])
    (judgment,) = result.judgments
    # apt: +2, kind: -1, the bias gone; their mean is 0.5.
    assert judgment.p_a == pytest.approx(1 / (1 + math.exp(-0.5)), abs=1e-12)
    assert [p.principle for p in judgment.principles] == ["apt", "kind"]
    assert [v.first for v in judgment.principles[0].verdicts] == ["a", "b"]
    assert judgment.principles[0].verdicts[0].logprob_first == pytest.approx(
        math.log(0.8 / (1 + math.exp(-2 - BIAS))), abs=1e-12
    )
    assert result.cost == (4, 40, 4)
    assert result.failures == ()


def test_provenance_is_enough_to_make_it_again() -> None:
    section = LabelSection(aggregation=Lexicographic(decided=0.2))
    (judgment,) = run([pair("a", "b")], section=section, seed=7).judgments
    provenance = judgment.provenance
    assert provenance is not None
    assert (judgment.source, judgment.annotator) == ("ai", "judge:compare")
    assert (provenance.constitution, provenance.constitution_version) == ("c", "1.0.0")
    assert provenance.constitution_hash == TWO.hash
    assert (provenance.template, provenance.template_hash) == ("compare", TEMPLATE.hash)
    assert provenance.judge_revision == ScriptedChatModel(opinion).revision
    assert provenance.aggregation == "lexicographic(decided=0.2)"
    assert provenance.sampling["seed"] == 7


def test_principles_of_one_order_are_adjacent_and_share_their_prefix() -> None:
    """The engine's prefix cache pays only if what is alike is asked together, up to the principle itself."""
    requests: list[ChatRequest] = []

    def note(request: ChatRequest) -> Reply:
        requests.append(request)
        return opinion(request)

    run([pair("one", "two"), pair("three", "four")], script=note)
    assert [shown(r) for r in requests[:4]] == [
        ("one", "two", "apt"),
        ("one", "two", "kind"),
        ("two", "one", "apt"),
        ("two", "one", "kind"),
    ]
    texts = [r.messages[-1].content for r in requests[:2]]
    assert texts[0].partition("more apt")[0] == texts[1].partition("more kind")[0]
    assert {r.labels for r in requests} == {("A", "B")}


def test_tags_choose_principles() -> None:
    tagged = constitution(judged("apt"), judged("kind", tags=["soft"]))
    assert asked_about([pair("x", "y")], tagged) == ["apt", "apt"]
    assert asked_about([pair("x", "y", tags=("soft",))], tagged) == ["apt", "kind"] * 2


def test_no_principle_applies() -> None:
    tagged = constitution(judged("kind", tags=["soft"]))
    result = run([pair("x", "y", tags=("hard",))], tagged)
    assert (result.judgments, result.cost.calls) == ((), 0)
    assert [(f.stage, f.reason, f.detail) for f in result.failures] == [
        ("label", "no principle applies", "prompt tags: hard")
    ]


def test_checks_are_decided_by_code_alone() -> None:
    result = run([pair("one two", "one two three four"), pair("one", "two")], constitution(SHORT))
    assert result.cost.calls == 0
    assert [j.p_a for j in result.judgments] == pytest.approx([1 / (1 + math.exp(-4)), 0.5], abs=1e-12)
    assert [p.checked for j in result.judgments for p in j.principles] == [True, True]


def test_a_principle_with_both_is_judged_only_where_its_check_does_not_tell() -> None:
    both = constitution({**judged("apt"), **SHORT, "id": "apt"})
    assert asked_about([pair("one two", "one two three four")], both) == []
    assert asked_about([pair("one", "two")], both) == ["apt", "apt"]
    told, open_ = run([pair("one two", "one two three four"), pair("aa", "b")], both).judgments
    assert told.principles[0].checked and told.p_a > 0.9
    assert not open_.principles[0].checked and open_.p_a == pytest.approx(1 / (1 + math.exp(-2)))


def test_sample_asks_only_the_drawn_principle() -> None:
    section = LabelSection(aggregation=SampleOne())
    pairs = [pair("aaa", f"k{i}") for i in range(12)]
    drawn = [draw(TWO.principles, 0, p.id).id for p in pairs]
    assert asked_about(pairs, TWO, section) == [word for name in drawn for word in (name, name)]
    judgments = run(pairs, section=section).judgments
    assert [[p.principle for p in j.principles] for j in judgments] == [[name] for name in drawn]
    assert [j.p_a for j in judgments] == pytest.approx([j.principles[0].p_a for j in judgments], abs=1e-12)
    assert len(set(drawn)) == 2


def test_sample_still_obeys_checked_vetoes() -> None:
    section = LabelSection(aggregation=SampleOne())
    veto = constitution(judged("apt", weight=1e6), {**SHORT, "veto": True})
    long, short = run([pair("a a a a a", "x"), pair("a a", "x")], veto, section).judgments
    assert long.p_a == pytest.approx(1 / (1 + math.exp(4)))  # vetoed although the drawn principle prefers it
    assert short.p_a == pytest.approx(1 / (1 + math.exp(-2)))


@pytest.mark.parametrize(
    ("reply", "reason", "detail"),
    [
        (Reply(error="timed out"), "model error", "timed out"),
        (Reply(text="A"), "no label log-probabilities", "got {} for labels"),
        (Reply(label_logprobs={"A": -1.0}), "no label log-probabilities", "'A': -1.0"),
        (Reply(label_logprobs={"A": -1.0, "B": -math.inf}), "no label log-probabilities", "inf"),
        (Reply(label_logprobs={"A": 0.0, "B": 0.0}), "too much probability on the labels", "sum to 2"),
        (Reply(label_logprobs={"A": math.nan, "B": -1.0}), "no label log-probabilities", "nan"),
        (
            Reply(label_logprobs={"A": -6.0, "B": -9.0}),
            "too little probability on the labels",
            "0.0026 in all",
        ),
        (
            Reply(label_logprobs={"A": math.log(0.002), "B": math.log(0.012)}),
            "too little probability on the labels",
            "0.014 in all, label.min_label_mass is 0.05",
        ),
    ],
)
def test_one_bad_reply_leaves_its_pair_unlabelled(reply: Reply, reason: str, detail: str) -> None:
    def script(request: ChatRequest) -> Reply:
        return reply if shown(request) == ("bad", "fine", "kind") else opinion(request)

    bad, good = pair("fine", "bad"), pair("x", "y")
    result = run([bad, good], script=script)
    assert [j.pair for j in result.judgments] == [good]
    (failure,) = result.failures
    assert (failure.stage, failure.id, failure.reason) == ("label", bad.id, reason)
    assert (failure.principle, failure.first) == ("kind", "b")
    assert detail in failure.detail


def test_label_mass_limit_is_the_sections() -> None:
    def faint(request: ChatRequest) -> dict[str, float]:
        return {"A": math.log(0.003), "B": math.log(0.001)}

    assert run([pair("x", "y")], script=faint).judgments == ()
    assert len(run([pair("x", "y")], script=faint, section=LabelSection(min_label_mass=0.0039)).judgments) == 1


def test_a_pair_of_one_text_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="the same text"):
        run([pair("x", "x")])


def test_progress_counts_pairs() -> None:
    seen: list[int] = []
    mixed = constitution(SHORT, judged("kind", tags=["soft"]))
    run([pair("x", "y"), pair("x", "z", tags=("soft",)), pair("x", "w")], mixed, progress=seen.append)
    assert seen == [1, 1, 1]
    seen.clear()
    run([pair("x", "y"), pair("x", "z")], progress=seen.append)
    assert seen == [1, 1]


@given(st.permutations(range(6)), st.sampled_from([LabelSection(), LabelSection(aggregation=SampleOne())]))
def test_shuffling_pairs_changes_no_label(order: list[int], section: LabelSection) -> None:
    pairs = [pair("a" * i, f"k{i}") for i in range(6)]
    plain = {j.pair.id: j for j in run(pairs, section=section).judgments}
    assert {j.pair.id: j for j in run([pairs[i] for i in order], section=section).judgments} == plain


def test_judgments_survive_their_file(tmp_path: Any) -> None:
    result = run([pair("a {{ x }}\u2028</response_a>\x00", "k \U0001f600 $y")])
    write_jsonl(tmp_path / "j.jsonl", result.judgments)
    assert read_jsonl(tmp_path / "j.jsonl", Judgment) == list(result.judgments)


def failing(n: int, reason: str = "model error") -> JudgeResult:
    rows = [Failure(stage="label", id=str(i), reason=reason, detail="no route") for i in range(n) for _ in "ab"]
    return JudgeResult((), tuple(rows))


def test_failure_cap_counts_pairs_not_requests() -> None:
    check_failure_cap(failing(2), 100, SECTION)
    with pytest.raises(JudgeError) as caught:
        check_failure_cap(failing(3), 100, SECTION)
    assert str(caught.value) == (
        "label: 3 of 100 pairs have no judgment (3.0%, limit 2.0%); first: model error (no route); see "
        "failures.jsonl and the judge's log; a new run asks only what is missing, or raise label.max_failures"
    )


def test_failure_cap_advice_fits_the_reason() -> None:
    with pytest.raises(JudgeError, match="give the constitution a principle without tags"):
        check_failure_cap(failing(3, "no principle applies"), 3, SECTION)
    with pytest.raises(JudgeError, match=r"another label\.mode\.template"):
        check_failure_cap(failing(3, "too little probability on the labels"), 3, SECTION)
    check_failure_cap(failing(0), 0, SECTION)


@pytest.mark.parametrize("template", ["compare", "compare-brief", "compare-plain"])
def test_the_judge_that_the_docs_show_prefers_the_shorter(template: str) -> None:
    docs = (Path(__file__).parents[1] / "docs" / "judging.md").read_text(encoding="utf-8")
    code = re.search(r"A function is a judge.*?\n\n(.*?)\n\n\S", docs, re.S)
    assert code is not None
    names: dict[str, Any] = {}
    exec(textwrap.dedent(code[1]), names)
    model = ScriptedChatModel(names["shorter"], "shorter")
    pairs = [pair("a longer one", "short"), pair("short", "a longer one"), pair("x", "xx")]
    result = SingleJudge(CompareMode(), constitution(judged("apt")), SECTION, 0, load_template(template))(model, pairs)
    assert [judgment.p_a > 0.5 for judgment in result.judgments] == [False, True, True]
    assert not result.failures
