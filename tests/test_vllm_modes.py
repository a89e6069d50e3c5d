"""Every way of judging for real: the embedded model behind a vLLM server on the CPU.

At this size the model judges near chance, so what it prefers is not looked at: only that each mode asks what it should,
reads a verdict from every reply, and puts it where it belongs. The formulas are tested on scripted models.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
from contextlib import nullcontext

import pytest

from rlaif.config.feedback import LabelSection
from rlaif.config.judging import (
    ChecklistMode,
    CompareMode,
    Mode,
    PanelMember,
    PanelMode,
    RankMode,
    ReasonedMode,
    ReviseMode,
    ScoreMode,
)
from rlaif.config.models import LocalModel
from rlaif.constitution import Constitution
from rlaif.feedback.judge import JudgeResult, judge_by_mode
from rlaif.feedback.judge.revise import revise_responses
from rlaif.models.embedded import EMBEDDED
from rlaif.models.engine import Engine
from rlaif.models.open import open_model
from rlaif.models.server import VllmChatModel
from rlaif.records import Message, Pair, Prompt, Response, content_id

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.embedded,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]

CONSTITUTION = Constitution.model_validate(
    {
        "schema": "rlaif/constitution/v1",
        "id": "modes",
        "version": "1.0.0",
        "title": "Modes",
        "principles": [
            {
                "id": "helpful",
                "compare": "Which response helps the person more?",
                "question": "Does the response help the person?",
                "desired": "yes",
                "critique": "Say what in the response does not help the person.",
                "revise": "Write the response again so that it helps the person.",
            },
            {
                "id": "kind",
                "compare": "Which response is kinder?",
                "question": "Is the response rude?",
                "desired": "no",
                "critique": "Say what in the response is unkind.",
                "revise": "Write the response again, more kindly.",
            },
        ],
    }
)
RESPONSES = {
    "How do I boil an egg?": (
        "Put it in boiling water for eight minutes.",
        "I do not know.",
        "Eggs again? Look it up.",
    ),
}
"""Three pairs."""
REVISED = {
    "What is the capital of France?": ("Paris.",),
    "Is it safe to eat raw chicken?": ("Sure, go on, why not.", "Who cares what you eat?"),
    "Name a colour.": ("Red, of course. Everybody knows that.",),
}
RAMBLED = {"the reason was cut off", "the critique was cut off", "the revision was cut off"}
"""What a model of this size cannot always help: some of its texts repeat themselves until the limit."""


def prompt(question: str) -> Prompt:
    return Prompt.of((Message(role="user", content=question),))


def pairs() -> list[Pair]:
    return [
        Pair.of(prompt(question), a, b)
        for question, texts in RESPONSES.items()
        for a, b in itertools.combinations(texts, 2)
    ]


def responses() -> list[Response]:
    return [
        Response(
            id=content_id(question, text),
            prompt_id=prompt(question).id,
            prompt=prompt(question).messages,
            index=index,
            text=text,
            finished=True,
            tokens=1,
            model="test",
        )
        for question, texts in REVISED.items()
        for index, text in enumerate(texts)
    ]


def judge(model: Engine, mode: Mode) -> JudgeResult:
    section = LabelSection(mode=mode)
    result = judge_by_mode(lambda _: nullcontext(model), pairs(), CONSTITUTION, section, seed=0)
    assert all(0 < judgment.p_a < 1 for judgment in result.judgments)
    assert result.cost.prompt_tokens > 0
    return result


def judged_by(model: Engine, mode: Mode) -> JudgeResult:
    """The result of a mode that writes nothing, in which nothing may fail."""
    result = judge(model, mode)
    assert result.failures == ()
    assert [judgment.pair for judgment in result.judgments] == pairs()
    return result


@pytest.mark.parametrize("template", ["compare", "compare-plain", "compare-brief"])
def test_compare_in_three_wordings(served_judge: VllmChatModel, template: str) -> None:
    result = judged_by(served_judge, CompareMode(template=template))
    assert result.cost.calls == len(pairs()) * len(CONSTITUTION.principles) * 2
    for judgment in result.judgments:
        assert judgment.provenance is not None and judgment.provenance.template == template
        for principle in judgment.principles:
            assert [verdict.first for verdict in principle.verdicts] == ["a", "b"]
            mass = [math.exp(v.logprob_first) + math.exp(v.logprob_second) for v in principle.verdicts]
            assert all(0.05 < share <= 1.0001 for share in mass), "the model means to reply with a letter"


def test_reasoned(served_judge: VllmChatModel) -> None:
    result = judge(served_judge, ReasonedMode(max_tokens=512))
    assert {failure.reason for failure in result.failures} <= RAMBLED
    failed = {failure.id for failure in result.failures}
    assert [j.pair.id for j in result.judgments] == [pair.id for pair in pairs() if pair.id not in failed]
    assert result.judgments
    questions = len(pairs()) * len(CONSTITUTION.principles) * 2
    assert result.cost.calls == questions + 4 * len(result.judgments), "a pair with a failed reason is asked no more"
    for judgment in result.judgments:
        for principle in judgment.principles:
            assert 0.4 <= principle.p_a <= 0.6
            assert [verdict.first for verdict in principle.verdicts] == ["a", "b"]
            assert all(len(verdict.reason.split()) > 1 for verdict in principle.verdicts)


@pytest.mark.parametrize(("mode", "low"), [(ScoreMode(), -1), (ChecklistMode(), 0)])
def test_each_response_alone_as_the_model_in_this_process_sees_it(
    served_judge: VllmChatModel, mode: ScoreMode | ChecklistMode, low: float
) -> None:
    there = judged_by(served_judge, mode)
    local = open_model(LocalModel(model=EMBEDDED, dtype="float32"))
    here = judged_by(local, mode)
    local.close()
    texts = RESPONSES["How do I boil an egg?"]
    assert [score.text for score in there.scores] == list(texts)
    assert there.cost.calls == len(texts) * len(CONSTITUTION.principles)
    assert there.cost.prompt_tokens == here.cost.prompt_tokens, "both read the same tokens"
    for its, mine in zip(there.scores, here.scores, strict=True):
        assert low < its.value < 1 and abs(its.value - mine.value) <= 0.06 * (1 - low)
        assert [principle.principle for principle in its.principles] == ["helpful", "kind"]
        for one, other in zip(its.principles, mine.principles, strict=True):
            for label, logprob in one.logprobs.items():
                assert abs(math.exp(logprob) - math.exp(other.logprobs[label])) <= 0.06
    gaps = [abs(its.p_a - mine.p_a) for its, mine in zip(there.judgments, here.judgments, strict=True)]
    print(f"{mode.kind}: p(a) differs by at most {max(gaps):.4f}")
    assert max(gaps) <= 0.06


@pytest.mark.parametrize(("rounds", "compared"), [(None, 3), (2, 2)])
def test_rank(served_judge: VllmChatModel, rounds: int | None, compared: int) -> None:
    result = judged_by(served_judge, RankMode(rounds=rounds))
    (ranking,) = result.rankings
    assert sorted(ranking.responses) == sorted(RESPONSES["How do I boil an egg?"])
    assert list(ranking.strengths) == sorted(ranking.strengths, reverse=True)
    assert math.fsum(ranking.strengths) == pytest.approx(0, abs=1e-6)
    assert ranking.compared == compared
    assert result.cost.calls == compared * len(CONSTITUTION.principles) * 2


def test_a_panel_of_templates_and_modes(served_judge: VllmChatModel) -> None:
    members = (
        PanelMember(name="plain", mode=CompareMode(template="compare-plain")),
        PanelMember(name="brief", mode=CompareMode(template="compare-brief")),
        PanelMember(name="checklist", mode=ChecklistMode()),
    )
    result = judged_by(served_judge, PanelMode(members=members, combine="mean"))
    assert [row.member for row in result.reliability] == ["plain", "brief", "checklist"]
    for judgment in result.judgments:
        assert [member.member for member in judgment.members] == ["plain", "brief", "checklist"]
        ps = [member.p_a for member in judgment.members]
        assert min(ps) - 1e-9 <= judgment.p_a <= max(ps) + 1e-9


def test_revise(served_judge: VllmChatModel) -> None:
    mode = ReviseMode(rounds=2, max_tokens=300)
    section = LabelSection(mode=mode)
    result = revise_responses(served_judge, mode, responses(), CONSTITUTION, section, seed=0)
    assert {failure.reason for failure in result.failures} <= RAMBLED | {"the revision equals the original"}
    failed = {failure.id for failure in result.failures}
    kept = [response for response in responses() if response.id not in failed]
    assert kept
    assert [revision.original for revision in result.revisions] == [response.text for response in kept]
    for revision in result.revisions:
        assert len(revision.rounds) == mode.rounds
        for one in revision.rounds:
            assert one.critique.strip() and one.revision.strip() and one.principle in {"helpful", "kind"}
        assert revision.rounds[-1].revision != revision.original
    assert result.cost.calls <= len(responses()) * mode.rounds * 2
    assert {row.round for row in result.demonstrations} >= {1, 2}
    assert {round(max(one.p_a, 1 - one.p_a), 6) for one in result.judgments} == {mode.confidence}
