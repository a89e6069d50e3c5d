"""Read a constitution file: every mistake in it is one line `file:line: message` with the nearest valid name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from rlaif.constitution.checks import CHECKS, parameters
from rlaif.constitution.schema import SCHEMA, Constitution, Contrast, Example, Principle, repeated
from rlaif.errors import ConfigError, did_you_mean, few, shown
from rlaif.resources import resolve
from rlaif.strict_yaml import Problem, line_of, read_yaml_file

MOST_EXPLAINED = 500
"""Mistakes of one file; to find the line and the nearest name of each takes time."""


def load_constitution(name_or_path: str) -> Constitution:
    """The constitution of a shipped name (`harmlessness`) or a path.

    Raises ConfigError with all mistakes found in the file, one line each.
    """
    path = resolve("constitutions", name_or_path)
    root, data, problems = _parse(path)
    constitution, beyond = None, 0
    try:
        constitution = Constitution.model_validate(data)
    except ValidationError as error:
        empty = {line for line, _ in problems}
        found = error.errors(include_url=False)
        beyond = max(0, len(found) - MOST_EXPLAINED)
        for problem in found[:MOST_EXPLAINED]:
            line, message = _explain(problem, root, data)
            if _real(problem) and not (problem["input"] is None and line in empty):
                problems.append((line, message))
    if problems or constitution is None:
        raise ConfigError(few([f"{path}:{line}: {message}" for line, message in sorted(set(problems))], beyond))
    return constitution


def _parse(path: Path) -> tuple[yaml.MappingNode, dict[str, Any], list[Problem]]:
    """The file as YAML nodes (for their lines) and as values, with what is wrong in the YAML alone."""
    root, data = read_yaml_file(path)
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path}:1: a constitution is a mapping that begins with `schema: {SCHEMA}`")
    return root, data, [*_empty(root), *_same_ids(root)]


def _empty(node: yaml.Node) -> Iterator[Problem]:
    """Values left empty, which would be read without a word."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _empty(item)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _empty(key)
            yield from _empty(value)
            if value.tag.endswith(":null"):
                yield key.start_mark.line + 1, f"{key.value!r} is empty; write a value or leave the key out"


def _same_ids(node: yaml.Node) -> Iterator[Problem]:
    """Principles whose id came before; seen here so that it is reported beside other mistakes."""
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if key.value == "principles" and isinstance(value, yaml.SequenceNode):
            items = [item for item in value.value if isinstance(item, yaml.MappingNode)]
            ids = [v for item in items for k, v in item.value if k.value == "id"]
            for index in repeated(v.value for v in ids):
                yield ids[index].start_mark.line + 1, f"principle id {ids[index].value!r} is used twice"


def _real(problem: ErrorDetails) -> bool:
    """Not a complaint about the list of principles that only repeats one about its items."""
    return problem["loc"] != ("principles",) or not (
        problem["type"] == "value_error" or (problem["type"] == "too_short" and problem["input"])
    )


def _explain(problem: ErrorDetails, root: yaml.Node, data: dict[str, Any]) -> Problem:
    loc = (*problem["loc"], *problem.get("ctx", {}).get("at", ()))
    return line_of(root, loc) or 1, f"{_subject(loc, data)}{_message(problem)}"


def _subject(loc: tuple[int | str, ...], data: dict[str, Any]) -> str:
    if len(loc) < 2 or not isinstance(loc[1], int):
        return ""
    if loc[0] == "examples":
        return f"example number {loc[1] + 1}: "
    item = data["principles"][loc[1]]
    name = item.get("id") if isinstance(item, dict) else None
    return f"principle {name!r}: " if isinstance(name, str) else f"principle number {loc[1] + 1}: "


def _message(problem: ErrorDetails) -> str:
    """What is wrong with a key; what is wrong with a value is `_complaint`'s."""
    loc, kind, value = problem["loc"], problem["type"], problem["input"]
    name = str(loc[-1]) if loc else ""
    if kind == "extra_forbidden":
        return f"unknown key {shown(name)}{did_you_mean(name, _keys(loc))}"
    if kind == "missing":
        return f"`{f'schema: {SCHEMA}' if name == 'schema' else name}` is missing"
    if kind == "union_tag_invalid":
        tag = str(problem["ctx"]["tag"])
        return f"check {shown(tag)} does not exist{did_you_mean(tag, CHECKS)}"
    if kind == "union_tag_not_found":
        return f"`check` needs a `kind`{did_you_mean('', CHECKS)}"
    if kind == "example" or (kind == "value_error" and name != "pattern"):  # our validators say it all
        error = str(problem["ctx"]["error"])
        return f"{'.'.join(map(str, loc[2:]))}: {error}" if loc[2:3] == ("contrast",) else error
    path = (str(step) for step in loc[1:] if step not in CHECKS and not isinstance(step, int))
    field = ".".join(path) or ("" if loc[1:] else name)
    complaint = _complaint(field, kind, value) or re.sub("^(Value error, |Input )", "", problem["msg"])
    return f"{field}: {complaint} (got {shown(value, 60)})".removeprefix(": ")


def _complaint(field: str, kind: str, value: Any) -> str:
    """Plainer words than pydantic's for what people get wrong in YAML; empty for the rest."""
    if field == "schema":
        return f"this rlaif reads {SCHEMA!r}"
    if kind == "string_type" and isinstance(value, bool | int | float):
        return "write it in quotes, to make it text"
    plain = {
        "literal_error": 'must be "yes" or "no"',
        "string_too_short": "is empty",
        "too_short": "is empty",
        "string_pattern_mismatch": "use letters, digits, - and _ only",
        "string_type": "must be text",
        "bool_type": "must be true or false",
        "int_type": "must be a whole number",
        "tuple_type": "must be a list, like [this]",
        "model_type": f"must be a mapping{', like {for: ..., against: ...}' if field == 'contrast' else ''}",
        "model_attributes_type": "must be a mapping, like {kind: no_list}",
    }
    return plain.get(kind, "")


def _keys(loc: tuple[int | str, ...]) -> list[str]:
    """The keys allowed where an unknown one was found."""
    match loc[:-1]:  # by its place: the unknown key itself may be called anything, `check` too
        case ():
            return _named(Constitution)
        case ("examples", *_):
            return _named(Example)
        case ("principles", _, "check", kind, *_):
            return parameters(CHECKS[str(kind)])
        case ("principles", _, "contrast", *_):
            return _named(Contrast)
    return _named(Principle)


def _named(part: type[BaseModel]) -> list[str]:
    """The keys of a mapping as a file writes them."""
    return [field.alias or name for name, field in part.model_fields.items()]
