"""`section.key=value`: values that replace those of a recipe file, before the whole is validated by `load`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic.fields import FieldInfo

from rlaif.config.base import Section
from rlaif.config.explain import TAGS, sections_in
from rlaif.config.recipe import Recipe
from rlaif.errors import ConfigError, shown
from rlaif.strict_yaml import BROKEN, NotYaml, read_yaml

Choices = Sequence[type[Section]]
"""The sections that may stand at a place: several where it is a union, none where no section may."""


def apply_overrides(values: dict[str, Any], *lists: Sequence[str]) -> set[str]:
    """Set them in place, in this order, and return their keys; of a key set twice the last value holds. Raises
    ConfigError for the first that cannot be set, or that replaces a section in which another of its own list has set
    something."""
    given: set[str] = set()
    for overrides in lists:
        set_in: dict[str, str] = {}  # sections, and what was set in each
        for override in overrides:
            key = _apply(values, override, given)
            if key in set_in:
                raise ConfigError(f"override {shown(override)} undoes {shown(set_in[key])} before it; keep one")
            parts = key.split(".")
            set_in |= {".".join(parts[:length]): override for length in range(1, len(parts))}
    return given


def _apply(values: dict[str, Any], override: str, given: set[str]) -> str:
    """Set one, and return its key. `given`: the keys so far.

    Its value is read as YAML, and an index of a list is a number: `a.0.b=1`.
    """
    key, equals, text = override.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts) or text.startswith("="):
        raise ConfigError(f"override {shown(override)} is not of the form section.key=value")
    try:
        value = read_yaml(text)
    except NotYaml as error:
        problem = error.problems[0][1]
        broken = "the value is not valid YAML; quote it"
        raise ConfigError(f"override {shown(override)}: {broken if problem.startswith(BROKEN) else problem}") from None
    parts, value = _todays_name(parts, value)
    node: Any = values
    choices: Choices = [Recipe]
    for part in parts[:-1]:
        node, choices = _descend(node, choices, part, override)
    *place, last = parts
    if isinstance(node, list):
        node[_index(node, last, override)] = value
    else:
        if last in TAGS:
            _switch(node, choices, value, {name for name in node if ".".join([*place, str(name)]) in given})
        node[last] = value
    given.add(".".join(parts))
    return ".".join(parts)


def _todays_name(parts: list[str], value: Any) -> tuple[list[str], Any]:
    """`ppo` is how recipes said `optimise` when there was no other method."""
    if parts == ["ppo"] and isinstance(value, dict):
        return ["optimise"], {"kind": "ppo", **value}
    if parts[0] == "ppo" and len(parts) > 1:
        return ["optimise", *parts[1:]], value
    return parts, value


def _descend(node: Any, choices: Choices, part: str, override: str) -> tuple[Any, Choices]:
    """What is there, and what may be. Where nothing is, the section that stands there by default is written out."""
    if isinstance(node, list):
        child = node[_index(node, part, override)]
    else:
        section = choices[0] if len(choices) == 1 else _named(choices, node)
        field = section.model_fields.get(part) if section else None
        choices = sections_in(field.annotation) if field else []
        child = node.get(part)
        if child is None:
            child = node[part] = _written(field.get_default() if field else None)
    if not isinstance(child, dict | list):
        raise ConfigError(f"override {shown(override)}: {part} is a value, not a section (got {shown(child)})")
    return child, choices


def _written(default: Any) -> dict[str, Any]:
    """A default section as a recipe would write it: what tells it from its alternatives, and what it sets."""
    if not isinstance(default, Section):
        return {}
    return default.model_dump(mode="json", include={*TAGS, *default.model_fields_set})


def _named(choices: Choices, node: dict[str, Any]) -> type[Section] | None:
    """The alternative that the node's tag names."""
    for section in choices:
        for tag in TAGS:
            if tag in section.model_fields and section.model_fields[tag].default == node.get(tag):
                return section
    return None


def _switch(node: dict[str, Any], choices: Choices, tag: Any, given: set[str]) -> None:
    """Before another alternative takes over: only knobs that mean the same in both keep their values.

    They have the same type, and not two defaults. Of the rest the file spoke of the old alternative; what an
    override says stays, to be refused where it is wrong.
    """
    old = _named(choices, node)
    new = _named(choices, dict.fromkeys(TAGS, tag))
    if old is None or new is None or old is new:
        return
    for name in [name for name in node if name not in given]:
        if not _same_knob(old.model_fields.get(name), new.model_fields.get(name)):
            del node[name]


def _same_knob(one: FieldInfo | None, other: FieldInfo | None) -> bool:
    if one is None or other is None or one.annotation != other.annotation:
        return False
    return one.is_required() or other.is_required() or one.default == other.default


def _index(node: list[Any], part: str, override: str) -> int:
    if not part.isdecimal() or len(part) > 9 or int(part) >= len(node):
        raise ConfigError(f"override {shown(override)}: {shown(part)} is not a position in a list of {len(node)}")
    return int(part)
