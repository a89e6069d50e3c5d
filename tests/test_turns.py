"""The end of a turn is what the chat template writes there: found from the template, learnt, stopped at, read at."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlaif.errors import ModelError
from rlaif.models.local.generate import end_tokens
from rlaif.models.local.load import load_language_model, load_tokenizer
from rlaif.models.local.packing import Row
from rlaif.models.local.tokens import (
    encode_conversations,
    encode_prompt,
    encode_response,
    response_text,
    response_tokens,
    turn_of,
)
from rlaif.records import Message, Response, plain
from rlaif.testing import tiny_tokenizer
from rlaif.training.lessons import Text, encode
from rlaif.training.scalar_model import as_ended
from tests.tiny import FAMILIES, save_family, tokenizer_of

QUESTION = (Message(role="user", content="Name a fruit."),)
STOPS = {"llama3": "<|eot|>", "gemma": "<end_of_turn>", "phi": "<|end|>", "mistral": "</s>", "always thinks": "<|end|>"}
STOPS |= dict.fromkeys(("thinking may be off", "says how it thinks"), "<|im_end|>")
families = pytest.mark.parametrize("family", FAMILIES)


def whole(tokenizer, text: str, prompt=QUESTION) -> list[int]:
    """What anyone gets who renders the conversation."""
    turns = [*plain(prompt), {"role": "assistant", "content": text}]
    return tokenizer.apply_chat_template(turns, return_dict=False)


def said(text: str, finished: bool = True, ids: tuple[int, ...] = ()) -> Response:
    settings = {"id": "r", "prompt_id": "p", "prompt": QUESTION, "index": 0, "tokens": 1, "model": "m"}
    return Response(text=text, finished=finished, token_ids=ids, **settings)


@families
def test_a_response_ends_as_the_template_ends_it(family: str) -> None:
    tokenizer, known = tokenizer_of(family), FAMILIES[family]
    end = [tokenizer.decode([i]) for i in turn_of(tokenizer).end]
    assert end == list(known.end)
    learnt = encode_response(tokenizer, "A pear.")
    stop = STOPS.get(family, "<|endoftext|>")
    assert tokenizer.decode(learnt[-1:]) == stop and learnt[-1] == turn_of(tokenizer).stop
    cut = encode_response(tokenizer, "A pear.", finished=False)
    turn = whole(tokenizer, "A pear.")[-len(cut) - len(end) :]
    assert turn == [*cut, *turn_of(tokenizer).end] and tokenizer.decode(cut).strip() == "A pear."
    if stop in known.end:  # what is learnt is the template's own turn, up to where a generation stops
        assert turn[: len(learnt)] == learnt
    else:
        assert learnt == [*turn, tokenizer.eos_token_id]


@families
def test_a_policy_learns_what_it_is_asked_for_and_stops_where_it_learnt_to(family: str, tmp_path: Path) -> None:
    folder = save_family(family, tmp_path / "model")
    loaded = load_language_model(folder, None, torch.float32)
    tokenizer = loaded.tokenizer
    assert turn_of(tokenizer).stop in end_tokens(loaded.model)
    (row,) = encode(tokenizer, QUESTION, [Text("A pear.")], 1000)
    assert list(row.prompt) == encode_prompt(tokenizer, QUESTION)
    written = response_tokens(tokenizer, said("A pear."))
    assert list(row.response) == written
    assert response_text(tokenizer, written).strip() == "A pear."
    cut = response_tokens(tokenizer, said("A pear.", finished=False))
    assert [*cut, *turn_of(tokenizer).written] == written
    assert response_tokens(tokenizer, said("A pear.", ids=(7, 8))) == [7, 8]
    loaded.model.save_pretrained(tmp_path / "again")
    tokenizer.save_pretrained(tmp_path / "again")
    again = load_language_model(str(tmp_path / "again"), None, torch.float32)
    assert end_tokens(again.model) == end_tokens(loaded.model)


@families
def test_a_rollout_is_read_as_a_conversation_however_it_ended(family: str) -> None:
    tokenizer = tokenizer_of(family)
    turn = turn_of(tokenizer)
    body = tuple(encode_response(tokenizer, "A pear.", finished=False))
    prompt = tuple(encode_prompt(tokenizer, QUESTION))
    endings = [(), (tokenizer.eos_token_id,), turn.written, turn.end]
    ended = as_ended([Row(prompt, (*body, *ending)) for ending in endings], tokenizer)
    assert set(ended) == {Row(prompt, (*body, *turn.end))}
    if turn.seamless:
        assert [*prompt, *ended[0].response] == whole(tokenizer, "A pear.")


@families
def test_what_is_scored_is_the_rendered_conversation(family: str) -> None:
    tokenizer = tokenizer_of(family)
    prompts = [QUESTION, (*QUESTION, Message(role="assistant", content="A plum."), *QUESTION)]
    for prompt in prompts:
        texts = ["A pear.", "", "A stone.\n", " é", "</think>"]
        before, after = encode_conversations(tokenizer, prompt, texts)
        assert [[*before, *ids] for ids in after] == [whole(tokenizer, text, prompt) for text in texts]
        assert all(after) and len(before) > 10


def test_where_prompt_and_response_do_not_meet_the_template_is_asked_each_time() -> None:
    apart = {"a line", "always thinks", "says how it thinks"}
    assert {family for family in FAMILIES if not turn_of(tokenizer_of(family)).seamless} == apart


@families
def test_padding_ends_no_turn(family: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_family(family, tmp_path / "model"))
    spare = family not in {"eos alone", "a line"}  # which have no other special token
    assert (tokenizer.pad_token_id not in {None, *turn_of(tokenizer).end}) is spare


def test_an_end_token_that_is_not_marked_as_special_ends_all_the_same() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "<END>")
    tokenizer.add_tokens(["<END>"])
    turn = turn_of(tokenizer)
    stop = tokenizer.convert_tokens_to_ids("<END>")
    assert turn.stop == stop and tokenizer.decode(list(turn.end)) == "<END>\n"
    body = tokenizer.encode("A pear.", add_special_tokens=False)
    assert response_text(tokenizer, [*body, stop]) == "A pear."


def test_the_template_counts_as_it_is_now() -> None:
    tokenizer = tiny_tokenizer()
    assert tokenizer.decode(list(turn_of(tokenizer).end)) == "<|im_end|>\n"
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>\n", "<|im_end|>")
    assert tokenizer.decode(list(turn_of(tokenizer).end)) == "<|im_end|>"


def test_a_first_word_is_encoded_as_it_stands_in_its_turn() -> None:
    """A tokenizer that begins every text with a space, as SentencePiece does; in a turn there is none."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer.add_prefix_space = True
    assert tokenizer.decode(tokenizer.encode("A", add_special_tokens=False)) == " A"
    learnt = encode_response(tokenizer, "A")
    assert whole(tokenizer, "A")[-1 - len(turn_of(tokenizer).end) :][:2] == learnt


TEMPLATES = {
    "{% if messages[-1]['role'] != 'user' %}{{ raise_exception('user last') }}{% endif %}x": "refuses .*: user last",
    "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}": "leaves out what the assistant",
    "{% for m in messages %}{{ m['content'] + 3 }}{% endfor %}": "refuses this conversation",
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_without_an_assistants_turn_is_refused_in_one_line(template: str, tmp_path: Path) -> None:
    folder = save_family("nothing", tmp_path / "model")
    tokenizer = tokenizer_of("nothing")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match=TEMPLATES[template]) as refused:
        load_tokenizer(folder)
    assert folder in str(refused.value) and "\n" not in str(refused.value)


def test_a_turn_that_nothing_ends_is_refused_and_one_that_its_template_ends_is_not(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("gemma")
    tokenizer.eos_token = None
    assert tokenizer.decode([turn_of(tokenizer).stop]) == "<end_of_turn>"
    tokenizer.chat_template = FAMILIES["a line"].template
    with pytest.raises(ModelError, match="nothing ends"):
        turn_of(tokenizer)
