"""Judge templates: load one, check it, and render a pair into the messages that the judge reads.

A template is a Jinja file with a block `user` and, if it wants one, a block `system`, rendered in a sandbox.
The graded text is data: it is never evaluated, and what in it looks like one of the template's delimiters
(tags such as <response_a>) or like a control token (<|im_end|>) has its `<` written as `&lt;`. All other text
goes through byte for byte. See prompts/judge/compare.jinja for an example.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rlaif.errors import ConfigError, did_you_mean
from rlaif.records import Message, Messages, content_id
from rlaif.resources import resolve

Kind = Literal["compare", "reasoned", "score", "checklist", "revise", "propose"]


class _Shape(NamedTuple):
    """What a template of one kind must hold and may hold."""

    responses: tuple[str, ...]
    """Placeholders of the graded responses."""
    labels: tuple[str, ...] = ()
    """What the judge replies with: each must be one token of the model. Empty where it writes freely."""
    follow_up: str | None = None
    """The block of a second user turn, which comes after the judge's first reply."""
    principle: bool = True

    @property
    def graded(self) -> tuple[str, ...]:
        return ("conversation", *self.responses)

    @property
    def required(self) -> tuple[str, ...]:
        return (*self.graded, "principle") if self.principle else self.graded

    @property
    def allowed(self) -> tuple[str, ...]:
        return (*self.required, "preamble")

    @property
    def blocks(self) -> tuple[str, ...]:
        return ("system", "user", self.follow_up) if self.follow_up else ("system", "user")


PAIR = ("response_1", "response_2")
SHAPES: dict[Kind, _Shape] = {
    "compare": _Shape(PAIR, labels=("A", "B")),
    "reasoned": _Shape(PAIR, labels=("A", "B"), follow_up="choice"),
    # Ten ratings, 1 to 10, as the digits 0 to 9: "10" is two tokens of many models, and P("1") would hold both.
    "score": _Shape(("response",), labels=tuple("0123456789")),
    "checklist": _Shape(("response",), labels=("Yes", "No", "Unknown")),
    "revise": _Shape(("response",), follow_up="revision"),
    "propose": _Shape(PAIR, principle=False),
}
_TURNS = ("system_turn", "user_turn", "assistant_turn")  # the tags around each message of a conversation
_TAG = re.compile(r"</?([A-Za-z][\w-]*)>")
_CONTROL = r"[|\uff5c][^<>|\uff5c\s]{1,40}[|\uff5c]>|/?s>|(?:start|end)_of_turn>"  # of the common chat templates


@dataclass(frozen=True)
class JudgeTemplate:
    """A checked template. `hash` is that of the file's text, `labels` the letters for first and second."""

    name: str
    hash: str
    kind: Kind
    _template: Template = field(repr=False, compare=False)
    _forged: re.Pattern[str] = field(repr=False, compare=False)

    @property
    def labels(self) -> tuple[str, ...]:
        """What the judge replies with; for pairs the letters of first and second."""
        return SHAPES[self.kind].labels

    def render(
        self, *, prompt: Messages, responses: Sequence[str], preamble: str = "", principle: str = ""
    ) -> Messages:
        """The messages that ask the judge about one principle. Prompt and responses are untrusted text."""
        turns = [f"<{m.role}_turn>\n{self._escape(m.content)}\n</{m.role}_turn>" for m in prompt]
        shown = zip(SHAPES[self.kind].responses, responses, strict=True)
        values = {name: self._escape(text) for name, text in shown}
        return self._fill(values | {"conversation": "\n".join(turns), "preamble": preamble, "principle": principle})

    def follow_up(self, principle: str = "") -> Message:
        """The second user turn, after the judge's reply to the first. Only of kinds that have one."""
        block = SHAPES[self.kind].follow_up
        if block is None:
            raise ValueError(f"a template of kind {self.kind} has no second turn")
        context = self._template.new_context({"principle": principle})
        return Message(role="user", content="".join(self._template.blocks[block](context)).strip())

    def _escape(self, text: str) -> str:
        return self._forged.sub("&lt;", text)

    def _fill(self, values: dict[str, str]) -> Messages:
        context = self._template.new_context(values)
        blocks = self._template.blocks
        texts = {role: "".join(blocks[role](context)).strip() for role in ("system", "user") if role in blocks}
        messages = []
        if texts.get("system"):
            messages.append(Message(role="system", content=texts["system"]))
        return (*messages, Message(role="user", content=texts["user"]))


def load_template(name_or_path: str, kind: Kind = "compare") -> JudgeTemplate:
    """The judge template of a shipped name (`compare`) or a path; ConfigError for one that cannot work as this kind."""
    path = resolve("prompts/judge", name_or_path)
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    # No loader and no globals: a template reaches no other file and no function.
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals.clear()
    try:
        tree = environment.parse(text)
        _check_tree(path, tree, SHAPES[kind])
        compiled = environment.from_string(text)
    except TemplateSyntaxError as error:
        raise ConfigError(f"{path}:{error.lineno}: {error.message}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    template = JudgeTemplate(path.stem, content_id(text), kind, compiled, _forgeries(text))
    _check_rendered(path, template)
    return template


def _forgeries(text: str) -> re.Pattern[str]:
    """Matches the `<` of what could pass for a tag of this template or for a control token."""
    names = sorted({*_TAG.findall(text), *_TURNS})
    spelled = "|".join(re.escape(name).replace("_", r"[\s_-]?") for name in names)
    return re.compile(rf"[<\uff1c\ufe64](?=[\s/\u200b-\u200f\u2060\ufeff]*(?:{spelled})(?![\w-])|{_CONTROL})", re.I)


def _check_tree(path: Path, tree: nodes.Template, shape: _Shape) -> None:
    for node in tree.find_all((nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)):
        raise ConfigError(f"{path}:{node.lineno}: a judge template is one file and cannot read another")
    blocks = {block.name: block for block in tree.find_all(nodes.Block)}
    for name, block in blocks.items():
        if name not in shape.blocks:
            raise ConfigError(f"{path}:{block.lineno}: unknown block {name!r}{did_you_mean(name, shape.blocks)}")
    for name in shape.blocks[1:]:
        if name not in blocks:
            raise ConfigError(f"{path}: has no {{% block {name} %}}")
    _check_outside(path, tree, shape)
    found = meta.find_undeclared_variables(tree)
    for name in sorted(found - set(shape.allowed)):
        line = next((node.lineno for node in tree.find_all(nodes.Name) if node.name == name), 1)
        raise ConfigError(f"{path}:{line}: unknown placeholder {name!r}{did_you_mean(name, shape.allowed)}")
    for name in shape.required:
        if name not in found:
            raise ConfigError(f"{path}: placeholder {{{{ {name} }}}} is missing")


def _check_outside(path: Path, tree: nodes.Template, shape: _Shape) -> None:
    for part in tree.body:
        blank = isinstance(part, nodes.Output) and not _literal(part).strip()
        if not blank and not isinstance(part, nodes.Block):
            known = " and ".join(shape.blocks)
            raise ConfigError(f"{path}:{part.lineno}: stands outside the blocks {known}, so is never sent")


def _literal(part: nodes.Output) -> str:
    """The text of a node, anything computed shown as x."""
    return "".join(node.data if isinstance(node, nodes.TemplateData) else "x" for node in part.nodes)


def _check_rendered(path: Path, template: JudgeTemplate) -> None:
    """Render once with stand-ins: it must not fail, and tags that can be guarded must fence graded text."""
    shape = SHAPES[template.kind]
    values = {name: str(700100 + 100 * number) for number, name in enumerate(shape.allowed)}
    try:
        messages = template._fill(values)
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be rendered: {error}") from None
    text = "\n".join(message.content for message in messages)
    for name in shape.graded:
        fenced = re.findall(rf"<([\w-]+)>\s*{values[name]}\s*</\1>", text)
        if len(fenced) != text.count(values[name]):
            raise ConfigError(f"{path}: {{{{ {name} }}}} must stand alone between two tags, <tag> and </tag>")
