"""From a recipe file and `section.key=value` overrides to a frozen Recipe, or one line for each mistake.

What `label.mode.kind=auto` stands for is settled here too: the mode that an audit chose among several.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from rlaif.config.base import TAGS, Section, models_in, validated
from rlaif.config.judging import Mode
from rlaif.config.recipe import OF_NO_RUN, Recipe
from rlaif.console import say
from rlaif.errors import ConfigError, shown
from rlaif.files import read_file
from rlaif.jsonl import first_problem, strict_loads
from rlaif.resources import resolve
from rlaif.strict_yaml import BROKEN, NotYaml, parse_yaml, read_mapping


def load_recipe(
    name_or_path: str, overrides: Sequence[str] = (), *later: Sequence[str], auto: Mode | None = None
) -> Recipe:
    """The recipe of that name or file with the overrides applied. Raises ConfigError listing every mistake.

    Of a key set twice the last value holds. A section may not replace what its own list has set in it; one of a `later`
    list may. Where `label.mode` is `auto`, the recipe has the mode that the audit in `label.audit` chose, and a line on
    the screen says so; or the mode `auto`, where one is given.
    """
    path = resolve("recipes", name_or_path)
    node, values = read_mapping(path, "a recipe is a mapping of sections")
    _rename_old(values, path)
    overridden = _apply_overrides(values, overrides, *later)
    _rename_old(values, path)
    try:
        settled = _settle_mode(values, auto)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if settled is not None:
        _say_once(settled)
    return validated(Recipe, path, node, values, overridden)


@cache
def _say_once(line: str) -> None:
    """A study loads one recipe for each arm and seed."""
    say(line)


def _rename_old(values: dict[str, Any], path: Path) -> None:
    """`ppo: {...}` is how recipes said `optimise: {kind: ppo, ...}` when there was no other method."""
    if "ppo" not in values:
        return
    old = values["ppo"]
    if not isinstance(old, dict):
        raise ConfigError(f"{path}: ppo: a section of keys and values, not a single value (got {shown(old)})")
    if "optimise" in values:
        raise ConfigError(f"{path}: ppo: the older name of optimise, which is there too; keep one")
    values["optimise"] = {"kind": "ppo", **values.pop("ppo")}


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every knob with its value: what a run folder keeps."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def changed_keys(old: Recipe, new: Recipe) -> list[str]:
    """`section.key: old -> new` for every value of a run's sections that differs."""
    return changes(*(recipe.model_dump(mode="json", exclude=OF_NO_RUN) for recipe in (old, new)))


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The same of JSON objects, whose keys may be dotted names."""
    before, after = dotted(old, lists=True), dotted(new, lists=True)
    return [
        f"{k}: {before.get(k, 'unset')} -> {after.get(k, 'unset')}"
        for k in before | after
        if before.get(k, _UNSET) != after.get(k, _UNSET)
    ]


_UNSET = object()


def dotted(tree: Any, lists: bool = False, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by dotted key, with `lists` those of lists by position too; `{}` is a leaf."""
    children: dict[Any, Any] = {}
    if isinstance(tree, Mapping):
        children = dict(tree)
    elif lists and isinstance(tree, list):
        children = dict(enumerate(tree))
    found: dict[str, Any] = {}
    for key, child in children.items():
        found |= dotted(child, lists, f"{prefix}.{key}" if prefix else str(key))
    return found if children else {prefix: tree}


# ---------------------------------------------------------------------------------------------- label.mode: auto


AUDIT_SCHEMA = "rlaif/audits/v1"
"""Of what `rlaif audit` writes."""


class ModeChoice(Section):
    """The mode that an audit proposes, as its JSON holds it under `modes.chosen`."""

    name: str
    """Its kind, and the settings that are not its kind's defaults."""
    mode: Mode
    reason: str
    """Its agreement with people on pairs that did not choose it, in words."""


def _settle_mode(values: dict[str, Any], instead: Mode | None = None) -> str | None:
    """Put the chosen mode, or `instead`, where `label.mode` says `auto`, in place; say which and why. Whether the audit
    is about this judge and constitution is for labelling to check (`rlaif.audits.requirement`).

    None where the recipe names its mode, and where what it says is no recipe anyway: validation tells more of that.
    ConfigError where the audit cannot be read, compared no modes, or proposes none of them.
    """
    label = values.get("label")
    if not isinstance(label, dict) or label.get("mode") != {"kind": "auto"}:
        return None
    if instead is not None:
        label["mode"] = instead.model_dump(mode="json")
        return None
    audit = label.get("audit")
    if audit is None:
        raise ConfigError(
            "label.mode.kind: auto takes the mode that an audit chose, and label.audit names none; make one with: "
            f"{how_to_audit(Path('audit.json'), modes=True)}, and set label.audit.file=audit.json"
        )
    if not isinstance(audit, dict) or not isinstance(audit.get("file"), str):
        return None
    chosen = _chosen(Path(os.path.expanduser(audit["file"])))
    label["mode"] = chosen.mode.model_dump(mode="json")
    return f"label.mode: {chosen.name}, by audit {audit['file']}: {chosen.reason}"


def _chosen(path: Path) -> ModeChoice:
    """What the audit in this file proposes."""
    modes = read_audit(path, modes=True).get("modes")
    if not isinstance(modes, dict):
        raise ConfigError(
            f"label.mode.kind: auto: the audit {path} compared no modes; make one that did with: "
            f"{how_to_audit(path, modes=True)}"
        )
    if modes.get("chosen") is None:
        raise ConfigError(
            f"label.mode.kind: auto: the audit {path} chose none. {modes.get('sentence', 'It does not say why.')} "
            "Audit with more labels, with another judge or constitution, or name a mode here"
        )
    try:
        return ModeChoice.model_validate(modes["chosen"])
    except ValidationError as error:
        raise ConfigError(
            f"label.audit.file: {path}: modes.chosen is not what `rlaif audit` writes: {first_problem(error)}"
        ) from None


def read_audit(path: Path, modes: bool = False) -> dict[str, Any]:
    """The audit that `label.audit.file` names. ConfigError where it is none, with the command that makes one (of
    several `modes`)."""
    try:
        audit = strict_loads(read_file(path).decode())
    except FileNotFoundError:
        raise ConfigError(
            f"label.audit.file: {path}: no such file; make it with: {how_to_audit(path, modes)}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"label.audit.file: {path}: cannot be read as JSON: {error}") from None
    if not isinstance(audit, dict) or audit.get("schema") != AUDIT_SCHEMA or not isinstance(audit.get("audited"), dict):
        raise ConfigError(f"label.audit.file: {path}: is not what `rlaif audit` writes (schema {AUDIT_SCHEMA})")
    return audit


def how_to_audit(path: Path, modes: bool = False) -> str:
    """How such an audit is made."""
    tried = " --modes compare,checklist,contrast" if modes else ""
    return f"rlaif audit RECIPE --gold FILE{tried} --out {path}"


# --------------------------------------------------------------------------------------------------- overrides


def _apply_overrides(values: dict[str, Any], *lists: Sequence[str]) -> set[str]:
    """Set them in place, in this order, and return their keys. Raises ConfigError for the first that cannot be set, or
    that replaces a section in which another of its own list has set something."""
    given: set[str] = set()
    for overrides in lists:
        set_in: dict[str, str] = {}  # sections, and what was set in each
        for override in overrides:
            parts = _apply(values, override, given)
            *sections, key = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
            if key in set_in:
                raise ConfigError(f"override {shown(override)} undoes {shown(set_in[key])} before it; keep one")
            set_in |= dict.fromkeys(sections, override)
            given.add(key)
    return given


def _apply(values: dict[str, Any], override: str, given: Collection[str]) -> list[str]:
    """Set one, and return the parts of its key. `given`: the keys so far.

    Its value is read as YAML, and an index of a list is a number: `a.0.b=1`.
    """
    key, equals, text = override.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts) or text.startswith("="):
        raise ConfigError(f"override {shown(override)} is not of the form section.key=value")
    try:
        _, value = parse_yaml(text)
    except NotYaml as error:
        problem = error.problems[0][1]
        broken = "the value is not valid YAML; quote it"
        raise ConfigError(f"override {shown(override)}: {broken if problem.startswith(BROKEN) else problem}") from None
    if parts == ["ppo"] and isinstance(value, dict):  # see `_rename_old`
        parts, value = ["optimise"], {"kind": "ppo", **value}
    elif parts[0] == "ppo" and len(parts) > 1:
        parts[0] = "optimise"
    *place, last = parts
    node: Any = values
    models: list[type[BaseModel]] = [Recipe]
    for part in place:
        node, models = _descend(node, models, part, override)
    if isinstance(node, list):
        node[_index(node, last, override)] = value
    else:
        if last in TAGS:
            _switch(node, models, value, {name for name in node if ".".join([*place, str(name)]) in given})
        node[last] = value
    return parts


def _descend(node: Any, models: list[type[BaseModel]], part: str, override: str) -> tuple[Any, list[type[BaseModel]]]:
    """What is there, and the sections that may be: several where it is a union, none where no section may stand. Where
    nothing is, the section that stands there by default is written out."""
    if isinstance(node, list):
        child = node[_index(node, part, override)]
    else:
        section = models[0] if len(models) == 1 else _named(models, node)
        field = section.model_fields.get(part) if section else None
        models = models_in(field.annotation) if field else []
        child = node.get(part)
        if child is None:
            default = field.get_default() if field else None
            # As a recipe would write it: what tells it from its alternatives, and what it sets.
            tells = {*TAGS, *default.model_fields_set} if isinstance(default, Section) else set()
            child = node[part] = default.model_dump(mode="json", include=tells) if isinstance(default, Section) else {}
    if not isinstance(child, dict | list):
        raise ConfigError(f"override {shown(override)}: {part} is a value, not a section (got {shown(child)})")
    return child, models


def _named(models: list[type[BaseModel]], node: dict[str, Any]) -> type[BaseModel] | None:
    """The alternative that the node's tag names."""
    for model in models:
        for tag in TAGS:
            if tag in model.model_fields and model.model_fields[tag].default == node.get(tag):
                return model
    return None


def _switch(node: dict[str, Any], models: list[type[BaseModel]], tag: Any, given: set[str]) -> None:
    """Before another alternative takes over: only knobs that mean the same in both keep their values.

    They have the same type, and not two defaults. Of the rest the file spoke of the old alternative; what an
    override says stays, to be refused where it is wrong.
    """
    old = _named(models, node)
    new = _named(models, dict.fromkeys(TAGS, tag))
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
