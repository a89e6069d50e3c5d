"""From a recipe file and `section.key=value` overrides to a frozen Recipe, or one line for each mistake."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rlaif.config.explain import TAGS, explain
from rlaif.config.sections import Recipe, Section
from rlaif.errors import ConfigError
from rlaif.resources import resolve

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


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of that name or file with the overrides applied. Raises ConfigError listing every mistake."""
    path = resolve("recipes", name_or_path)
    values = _read_yaml(path)
    for override in overrides:
        _apply(values, override)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        lines = [f"{path}: invalid recipe", *(f"  {line}" for line in explain(error, values))]
        raise ConfigError("\n".join(lines)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_bytes().decode(), _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not valid YAML: {_reason(error)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except UNREADABLE as error:
        raise ConfigError(f"{path}: not valid YAML: a value cannot be read ({_reason(error)})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of sections (got {type(values).__name__})")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one `a.b.c=value` in place; the value is read as YAML. A list index is a number: `a.0.b=1`."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"override {override!r} is not of the form section.key=value")
    try:
        value = yaml.load(text, _Loader)
    except UNREADABLE:
        raise ConfigError(f"override {override!r}: the value is not valid YAML; quote it") from None
    node: Any = values
    for part in parts[:-1]:
        node = _child(node, part, override)
    _set(node, parts[-1], value, override)


def _child(node: Any, part: str, override: str) -> Any:
    if isinstance(node, list):
        child = node[_index(node, part, override)]
    else:
        child = node.get(part)
        if child is None:
            child = node[part] = {}
    if not isinstance(child, dict | list):
        raise ConfigError(f"override {override!r}: {part} is a value, not a section (got {child!r})")
    return child


def _set(node: Any, part: str, value: Any, override: str) -> None:
    if isinstance(node, list):
        node[_index(node, part, override)] = value
        return
    if part in TAGS and isinstance(node.get(part), str) and node[part] != value:
        # Another alternative of a tagged union: knobs that only the old one has would be refused, so they go.
        shared = _knobs(part, value)
        for key in [key for key in node if key not in shared]:
            del node[key]
    node[part] = value


def _knobs(tag: str, value: Any) -> set[str]:
    """The keys of the section whose `backend` or `kind` is this; none when there is no such section."""
    tagged = {s.model_fields[tag].default: s for s in Section.__subclasses__() if tag in s.model_fields}
    return set(tagged[value].model_fields) if isinstance(value, str) and value in tagged else set()


def _index(node: list[Any], part: str, override: str) -> int:
    if not part.isdecimal() or int(part) >= len(node):
        raise ConfigError(f"override {override!r}: {part!r} is not a position in a list of {len(node)}")
    return int(part)


def _reason(error: BaseException) -> str:
    """What is wrong, on one line."""
    return " ".join(str(getattr(error, "problem", None) or error).split())


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every knob with its value: what a run folder keeps."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def changed_keys(old: Recipe, new: Recipe) -> list[str]:
    """`section.key: old -> new` for every value that differs."""
    before, after = (dict(_flatten(r.model_dump(mode="json"))) for r in (old, new))
    keys = [*before, *(key for key in after if key not in before)]
    return [
        f"{k}: {before.get(k, 'unset')} -> {after.get(k, 'unset')}"
        for k in keys
        if before.get(k, _UNSET) != after.get(k, _UNSET)
    ]


_UNSET = object()


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from _flatten(child, f"{prefix}.{key}" if prefix else key)
    elif isinstance(value, list) and value:
        for position, child in enumerate(value):
            yield from _flatten(child, f"{prefix}.{position}")
    else:
        yield prefix, value


def recipe_schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors."""
    return Recipe.model_json_schema()
