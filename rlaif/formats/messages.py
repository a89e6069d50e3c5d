"""What other programs write as a message, as one of ours: a role and a text.

A message whose text is not all of it (a picture, a tool's turn, a call) cannot be used; what is beside a text and says
nothing of it (`name`, a null, a model's reasoning) is not read.
"""

from __future__ import annotations

from typing import Any

from rlaif.errors import DataError
from rlaif.records import Message, Messages, Role

ROLES: dict[Any, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
TOOLS = ("tool", "function", "ipython")
CALLS = ("tool_calls", "function_call")
TEXTS = (None, "text", "input_text", "output_text")
THOUGHTS = ("thinking", "redacted_thinking", "reasoning")
"""Parts that are set apart: reasoning is never learnt."""


class Unusable(Exception):
    """A row of the right shape that holds no usable conversation. The message is a short fixed phrase."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail[:200]


def message_list(value: Any, place: str, key: str) -> Messages:
    """A list of {role, content}, or one of them, as messages; the text of several parts is joined by line breaks.

    Unusable where nothing is there, or a message that is no text alone; DataError with its place for anything else.
    """
    if value is None:
        raise Unusable(f"{key} is missing")
    items = [value] if isinstance(value, dict) else value
    if not isinstance(items, list | tuple):
        raise DataError(f"{place}: {key}: must be a text or a list of messages (got {str(value)[:80]})")
    return tuple(_message(item, f"{key}.{number}") for number, item in enumerate(items))


def _message(item: Any, where: str) -> Message:
    if not isinstance(item, dict):
        raise Unusable("a message is no object", f"{where} = {item!r}")
    role = item.get("role")
    if role in TOOLS:
        raise Unusable("a turn of a tool", where)
    if any(item.get(key) for key in CALLS):
        raise Unusable("a message calls a tool", where)
    if not isinstance(role, str) or role not in ROLES:
        known = ", ".join(ROLES)
        raise Unusable("a message has no known role", f"{where}.role = {role!r}; it may be {known}")
    return Message(role=ROLES[role], content=_content(item.get("content"), where))


def _content(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if content is None:
        raise Unusable("a message has no content", where)
    if not isinstance(content, list | tuple):
        raise Unusable("the content of a message is no text", f"{where}.content = {content!r}")
    return "\n".join(_part(part, where) for part in content if not _is_thought(part))


def _is_thought(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in THOUGHTS


def _part(part: Any, where: str) -> str:
    """A text, or {type, text}."""
    given = part if isinstance(part, dict) else {"text": part}
    text = given.get("text")
    if given.get("type") not in TEXTS or not isinstance(text, str):
        raise Unusable("a part of a message is no text", f"{where}.content: {part!r}")
    return text
