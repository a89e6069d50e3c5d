"""YAML text to values, strictly: nothing is read as something else than what most people take it for."""

from __future__ import annotations

import copy
import re
from typing import Any

import yaml

UNREADABLE = (yaml.YAMLError, ValueError, ArithmeticError, LookupError, AttributeError, TypeError, RecursionError)
"""What PyYAML raises for text that is no value: the last five for scalars such as `2024-13-01` or `!!int x`."""

MOST_COPIED = 10_000
"""Values that a file's aliases may stand for, together: a few lines can stand for millions."""


MISTAKEN = {
    "bool": (re.compile("yes|no|on|off", re.I), "write true or false, or quote the word"),
    "int": (re.compile(r"[-+]?0[0-7_]+|.*:.*"), "write a plain number, or quote it"),
    "float": (re.compile(".*:.*"), "write a plain number, or quote it"),
}
"""Plain scalars by the tag that YAML 1.1 gives them: words that are truth values, octal and base 60."""


class RefusedYaml(yaml.composer.ComposerError):
    """YAML, but not here."""

    def __init__(self, problem: str, mark: yaml.Mark) -> None:
        super().__init__(None, None, problem, mark)


class _Loader(yaml.SafeLoader):
    """YAML, but a key that is written twice is an error and not silently the last one's value; and an alias is a copy,
    so that an override of one place changes no other."""

    _copied = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if not self.check_event(yaml.AliasEvent):
            return super().compose_node(parent, index)
        event = self.get_event()  # type: ignore[no-untyped-call]
        node = self.anchors.get(event.anchor)
        if node is None or node.end_mark is None:  # not there, or not complete: it would hold itself
            raise RefusedYaml(f"alias *{event.anchor} stands for nothing that ends before it", event.start_mark)
        self._copied += _size(node)
        if self._copied > MOST_COPIED:
            raise RefusedYaml(f"aliases stand for more than {MOST_COPIED:,} values; write them out", event.start_mark)
        return copy.deepcopy(node)

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        pattern, remedy = MISTAKEN.get(node.tag.rpartition(":")[2], (None, ""))
        if pattern and node.style is None and pattern.fullmatch(node.value):
            raise RefusedYaml(f"{node.value} can be read in two ways; {remedy}", node.start_mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in lines:
                    problem = f"key {key.value!r} appears twice; the first is in line {lines[key.value]}"
                    raise RefusedYaml(problem, key.start_mark)
                lines[key.value] = key.start_mark.line + 1
        return node


def _size(node: yaml.Node) -> int:
    """Values in it, itself among them."""
    if isinstance(node, yaml.MappingNode):
        return 1 + sum(_size(key) + _size(value) for key, value in node.value)
    return 1 + sum(map(_size, node.value)) if isinstance(node, yaml.SequenceNode) else 1


def read_yaml(text: str) -> Any:
    """The value. Raises one of UNREADABLE."""
    return yaml.load(text, _Loader)
