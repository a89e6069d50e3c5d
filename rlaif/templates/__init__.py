"""Judge templates: one is read from its file, checked, compiled in a sandbox, and renders what is graded into the
messages that the judge reads.

A template is a Jinja file with a block `user` and, if it wants one, a block `system`; some kinds have a block for a
second turn, and `labels` may name what the judge replies with. `checks.py` lists the kinds and refuses. The graded text
is data: it is never evaluated, and `guard.py` keeps it inside its delimiters. See prompts/judge/compare.jinja for an
example.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rlaif.errors import ConfigError
from rlaif.files import read_file
from rlaif.records import Message, Messages, Role, content_id
from rlaif.resources import resolve
from rlaif.templates.checks import (
    SHAPES,
    Kind,
    check_rendered,
    check_tree,
    check_words,
    kind_of,
    labels_of,
    stands_bare,
)
from rlaif.templates.guard import Guard

__all__ = ["SHAPES", "JudgeTemplate", "Kind", "load_template"]

MARK = "\0principle\0"
"""Where a principle's text goes."""
_TURNS = ("system_turn", "user_turn", "assistant_turn")  # the tags around each message of a conversation
_TAG = re.compile(r"</?([A-Za-z][\w-]*)>")


@dataclass(frozen=True)
class JudgeTemplate:
    """`hash` is that of the file's text; `labels` what the judge replies with, for pairs the letters of first and
    second, for a score from the worst to the best, for a checklist yes, no and unknown."""

    name: str
    hash: str
    kind: Kind
    labels: tuple[str, ...]
    _path: Path = field(repr=False, compare=False)
    _text: str = field(repr=False, compare=False)
    _template: Template = field(repr=False, compare=False)
    _guard: Guard = field(repr=False, compare=False)
    _fence: re.Pattern[str] = field(repr=False, compare=False)
    """A tag that stands around a response; its group is the slash of a closing one."""

    _bare: bool = field(repr=False, compare=False)
    """Whether the principle's text stands in the messages as it is, and nothing else depends on it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _compiled, (self._path, self._text, self.kind)

    def render(
        self, *, prompt: Messages, responses: Sequence[str], preamble: str = "", principle: str = ""
    ) -> Messages:
        """The messages that ask the judge about one principle. Prompt and responses are untrusted text."""
        return self.about(prompt=prompt, responses=responses, preamble=preamble)(principle)

    def about(self, *, prompt: Messages, responses: Sequence[str], preamble: str = "") -> Callable[[str], Messages]:
        """`render` as a function of the principle: what its messages share is rendered once."""
        escape = self._guard.escape
        turns = [f"<{m.role}_turn>\n{escape(m.content)}\n</{m.role}_turn>" for m in prompt]
        shown = zip(SHAPES[self.kind].responses, responses, strict=True)
        values = {name: escape(text) for name, text in shown}
        values |= {"conversation": "\n".join(turns), "preamble": preamble}
        if not self._bare or any(MARK in text for text in values.values()):
            return lambda principle: self.fill(values | {"principle": principle})
        roles: tuple[Role, ...] = ("system", "user")
        parts = [
            (role, self._block(role, values | {"principle": MARK}).split(MARK))
            for role in roles
            if role in self._template.blocks
        ]

        def of(principle: str) -> Messages:
            texts = [(role, principle.join(around).strip()) for role, around in parts]
            return tuple(Message(role=role, content=text) for role, text in texts if text or role == "user")

        return of

    def instructed(self, prompt: Messages, instruction: str) -> Messages:
        """The conversation with this instruction to whoever answers it; without any, the conversation. Only of the
        kind `contrast`. The prompt is untrusted text: what looks like a control token is text in it."""
        turns = tuple(Message(role=m.role, content=self._guard.escape(m.content)) for m in prompt)
        if not instruction:
            return turns
        system = turns[0].content if turns[0].role == "system" else ""
        told = self.fill({"instruction": instruction, "system": system, "prompt": turns[-1].content})
        replaced = 1 if system and len(told) > 1 else 0
        return (*told[:-1], *turns[replaced:-1], told[-1])

    def defused(self, response: str) -> str:
        """A response to be read as the assistant's turn, with what looks like a control token as text."""
        return self._guard.escape(response)

    def follow_up(self, principle: str = "") -> Message:
        """The second user turn, after the judge's reply to the first; the principle is trusted text. Only of kinds
        that have one."""
        block = SHAPES[self.kind].follow_up
        if block is None:
            raise ValueError(f"a template of kind {self.kind} has no second turn")
        return Message(role="user", content=self._block(block, {"principle": principle}).strip())

    def neutral(self, reply: str) -> Message:
        """The judge's own reply as a turn of the conversation: what looks like a control token is text there."""
        return Message(role="assistant", content=self._guard.escape(reply.strip()))

    def unwrapped(self, reply: str, original: str) -> str:
        """A response that the model wrote in place of `original`, without the tags that it saw around responses.

        What stands outside of the tags goes with them; an original with such tags of its own is about them, and they
        stay.
        """
        if self._fence.search(original):
            return reply.strip()
        tags = list(self._fence.finditer(reply))
        end = next((tag.start() for tag in tags if tag[1]), len(reply))
        start = max((tag.end() for tag in tags if tag.end() <= end), default=0)
        return reply[start:end].strip()

    def fill(self, values: Mapping[str, str]) -> Messages:
        """The blocks with these values as they are, unescaped."""
        texts = {
            role: self._block(role, values).strip() for role in ("system", "user") if role in self._template.blocks
        }
        messages = []
        if texts.get("system"):
            messages.append(Message(role="system", content=texts["system"]))
        return (*messages, Message(role="user", content=texts["user"]))

    def _block(self, name: str, values: Mapping[str, str]) -> str:
        try:
            return "".join(self._template.blocks[name](self._template.new_context(dict(values))))
        except Exception as error:  # the template's own, of whatever kind: a filter fails, text and number are added
            raise ConfigError(f"judge template {self.name}: cannot be rendered: {error}") from None


def load_template(name_or_path: str, kind: Kind | None = None) -> JudgeTemplate:
    """The judge template of a shipped name (`compare`) or a path, as this kind or, without one, as `kind_of` finds it.
    ConfigError for one that cannot work as its kind."""
    path = resolve("prompts/judge", name_or_path)
    try:
        text = read_file(path).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    return _compiled(path, text, kind)


def _compiled(path: Path, text: str, kind: Kind | None) -> JudgeTemplate:
    # No loader and no globals: a template reaches no other file and no function.
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals.clear()
    try:
        tree = environment.parse(text)
        check_words(path, tree)
        kind = kind or kind_of(path, tree)
        check_tree(path, tree, kind)
        labels = labels_of(path, tree, kind)
        compiled = environment.from_string(text)
    except TemplateSyntaxError as error:
        raise ConfigError(f"{path}:{error.lineno}: {error.message}") from None
    except (RecursionError, SyntaxError, MemoryError):  # of Python, which Jinja compiles to
        raise ConfigError(f"{path}: nested too deeply") from None
    except (ValueError, ArithmeticError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: a number in it cannot be read: {error}") from None
    guard = Guard({*_TAG.findall(text), *(() if SHAPES[kind].instructs else _TURNS)})
    # The tags around the responses, and those around an assistant's turn, however they are spelled.
    around = re.findall(rf"<([\w-]+)>\s*\{{\{{-?\s*(?:{'|'.join(SHAPES[kind].responses)})\b", text)
    names = "|".join(map(re.escape, sorted({*around, "assistant_turn"})))
    fence = re.compile(rf"(?i)<\s*(/?)\s*(?:{names})\s*>")
    bare = stands_bare(tree, "principle")
    template = JudgeTemplate(path.stem, content_id(text), kind, labels, path, text, compiled, guard, fence, bare)
    check_rendered(path, template.fill, SHAPES[kind])
    return template
