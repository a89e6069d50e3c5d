"""Records: the same content has the same identity anywhere and in either orientation; nothing slips in unnoticed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rlaif.records import Message, Pair, Preference, Prompt, Verdict, content_id, derive_seed, plain

TEXT = st.text(max_size=20)


def user(text: str) -> Prompt:
    return Prompt.of((Message(role="user", content=text),))


def test_ids_and_seeds_are_the_same_on_every_machine_and_in_every_version():
    # Golden: a change here makes every run folder out there a different run.
    assert content_id("a", 1, [True, None], {"y": 2.5, "x": "\u2028\U0001f600"}) == "9e383192637e8866"
    assert content_id() == "4f53cda18c2baa0c"
    assert derive_seed(0, "ppo", 3, "id") == 1675426644680509841
    assert user("Why is the sky blue?").id == "7201b5dfac5250bd"


def test_the_order_of_keys_is_no_content_but_the_order_of_parts_is():
    assert content_id({"a": 1, "b": 2}) == content_id({"b": 2, "a": 1})
    assert content_id("a", "b") != content_id("b", "a")
    assert content_id("ab") != content_id("a", "b")


@given(st.lists(st.integers() | TEXT, max_size=4))
def test_seeds_fit_every_generator(parts):
    assert 0 <= derive_seed(*parts) < 2**63
    assert derive_seed(*parts) == derive_seed(*parts)


@given(TEXT, TEXT, TEXT)
def test_a_pair_is_the_same_pair_either_way_round(prompt, a, b):
    pair = Pair.of(user(prompt), a, b)
    assert pair.id == Pair.of(user(prompt), b, a).id
    assert (pair.swapped().a, pair.swapped().b, pair.swapped().id) == (b, a, pair.id)
    assert pair.swapped().swapped() == pair


@given(TEXT, TEXT, TEXT)
def test_other_responses_or_another_prompt_are_another_pair(prompt, a, b):
    pair = Pair.of(user(prompt), a, b)
    assert pair.id != Pair.of(user(prompt), a, b + "x").id
    assert pair.id != Pair.of(user(prompt + "x"), a, b).id


def test_tags_are_not_identity():
    messages = (Message(role="user", content="hi"),)
    assert Prompt.of(messages, ("harmful",)).id == Prompt.of(messages).id


@pytest.mark.parametrize("roles", [[], ["assistant"], ["user", "assistant"], ["user", "system"]])
def test_a_prompt_ends_with_a_user_turn(roles):
    with pytest.raises(ValidationError):
        Prompt.of(tuple(Message(role=role, content="x") for role in roles))


def test_records_are_frozen_and_closed():
    message = Message(role="user", content="x")
    with pytest.raises(ValidationError, match="frozen"):
        message.content = "y"
    with pytest.raises(ValidationError, match="Extra inputs"):
        Message(role="user", content="x", name="Ann")
    with pytest.raises(ValidationError, match="'system', 'user' or 'assistant'"):
        Message(role="human", content="x")
    with pytest.raises(ValidationError):
        Verdict(first="c", logprob_first=0.0, logprob_second=0.0)


def test_a_preference_is_a_trl_row():
    prompt = user("hi")
    row = Preference(
        prompt=prompt.messages,
        chosen=(Message(role="assistant", content="yes"),),
        rejected=(Message(role="assistant", content="no"),),
        p_chosen=0.7,
        source="ai",
        weight=1.0,
        split="train",
        prompt_id=prompt.id,
        pair_id="x",
    )
    value = row.model_dump(mode="json")
    assert value["prompt"] == [{"role": "user", "content": "hi"}] == plain(prompt.messages)
    assert value["chosen"] == [{"role": "assistant", "content": "yes"}]
    for bad in ({"p_chosen": 0.4}, {"p_chosen": float("nan")}, {"weight": 0.0}, {"split": "test"}):
        with pytest.raises(ValidationError):
            Preference.model_validate(value | bad)
