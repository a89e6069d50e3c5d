"""Set a model's reasoning apart from its answer: what it thought is paid for, but is no text to judge or learn from.

What families of models write around their reasoning (mostly as vLLM 0.32's reasoning parsers know it):

    <think> </think>        DeepSeek R1, Qwen3, GLM, MiniMax, Hunyuan; also thinking, thought(s), reasoning, analysis,
                            scratchpad, reflection, and with a prefix or suffix: <seed:think>, <mm:think>,
                            <ifm|think_fast>, <think:x>
    [THINK] [/THINK]        Magistral
    <|START_THINKING|>      Cohere; <|END_THINKING|> ends it
    ◁think▷ ◁/think▷        Kimi
    <|channel>thought       Gemma 4; <channel|> ends it
    Here is my thought process: ... Here is my response:      Granite
    <|begin_of_thought|>    Sky-T1, OpenThinker; <|end_of_thought|> ends it
    <|channel|>analysis<|message|> ... <|channel|>final<|message|>      gpt-oss (harmony)
    analysis ... assistantfinal                                         the same, its special tokens left out
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, TypedDict

_NAME = r"(?:\w+[:|])?(?:think(?:ing|_fast|_faster)?|thoughts?|reasoning|analysis|scratchpad|reflection)(?::[\w-]+)?"
_ENDS = {
    "[think]": "[/THINK]",
    "<|start_thinking|>": "<|END_THINKING|>",
    "◁think▷": "◁/think▷",
    "<|channel>thought": "<channel|>",
    "<|begin_of_thought|>": "<|end_of_thought|>",
    "<|plamo:begin_think:plamo|>": "<|plamo:end_think:plamo|>",
    "<|open|>think<|sep|>": "<|close|>think<|sep|>",
}
"""By the lower-case beginning. A tag `<x>` ends with `</x>`."""
_OPENING = rf"<{_NAME}>|{'|'.join(map(re.escape, _ENDS))}"
_BLANK = r"[\s\ufeff\u200b-\u200d\u2060]*"
"""Also what has no width."""
_BEGINS = re.compile(rf"{_BLANK}({_OPENING})", re.I)
_LEFT_OPEN = re.compile(rf"({_OPENING})(\s*)\Z", re.I)
_CLOSING = re.compile(rf"</{_NAME}>|{'|'.join(map(re.escape, _ENDS.values()))}", re.I)
_GRANITE = re.compile(
    rf"{_BLANK}Here(?:'s|\u2019s| is) my thought process:.*?(?:Here(?:'s|\u2019s| is) my response:(.*))?", re.S | re.I
)
_WRAPPED = re.compile(
    rf"{_BLANK}(?:<answer>(.*?)(?:</answer>|\Z)|<\|START_RESPONSE\|>(.*?)(?:<\|END_RESPONSE\|>|\Z)"
    r"|<\|begin_of_solution\|>(.*?)(?:<\|end_of_solution\|>|\Z))\s*\Z",
    re.S,
)
"""What some families put around the answer once their reasoning has ended."""
_HARMONY = re.compile(rf"{_BLANK}(?:<\|start\|>assistant)?<\|channel\|>")
_BARE_HARMONY = re.compile(rf"{_BLANK}analysis.*?assistantfinal(.*)", re.S)
_FINAL = re.compile(r"<\|channel\|>final[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>(.*?)(?:<\|[a-z]+\|>|\Z)", re.S)
_HARMONY_TURN = "<|start|>assistant"
_QUOTES = "`'\"\u201c\u201d\u2018\u2019"

THINKS_FIRST = (
    "the model thinks before it answers, so its first token is no label; switch that off: judge.thinking=false, or "
    "whatever the server's own setting is (judge.extra_body, judge.arguments)"
)


class ReplyParts(NamedTuple):
    """A reply in two."""

    answer: str
    """What follows the reasoning; the reply as it came where it has none; nothing where the reasoning has no end."""
    reasoned: bool


class ReplyFields(TypedDict):
    """These fields of a `Reply`."""

    text: str
    finish_reason: Literal["stop", "length", "reasoning"]
    token_ids: tuple[int, ...]


def set_apart(reply: str, begun: bool | None = None) -> ReplyParts:
    """The answer in a reply.

    A marker counts where the reply begins with it (after white space), for one block or several in a row: each ends
    with the first marker of its own kind that ends it and those inside it, and one without end leaves no answer. The
    same marker once more ends the reasoning once more, unless it stands in a sentence. A marker further on is
    the model's own prose about such markers and stays. So does one that only ends a block, if its beginning stands
    before it, or if it is quoted or in a code block; else the reply began inside a block that its prompt had opened,
    and what is before the marker is reasoning. `begun` says whether the prompt did open one, where that is known.
    """
    if _HARMONY.match(reply):
        final = _FINAL.search(reply)
        return ReplyParts(final[1].strip() if final else "", True)
    if granite := _GRANITE.fullmatch(reply):
        return ReplyParts((granite[1] or "").strip(), True)
    if bare := _BARE_HARMONY.fullmatch(reply):
        return ReplyParts(bare[1].strip(), True)
    rest, reasoned, end = reply, False, None
    if begun is not False and not _BEGINS.match(reply):
        end = _CLOSING.search(reply)
        reasoned = bool(begun or (end and _ends_what_the_prompt_began(reply, end)))
        if reasoned:
            rest = reply[end.end() :] if end else ""
    while (block := _BEGINS.match(rest)) or (reasoned and end and _ends_once_more(rest, end[0])):
        end = _end_of_block(rest, block) if block else _marker(end[0]).search(rest) if end else None
        rest, reasoned = rest[end.end() :] if end else "", True
    if not reasoned:
        return ReplyParts(reply, False)
    wrapped = _WRAPPED.match(rest)
    return ReplyParts((wrapped[wrapped.lastindex or 0] if wrapped else rest).strip(), True)


def written(
    text: str,
    finish_reason: Literal["stop", "length"],
    token_ids: tuple[int, ...] = (),
    *,
    begun: bool | None = None,
    elsewhere: bool = False,
) -> ReplyFields:
    """What becomes of a text that a model wrote; `elsewhere`: its server has set reasoning apart already.

    Token ids are those of the whole reply, so an answer that is only a part of it has none.
    """
    answer, reasoned = set_apart(text, False if elsewhere else begun)
    if not (reasoned or elsewhere):
        return ReplyFields(text=text, finish_reason=finish_reason, token_ids=token_ids)
    if not answer.strip():
        return ReplyFields(text="", finish_reason="reasoning", token_ids=())
    return ReplyFields(text=answer, finish_reason=finish_reason, token_ids=())


def begins(text: str) -> bool:
    """Whether a reply that begins like this begins with reasoning."""
    return bool(_BEGINS.match(text) or _HARMONY.match(text))


def left_open(prompt: str) -> bool:
    """Whether a prompt that ends like this has the model begin inside its reasoning."""
    return _LEFT_OPEN.search(prompt) is not None


def closing(prompt: str) -> str:
    """What has to follow a prompt that ends like this so that the answer itself comes next; mostly nothing.

    An empty block of reasoning, as Qwen3's template writes one where thinking is off (and as arXiv 2504.09858 does
    for models that know no such word); for gpt-oss the channel of the answer.
    """
    if prompt.endswith(_HARMONY_TURN):
        return "<|channel|>final<|message|>"
    found = _LEFT_OPEN.search(prompt)
    if found is None:
        return ""
    end = _end_of(found[1])
    return f"\n{end}\n\n" if found[2] else end


def template_words(thinking: bool) -> dict[str, bool]:
    """What chat templates are told: most know the first word, DeepSeek's and Granite's the second, others neither."""
    return {"enable_thinking": thinking, "thinking": thinking}


def _end_of(opening: str) -> str:
    return _ENDS.get(opening.lower()) or f"</{opening[1:]}"


def _marker(*texts: str) -> re.Pattern[str]:
    return re.compile("|".join(f"({re.escape(text)})" for text in texts), re.I)


def _end_of_block(text: str, block: re.Match[str]) -> re.Match[str] | None:
    """The marker that ends this block and those of its kind inside it; the first one where there are too few."""
    first, depth = None, 1
    for mark in _marker(block[1], _end_of(block[1])).finditer(text, block.end()):
        first = first or (mark if mark[2] else None)
        if not _quoted(text, mark):
            depth += -1 if mark[2] else 1
        if not depth:
            return mark
    return first


def _ends_once_more(rest: str, end: str) -> bool:
    """Whether the same marker comes again, where a sentence about it would not have it."""
    again = _marker(end).search(rest)
    return bool(again and _ends_what_the_prompt_began(rest, again) and not rest[: again.start()].endswith((" ", "\t")))


def _ends_what_the_prompt_began(reply: str, end: re.Match[str]) -> bool:
    before = reply[: end.start()]
    return not (re.search(_OPENING, before, re.I) or before.count("```") % 2 or _quoted(reply, end))


def _quoted(text: str, mark: re.Match[str]) -> bool:
    before, after = text[max(mark.start() - 1, 0) : mark.start()], text[mark.end() : mark.end() + 1]
    return before in _QUOTES and after in _QUOTES and bool(before)
