"""Read a judge template: parse it, find out or confirm its kind, check it, and compile it in a sandbox."""

from __future__ import annotations

import re

from jinja2 import StrictUndefined, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rlaif.errors import ConfigError
from rlaif.files import read_file
from rlaif.records import content_id
from rlaif.resources import resolve
from rlaif.templates.checks import check_rendered, check_tree, check_words, kind_of, labels_of, stands_bare
from rlaif.templates.guard import Guard
from rlaif.templates.shapes import SHAPES, Kind
from rlaif.templates.template import JudgeTemplate

_TURNS = ("system_turn", "user_turn", "assistant_turn")  # the tags around each message of a conversation
_TAG = re.compile(r"</?([A-Za-z][\w-]*)>")


def _fence(text: str, kind: Kind) -> re.Pattern[str]:
    """The tags around the responses, and those around an assistant's turn, however they are spelled."""
    around = re.findall(rf"<([\w-]+)>\s*\{{\{{-?\s*(?:{'|'.join(SHAPES[kind].responses)})\b", text)
    names = "|".join(map(re.escape, sorted({*around, "assistant_turn"})))
    return re.compile(rf"(?i)<\s*(/?)\s*(?:{names})\s*>")


def load_template(name_or_path: str, kind: Kind | None = None) -> JudgeTemplate:
    """The judge template of a shipped name (`compare`) or a path, as this kind or, without one, as what it looks like.

    Two responses and a principle make `compare`, without a principle `propose`; a block `choice` makes `reasoned`, a
    block `revision` `revise`. One response makes `score` or `checklist`, by the number of labels in its block
    `labels`, or by the labels that its text names. ConfigError for one that cannot work as its kind.
    """
    path = resolve("prompts/judge", name_or_path)
    try:
        text = read_file(path).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
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
    fence, bare = _fence(text, kind), stands_bare(tree, "principle")
    template = JudgeTemplate(path.stem, content_id(text), kind, labels, compiled, guard, fence, bare)
    check_rendered(path, template.fill, SHAPES[kind])
    return template
