"""What `rlaif check` and `rlaif schema` do: look at one file, say what it is and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rlaif.config import load_recipe, recipe_schema
from rlaif.config.load import UNREADABLE
from rlaif.constitution import Constitution, lint, list_checks, load_constitution
from rlaif.errors import ConfigError, did_you_mean
from rlaif.templates import load_template


def check_file(path: Path) -> str:
    """One line that says the file is valid, and a line for each warning. Raises ConfigError for a bad file."""
    if path.suffix == ".jinja":
        template = load_template(str(path))
        return f"{path}: judge template {template.name}, hash {template.hash}: valid"
    if path.suffix not in {".yaml", ".yml"}:
        raise ConfigError(f"{path}: neither .yaml (constitution or recipe) nor .jinja (judge template)")
    if _is_recipe(path):
        recipe = load_recipe(str(path))
        return f"{path}: recipe {recipe.name}: valid"
    constitution = load_constitution(str(path))
    judged = sum(p.judged for p in constitution.principles)
    checked = sum(p.check is not None for p in constitution.principles)
    counts = f"{len(constitution.principles)} principles ({judged} judged, {checked} checked)"
    first = f"{path}: constitution {constitution.id} {constitution.version}, {counts}: valid"
    return "\n".join([first, *(f"  warning: {warning}" for warning in lint(constitution))])


def _is_recipe(path: Path) -> bool:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, *UNREADABLE):
        return False  # the constitution loader says what is wrong
    return isinstance(value, dict) and ("policy" in value or "judge" in value)


def check_table() -> str:
    """The checks a principle may use, one a line: kind, parameters, what it asks."""
    rows = list_checks()
    width = max(len(row.kind) for row in rows)
    return "\n".join(f"{row.kind:<{width}}  {row.description}  [{row.parameters}]" for row in rows)


def json_schema(kind: str) -> dict[str, Any]:
    """JSON Schema of a constitution or a recipe."""
    if kind == "recipe":
        return recipe_schema()
    if kind == "constitution":
        return Constitution.model_json_schema(by_alias=True)
    raise ConfigError(f"schema: no schema of {kind!r}{did_you_mean(kind, ['constitution', 'recipe'])}")
