"""YAML text to values, strictly, and values to models: a mistake is `file:line: key: message (got value)`.

Recipes, overrides, studies and constitutions are all read here. What is refused beside broken YAML: keys that are
written twice, words and numbers that YAML 1.1 reads in its own way, tags other than those of plain values, and aliases
that stand for too much. An alias is a copy, so that an override of one place changes no other.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from rlaif.errors import ConfigError, few, shown
from rlaif.files import read_file

MOST_COPIED = 10_000
"""Values that a file's aliases may stand for, together: a few lines can stand for millions."""
MOST_BYTES = 250_000
"""Of a file: ten times what people write, and some seconds of reading."""

MOST_DEEP = 100
"""Lists and mappings in each other."""

MISTAKEN = {
    "bool": (re.compile("yes|no|on|off", re.I), "write true or false, or quote the word"),
    "int": (re.compile(r"[-+]?0[0-7xXbB_].*|.*:.*"), "write a plain number, or quote it"),
    "float": (re.compile(".*:.*"), "write a plain number, or quote it"),
}
"""Scalars by the tag that YAML 1.1 gives them: words that are truth values, octal, hexadecimal, binary and base 60."""
TAG = "tag:yaml.org,2002:"
PLAIN = {"str", "int", "float", "bool", "null", "map", "seq", "merge"}

BROKEN = "not valid YAML"
"""How problems begin that are of the text itself, not of what is refused."""

Problem = tuple[int, str]
"""(line, message)"""


class NotYaml(Exception):
    """The text cannot be read; `problems` says where and why, at least one."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(*problems)
        self.problems = problems


class _Loader(yaml.SafeLoader):
    """Collects what it refuses in `problems`, so that all is told at once."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.problems: list[Problem] = []
        self._copied = 0
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            return self._copy(self.get_event())  # type: ignore[no-untyped-call]
        self._depth += 1
        if self._depth > MOST_DEEP:  # before more is read: what is open makes each further one slower
            raise NotYaml((self.line + 1, f"{BROKEN}: nested too deeply"))
        node = super().compose_node(parent, index)
        self._depth -= 1
        kind = node.tag.removeprefix(TAG) if node else "null"
        if node and kind not in PLAIN:
            self._refuse(f"a value of kind {kind!r} is not allowed; if it is text, write it in quotes", node)
        return node

    def _copy(self, alias: yaml.AliasEvent) -> yaml.Node:
        node, line = self.anchors.get(alias.anchor), _line(alias.start_mark)
        if node is None or node.end_mark is None:  # not there, or not complete: it would hold itself
            raise NotYaml((line, f"alias *{alias.anchor} stands for nothing that ends before it"))
        self._copied += _size(node)
        if self._copied > MOST_COPIED:
            raise NotYaml((line, f"aliases stand for more than {MOST_COPIED:,} values; write them out"))
        return copy.deepcopy(node)

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        pattern, remedy = MISTAKEN.get(node.tag.removeprefix(TAG), (None, ""))
        if pattern and pattern.fullmatch(node.value):
            self._refuse(f"{node.value[:80]} can be read in two ways; {remedy}", node)
        try:
            # Two escapes may spell one character, as JSON does it.
            node.value = node.value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self._refuse("not text: half of a surrogate pair", node)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in lines:
                    self._refuse(f"key {shown(key.value)} appears twice; the first is in line {lines[key.value]}", key)
                lines.setdefault(key.value, _line(key.start_mark))
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:  # as `0b_` and `!!int x`
            raise NotYaml((_line(node.start_mark), f"{BROKEN}: a value cannot be read ({error})")) from None

    def _refuse(self, problem: str, node: yaml.Node) -> None:
        self.problems.append((_line(node.start_mark), problem))


def _line(mark: Any) -> int:
    return mark.line + 1 if mark else 1


def _size(node: yaml.Node) -> int:
    """Values in it, itself among them."""
    if isinstance(node, yaml.MappingNode):
        return 1 + sum(_size(key) + _size(value) for key, value in node.value)
    return 1 + sum(map(_size, node.value)) if isinstance(node, yaml.SequenceNode) else 1


def parse_yaml(text: str) -> tuple[yaml.Node | None, Any]:
    """The text as YAML nodes, which know their lines, and as a value. NotYaml where it cannot be read."""
    loader = None
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            if loader.problems:
                raise NotYaml(*loader.problems)
            return root, loader.construct_document(root) if root else None
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        line, reason = text.count("\n", 0, error.position) + 1, error.reason
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        hint = " (a text with ': ' in it needs quotes)" if "mapping values" in (error.problem or "") else ""
        line, reason = _line(mark), f"{error.problem or error.context}{hint}"
    except RecursionError:
        line, reason = loader.line + 1 if loader else 1, "nested too deeply"
    raise NotYaml((line, f"{BROKEN}: {' '.join(reason.split())}"))


def line_of(root: yaml.Node | None, place: Sequence[int | str]) -> int | None:
    """The line of the deepest key or item on the way to a place; steps that the file lacks (the tag of a union) are
    passed over. None where it has none of them."""
    node, line = root, None
    for step in place:
        if isinstance(node, yaml.SequenceNode):
            if isinstance(step, int) and step < len(node.value):
                node = node.value[step]
                line = _line(node.start_mark)
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(step):
                    line, node = _line(key.start_mark), value
                    break
    return line


def read_mapping(path: Path, rule: str) -> tuple[yaml.Node | None, dict[str, Any]]:
    """A YAML file as nodes, which know their lines, and as keys and values. ConfigError for a file that cannot be read,
    a line for each problem, or that is no mapping: then it says the `rule`, "a recipe is a mapping of sections"."""
    try:
        data = read_file(path)
        if len(data) > MOST_BYTES:
            raise ConfigError(f"{path}: {len(data):,} bytes of YAML, at most {MOST_BYTES:,}")
        node, values = parse_yaml(data.decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text") from None
    except NotYaml as error:
        raise ConfigError(few([f"{path}:{line}: {message}" for line, message in sorted(error.problems)])) from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: {rule} (got {type(values).__name__})")
    return node, values
