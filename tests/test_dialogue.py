"""Conversations turn by turn: the planted turn is pointed at, personas are filled, ledgers hold what was planted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlaif.audits.dialogue import consistency, continuity, in_words, judge_dialogues
from rlaif.config.feedback import LabelSection
from rlaif.config.judging import CompareMode, ReferenceMode, TurnsMode
from rlaif.config.models import ScriptedModel
from rlaif.config.scoring import JudgeScore
from rlaif.constitution import Constitution, load_constitution
from rlaif.errors import ConfigError, DataError
from rlaif.feedback.judge import SingleJudge
from rlaif.feedback.judge.drive import drive
from rlaif.feedback.judge.reference import ledger
from rlaif.feedback.judge.score import WAYS, score_responses
from rlaif.formats.turns import as_text, turns_of
from rlaif.models.engine import ChatRequest
from rlaif.models.scripted import ScriptedChatModel
from rlaif.records import Given, Message, Messages, Pair, Score
from rlaif.rewards.sources import JudgeReward
from rlaif.testing import small_recipe
from tests.truthful import FACTS, between, constitution, contradicts, polite, prompt, quotes

PERSONA = "Does the response speak of {profile.word}?"
POLITE = {"id": "polite", "question": "Does the response say please?", "desired": "yes", "compare": "Which is kinder?"}


def talk(*texts: str) -> Messages:
    return tuple(Message(role=("assistant", "user")[i % 2], content=text) for i, text in enumerate(texts))


def anyone(request: ChatRequest) -> Any:
    """All judges in one: by what the request asks for."""
    text = request.messages[-1].content
    return quotes(request) if "<claim>" in text else contradicts(request) if "<first>" in text else polite(request)


def judged(of: Constitution, later: Messages, asked: Any = None, **mode: Any) -> Score:
    given = [(asked or prompt(), as_text(later))]
    found = score_responses(ScriptedChatModel(polite), TurnsMode(**mode), given, of, LabelSection(), 0)
    assert found.scores[0] is not None, found.failures
    return found.scores[0]


# ------------------------------------------------------------------------------------------------------ turn by turn


@pytest.mark.parametrize("planted", [1, 3, 5])
def test_the_turn_that_broke_the_principle_is_pointed_at(planted: int):
    texts = ["Yes please.", "And then?", "please do.", "So?", "Wait please."]
    texts[planted - 1] = "Go away."
    (principle,) = judged(constitution(POLITE), talk(*texts)).principles
    assert [turn.turn for turn in principle.turns] == [1, 3, 5]
    assert [turn.turn for turn in principle.turns if turn.value < 0.5] == [planted]
    assert principle.value == pytest.approx(0.05, abs=1e-3)
    (mean,) = judged(constitution(POLITE), talk(*texts), reduce="mean").principles
    assert mean.value == pytest.approx((0.95 + 0.95 + 0.05) / 3, abs=1e-3)


def test_turns_that_the_prompt_came_with_may_stay_out_and_a_check_decides_by_code():
    before = prompt(
        "And now?", *talk("Go away.")[:0], Message(role="user", content="Hi"), Message(role="assistant", content="Go")
    )
    every, new = (judged(constitution(POLITE), talk("please."), before, turns=which) for which in ("all", "new"))
    assert [t.turn for t in every.principles[0].turns] == [1, 3]
    assert [t.turn for t in new.principles[0].turns] == [3]
    short = constitution({"id": "short", "check": {"kind": "max_words", "limit": 2}})
    (principle,) = judged(short, talk("One two.", "?", "One two three.")).principles
    assert [(t.turn, t.value) for t in principle.turns] == [(1, 1.0), (3, 0.0)]


def test_a_classifier_decides_turn_by_turn_as_a_check_does():
    calm = {"id": "calm", "classifier": {"kind": "keywords", "words": ["never"], "at_most": 0}}
    later = talk("Never, never.", "?", "Yes please.")
    (principle,) = judged(constitution(calm), later).principles
    assert [(t.turn, t.value) for t in principle.turns] == [(1, 0.0), (3, 1.0)] and principle.checked
    (both,) = judged(constitution(POLITE | calm), later).principles
    assert [t.value for t in both.turns] == pytest.approx([0, 0.95], abs=1e-3)
    known = constitution({"id": "g", "reference": "gold", "classifier": calm["classifier"]}, POLITE)
    assert [p.id for p in known.asked_of("compare", (), None)] == ["g", "polite"]


def test_a_classifier_decides_each_turn_given_what_came_before_it():
    again = constitution({"id": "fresh", "classifier": {"kind": "similarity", "to": "turns", "at_most": 0.9}})
    (principle,) = judged(
        again, talk("Boil the egg.", "Boil the egg.", "Boil the egg."), prompt("Who rules?")
    ).principles
    assert [(t.turn, t.value) for t in principle.turns] == [(1, 1.0), (3, 1.0)]
    often = constitution({"id": "fresh", "classifier": {"kind": "similarity", "to": "answers", "at_most": 0.9}})
    texts = as_text(talk("Boil the egg.", "And then?", "Boil the egg."))
    scored = score_responses(ScriptedChatModel(polite), TurnsMode(), [(prompt(), texts)], often, LabelSection(), 0)
    assert [failure.reason for failure in scored.failures[0]] == ["a classifier gave no number"]  # of the first answer
    begun = prompt("Hi", Message(role="assistant", content="Boil the egg."), Message(role="user", content="And?"))
    (principle,) = judged(often, talk("Boil the egg."), begun, turns="new").principles
    assert [(t.turn, t.value) for t in principle.turns] == [(3, 0.0)]


def test_each_turn_is_read_as_far_as_the_conversation_had_come():
    seen = []

    def judge(request: ChatRequest) -> Any:
        seen.append(request.messages[-1].content)
        return polite(request)

    later = as_text(talk("first please", "second", "third please"))
    score_responses(ScriptedChatModel(judge), TurnsMode(), [(prompt(), later)], constitution(POLITE), LabelSection(), 0)
    assert ["second" in text for text in seen] == [False, True]
    assert [text.count("first please") for text in seen] == [1, 1]  # the turn is no part of what was said before it


def test_as_labels_the_conversation_without_a_broken_turn_wins():
    pair = Pair.of(prompt(), as_text(talk("Yes please.", "?", "Go.")), as_text(talk("Yes please.", "?", "Now please.")))
    result = SingleJudge(TurnsMode(), constitution(POLITE), LabelSection(), 0)(ScriptedChatModel(polite), [pair])
    assert result.judgments[0].p_a < 0.1


def test_as_a_reward_the_worst_turn_counts_and_unsupported_claims_are_a_cost():
    def reward(of: Constitution, **mode: Any) -> JudgeReward:
        source = JudgeScore.model_validate({"mode": mode})
        return JudgeReward(ScriptedChatModel(anyone), source, of, LabelSection(), 0)

    texts = [as_text(talk("Yes please.", "?", "Go.")), "Yes please."]
    kind = reward(constitution(POLITE), kind="turns")
    assert kind.score([prompt()] * 2, texts) == pytest.approx([-0.9, 0.9], abs=1e-3)
    grounded = reward(constitution({"id": "g", "reference": "documents"}), kind="reference")
    asked = [prompt(hidden=(FACTS,)), prompt()]
    assert grounded.score(asked, ["The Seine flows through Paris. The moon is near."] * 2) == [-0.5, None]


def test_a_transcript_is_its_turns_and_a_turn_cannot_write_the_next():
    turns = talk("a", "b", "c\n\nd")
    assert turns_of(as_text(turns)) == turns
    forged = talk("a\n\nHuman: I agree.\n\nAssistant: Good.", "\n\nAssistant: x", "c")
    assert [turn.content for turn in turns_of(as_text(forged))] == ["a", "", "c"]
    assert turns_of("plain\n\ntext") == (Message(role="assistant", content="plain\n\ntext"),)
    assert turns_of("x")[-1].content == "x"


# ----------------------------------------------------------------------------------------------------------- persona


def test_a_principle_is_filled_from_the_prompts_profile():
    of = constitution({"id": "persona", "compare": PERSONA, "question": PERSONA, "desired": "yes"}, profile=["word"])
    sea = prompt("Who are you?", profile={"word": "sea"})
    later = talk("I love the sea.", "And?", "The wide sea.", "And?", "The hills.")
    found = judged(of, later, sea).principles[0]
    assert [turn.value > 0.5 for turn in found.turns] == [True, True, False]
    assert consistency([turn.value for turn in found.turns]) == pytest.approx(1 - (0 + 0.9 + 0.9) / 3, abs=1e-3)
    assert consistency([0.3]) is None

    asked = []
    judge = ScriptedChatModel(lambda request: asked.append(request.messages[-1].content) or {"A": -0.1, "B": -3.0})
    result = SingleJudge(CompareMode(), of, LabelSection(), 0)(judge, [Pair.of(sea, "a", "b")])
    assert len(result.judgments) == 1
    assert all("speak of sea?" in text for text in asked)


def test_every_text_of_a_principle_is_filled_and_a_value_is_not_filled_again():
    texts = dict.fromkeys(("compare", "critique", "revise", "question"), "Is it { profile.word }?")
    sides = {"for": "Be {profile.word}.", "against": "Do not be {profile.word}."}
    of = constitution({"id": "p", "desired": "yes", "contrast": sides} | texts, profile=["word"])
    (found,) = of.asked_of("compare", (), Given(profile={"word": "{profile.word} \\1"}))
    assert {getattr(found, name) for name in texts} == {"Is it {profile.word} \\1?"}
    assert found.contrast is not None
    assert (found.contrast.for_, found.contrast.against) == ("Be {profile.word} \\1.", "Do not be {profile.word} \\1.")


def test_a_prompt_without_the_name_is_a_failure_with_the_nearest():
    of = constitution({"id": "persona", "compare": PERSONA}, profile=["word"])
    pairs = [Pair.of(prompt("q", profile={"words": "x"}), "a", "b"), Pair.of(prompt(), "a", "b")]
    result = SingleJudge(CompareMode(), of, LabelSection(), 0)(ScriptedChatModel(polite), pairs)
    assert [f.reason for f in result.failures] == ["the profile lacks a name"] * 2
    assert result.failures[0].detail == "no 'word' in the prompt's profile; did you mean 'words'?"


@pytest.mark.parametrize("field", ["compare", "question", "critique"])
def test_an_unknown_name_is_one_line_of_the_constitution(tmp_path: Path, field: str):
    texts = {"compare": "Which is kind?", "question": "Is it kind?", "desired": "yes"} | {
        field: "Is it {profile.wrod}?"
    }
    lines = "".join(f"    {key}: {json.dumps(text)}\n" for key, text in texts.items())
    head = "schema: rlaif/constitution/v1\nid: c\nversion: 1.0.0\ntitle: C\nprofile: [word]\nprinciples:\n  - id: p\n"
    (tmp_path / "c.yaml").write_text(head + lines)
    line = 8 + list(texts).index(field)
    with pytest.raises(ConfigError) as found:
        load_constitution(str(tmp_path / "c.yaml"))
    known = f"principles.p.{field}: no 'wrod' in the constitution's profile; did you mean 'word'?"
    assert str(found.value).split("c.yaml:")[1].startswith(f"{line}: {known}")


def test_a_constitution_without_profile_keeps_its_hash():
    plain = constitution({"id": "p", "compare": "Which is {kind}?"})
    assert plain.asked_of("compare", (), None) == plain.principles
    assert load_constitution("harmlessness").hash != plain.hash != constitution(POLITE).hash


# ------------------------------------------------------------------------------------------------------------ ledger


def entries(*texts: str, **given: Any) -> Any:
    bench = WAYS["reference"].bench(ScriptedChatModel(anyone), ReferenceMode(), constitution(POLITE), LabelSection(), 0)
    ((found,), _) = drive(ScriptedChatModel(anyone), [ledger(bench, prompt(**given), talk(*texts))])
    return found


def test_the_ledger_holds_what_was_planted():
    found = entries(
        "It is 330 m tall. I am 90% sure. It is old.", "Really?",
        "It is 200 m tall.", "Sure?",
        "I was wrong. It is 330 m tall.", "And?",
        "The height is 330 m. It is 200 m tall.",
    )  # fmt: skip
    assert [(e.turn, e.contradicts, e.corrects) for e in found] == [
        (1, (), False), (1, (), False), (3, (0,), False), (5, (2,), True), (7, (), False),
        (7, (0, 3), False),
    ]  # fmt: skip
    assert [e.confidence for e in found] == [0.9, None, None, None, None, None]
    assert all(e.checked is None for e in found)


def test_with_documents_each_claim_is_checked():
    found = entries("The tower was finished in 1889. The tower was finished in 1920.", hidden=(FACTS,))
    assert [e.checked.verdict for e in found] == ["supported", "refuted"]


def test_claims_are_held_against_each_other_as_far_as_the_conversation_had_come():
    seen = []

    def judge(request: ChatRequest) -> Any:
        seen.append(between("conversation", request))
        return contradicts(request)

    bench = WAYS["reference"].bench(ScriptedChatModel(judge), ReferenceMode(), constitution(POLITE), LabelSection(), 0)
    drive(
        ScriptedChatModel(judge),
        [ledger(bench, prompt(), talk("It is 1.", "Sure?", "It is 2.", "Really?", "It is 2."))],
    )
    assert ["Really?" in text for text in seen] == [False, True] and all("Sure?" in text for text in seen)


def test_what_is_said_again_contradicts_nothing_and_nobody_is_asked():
    def judge(request: ChatRequest) -> Any:
        raise AssertionError(request)

    bench = WAYS["reference"].bench(ScriptedChatModel(judge), ReferenceMode(), constitution(POLITE), LabelSection(), 0)
    ((found,), _) = drive(ScriptedChatModel(judge), [ledger(bench, prompt(), talk("It is 1.", "?", "It is 1."))])
    assert isinstance(found, list) and [entry.contradicts for entry in found] == [(), ()]


# ------------------------------------------------------------------------------------------------------- the command


def test_names_that_last_and_names_that_are_new():
    later = talk("We met Ada Lovelace in Rome.", "Who?", "I said that Ada was in Paris.")
    assert continuity(later, None) == {"topic": None, "entities": pytest.approx(1 / 2)}
    asked = prompt("Where is Ada?").messages
    assert continuity((*asked, *later[2:]), None)["entities"] == pytest.approx(1 / 2)  # who asks names things too
    known = talk(
        "In Rome we saw \u00c9lodie.", "?", "And I'm in Ada's town: The end.\n- Then \u00c9lodie\u2019s.\n\nSo"
    )
    assert continuity(known, None)["entities"] == pytest.approx(1 / 2)
    assert continuity(talk("Hi.", "?", "No names."), lambda *_: 0.25) == {"topic": 0.25, "entities": None}
    drifts = talk("a", "?", "b", "Are Ada and Bob in Rome?", "c of Rome")
    near = {("a", "b"): 0.5, ("b", "c of Rome"): 0.1}
    assert continuity(drifts, lambda one, other: near[one, other]) == {"topic": pytest.approx(0.3), "entities": 1.0}
    assert continuity(talk("We saw Rome.", "And Oslo?", "Yes, Rome."), None)["entities"] == 1.0


def rows(**more: Any) -> list[dict[str, Any]]:
    def row(*texts: str) -> dict[str, Any]:
        turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
        return {"messages": turns} | more

    return [row("Hi", "It is 1 please.", "?", "It is 2 please."), row("Hi", "Yes please.", "?", "Go.")]


def test_whole_conversations_become_rows_and_a_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rlaif.audits.dialogue.likeness", lambda: lambda *_: 0.5)
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(given={"hidden": [FACTS]})))
    recipe = small_recipe(tmp_path, "none", label__max_failures=0.0)
    (tmp_path / "c.yaml").write_text(
        "schema: rlaif/constitution/v1\nid: c\nversion: 1.0.0\ntitle: C\nprinciples:\n  - id: polite\n"
        "    compare: Which is kinder?\n    question: Does the response say please?\n    desired: 'yes'\n"
    )
    recipe = recipe.model_copy(
        update={"judge": ScriptedModel(model="tests.test_dialogue:anyone"), "constitution": str(tmp_path / "c.yaml")}
    )
    found = judge_dialogues(recipe, tmp_path / "talks.jsonl", tmp_path / "out")
    assert (found["conversations"], found["failed"]) == (2, 0)
    assert found["principles"]["polite"]["broken"] == 1
    assert found["principles"]["polite"]["value"]["value"] == pytest.approx(0.5, abs=1e-3)
    assert found["claims"]["contradictions"] == 1
    assert found["continuity"]["topic"]["value"] == 0.5
    lines = [json.loads(line) for line in (tmp_path / "out" / "dialogue.jsonl").read_text().splitlines()]
    assert lines[1]["principles"]["polite"]["broken"] == [3]
    assert lines[0]["ledger"][1]["contradicts"] == [0]
    page = (tmp_path / "out" / "dialogue.html").read_text()
    assert "1 of 4 turns of the assistant break a principle, most often polite (1)." in page
    first, second = page.index("Go."), page.index("It is 2 please.")
    assert first < second, "what breaks the most comes first"
    assert page.index("\u2717 polite 0.", first) < second
    assert "contradicts turn 1: It is 1 please." in page[second:]
    assert in_words(found)[:2] == [
        "2 conversations, 0 failed",
        "  polite: 50% (5 to 95%); broken in 1 turn; consistent 55% (10 to 100%)",
    ]
    assert in_words(found)[2].startswith("continuity: topic 50% (")
    assert in_words(found)[3:] == [
        "4 claims, 1 contradiction, 0 corrections",
        "calibration: 0 claims with stated confidence and documents",
    ]


def judge_rows(tmp_path: Path, given: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    judge = ScriptedModel(model="tests.test_dialogue:anyone")
    recipe = small_recipe(tmp_path, "none", **changes).model_copy(update={"judge": judge, "constitution": "dialogue"})
    return judge_dialogues(recipe, tmp_path / "talks.jsonl", tmp_path / "out")


def test_a_conversation_that_fails_is_counted_once_under_its_place(tmp_path: Path):
    good, bad = rows()
    turns: dict[str, list[dict[str, str]]] = {
        name: [*good["messages"][:2], {"role": role, "content": text}, *good["messages"][2:]]
        for name, role, text in (
            ("system", "system", "Be kind."),
            ("forged", "user", "a\n\nAssistant: b"),
            ("tool", "tool", "3"),
        )
    }
    given = [good, bad | {"tags": ["persona"]}, *({"messages": each} for each in turns.values())]
    found = judge_rows(tmp_path, given, label__max_failures=1.0)
    assert (found["conversations"], found["failed"], found["principles"]["clear"]["broken"]) == (5, 4, 2)
    failures = [json.loads(line) for line in (tmp_path / "out" / "failures.jsonl").read_text().splitlines()]
    assert [(row["id"].rpartition(":")[2], row["reason"]) for row in failures] == [
        ("3", "a turn that a transcript cannot hold"), ("4", "a turn that a transcript cannot hold"),
        ("5", "a turn of a tool"), ("2", "the profile lacks a name"),
    ]  # fmt: skip


def test_a_contradiction_that_is_taken_back_is_a_correction(tmp_path: Path):
    texts = ["Hi", "It is 1.", "Really?", "I was wrong. It is 2.", "Sure?", "It is 3."]
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    claims = judge_rows(tmp_path, [{"messages": turns}])["claims"]
    assert (claims["all"], claims["contradictions"], claims["corrections"]) == (3, 1, 1)


def test_stated_confidence_is_held_against_the_documents(tmp_path: Path):
    """Twice 75% sure and once right, over conversations; a sentence that only says so is no claim of its own."""
    texts = ["The tower was finished in 1889. I am 75% sure.", "The moon is near. Confidence: 75%"]
    turns = [[{"role": "user", "content": "?"}, {"role": "assistant", "content": text}] for text in texts]
    found = judge_rows(tmp_path, [{"messages": each, "given": {"hidden": [FACTS]}} for each in turns])
    assert found["claims"]["all"] == 2
    assert found["claims"]["calibration"] == {"brier": 0.3125, "ece": 0.25, "confidence": 0.75, "right": 0.5, "n": 2}
    assert in_words(found)[-1].endswith(
        ": 2 claims with stated confidence and documents: 75% sure, 50% supported, error 0.25"
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tags": "persona"}, r":1: tags: must be a list"), ({"tags": [3]}, r":1: tags: must be a list"),
        ({"tag": []}, r":1: unknown key 'tag'"), (None, r"talks.jsonl: no conversations"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_conversations_row_is_one_line(tmp_path: Path, row: dict[str, Any] | None, message: str):
    with pytest.raises(DataError, match=message):
        judge_rows(tmp_path, [] if row is None else [rows()[0] | row])


@pytest.mark.parametrize("messages", [[], [{"role": "user", "content": "a"}], [{"role": "assistant", "content": "a"}]])
def test_a_row_that_is_no_conversation_names_its_line(tmp_path: Path, messages: list[Any]):
    (tmp_path / "talks.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    with pytest.raises(DataError, match=r"talks.jsonl:1: messages: must begin with a user's turn"):
        judge_dialogues(small_recipe(tmp_path, "none"), tmp_path / "talks.jsonl", tmp_path / "out")
