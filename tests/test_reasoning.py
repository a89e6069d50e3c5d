"""What a model thought is set apart from what it says: whatever its family writes around it, and only then."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.models.reasoning import begins, closing, left_open, set_apart, written

FAMILIES = {
    "deepseek, qwen": ("<think>\n", "\n</think>\n\n"),
    "upper case": ("<Thinking>", "</THINKING>\n"),
    "thought": ("<thought>", "</thought>"),
    "reasoning": ("<reasoning>\n", "\n</reasoning>\n<answer>\n"),
    "magistral": ("[THINK]", "[/THINK]"),
    "cohere": ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
    "seed": ("<seed:think>", "</seed:think>"),
    "minimax": ("<mm:think>", "</mm:think>"),
    "k2": ("<ifm|think_fast>", "</ifm|think_fast>"),
    "hunyuan": ("<think:6124c78e>", "</think:6124c78e>"),
    "kimi": ("◁think▷", "◁/think▷"),
    "gemma": ("<|channel>thought\n", "<channel|>"),
    "open thinker": ("<|begin_of_thought|>", "<|end_of_thought|>\n<|begin_of_solution|>"),
    "scratchpad": ("<scratchpad>\n", "\n</scratchpad>\n"),
    "analysis": ("<analysis>", "</analysis>"),
    "reflection": ("\ufeff<reflection>", "</reflection>"),
    "granite": ("Here's my thought process: ", "Here is my response: "),
    "gpt-oss": ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
}
FAMILY = pytest.mark.parametrize("family", FAMILIES)


@FAMILY
def test_the_answer_is_what_follows_the_reasoning(family: str) -> None:
    begin, end = FAMILIES[family]
    assert set_apart(f"{begin}Let me see: a < b.{end}The answer.") == ("The answer.", True)
    assert set_apart(f"\n {begin}{end} The answer. ") == ("The answer.", True)


@FAMILY
def test_reasoning_without_end_leaves_no_answer(family: str) -> None:
    begin, _ = FAMILIES[family]
    assert set_apart(f"{begin}Let me see: it is the first because") == ("", True)
    assert written(begin, "stop", (1, 2)) == {"text": "", "finish_reason": "reasoning", "token_ids": ()}


@FAMILY
def test_reasoning_and_nothing_after_it_is_no_answer(family: str) -> None:
    begin, end = FAMILIES[family]
    for finish in ("stop", "length"):
        assert written(f"{begin}Hm.{end} ", finish)["finish_reason"] == "reasoning"


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in {"gpt-oss", "granite"}])
def test_a_reply_may_begin_inside_the_block_that_its_prompt_opened(family: str) -> None:
    _, end = FAMILIES[family]
    assert set_apart(f"Let me see.{end}The answer.") == ("The answer.", True)
    assert set_apart(f"Let me see.{end}The answer.", True) == ("The answer.", True)
    assert set_apart("Let me see, it is", True) == ("", True)


def test_several_blocks_in_a_row() -> None:
    assert set_apart("<think>a</think>\n<think>b</think><thought>c</thought>Yes.") == ("Yes.", True)
    assert set_apart("<think>a</think>\n<think>b") == ("", True)


def test_the_first_end_ends_it_and_the_answer_may_speak_of_markers() -> None:
    assert set_apart("<think>a</think>Write </think> last.") == ("Write </think> last.", True)
    assert set_apart("<think>They ask about <think> tags.</think>Yes.") == ("Yes.", True)
    assert set_apart("<think>not </thought> this</think>Yes.") == ("Yes.", True)


@pytest.mark.parametrize(
    "reply",
    [
        "<think>a<think>b</think>c</think>Answer",
        "<think>a <think> b </think> c </think> Answer",
        "[THINK]a[THINK]b[THINK]c[/THINK]d[/THINK]e[/THINK]Answer",
        "<think>a</think>b</think>Answer",
        "<think>a</think>\nb\n</think>\n\nc</think>Answer",
        "<think>a</think></think>Answer",
        "a</think>b</think><think>c</think>Answer",
        "<think>it says `<think>` here</think>Answer",
        "\ufeff<think>a</think>Answer",
        "\u200b\n\u2060<think>a</think>\ufeff<answer>Answer</answer>",
        "analysisThe user wants it short.assistantfinalAnswer",
    ],
)
def test_blocks_inside_blocks_and_ends_that_come_twice(reply: str) -> None:
    assert set_apart(reply) == ("Answer", True)
    assert set_apart(reply, True) == ("Answer", True)


PROSE = [
    "",
    "Yes.",
    "Models write <think> before they answer.",
    "Models write <think>...</think> before they answer.",
    "The tag `</think>` ends it.",
    'The tag "</think>" ends it.',
    "```\nHm.\n</think>\n```\nis how it ends.",
    "I think <thoughtful> is no tag, and [thinking] neither.",
    "a < b and b > c, so <b>think</b>.",
    "analysis of the vote: the assistant won the final",
    "The <scratchpad> and <analysis> tags.",
    "Here is the analysis<|channel|>final of it.",
]


@pytest.mark.parametrize("text", PROSE)
def test_prose_about_markers_stays(text: str) -> None:
    assert set_apart(text) == (text, False)
    assert written(text, "length", (5, 6)) == {"text": text, "finish_reason": "length", "token_ids": (5, 6)}
    assert set_apart(f"<think>Hm.</think>{text}")[0] == text


def test_what_the_server_has_set_apart_is_not_looked_for_again() -> None:
    assert written("Close it with </think>, please.", "stop", (1,), elsewhere=True) == {
        "text": "Close it with </think>, please.",
        "finish_reason": "stop",
        "token_ids": (),
    }
    assert written("Yes.", "stop", begun=True, elsewhere=True)["text"] == "Yes."
    assert written("", "stop", elsewhere=True)["finish_reason"] == "reasoning"


@given(st.sampled_from(list(FAMILIES)), st.text(alphabet="ab .\n<>"), st.text(alphabet="ab .\n", min_size=1))
def test_no_thought_is_left_in_an_answer(family: str, thought: str, answer: str) -> None:
    begin, end = FAMILIES[family]
    assert set_apart(f"{begin}SECRET{thought}{end}{answer}") == (answer.strip(), True)


@given(
    st.lists(st.sampled_from([part for pair in FAMILIES.values() for part in pair] + ["a", "`", "\n", "<|end|>"])).map(
        "".join
    )
)
def test_any_text_is_an_answer_or_none_and_never_a_crash(text: str) -> None:
    answer, reasoned = set_apart(text)
    assert reasoned or answer == text
    assert set_apart(text, True)[1]


def test_a_prompt_that_leaves_a_block_open_is_closed() -> None:
    assert closing("<|im_start|>assistant\n<think>\n") == "\n</think>\n\n"
    assert closing("<\uff5cAssistant\uff5c><think>") == "</think>"
    assert closing("assistant ◁think▷") == "◁/think▷"
    assert closing("<|im_end|><|start|>assistant") == "<|channel|>final<|message|>"
    for prompt in ("<|im_start|>assistant\n", "<think>\n\n</think>\n\n", "", "Say <think>."):
        assert closing(prompt) == "" and not left_open(prompt)


def test_a_token_may_begin_reasoning() -> None:
    assert begins("<think>") and begins("\n[THINK]") and begins("<|channel|>") and begins("<|channel>thought")
    assert not any(map(begins, ("A", "", "Yes", "<", "No <think>")))
