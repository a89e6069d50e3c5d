"""From a recipe file and `section.key=value` overrides to a frozen Recipe, or one line for each mistake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from rlaif.config.auto import settle_mode
from rlaif.config.explain import validated
from rlaif.config.judging import Mode
from rlaif.config.overrides import apply_overrides
from rlaif.config.recipe import OF_NO_RUN, Recipe
from rlaif.console import say
from rlaif.errors import ConfigError, shown
from rlaif.resources import resolve
from rlaif.strict_yaml import read_yaml_file


def load_recipe(
    name_or_path: str, overrides: Sequence[str] = (), *later: Sequence[str], auto: Mode | None = None
) -> Recipe:
    """The recipe of that name or file with the overrides applied. Raises ConfigError listing every mistake.

    Of a key set twice the last value holds. A section may not replace what its own list has set in it; one of a `later`
    list may. Where `label.mode` is `auto`, the recipe has the mode that the audit in `label.audit` chose, and a line on
    the screen says so; or the mode `auto`, where one is given.
    """
    path = resolve("recipes", name_or_path)
    node, values = read_mapping(path, "a recipe")
    _rename_old(values, path)
    overridden = apply_overrides(values, overrides, *later)
    _rename_old(values, path)
    try:
        settled = settle_mode(values, auto)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if settled is not None:
        _say_once(settled)
    return validated(Recipe, path, node, values, overridden)


@cache
def _say_once(line: str) -> None:
    """A study loads one recipe for each arm and seed."""
    say(line)


def read_mapping(path: Path, what: str) -> tuple[yaml.Node | None, dict[str, Any]]:
    """A YAML file as it is written, and its keys and values; `what` it is, for the ConfigError where it is none."""
    node, values = read_yaml_file(path)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: {what} is a mapping of sections (got {type(values).__name__})")
    return node, values


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


def recipe_schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors."""
    return Recipe.model_json_schema()
