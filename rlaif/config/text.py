"""YAML text to values, strictly."""

from __future__ import annotations

from typing import Any

import yaml

UNREADABLE = (yaml.YAMLError, ValueError, ArithmeticError, LookupError, AttributeError, TypeError, RecursionError)
"""What PyYAML raises for text that is no value: the last five for scalars such as `2024-13-01` or `!!int x`."""


class _Loader(yaml.SafeLoader):
    """YAML, but a key that is written twice is an error and not silently the last one's value."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in lines:
                    problem = f"key {key.value!r} appears twice; the first is in line {lines[key.value]}"
                    raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
                lines[key.value] = key.start_mark.line + 1
        return node


def read_yaml(text: str) -> Any:
    """The value. Raises one of UNREADABLE."""
    return yaml.load(text, _Loader)
