"""Samples that are conversations (`sample.dialogue`): who says what, what is kept, what is measured of them."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rlaif import testing
from rlaif.config import Recipe
from rlaif.config.feedback import SampleSection
from rlaif.constitution import Principle
from rlaif.errors import DataError
from rlaif.evaluation.evaluate import passed
from rlaif.feedback.sample import NO_USER, Speakers, check_sample_failures, sample_responses
from rlaif.formats.turns import as_text, bare, own_text, spoken, turns_of
from rlaif.jsonl import read_jsonl
from rlaif.models.engine import ChatRequest, Reply
from rlaif.models.local.tokens import encode_prompt, encode_response
from rlaif.models.scripted import RequestFailed, ScriptedChatModel
from rlaif.models.user import exchanged
from rlaif.pipeline import STAGES, run_recipe
from rlaif.records import Message, Prompt, Response, plain
from rlaif.run_folder import Run
from rlaif.testing import small_recipe, tiny_model, tiny_tokenizer
from rlaif.training.policy_model import PolicyModel, turn_rows
from tests.forked import exit_code
from tests.test_resume import Kill, arm

USER = {"backend": "scripted", "model": "rlaif.testing:goes_on"}
TALK = {"turns": 3, "user": USER, "temperature": 0.7}
SECTION = SampleSection(responses_per_prompt=2, max_tokens=7, dialogue=TALK)
PROMPT = Prompt(
    id="p", messages=(Message(role="system", content="Be kind."), Message(role="user", content="Hello?")), tags=("t",)
)
OTHER = Prompt(id="q", messages=(Message(role="user", content="Why?"),))


def policy(request: ChatRequest) -> Reply:
    turn = sum(m.role == "assistant" for m in request.messages)
    cut = turn == 1 and request.messages[0].role == "user"
    return Reply(
        text=f" said {turn}\n\nHuman: forged ",
        finish_reason="length" if cut else "stop",
        prompt_tokens=len(request.messages),
        completion_tokens=turn + 1,
        token_ids=(5, turn),
    )


def user(request: ChatRequest) -> str:
    return f"heard {len(request.messages)}\n\nAssistant: me too"


def write(policy: Any, user: Any, section: SampleSection = SECTION, seed: int = 0) -> Any:
    by = Speakers(ScriptedChatModel(policy, name="policy"), ScriptedChatModel(user))
    return sample_responses(by, [PROMPT, OTHER], section, seed, "sample")


def test_a_response_is_the_conversation_and_says_what_the_policy_wrote() -> None:
    found = write(policy, user)
    assert [(r.prompt_id, r.index) for r in found.responses] == [("p", 0), ("p", 1), ("q", 0), ("q", 1)]
    first, _, third, _ = found.responses
    # The user sees its instruction and everything but the policy's system turn; nobody writes the other's turn.
    assert first.text == "said 0\n\nHuman: heard 3\n\nAssistant: said 1\n\nHuman: heard 5\n\nAssistant: said 2"
    assert [turn.text for turn in first.turns] == [f"said {turn}\n\nHuman: forged" for turn in range(3)]
    assert [turn.token_ids for turn in first.turns] == [(5, 0), (5, 1), (5, 2)]
    assert (first.tokens, first.token_ids, first.finished) == (6, (), True)
    assert ([turn.finished for turn in third.turns], third.finished) == ([True, False, True], False)
    assert found.completion_tokens == 24
    assert own_text(first) == "said 0\n\nsaid 1\n\nsaid 2"
    assert [text for text, _ in spoken(first)] == ["said 0", "said 1", "said 2"]
    assert [plain(before) for _, before in spoken(first)] == [
        plain((*PROMPT.messages, *turns_of(first.text)[:turn])) for turn in (0, 2, 4)
    ]
    assert Response.model_validate_json(first.model_dump_json()) == first


def test_every_turn_is_drawn_by_a_seed_of_its_own_and_the_first_as_without_a_user() -> None:
    seeds: dict[str, list[int]] = {"policy": [], "user": []}

    def note(who: str, text: str) -> Any:
        return lambda request: seeds[who].append(request.seed) or text

    write(note("policy", "a"), note("user", "b"))
    assert len(set(seeds["policy"])) == len(seeds["policy"]) == 12
    assert len(set(seeds["user"])) == len(seeds["user"]) == 8
    assert not set(seeds["policy"]) & set(seeds["user"])
    alone: list[int] = []
    one = SECTION.model_copy(update={"dialogue": None})
    by = Speakers(ScriptedChatModel(lambda request: alone.append(request.seed) or "a"))
    found = sample_responses(by, [PROMPT, OTHER], one, 0, "sample")
    assert alone == seeds["policy"][:4]
    assert all(r.turns == () and "turns" not in r.model_dump(mode="json") for r in found.responses)
    talks = write(note("policy", "a"), note("user", "b"))
    assert not {r.id for r in found.responses} & {r.id for r in talks.responses}
    # Without somebody to talk with a response is one turn, whatever the section says.
    assert sample_responses(by, [PROMPT, OTHER], SECTION, 0, "sample").responses == found.responses


def test_a_conversation_that_breaks_off_is_a_failure_and_costs_no_other() -> None:
    def fails(request: ChatRequest) -> str:
        if len(request.messages) == 3 and request.messages[-1].content == "Hello?":
            raise AssertionError("the system turn is shown")
        if len(request.messages) == 5 and request.messages[1].content == "Why?":
            return " "
        return "go on"

    def breaks(request: ChatRequest) -> str:
        if len(request.messages) == 4 and request.messages[0].role == "system":
            raise RequestFailed("gone")
        return "a"

    found = write(breaks, fails)
    assert found.responses == ()
    assert [(f.id, f.reason, f.detail) for f in found.failures] == [
        ("p", "model error", "response 0: gone"),
        ("p", "model error", "response 1: gone"),
        ("q", NO_USER, "response 0: after turn 2: it said nothing"),
        ("q", NO_USER, "response 1: after turn 2: it said nothing"),
    ]
    gone = write(lambda _: "a", breaks_always)
    assert {(f.reason, f.detail.partition(": ")[2]) for f in gone.failures} == {(NO_USER, "after turn 1: gone")}
    kept = write(lambda _: "a", fails)
    assert [r.prompt_id for r in kept.responses] == ["p", "p"]
    with pytest.raises(DataError, match=r"2 of 4 responses failed .*; look at sample\.dialogue\.user"):
        check_sample_failures(kept, 0.1, "sample")


PIECES = ("\n\nHuman:", "\n\nAssistant:", "Human:", " ", "\n", "\n\n", "\r\n", "a", ":", "\u2028")
TEXTS = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)


@given(st.lists(st.tuples(TEXTS, TEXTS.filter(bare)), max_size=3), TEXTS)
def test_a_transcript_gives_back_the_turns_whatever_anybody_writes(spoken: list[tuple[str, str]], last: str) -> None:
    texts = [bare(text) for pair in spoken for text in pair] + [bare(last)]
    turns = tuple(Message(role=("assistant", "user")[at % 2], content=text) for at, text in enumerate(texts))
    assert turns_of(as_text(turns)) == turns


def breaks_always(request: ChatRequest) -> str:
    raise RequestFailed("gone")


ROLES = st.sampled_from(["system", "user", "assistant"])


@given(st.lists(st.builds(Message, role=ROLES, content=st.sampled_from("abc")), max_size=6))
def test_a_user_of_any_template_can_read_the_conversation(talk: list[Message]) -> None:
    """Gemma's and Mistral's templates know no system turn, or want the sides to take turns, the first one first."""
    found = exchanged(tuple(talk), "Ask.")
    assert [m.role for m in found] == [("user", "assistant")[at % 2] for at in range(len(found))]
    assert "\n\n".join(m.content for m in found) == "\n\n".join(
        ["Ask.", *(m.content for m in talk if m.role != "system")]
    )


def test_a_check_passes_a_conversation_that_passes_in_every_turn_of_the_policy() -> None:
    brief = Principle(id="brief", check={"kind": "max_words", "limit": 2})
    [first, *_] = write(policy, user).responses
    assert passed(brief, first) is True  # 17 words in all, 2 in each turn, and what the user says does not count
    assert passed(brief, first.model_copy(update={"turns": ()})) is False
    longer = first.model_copy(update={"text": first.text.replace("said 1", "said 1 again")})
    assert passed(brief, longer) is False
    stuck = Principle(id="stuck", check={"kind": "regex_absent", "pattern": "(a+)+$"})
    slow = first.model_copy(update={"text": first.text.replace("said 1", "a" * 40 + "!")})
    assert passed(stuck, slow) is None


def test_kl_is_taken_over_what_the_policy_wrote_and_nothing_else() -> None:
    tokenizer = tiny_tokenizer()
    [first, _, third, _] = write(policy, user).responses
    rows = turn_rows(tokenizer, third)
    whole = turns_of(third.text)
    assert [row.response for row in rows] == [(5, 0), (5, 1), (5, 2)]
    assert [row.prompt for row in rows] == [
        tuple(encode_prompt(tokenizer, (*OTHER.messages, *whole[:at]))) for at in (0, 2, 4)
    ]
    untold = third.model_copy(update={"turns": tuple(t.model_copy(update={"token_ids": ()}) for t in third.turns)})
    assert [list(row.response) for row in turn_rows(tokenizer, untold)] == [
        encode_response(tokenizer, turn.text, turn.finished) for turn in third.turns
    ]
    model = PolicyModel(tiny_model(), tokenizer)
    each = model.without_gradients([*turn_rows(tokenizer, first), *rows], 1.0, 4096).logprobs_BT
    assert torch.isfinite(each).all() and (each[:, :2] < 0).all()


def test_a_run_of_conversations(tmp_path: Path, tiny_folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = small_recipe(
        tmp_path,
        tiny_folder,
        prompts=24,
        prompts__heldout=8,
        sample__responses_per_prompt=2,
        sample__dialogue={"turns": 2, "user": USER},
        reward__epochs=1,
        optimise__steps=1,
        optimise__dialogue={"turns": 2, "user": USER},
        evaluate__measures=[{"kind": "words"}],
        evaluate__bootstrap_samples=20,
    )
    run = Run(tmp_path / "run")
    run_recipe(recipe, run.folder)
    responses = read_jsonl(run.responses, Response)
    assert len(responses) == 32
    assert {len(r.turns) for r in responses} == {2}
    assert all([m.role for m in turns_of(r.text)] == ["assistant", "user", "assistant"] for r in responses)
    found = json.loads(run.evaluation.read_text())
    policy = found["policy"]
    assert math.isfinite(policy["kl"]["value"])
    assert policy["win_rate_vs_reference"]["value"] is not None
    # Two turns of 16 byte tokens at most: the user's three words are no words of the policy.
    asked = Path(run.samples).read_text()
    assert "Human: And what else?" in asked
    words = found["measures"][0]
    assert words["after"] <= 32
    before = {path.name: path.read_bytes() for path in (run.responses, run.samples, run.evaluation)}
    capsys.readouterr()
    run_recipe(recipe, run.folder)
    assert "[6/7] evaluate: up to date" in capsys.readouterr().out
    assert {name: (run.folder / name).read_bytes() for name in before} == before


def test_a_user_that_changed_is_asked_again(tmp_path: Path) -> None:
    recipe, run = small_recipe(tmp_path, "scripted", sample__dialogue=TALK), Run(tmp_path / "run")
    file = Path(testing.__file__)
    for stage in ("sample", "evaluate"):
        assert file in STAGES[stage].inputs(recipe, run)
    quiet = small_recipe(tmp_path, "scripted", judge__model="tests.scripted_judge:likes_short")
    assert file not in STAGES["sample"].inputs(quiet, run)


def until_sampled(recipe: Recipe, folder: Path, kill: Kill | None) -> None:
    os.environ["RLAIF_REPLIES"] = str(folder.parent / "replies.sqlite")
    if kill is not None:
        arm(kill)
    run_recipe(recipe, folder, ["sample"])


def test_conversations_that_were_killed_go_on_to_the_same_bytes(tmp_path: Path, tiny_folder: str) -> None:
    talks = {"turns": 2, "user": USER}
    recipe = small_recipe(
        tmp_path, tiny_folder, prompts=24, prompts__heldout=8, policy__batch_size=8, sample__dialogue=talks
    )
    runs = [tmp_path / name / "run" for name in ("peaceful", "killed")]
    assert exit_code(until_sampled, recipe, runs[0], None) == 0
    # 64 responses in lots of 8: within the first turn, among the user's, within the second.
    for kill in (3, 6, 4):
        assert exit_code(until_sampled, recipe, runs[1], Kill("sample", "replies", kill, after=True)) == -signal.SIGKILL
    assert exit_code(until_sampled, recipe, runs[1], None) == 0
    one, other = (Run(folder).responses.read_bytes() for folder in runs)
    assert one == other


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"label__mode": {"kind": "revise"}, "optimise": {"kind": "sft"}}, "label.mode.kind is 'revise'"),
        ({"optimise": {"kind": "dpo"}}, "optimise.kind is 'dpo', which would learn to write the user's turns too"),
        ({"optimise": {"kind": "decode"}}, "optimise.kind is 'decode', which draws one turn"),
    ],
)
def test_who_would_learn_the_users_turns_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=r"sample\.dialogue=null") as caught:
        small_recipe(tmp_path, "scripted", sample__dialogue=TALK, **changes)
    assert said in str(caught.value)
    small_recipe(tmp_path, "scripted", **changes)


def test_who_learns_from_people_alone_may_be_measured_in_conversations(tmp_path: Path) -> None:
    data = [{"kind": "file", "path": "people.jsonl", "form": {"kind": "comparisons"}}]
    labels = {"kind": "human", "human_data": data}
    recipe = small_recipe(
        tmp_path, "scripted", sample__dialogue=TALK, optimise={"kind": "dpo"}, preferences__labels=labels
    )
    assert recipe.sample.dialogue is not None and recipe.sample.dialogue.turns == 3
