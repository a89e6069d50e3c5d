"""Judge templates: load one, check it, and render a pair into the messages that the judge reads.

A template is a Jinja file with a block `user` and, if it wants one, a block `system`, rendered in a sandbox.
The graded text is data: it is never evaluated, and what in it looks like one of the template's delimiters
(tags such as <response_a>) or like a control token (<|im_end|>) has its `<` written as `&lt;`. All other text
goes through byte for byte. See prompts/judge/compare.jinja for an example.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rlaif.errors import ConfigError, did_you_mean
from rlaif.records import Message, Messages, content_id
from rlaif.resources import resolve

_GRADED = ("conversation", "response_1", "response_2")
_REQUIRED = (*_GRADED, "principle")
_ALLOWED = (*_REQUIRED, "preamble")
_BLOCKS = ("system", "user")
_TURNS = ("system_turn", "user_turn", "assistant_turn")  # the tags around each message of a conversation
_TAG = re.compile(r"</?([A-Za-z][\w-]*)>")
_CONTROL = r"[|\uff5c][^<>|\uff5c\s]{1,40}[|\uff5c]>|/?s>|(?:start|end)_of_turn>"  # of the common chat templates


@dataclass(frozen=True)
class JudgeTemplate:
    """A checked template. `hash` is that of the file's text, `labels` the letters for first and second."""

    name: str
    hash: str
    _template: Template = field(repr=False, compare=False)
    _forged: re.Pattern[str] = field(repr=False, compare=False)

    labels: ClassVar[tuple[str, str]] = ("A", "B")

    def render(self, *, prompt: Messages, first: str, second: str, preamble: str, principle: str) -> Messages:
        """The messages that ask the judge about one principle. Prompt and responses are untrusted text."""
        turns = [f"<{m.role}_turn>\n{self._escape(m.content)}\n</{m.role}_turn>" for m in prompt]
        return self._fill(
            {
                "conversation": "\n".join(turns),
                "response_1": self._escape(first),
                "response_2": self._escape(second),
                "preamble": preamble,
                "principle": principle,
            }
        )

    def _escape(self, text: str) -> str:
        return self._forged.sub("&lt;", text)

    def _fill(self, values: dict[str, str]) -> Messages:
        context = self._template.new_context(values)
        blocks = self._template.blocks
        texts = {role: "".join(blocks[role](context)).strip() for role in _BLOCKS if role in blocks}
        messages = []
        if texts.get("system"):
            messages.append(Message(role="system", content=texts["system"]))
        return (*messages, Message(role="user", content=texts["user"]))


def load_template(name_or_path: str) -> JudgeTemplate:
    """The judge template of a shipped name (`compare`) or a path; ConfigError for one that cannot work."""
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
        _check_tree(path, tree)
        compiled = environment.from_string(text)
    except TemplateSyntaxError as error:
        raise ConfigError(f"{path}:{error.lineno}: {error.message}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    template = JudgeTemplate(path.stem, content_id(text), compiled, _forgeries(text))
    _check_rendered(path, template)
    return template


def _forgeries(text: str) -> re.Pattern[str]:
    """Matches the `<` of what could pass for a tag of this template or for a control token."""
    names = sorted({*_TAG.findall(text), *_TURNS})
    spelled = "|".join(re.escape(name).replace("_", r"[\s_-]?") for name in names)
    return re.compile(rf"[<\uff1c\ufe64](?=[\s/\u200b-\u200f\u2060\ufeff]*(?:{spelled})(?![\w-])|{_CONTROL})", re.I)


def _check_tree(path: Path, tree: nodes.Template) -> None:
    for node in tree.find_all((nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)):
        raise ConfigError(f"{path}:{node.lineno}: a judge template is one file and cannot read another")
    blocks = {block.name: block for block in tree.find_all(nodes.Block)}
    for name, block in blocks.items():
        if name not in _BLOCKS:
            raise ConfigError(f"{path}:{block.lineno}: unknown block {name!r}{did_you_mean(name, _BLOCKS)}")
    if "user" not in blocks:
        raise ConfigError(f"{path}: has no {{% block user %}}")
    for part in tree.body:
        blank = isinstance(part, nodes.Output) and not _literal(part).strip()
        if not blank and not isinstance(part, nodes.Block):
            raise ConfigError(f"{path}:{part.lineno}: stands outside the blocks system and user, so is never sent")
    found = meta.find_undeclared_variables(tree)
    for name in sorted(found - set(_ALLOWED)):
        line = next((node.lineno for node in tree.find_all(nodes.Name) if node.name == name), 1)
        raise ConfigError(f"{path}:{line}: unknown placeholder {name!r}{did_you_mean(name, _ALLOWED)}")
    for name in _REQUIRED:
        if name not in found:
            raise ConfigError(f"{path}: placeholder {{{{ {name} }}}} is missing")


def _literal(part: nodes.Output) -> str:
    """The text of a node, anything computed shown as x."""
    return "".join(node.data if isinstance(node, nodes.TemplateData) else "x" for node in part.nodes)


def _check_rendered(path: Path, template: JudgeTemplate) -> None:
    """Render once with stand-ins: it must not fail, and tags that can be guarded must fence graded text."""
    values = dict(zip(_ALLOWED, ("700100", "700200", "700300", "700400", "700500"), strict=True))
    try:
        messages = template._fill(values)
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be rendered: {error}") from None
    text = "\n".join(message.content for message in messages)
    for name in _GRADED:
        fenced = re.findall(rf"<([\w-]+)>\s*{values[name]}\s*</\1>", text)
        if len(fenced) != text.count(values[name]):
            raise ConfigError(f"{path}: {{{{ {name} }}}} must stand alone between two tags, <tag> and </tag>")
