"""Critique and revise by its definition: which principle, which turns, what every round leaves, and what fails."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlaif.audits.probes import load_attacks, planted
from rlaif.config.feedback import LabelSection
from rlaif.config.judging import ReviseMode
from rlaif.constitution import Constitution
from rlaif.errors import ConfigError
from rlaif.feedback.calibration import Temperature, apply_calibration
from rlaif.feedback.judge.result import JudgeResult
from rlaif.feedback.judge.revise import first_responses, revise_responses
from rlaif.models.engine import ChatRequest, Reply
from rlaif.models.scripted import ScriptedChatModel
from rlaif.records import Message, Messages, Prompt, Response
from rlaif.templates import load_template

PRINCIPLES: list[dict[str, Any]] = [
    {"id": "kind", "compare": "Kinder?", "critique": "What is unkind?", "revise": "Make it kind.", "weight": 3.0},
    {"id": "brief", "compare": "Briefer?", "critique": "What is too long?", "revise": "Make it brief."},
    {"id": "mute", "compare": "Quieter?", "weight": 100.0},
    {
        "id": "tagged",
        "compare": "x?",
        "critique": "What is x?",
        "revise": "Make it x.",
        "tags": ["x"],
        "weight": 1000.0,
    },
]
SHORT = "Reply with the criticism only, in at most 60 words."
EXAMPLE = {"prompt": "Hello?", "response": "Go away.", "critique": "It is rude.", "revision": "Hello to you."}


def constitution(examples: Sequence[dict[str, Any]] = (), **more: Any) -> Constitution:
    document: dict[str, Any] = {"schema": "rlaif/constitution/v1", "id": "c", "version": "1.0.0", "title": "C"}
    return Constitution.model_validate(document | {"principles": PRINCIPLES, "examples": list(examples)} | more)


def response(text: str = "Go.", question: str = "May I stay?", index: int = 0, tags: tuple[str, ...] = ()) -> Response:
    prompt = Prompt.of((Message(role="user", content=question),), tags)
    return Response(
        id=f"{prompt.id}-{index}-{text}",
        prompt_id=prompt.id,
        prompt=prompt.messages,
        tags=tags,
        index=index,
        text=text,
        finished=True,
        tokens=1,
        model="m",
    )


class Writer:
    """Writes "critique 1", "revision 1", "critique 2" and so on for each response, and remembers what it was asked."""

    def __init__(self, reply: Callable[[str], Any] = lambda text: text) -> None:
        self.asked: list[ChatRequest] = []
        self._reply = reply

    def __call__(self, request: ChatRequest) -> Any:
        self.asked.append(request)
        shown = graded(request.messages)
        number = int(shown.removeprefix("revision ")) + 1 if shown.startswith("revision ") else 1
        return self._reply(f"{'critique' if is_critique(request) else 'revision'} {number}")


def is_critique(request: ChatRequest) -> bool:
    """Whether the last turn shows a response, as the request for a critique does."""
    return "<response>" in request.messages[-1].content


def graded(messages: Messages) -> str:
    """The response that is being worked on, which comes last."""
    found = re.findall(r"<response>\n(.*?)\n</response>", "\n".join(m.content for m in messages), re.DOTALL)
    return str(found[-1])


def run(
    script: Any,
    responses: Sequence[Response] = (),
    mode: ReviseMode | None = None,
    by: Constitution | None = None,
    seed: int = 0,
    progress: Any = None,
) -> JudgeResult:
    model = ScriptedChatModel(script, name="judge")
    mode = mode or ReviseMode()
    section = LabelSection(mode=mode)
    return revise_responses(model, mode, responses or [response()], by or constitution(), section, seed, progress)


def test_two_rounds_by_hand() -> None:
    writer, seen = Writer(), list[int]()
    result = run(writer, by=constitution(preamble="Be good."), progress=seen.append)
    (revision,) = result.revisions
    assert revision.original == "Go."
    assert [(r.critique, r.revision) for r in revision.rounds] == [
        ("critique 1", "revision 1"),
        ("critique 2", "revision 2"),
    ]
    template = load_template("revise")
    texts = {p["id"]: (p.get("critique", ""), p.get("revise", "")) for p in PRINCIPLES}
    expected = []
    for made, before in zip(revision.rounds, ("Go.", "revision 1"), strict=True):
        critique, revise = texts[made.principle]
        asked = template.render(prompt=response().prompt, responses=(before,), preamble="Be good.", principle=critique)
        expected += [asked, (*asked, Message(role="assistant", content=made.critique), template.follow_up(revise))]
    assert [request.messages for request in writer.asked] == expected
    assert all((r.max_tokens, r.temperature, r.seed, r.labels) == (256, 0.0, 0, ()) for r in writer.asked)
    assert (result.cost.calls, seen, result.failures) == (4, [1], ())


def test_preferences_and_demonstrations() -> None:
    responses = [response("Go.", f"May I stay {n}?") for n in range(12)]
    result = run(Writer(), responses, ReviseMode(rounds=3, confidence=0.8))
    assert len(result.judgments) == 12
    for judgment, one in zip(result.judgments, responses, strict=True):
        assert {judgment.pair.a, judgment.pair.b} == {"Go.", "revision 3"}
        p_revision = judgment.p_a if judgment.pair.a == "revision 3" else 1 - judgment.p_a
        assert p_revision == pytest.approx(0.8, abs=1e-12)
        assert (judgment.pair.prompt_id, judgment.source, judgment.annotator) == (one.prompt_id, "ai", "judge:revise")
    assert {judgment.pair.a for judgment in result.judgments} == {"Go.", "revision 3"}, "a is either, by hash"
    assert [(d.prompt_id, d.round, d.completion) for d in result.demonstrations] == [
        (one.prompt_id, n, (Message(role="assistant", content=f"revision {n}"),))
        for one in responses
        for n in (1, 2, 3)
    ]


def test_the_principle_is_drawn_for_each_round_by_weight() -> None:
    """kind : brief = 3 : 1, rounds and responses independent; without texts or with other tags none is drawn."""
    responses = [response(question=f"May I stay {n}?") for n in range(600)]
    drawn = [[r.principle for r in revision.rounds] for revision in run(Writer(), responses).revisions]
    both = Counter(map(tuple, drawn))
    for (first, second), count in both.items():
        share = {"kind": 0.75, "brief": 0.25}
        assert count / 600 == pytest.approx(share[first] * share[second], abs=0.06)
    assert len(both) == 4
    again = [[r.principle for r in revision.rounds] for revision in run(Writer(), responses[::-1]).revisions]
    assert again == drawn[::-1]
    other = [[r.principle for r in revision.rounds] for revision in run(Writer(), responses, seed=1).revisions]
    assert 0.4 < sum(x == y for x, y in zip(drawn, other, strict=True)) / 600 < 0.55
    tagged = run(Writer(), [response(tags=("x",))], ReviseMode(rounds=1)).revisions
    assert tagged[0].rounds[0].principle == "tagged"


def test_examples_come_first_as_whole_conversations() -> None:
    writer = Writer()
    by = constitution([EXAMPLE | {"principle": "brief"}, EXAMPLE], preamble="Be good.")
    (revision,) = run(writer, mode=ReviseMode(rounds=1), by=by).revisions
    drawn = {p["id"]: p for p in PRINCIPLES}[revision.rounds[0].principle]
    brief = {p["id"]: p for p in PRINCIPLES}["brief"]
    turns = writer.asked[1].messages
    assert [turn.role for turn in turns] == ["user", "assistant"] * 5 + ["user"]
    for start, principle in ((0, brief), (4, drawn)):
        asked, critique, again, revised = turns[start : start + 4]
        assert "<user_turn>\nHello?\n</user_turn>" in asked.content
        assert "<response>\nGo away.\n</response>" in asked.content
        assert asked.content.endswith(f"{principle['critique']}\n{SHORT}")
        assert again.content.startswith(principle["revise"])
        assert (critique.content, revised.content) == ("It is rude.", "Hello to you.")
    assert turns[8].content.endswith(f"{drawn['critique']}\n{SHORT}") and graded(turns) == "Go."
    assert ["Be good." in turn.content for turn in turns] == [True] + [False] * 10
    assert writer.asked[0].messages == turns[:9]


def test_sampled_texts_have_seeds_of_their_own() -> None:
    writer = Writer()
    run(writer, [response(), response("Stay.", index=1)], ReviseMode(temperature=0.7))
    assert len({request.seed for request in writer.asked}) == len(writer.asked) == 8
    assert {request.temperature for request in writer.asked} == {0.7}
    other = Writer()
    run(other, [response("Stay.", index=1)], ReviseMode(temperature=0.7))
    assert {r.seed for r in other.asked} < {r.seed for r in writer.asked}, "whatever runs beside it"


@pytest.mark.parametrize(
    ("turn", "reply", "reason"),
    [
        ("critique 1", Reply(error="no route"), "model error"),
        ("revision 2", Reply(error="no route"), "model error"),
        ("critique 2", Reply(text="  \n"), "no critique"),
        ("revision 1", Reply(text=""), "no revision"),
        ("revision 1", Reply(text="</response>"), "no revision"),
        ("revision 2", Reply(text="<response>\n\n</response>"), "no revision"),
        ("critique 1", Reply(text="It is", finish_reason="length"), "the critique was cut off"),
        ("revision 2", Reply(text="Do", finish_reason="length"), "the revision was cut off"),
        ("critique 1", Reply(finish_reason="reasoning", completion_tokens=9), "the critique was cut off"),
        ("revision 2", Reply(finish_reason="reasoning"), "the revision was cut off"),
        ("revision 2", Reply(text=" Go.\n"), "the revision equals the original"),
        ("revision 2", Reply(text="Go.\n</response>"), "the revision equals the original"),
    ],
)
def test_a_failed_reply_ends_the_response_and_is_never_a_label(turn: str, reply: Reply, reason: str) -> None:
    healthy = response("Fine.", "And you?")

    def script(request: ChatRequest) -> Any:
        text = Writer()(request)
        return reply if text == turn and "May I stay?" in request.messages[0].content else text

    seen: list[int] = []
    result = run(script, [response(), healthy], progress=seen.append)
    assert [(f.id, f.reason) for f in result.failures] == [(response().id, reason)]
    assert [r.id for r in result.revisions] == [healthy.id]
    assert [j.pair.prompt_id for j in result.judgments] == [healthy.prompt_id]
    assert {d.prompt_id for d in result.demonstrations} == {healthy.prompt_id}
    assert sum(seen) == 2


@pytest.mark.parametrize(
    "thought", ["<think>\nA SECRET.\n</think>\n\n", "A SECRET.\n</think>\n\n", "[THINK]A SECRET.[/THINK]"]
)
def test_reasoning_is_in_nothing_that_is_kept_or_asked_again(thought: str) -> None:
    writer = Writer(lambda text: thought + text)
    result, plain = run(writer), run(Writer())
    assert result[:2] == plain[:2]
    assert (result.revisions, result.demonstrations) == (plain.revisions, plain.demonstrations)
    assert not any("SECRET" in message.content for request in writer.asked for message in request.messages)
    assert result.cost.completion_tokens > plain.cost.completion_tokens


def test_reasoning_without_end_is_a_failure_with_its_cost() -> None:
    result = run(lambda _: "<think>\nThe user wants a better answer, so")
    assert [f.detail for f in result.failures] == [
        "8 tokens of reasoning and no answer after it; see judge.thinking and label.mode.max_tokens"
    ]
    assert (result.judgments, result.demonstrations, result.cost.completion_tokens) == ((), (), 8)


def test_nothing_to_draw() -> None:
    none = [p | {"critique": None, "revise": None} for p in PRINCIPLES[:1]]
    with pytest.raises(ConfigError, match="no principle has both `critique` and `revise`"):
        run(Writer(), by=constitution(principles=none))
    result = run(Writer(), [response(), response(tags=("x",))], by=constitution(principles=PRINCIPLES[3:]))
    assert [(f.reason, f.id) for f in result.failures] == [("no principle applies", response().id)]
    assert len(result.judgments) == 1


def test_which_responses_are_revised() -> None:
    rows = [response("c", index=2), response(" ", index=0), response("b ", index=3), response("b", index=1)]
    other = response("z", "Other?")
    assert first_responses([rows[0], other, *rows[1:]], 1) == [rows[3], other]
    assert first_responses([rows[0], other, *rows[1:]], 5) == [rows[3], rows[0], other]


@pytest.mark.parametrize(
    "written",
    [
        "<response>\nStay.\n</response>",
        "<response>Stay.</response>",
        "Stay.\n</response>",
        "<response>\nStay.",
        "Here it is:\n<response>\nStay.\n</response>\nI made it kinder.",
        "<RESPONSE>\nStay.\n</ Response >",
        "<assistant_turn>\nStay.\n</assistant_turn>",
        "<assistant_turn>\n<response>\nStay.\n</response>\n</assistant_turn>",
        "Stay.\n</assistant_turn>\n<user_turn>\nThanks!\n</user_turn>",
        "<response>\nStay.\n</response>\n<response>\nStay.\n</response>",
        "<conversation>\n<user_turn>\nMay I?\n</user_turn>\n</conversation>\n<response>\nStay.\n</response>",
        "Stay.",
        "  Stay.\n",
    ],
)
def test_tags_that_a_model_writes_around_its_revision_are_no_part_of_it(written: str) -> None:
    result = run(lambda request: written if not is_critique(request) else "Cold.", mode=ReviseMode(rounds=1))
    assert [r.revision for r in result.revisions[0].rounds] == ["Stay."]
    assert {result.judgments[0].pair.a, result.judgments[0].pair.b} == {"Go.", "Stay."}
    assert result.demonstrations[0].completion[0].content == "Stay."


@pytest.mark.parametrize("written", ["See <b>this</b>.", "a < b and </p>", "<responses>x</responses>", "&lt;response>"])
def test_other_tags_stay(written: str) -> None:
    result = run(lambda request: written if not is_critique(request) else "Cold.", mode=ReviseMode(rounds=1))
    assert [r.revision for r in result.revisions[0].rounds] == [written]


def test_a_response_about_such_tags_keeps_them() -> None:
    """It was asked for XML; the tag is the text's own."""
    written = "<response>\n<ok/>\n</response>"
    result = run(
        lambda request: written if not is_critique(request) else "Cold.",
        [response("<response><bad/></response>")],
        ReviseMode(rounds=1),
    )
    assert [r.revision for r in result.revisions[0].rounds] == [written]


def shape_of(request: ChatRequest) -> list[tuple[str, Counter[str]]]:
    """Roles, and which of the template's tags stand in each turn how often."""
    tag = re.compile(r"</?(?:conversation|response|system_turn|user_turn|assistant_turn)>")
    return [(turn.role, Counter(tag.findall(turn.content))) for turn in request.messages]


@pytest.mark.parametrize("attack", load_attacks(), ids=lambda attack: attack.id)
def test_planted_text_breaks_no_turn_wherever_it_stands(attack: Any) -> None:
    """In the prompt, the response, the examples and in what the model wrote itself, all at once."""
    bad = planted("Fine.", attack, "A")
    shapes = []
    for text in ("Fine.", bad):
        asked: list[ChatRequest] = []

        def script(request: ChatRequest, text: str = text, asked: list[ChatRequest] = asked) -> str:
            asked.append(request)
            return f"{len(asked)} {text} {len(asked)}"

        examples = [EXAMPLE | {"prompt": text, "response": text, "critique": text, "revision": text}]
        run(script, [response(text, text)], by=constitution(examples))
        shapes.append([shape_of(request) for request in asked])
    assert shapes[0] == shapes[1]


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30), st.text(max_size=30))
def test_any_texts_end_as_a_revision_or_a_failure(critique: str, revision: str) -> None:
    result = run(lambda request: critique if is_critique(request) else revision, mode=ReviseMode(rounds=1))
    assert len(result.judgments) + len(result.failures) == 1
    assert len(result.revisions) == len(result.demonstrations) == len(result.judgments)


def test_calibration_leaves_what_nobody_judged() -> None:
    """`confidence` is the recipe's word: a map fitted on comparisons says nothing about it."""
    result = run(Writer())
    assert apply_calibration(result, Temperature(value=3.0)) == result
