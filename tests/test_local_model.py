"""The local model behind the protocol: order, mixed kinds, exact label probabilities, batches, resuming."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlaif.config.models import LocalModel
from rlaif.errors import ModelError
from rlaif.models.cache import CachedModel
from rlaif.models.day import on_that_day
from rlaif.models.engine import ChatRequest, Reply
from rlaif.models.engine import ask as replies_of
from rlaif.models.local import model as module
from rlaif.models.local.model import LocalChatModel
from rlaif.models.local.packing import Row
from rlaif.models.local.tokens import answer_of, encode_prompt
from rlaif.records import Message, plain
from rlaif.testing import CHAT_TEMPLATE, save_tiny, tiny_tokenizer

CONTEXT = 160


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny(tmp_path_factory.mktemp("short"), max_position_embeddings=CONTEXT)


@pytest.fixture(scope="module")
def local(folder: str) -> LocalChatModel:
    return LocalChatModel(LocalModel(model=folder, dtype="float32", batch_size=4))


def ask(text: str, **changes: Any) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content=text),), **changes)


def read(text: str, shared_prefix: int = 0) -> ChatRequest:
    return ask(text, labels=("A", "B"), shared_prefix=shared_prefix)


def write(text: str, **changes: Any) -> ChatRequest:
    return ask(text, **({"max_tokens": 6, "temperature": 1.0, "seed": len(text)} | changes))


TOO_LONG = "x" * CONTEXT
MIXED = [
    write("one"),
    read("two"),
    write("three, a longer one"),
    read(TOO_LONG),
    write("four", temperature=0.0),
    read("five, which is longer"),
    write("six", max_tokens=3),
    read("seven"),
    write("eight", top_p=0.5),
    write(TOO_LONG),
    read("nine"),
    write("ten"),
    read("eleven"),
]


def alone(model: LocalChatModel, requests: Sequence[ChatRequest]) -> list[Reply]:
    return [replies_of(model, [request])[0] for request in requests]


def assert_near(replies: Sequence[Reply], others: Sequence[Reply], atol: float = 1e-5) -> None:
    """Equal, log-probabilities within rounding."""
    for reply, other in zip(replies, others, strict=True):
        logs, other_logs = reply.label_logprobs or {}, other.label_logprobs or {}
        assert reply.model_copy(update={"label_logprobs": None}) == other.model_copy(update={"label_logprobs": None})
        assert logs == pytest.approx(other_logs, abs=atol)


def test_mixed_requests_are_answered_in_order_as_each_alone(local: LocalChatModel) -> None:
    replies = replies_of(local, MIXED)
    assert len(replies) == len(MIXED)
    assert_near(replies, alone(local, MIXED))
    assert len({reply.text for reply in replies if reply.label_logprobs is None}) > 5


def test_label_logprobs_are_those_of_a_plain_forward(local: LocalChatModel, folder: str) -> None:
    plain: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = tiny_tokenizer()
    for text, reply in zip(["Hi", "A or B?"], replies_of(local, [read("Hi"), read("A or B?")]), strict=True):
        ids = encode_prompt(tokenizer, (Message(role="user", content=text),))
        with torch.no_grad():
            logs_V = plain(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        assert reply.label_logprobs == pytest.approx(
            {label: float(logs_V[tokenizer.encode(label + label.lower())].logsumexp(0)) for label in "AB"}, abs=1e-5
        )
        assert reply.text == max(reply.label_logprobs, key=lambda label: reply.label_logprobs[label])
        assert (reply.prompt_tokens, reply.completion_tokens) == (len(ids), 1)


def test_writing_counts_tokens_and_says_why_it_stopped(local: LocalChatModel) -> None:
    reply = replies_of(local, [write("one", max_tokens=5)])[0]
    assert reply.finish_reason == "length"
    assert reply.completion_tokens == 5
    prompt = encode_prompt(tiny_tokenizer(), (Message(role="user", content="one"),))
    assert reply.prompt_tokens == len(prompt)


def test_a_shared_prefix_changes_nothing(local: LocalChatModel) -> None:
    stem = "Which is better? A: yes. B: no. "
    endings = ["Be kind.", "Be brief, and stop when you are done.", "Be", "Be"]
    hinted = replies_of(local, [read(stem + end, len(stem)) for end in endings])
    assert_near(hinted, alone(local, [read(stem + end) for end in endings]))


def test_siblings_are_computed_together(local: LocalChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[list[Row]] = []
    states = module.hidden_states

    def spy(backbone: Any, rows: list[Row]) -> Any:
        batches.append(rows)
        return states(backbone, rows)

    monkeypatch.setattr(module, "hidden_states", spy)
    stems = ["First question? ", "Second one, longer? "]
    requests = [read(stem + end, len(stem)) for end in ("kind", "brief", "true") for stem in stems]
    replies = replies_of(local, requests)
    assert [len(rows) for rows in batches] == [3, 3]  # six do not fit a batch of four, siblings are not parted
    for rows in batches:
        assert len({row.prompt for row in rows}) == 1
        assert len(rows[0].prompt) > 15 > max(len(row.response) for row in rows) - 28
    monkeypatch.setattr(module, "hidden_states", states)
    assert_near(replies, alone(local, [request.model_copy(update={"shared_prefix": 0}) for request in requests]))


def test_a_prompt_too_long_is_an_errored_reply_and_hurts_no_other(local: LocalChatModel) -> None:
    replies = replies_of(local, [read("a"), read(TOO_LONG), read("b"), write(TOO_LONG)])
    assert [reply.error is None for reply in replies] == [True, False, True, False]
    assert f"does not fit a context of {CONTEXT}" in str(replies[1].error)


def test_the_last_prompt_that_fits_is_answered(local: LocalChatModel) -> None:
    overhead = replies_of(local, [read("")])[0].prompt_tokens
    fits = "x" * (CONTEXT - overhead - 1)
    assert replies_of(local, [read(fits)])[0].error is None
    assert replies_of(local, [read(fits + "x")])[0].error is not None


def test_a_label_of_several_tokens_is_an_error_that_names_it(local: LocalChatModel) -> None:
    with pytest.raises(ModelError, match="label 'Yes' is 3 tokens"):
        replies_of(local, [ask("Hi", labels=("Yes", "N"))])


def test_replies_are_handed_on_in_whole_batches(local: LocalChatModel) -> None:
    replies, lots = replies_of(local, MIXED), list(local.lots(MIXED))
    handed = [pair for lot in lots for pair in lot]
    assert sorted(index for index, _ in handed) == list(range(len(MIXED)))
    assert all(replies[index] == reply for index, reply in handed)
    for lot in lots:
        asked = [MIXED[index] for index, reply in lot if reply.error is None]
        kinds = {(request.labels, request.max_tokens, request.temperature, request.top_p) for request in asked}
        assert len(kinds) <= 1
        assert len(lot) <= 4
    assert max(len(lot) for lot in lots) > 1


@pytest.mark.parametrize("window", [1 << 17, 7])
@pytest.mark.parametrize("lots", range(2, 11))  # the first lot holds errors alone, which are not kept
def test_a_killed_call_that_is_repeated_gives_identical_replies(
    lots: int, window: int, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 a reply read in another batch, padded to another length, would differ in its last bits."""
    monkeypatch.setattr(LocalChatModel, "window", window)
    model = LocalChatModel(LocalModel(model=folder, dtype="bfloat16", batch_size=4))
    stem = "Which is better? A: yes. B: no. "
    siblings = [read(stem + end, len(stem)) for end in ("Be kind.", "Be brief, and stop then.", "Be true!")]
    requests = [*MIXED, *siblings, *(read("label " * n) for n in range(1, 12))]
    undisturbed = replies_of(model, requests)
    cached = CachedModel(model, tmp_path / "replies.sqlite")
    killed = cached.lots(requests)
    for _ in range(lots):
        next(killed)
    killed.close()
    assert replies_of(cached, requests) == undisturbed
    assert cached.reused > 0


def test_a_folder_is_known_by_its_name_its_content_and_its_precision(
    local: LocalChatModel, folder: str, tmp_path: Path
) -> None:
    """The reply cache tells models apart by these."""
    assert local.name == Path(folder).name
    models = [(folder, "bfloat16"), (save_tiny(tmp_path / "wide", hidden_size=64), "float32")]
    revisions = {LocalChatModel(LocalModel(model=m, dtype=d)).revision for m, d in models}
    assert len(revisions | {local.revision}) == 3


def another_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE + "{# the same text, another file #}")


def another_end(folder: Path) -> None:
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": [2, 65]}))


def another_tokenizer(folder: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": "<|im_start|>"}))


@pytest.mark.parametrize("change", [another_template, another_end, another_tokenizer])
def test_whoever_changes_a_file_of_the_model_is_answered_anew(folder: str, tmp_path: Path, change: Any) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    asked = []
    for work in (lambda _: None, lambda _: None, change):
        work(copy)
        model = LocalChatModel(LocalModel(model=str(copy), dtype="float32"))
        cached = CachedModel(model, tmp_path / "replies.sqlite")
        replies_of(cached, [read("two"), write("four")])
        asked.append(cached.asked)
        cached.close()
    assert asked == [2, 0, 2]


DATED = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}'
    '{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}{%- endif %}Today Date: {{ date_string }}\n',
    "Current date: {{ strftime_now('%Y-%m-%d') }}",
    "{% macro head() %}{{ strftime_now(format='%-d %B, %A; %H:%M') }}{% endmacro %}{{ head() }}",
    '{% set form = "%B %d, %Y" %}{% for m in messages %}{{ strftime_now(form) }}{% endfor %}',
)


@pytest.mark.parametrize("dated", DATED)
def test_a_template_that_prints_the_date_prints_the_same_tomorrow(dated: str) -> None:
    """Here, and at a server or in a saved model, where only the template's text can say so."""
    tokenizer, turns = tiny_tokenizer(), (Message(role="user", content="Hi"),)
    tokenizer.chat_template = dated + CHAT_TEMPLATE
    ids = encode_prompt(tokenizer, turns)
    assert "26" in tokenizer.decode(ids) and "{" not in tokenizer.decode(ids)
    tokenizer.chat_template = on_that_day(tokenizer.chat_template)
    elsewhere = tokenizer.apply_chat_template(
        plain(turns), add_generation_prompt=True, return_dict=False, strftime_now=lambda _: "some other day"
    )
    assert elsewhere == ids == encode_prompt(tokenizer, turns)


def test_other_templates_stay_as_they_are() -> None:
    assert on_that_day(CHAT_TEMPLATE) == CHAT_TEMPLATE
    both = on_that_day({"default": CHAT_TEMPLATE, "tool_use": DATED[1]})
    assert both["default"] == CHAT_TEMPLATE != DATED[1] != both["tool_use"]


def test_a_missing_folder_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="does not exist"):
        LocalChatModel(LocalModel(model="/no/such/folder"))


def test_closing_twice_does_no_harm(folder: str) -> None:
    model = LocalChatModel(LocalModel(model=folder, dtype="float32"))
    model.close()
    model.close()


def test_prompts_lose_their_oldest_tokens() -> None:
    tokenizer = tiny_tokenizer()
    turn = (Message(role="user", content="abc"),)
    whole = encode_prompt(tokenizer, turn)
    assert encode_prompt(tokenizer, turn, 5) == whole[-5:]
    assert encode_prompt(tokenizer, turn, 500) == whole


# -------------------------------------------------------------------------------------------- reasoning

OPENS = "{% if add_generation_prompt %}<think>\n{% endif %}"
KNOWS_THE_WORD = "{% if add_generation_prompt and (enable_thinking or thinking) %}<think>\n{% endif %}"
HELLO = (Message(role="user", content="Hi"),)


def tokenizer_with(ending: str) -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template += ending
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|im_start|>", "<|START_THINKING|>", "<|END_THINKING|>"]}
    )
    return tokenizer


@pytest.mark.parametrize(
    ("ending", "thinking", "end"),
    [
        ("", False, "assistant\n"),
        (KNOWS_THE_WORD, False, "assistant\n"),
        (KNOWS_THE_WORD, True, "assistant\n<think>\n"),
        (OPENS, False, "assistant\n<think>\n\n</think>\n\n"),
        (OPENS, True, "assistant\n<think>\n"),
    ],
)
def test_a_turn_begins_with_the_response_unless_the_model_may_think(ending: str, thinking: bool, end: str) -> None:
    tokenizer = tokenizer_with(ending)
    ids = encode_prompt(tokenizer, HELLO, thinking=thinking)
    assert tokenizer.decode(ids) == f"<|im_start|>user\nHi<|im_end|>\n<|im_start|>{end}"
    assert encode_prompt(tokenizer, HELLO, 3, thinking) == ids[-3:]


@pytest.mark.parametrize(
    ("text", "begun", "answer", "finish"),
    [
        ("<|START_THINKING|>Hm.<|END_THINKING|>Yes.<|im_end|>", None, "Yes.", "stop"),
        ("<|START_THINKING|>Hm.<|END_THINKING|>Yes.", None, "Yes.", "length"),
        ("<|START_THINKING|>Hm.<|END_THINKING|><|im_end|>", None, "", "reasoning"),
        ("<|START_THINKING|>Hm.", None, "", "reasoning"),
        ("Hm.</think>Ye<|im_start|>s.<|im_end|>", None, "Yes.", "stop"),
        ("Hm.<|im_end|>", True, "", "reasoning"),
    ],
)
def test_markers_are_found_before_special_tokens_are_dropped(text: str, begun: Any, answer: str, finish: str) -> None:
    tokenizer = tokenizer_with("")
    tokens = tokenizer.encode(text, add_special_tokens=False)
    found = answer_of(tokenizer, tokens, text.endswith("<|im_end|>"), begun)
    assert found == {"text": answer, "finish_reason": finish, "token_ids": ()}


def test_a_text_without_reasoning_keeps_its_tokens() -> None:
    tokenizer = tokenizer_with("")
    tokens = tokenizer.encode(" Yes<|im_start|>. <|im_end|>", add_special_tokens=False)
    assert answer_of(tokenizer, tokens, True) == {
        "text": " Yes. ",
        "finish_reason": "stop",
        "token_ids": tuple(tokens),
    }


def test_a_model_that_may_think_is_another_one(tmp_path: Path) -> None:
    """It begins inside the block that its template opens; this one never comes out of it."""
    folder = save_tiny(tmp_path)
    tokenizer_with(OPENS).save_pretrained(folder)
    off, on = (LocalChatModel(LocalModel(model=folder, dtype="float32", thinking=t)) for t in (False, True))
    assert on.revision == f"{off.revision}-thinking"
    assert replies_of(on, [write("one")])[0].finish_reason == "reasoning"
    assert replies_of(off, [write("one")])[0].finish_reason == "length"
    (without,), (with_) = replies_of(off, [read("two")]), replies_of(on, [read("two")])
    assert with_ == [without], "labels are chosen without"
