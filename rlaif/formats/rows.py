"""Rows from files and the Hugging Face hub, and the conversations inside them.

A row that has the wrong shape stops the run (DataError with its place): the file is not what the recipe
says. A row of the right shape whose conversation cannot be used (`Unusable`) is data about the data; the
callers record it. A message whose text is not all of it (a picture, a tool's turn, a call) cannot be used; what is
beside a text and says nothing of it (`name`, a null, a model's reasoning) is not read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Set
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from rlaif.config.sources import DataSource, FileSource, HubSource
from rlaif.errors import DataError, did_you_mean, shown
from rlaif.formats.tables import read_table
from rlaif.jsonl import Row, dumps, first_problem
from rlaif.records import Message, Messages, Prompt, Role

ROLES: dict[Any, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
SHAREGPT = {"human": "user", "gpt": "assistant", "observation": "tool", "function_call": "tool"}
"""What roles are called in messages that have `from` and `value`, as LLaMA-Factory reads them."""
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
    if "from" in item and item.get("role") is None:
        item = item | {"role": SHAREGPT.get(str(item["from"]), item["from"]), "content": item.get("value")}
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
    said = (part for part in content if not (isinstance(part, dict) and part.get("type") in THOUGHTS))
    return "\n".join(_part(part, where) for part in said)


def _part(part: Any, where: str) -> str:
    """A text, or {type, text}."""
    given = part if isinstance(part, dict) else {"text": part}
    text = given.get("text")
    if given.get("type") not in TEXTS or not isinstance(text, str):
        raise Unusable("a part of a message is no text", f"{where}.content: {part!r}")
    return text


HH_TURN = re.compile(r"(?:\r?\n){2}(Human|Assistant):")
HH_ROLES: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}
SYSTEM_KEYS = ("system", "systemprompt", "systemmessage")
"""Columns of a system turn beside the prompt, whatever their case and whatever parts their words."""


class SourceRow(NamedTuple):
    """One row with its place (`file:line`, or `data set [split] row n`), for error messages."""

    place: str
    value: dict[str, Any]

    def require(self, *keys: str) -> None:
        """DataError, with the nearest key the row does have, unless all keys are there."""
        for key in keys:
            if key not in self.value:
                near = did_you_mean(key, self.value)
                raise DataError(f"{self.place}: no key {key!r}{near}")

    def record(self, kind: type[Row]) -> Row:
        """The row as one of rlaif's own. DataError with its place where it is none."""
        try:
            return kind.model_validate_json(dumps(self.value))
        except ValidationError as error:
            raise DataError(f"{self.place}: {first_problem(error)}") from None


def path_of(source: FileSource) -> Path:
    """Where a file source lies; `~` is the user's home."""
    return Path(os.path.expanduser(source.path))


def read_rows(source: DataSource, path: Path | None = None, keep: Set[str] = frozenset()) -> Iterator[SourceRow]:
    """The first `source.limit` rows in their order. `path` overrides where a file source is read from; a CSV file's
    columns to `keep` are there where their cell is empty, too."""
    if isinstance(source, FileSource):
        rows = (SourceRow(place, value) for place, value in read_table(path or path_of(source), keep))
        return islice(rows, source.limit)
    return _hub_rows(source)


def _hub_rows(source: HubSource) -> Iterator[SourceRow]:
    from datasets import load_dataset  # noqa: PLC0415  (seconds to import, and files do not need it)

    try:
        table = load_dataset(
            source.dataset,
            name=source.name,
            data_dir=source.data_dir,
            split=source.split,
            revision=source.revision,
        )
    # `datasets` passes on whatever its loaders, the hub client and the network raise: too many to name.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"data set {source.dataset!r} [{source.split}] cannot be read from the hub: {reason}; "
            "check its name and the connection, or use a `kind: file` source"
        ) from None
    rows = (SourceRow(f"{source.dataset} [{source.split}] row {i}", dict(row)) for i, row in enumerate(table))
    return islice(rows, source.limit)


def is_transcript(text: str) -> bool:
    """Whether the text is an HH-RLHF transcript: it begins with a `Human:` turn after two newlines, or without them
    where an `Assistant:` turn follows."""
    bare = "\n\n" + text.lstrip()
    first = HH_TURN.match(bare)
    if first is None or first[1] != "Human":
        return False
    return HH_TURN.match(text) is not None or "Assistant" in HH_TURN.findall(bare)


def bare_response(text: str) -> str:
    """The response without the `Assistant:` that stands before it in an HH-RLHF transcript."""
    first = HH_TURN.match(text)
    return text[first.end() :] if first is not None and first[1] == "Assistant" else text


def after_speaker(text: str) -> str:
    """As `bare_response`, of what stands beside a transcript: also without blank lines before."""
    return bare_response("\n\n" + text.lstrip())


def parse_transcript(text: str) -> Messages:
    """The turns of an HH-RLHF transcript (arXiv 2204.05862), each stripped of surrounding whitespace.

    The data holds turns of one speaker in a row; they become one message, joined by a blank line, because
    chat templates take alternating turns only. A turn may come back blank. Unusable when it does not begin
    with `Human:`.
    """
    parts = HH_TURN.split("\n\n" + text.lstrip())
    if parts[0].strip() or len(parts) < 3 or parts[1] != "Human":
        raise Unusable("not a Human/Assistant transcript", text)
    turns = [(HH_ROLES[speaker], body.strip()) for speaker, body in zip(parts[1::2], parts[2::2], strict=True)]
    return tuple(
        Message(role=role, content="\n\n".join(body for _, body in group if body))
        for role, group in groupby(turns, key=lambda turn: turn[0])
    )


def prompt_part(messages: Messages) -> Messages:
    """The conversation up to its last user turn; Unusable when it has none or a turn before is blank."""
    last = max((i for i, message in enumerate(messages) if message.role == "user"), default=-1)
    prompt = messages[: last + 1]
    if not prompt:
        raise Unusable("no user turn")
    if not all(message.content.strip() for message in prompt):
        raise Unusable("blank turn in the prompt")
    return prompt


def prompt_value(value: Any, place: str, key: str) -> Messages:
    """A prompt given as a text, an HH-RLHF transcript or a message list, as a conversation.

    Only a transcript is cut after its last Human turn; a message list must end with a user turn itself.
    """
    if isinstance(value, str):
        if is_transcript(value):
            return prompt_part(parse_transcript(value))
        return prompt_part(message_list([{"role": "user", "content": value}], place, key))
    messages = message_list(value, place, key)
    if messages and messages[-1].role != "user":
        raise Unusable("the prompt does not end with a user turn", f"{key} ends with {messages[-1].role!r}")
    return prompt_part(messages)


def joined(prompt: Messages, inside: Messages) -> Messages:
    """One conversation of two that should be the same: a prompt, and what a conversation beside it holds before the
    response. Either may lack the system turn or earlier turns, and the prompt later ones. Unusable where they disagree.
    """
    systems = [one[0] for one in (prompt, inside) if one[0].role == "system"]
    if len({turn.content.strip() for turn in systems}) > 1:
        raise Unusable("two different system turns", f"{systems[0].content[:80]!r}, {systems[1].content[:80]!r}")
    turns, others = (one[one[0].role == "system" :] for one in (prompt, inside))
    asked, before = ([(turn.role, turn.content.strip()) for turn in one] for one in (turns, others))
    within = any(before[i : i + len(asked)] == asked for i in range(len(before)))
    if not within and asked[-len(before) :] != before:
        raise Unusable("prompt and conversation disagree", f"{turns[-1].content[:80]!r}, {others[-1].content[:80]!r}")
    return (*systems[:1], *(others if within else turns))


def after_system(row: SourceRow, messages: Messages) -> Messages:
    """The conversation after the system turn that the row has in a column of its own. Unusable where it has another."""
    for key in row.value:
        if re.sub(r"[\W_]", "", key).lower() in SYSTEM_KEYS:
            messages = after_turn(_system_text(row, key), messages)
    return messages


def _system_text(row: SourceRow, key: str) -> str | None:
    """A text, or a list of one text or system turn; None where there is none. DataError for anything else."""
    value = row.value[key]
    only = value[0] if isinstance(value, list) and len(value) == 1 else value
    if isinstance(only, dict) and only.get("role") in ("system", "developer"):
        only = message_list(only, row.place, key)[0].content
    if only is None or only == []:
        return None
    if not isinstance(only, str):
        raise DataError(f"{row.place}: {key}: must be a text, the system turn (got {shown(value)})")
    return only if only.strip() else None


def after_turn(system: str | None, messages: Messages) -> Messages:
    """The conversation after this system turn, if there is one. Unusable where it has another."""
    if system is None:
        return messages
    turns = messages[messages[0].role == "system" :]
    return joined((Message(role="system", content=system), *turns), messages)


def with_system(prompt: Prompt, system: str | None) -> Prompt:
    """The prompt after this system turn. Its id stays: it is still the same prompt, held out or not."""
    if system is None or prompt.messages[0].role == "system":
        return prompt
    return prompt.model_copy(update={"messages": (Message(role="system", content=system), *prompt.messages)})


def without_system(messages: Messages, system: str | None) -> Messages:
    """The conversation as it was before `with_system`."""
    return messages[1:] if messages[0] == Message(role="system", content=system or "") else messages


def tags_of(row: SourceRow, source: DataSource) -> tuple[str, ...]:
    """The row's own tags, then the source's, without repeats. Columns of a hub row are never tags."""
    own: Any = []
    if isinstance(source, FileSource):
        near = [key for key in row.value if key.lower() in ("tag", "tags") and key != "tags"]
        if near:
            raise DataError(f"{row.place}: unknown key {near[0]!r}; did you mean 'tags'?")
        own = row.value.get("tags")
        own = [] if own is None else own
    if not isinstance(own, list) or not all(isinstance(tag, str) for tag in own):
        raise DataError(f"{row.place}: tags: must be a list of texts (got {own!r})")
    return tuple(dict.fromkeys([*own, *source.tags]))
