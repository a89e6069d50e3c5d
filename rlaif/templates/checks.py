"""The kinds of judge template: what each must hold, may hold, and lets the judge reply with; and the checks of a
template before it is used, each fault one ConfigError with file and line.

The text is looked at as a syntax tree; only `check_rendered` runs it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, cast

from jinja2 import meta, nodes

from rlaif.errors import ConfigError, did_you_mean
from rlaif.records import Messages

Kind = Literal["compare", "reasoned", "score", "checklist", "contrast", "revise", "propose", "reference", "contradict"]


class Shape(NamedTuple):
    """What a template of one kind must hold and may hold."""

    responses: tuple[str, ...]
    """Placeholders of the graded responses."""
    labels: tuple[str, ...] = ()
    """What the judge replies with: each must be one token of the model. Empty where it writes freely. A template may
    bring its own, as many and in this order, in a block `labels`."""
    follow_up: str | None = None
    """The block of a second user turn, which comes after the judge's first reply."""
    principle: bool = True
    instructs: bool = False
    """Whether it asks no judge about a response, but tells whoever answers how to: its blocks are turns of the
    conversation itself."""

    @property
    def graded(self) -> tuple[str, ...]:
        return () if self.instructs else ("conversation", *self.responses)

    @property
    def required(self) -> tuple[str, ...]:
        if self.instructs:
            return ("instruction", "prompt")
        return (*self.graded, "principle") if self.principle else self.graded

    @property
    def allowed(self) -> tuple[str, ...]:
        return (*self.required, "system" if self.instructs else "preamble")

    @property
    def turns(self) -> tuple[str, ...]:
        """The blocks that must be there."""
        return ("user", self.follow_up) if self.follow_up else ("user",)

    @property
    def blocks(self) -> tuple[str, ...]:
        return ("system", *self.turns, "labels") if self.labels else ("system", *self.turns)


PAIR = ("response_1", "response_2")
SHAPES: dict[Kind, Shape] = {
    "compare": Shape(PAIR, labels=("A", "B")),
    "reasoned": Shape(PAIR, labels=("A", "B"), follow_up="choice"),
    # Ten ratings, 1 to 10, as the digits 0 to 9: "10" is two tokens of many models, and P("1") would hold both.
    "score": Shape(("response",), labels=tuple("0123456789")),
    "checklist": Shape(("response",), labels=("Yes", "No", "Unknown")),
    "contrast": Shape((), instructs=True),
    "revise": Shape(("response",), follow_up="revision"),
    "propose": Shape(PAIR, principle=False),
    "reference": Shape(("documents", "claim"), principle=False),
    "contradict": Shape(("statement_1", "statement_2"), labels=("Yes", "No"), principle=False),
}
_NAMED: dict[Kind, set[str]] = {"compare": {"A", "B"}, "checklist": {"Yes", "No", "Unknown"}, "score": {"0", "9"}}
"""Words that a template has in its text where it asks for the usual labels."""


def kind_of(path: Path, tree: nodes.Template) -> Kind:
    """The kind that a template's blocks and placeholders make it; ConfigError where they leave it open.

    A block `choice` or `revision` tells. Else two responses mean `compare`, or `propose` where there is no principle
    and no A and B to choose from. One response means `score` or `checklist`: by the number of labels in the block
    `labels`, or by whose labels stand in the text.
    """
    blocks = {block.name for block in tree.find_all(nodes.Block)}
    found = meta.find_undeclared_variables(tree)
    for name, one in (("instruction", "contrast"), ("claim", "reference"), ("statement_1", "contradict")):
        if name in found:
            return cast("Kind", one)
    for kind, shape in SHAPES.items():
        if shape.follow_up in blocks:
            return kind
    if "response" not in found or found & set(PAIR):
        asked = set(PAIR) <= found <= set(SHAPES["propose"].allowed) and not _NAMED["compare"] <= _words(tree)
        return "propose" if asked else "compare"
    rating = _rating_kind(tree)
    if rating is None:
        raise ConfigError(
            f"{path}: neither score nor checklist: name the labels in the text (0 to 9, or Yes, No and Unknown) or in "
            "{% block labels %}"
        )
    return rating


def _rating_kind(tree: nodes.Template) -> Kind | None:
    ratings: tuple[Kind, ...] = ("checklist", "score")
    if (own := _labels_block(tree)) is not None:
        return next((kind for kind in ratings if len(SHAPES[kind].labels) == len(_literal(own).split())), None)
    return next((kind for kind in ratings if _NAMED[kind] <= _words(tree)), None)


def _labels_block(tree: nodes.Template) -> nodes.Block | None:
    return next((block for block in tree.find_all(nodes.Block) if block.name == "labels"), None)


def _words(tree: nodes.Template) -> set[str]:
    return set(re.findall(r"\w+", _literal(tree)))


FILTERS = ("trim", "lower", "upper", "capitalize", "title", "default", "indent", "truncate", "length", "wordcount")
_TESTS = ("defined", "undefined", "none", "in", "eq", "equalto", "==")
_ALLOWED: tuple[type[nodes.Node], ...] = (
    *(nodes.Template, nodes.Block, nodes.Output, nodes.TemplateData, nodes.If, nodes.CondExpr, nodes.Name),
    *(nodes.Const, nodes.Filter, nodes.Test, nodes.Keyword, nodes.Getitem, nodes.Slice, nodes.Concat, nodes.Add),
    *(nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg),
)
_WIDEST = 1000
"""The largest number in a template, as in `indent(2)`."""


def check_words(path: Path, tree: nodes.Template) -> None:
    """Nothing in the template can loop, call, keep a value, draw at random or undo the guard: its text is at most as
    long as its own and what is filled in, and the same each time."""
    for node in tree.find_all(nodes.Node):
        what = "autoescape" if isinstance(node, nodes.Scope) else type(node).__name__.lower()
        # Jinja gives some nodes no line: then it is that of what stands in them.
        line = next((part.lineno for part in (node, *node.find_all(nodes.Node)) if part.lineno), 1)
        if isinstance(node, nodes.Extends | nodes.Include | nodes.Import | nodes.FromImport):
            raise ConfigError(f"{path}:{line}: a judge template is one file and cannot read another")
        indexed = isinstance(node, nodes.Getitem) and not isinstance(node.arg, nodes.Slice)
        if indexed or not isinstance(node, _ALLOWED):
            raise ConfigError(
                f"{path}:{line}: a judge template only fills in texts and has no {what}; it may use "
                f"placeholders, if, and the filters {', '.join(FILTERS)}"
            )
        if isinstance(node, nodes.Filter | nodes.Test):
            known = FILTERS if isinstance(node, nodes.Filter) else _TESTS
            if node.name not in known:
                raise ConfigError(f"{path}:{line}: no {what} {node.name!r} here{did_you_mean(node.name, known)}")
        if isinstance(node, nodes.Const) and isinstance(node.value, int | float) and not abs(node.value) <= _WIDEST:
            raise ConfigError(f"{path}:{line}: the number {node.value:.4g} is too large for a judge template")


def stands_bare(tree: nodes.Template, placeholder: str) -> bool:
    """Whether a placeholder of a checked template is nowhere looked at, filtered or joined: it only goes into the
    text."""
    bare = {id(part) for output in tree.find_all(nodes.Output) for part in output.nodes}
    return all(id(name) in bare for name in tree.find_all(nodes.Name) if name.name == placeholder)


def check_tree(path: Path, tree: nodes.Template, kind: Kind) -> None:
    """Blocks and placeholders are those of the kind, and nothing stands outside of blocks."""
    shape = SHAPES[kind]
    blocks = {block.name: block for block in tree.find_all(nodes.Block)}
    for name, block in blocks.items():
        if name not in shape.blocks:
            raise ConfigError(f"{path}:{block.lineno}: unknown block {name!r}{did_you_mean(name, shape.blocks)}")
    for name in shape.turns:
        if name not in blocks:
            raise ConfigError(f"{path}: has no {{% block {name} %}}")
    for part in tree.body:
        blank = isinstance(part, nodes.Output) and not _literal(part).strip()
        if not blank and not isinstance(part, nodes.Block):
            known = ", ".join(shape.blocks)
            raise ConfigError(f"{path}:{part.lineno}: stands outside the blocks ({known}), so is never sent")
    found = meta.find_undeclared_variables(tree)
    for name in sorted(found - set(shape.allowed)):
        line = next((node.lineno for node in tree.find_all(nodes.Name) if node.name == name), 1)
        raise ConfigError(f"{path}:{line}: unknown placeholder {name!r}{did_you_mean(name, shape.allowed)}")
    for name in shape.required:
        if name not in found:
            raise ConfigError(f"{path}: placeholder {{{{ {name} }}}} is missing")


def labels_of(path: Path, tree: nodes.Template, kind: Kind) -> tuple[str, ...]:
    """The words of the block `labels`, or the kind's own where there is none."""
    usual = SHAPES[kind].labels
    block = _labels_block(tree)
    if block is None:
        if kind in {"score", "checklist"} and (named := _rating_kind(tree)) not in {kind, None}:
            raise ConfigError(f"{path}: asks for the labels of a {named} template, where a {kind} template is needed")
        return usual
    if any(not isinstance(node, nodes.TemplateData) for part in block.body for node in part.iter_child_nodes()):
        raise ConfigError(f"{path}:{block.lineno}: labels are plain words, with nothing to fill in")
    labels = tuple(_literal(block).split())
    if len(labels) != len(usual):
        raise ConfigError(
            f"{path}:{block.lineno}: {len(labels)} labels, and a {kind} template has {len(usual)}, in the order "
            f"{' '.join(usual)}"
        )
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"{path}:{block.lineno}: label {label!r} stands twice")
    return labels


def _literal(part: nodes.Node) -> str:
    """The text under a node, anything computed shown as x."""
    if isinstance(part, nodes.TemplateData):
        return part.data
    if isinstance(part, nodes.Expr):
        return "x"
    return "".join(map(_literal, part.iter_child_nodes()))


def check_rendered(path: Path, fill: Callable[[Mapping[str, str]], Messages], shape: Shape) -> None:
    """Render once with stand-ins: it must not fail, and tags that can be guarded must fence graded text."""
    values = {name: str(700100 + 100 * number) for number, name in enumerate(shape.allowed)}
    try:
        messages = fill(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {str(error).partition(': ')[2]}") from None
    text = "\n".join(message.content for message in messages)
    for name in shape.graded:
        fenced = re.findall(rf"<([\w-]+)>\s*{values[name]}\s*</\1>", text)
        if len(fenced) != text.count(values[name]):
            raise ConfigError(f"{path}: {{{{ {name} }}}} must stand alone between two tags, <tag> and </tag>")
