"""What `rlaif check` and `rlaif schema` do: look at one file, say what it is and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlaif.config import Recipe, load_recipe
from rlaif.config.base import TAGS
from rlaif.console import aligned
from rlaif.constitution import Constitution, lint, load_constitution
from rlaif.constitution.checks import CHECKS
from rlaif.errors import ConfigError, did_you_mean
from rlaif.jsonl import write_json
from rlaif.signals.kinds import SIGNALS
from rlaif.strict_yaml import read_mapping
from rlaif.study.config import load_study, recipe_of
from rlaif.templates import load_template

SCHEMAS = {"constitution": "rlaif:constitution:v1", "recipe": "rlaif:recipe"}
"""What there is a JSON Schema of, and its name."""


def check_file(path: Path) -> str:
    """One line that says the file is valid, and a line for each warning. Raises ConfigError for a bad file."""
    if not path.exists():
        raise ConfigError(f"{path}: no such file")
    if path.suffix == ".jinja":
        template = load_template(str(path))
        return f"{path}: judge template {template.name} of kind {template.kind}, hash {template.hash}: valid"
    if path.suffix not in {".yaml", ".yml"}:
        raise ConfigError(f"{path}: neither .yaml (constitution, recipe or study) nor .jinja (judge template)")
    try:
        keys = set(read_mapping(path, "")[1])
    except ConfigError:
        keys = set()  # the constitution loader says what is wrong
    if {"policy", "judge"} & keys:
        recipe = load_recipe(str(path))
        return f"{path}: recipe {recipe.name}: valid"
    if {"arms", "recipe"} & keys:
        study = load_study(path)
        for arm in study.arms:
            recipe_of(study, arm, study.seeds[0])
        return f"{path}: study {study.name}, arms {', '.join(study.arms)}: valid"
    constitution = load_constitution(str(path))
    judged = sum(p.judged for p in constitution.principles)
    checked = sum(p.coded for p in constitution.principles)
    counts = f"{len(constitution.principles)} principles ({judged} judged, {checked} checked)"
    first = f"{path}: constitution {constitution.id} {constitution.version}, {counts}: valid"
    return "\n".join([first, *(f"  warning: {warning}" for warning in lint(constitution))])


SHARED = ("kind", "at_least", "at_most")


def check_table() -> str:
    """The checks and classifiers a principle may use, one a line: kind, what it is, parameters with their defaults."""
    rows = []
    for kind, check in (CHECKS | SIGNALS).items():
        fields = {name: field for name, field in check.model_fields.items() if name not in SHARED}
        named = [name if field.is_required() else f"{name}={field.default}" for name, field in fields.items()]
        said = " ".join((check.__doc__ or "").split())
        rows.append((kind, f"{said}  [{', '.join(named)}]"))
    table, cut = aligned(rows), len(CHECKS)
    head = "classifier: {kind: ..., at_least: ..., at_most: ...}"
    return "\n".join(["check: {kind: ...}", *table[:cut], head, *table[cut:]])


def json_schema(kind: str) -> dict[str, Any]:
    """JSON Schema of a constitution or a recipe, as strict as the loader where a schema can say it.

    Draft 7, because the editors' YAML server reads that one and ignores newer keywords. What only the loader
    knows: repeated ids, regular expressions that do not compile, examples of a principle that is not there, a
    contrast of one text with itself, and rules between the sections of a recipe.
    """
    if kind not in SCHEMAS:
        raise ConfigError(f"schema: no schema of {kind!r}{did_you_mean(kind, SCHEMAS)}")
    schema = Recipe.model_json_schema() if kind == "recipe" else _constitution_schema()
    for definition in schema["$defs"].values():
        for tag in TAGS:
            if "const" in definition["properties"].get(tag, {}):
                _require_tag(definition, tag)
    schema = _draft7(schema)
    head = {"$schema": "http://json-schema.org/draft-07/schema#", "$id": f"urn:{SCHEMAS[kind]}"}
    return head | {"title": f"rlaif {kind}"} | {key: value for key, value in schema.items() if key != "title"}


def write_schema(kind: str, path: Path) -> str:
    """Write the schema to the path; what to tell the user, the header line last."""
    schema = json_schema(kind)
    if path.is_dir():
        raise ConfigError(f"schema: --out {path} is a folder; name a file in it")
    write_json(path, schema)
    return (
        f"{path}: schema written. With this as the first line of a {kind} in the same folder, VS Code's YAML "
        f"extension completes, explains and checks it:\n{schema_header(path)}"
    )


def schema_header(path: Path) -> str:
    """The comment that names this schema to the editors' YAML server, for a file that lies beside it."""
    return f"# yaml-language-server: $schema={path.name}"


def _constitution_schema() -> dict[str, Any]:
    """Pydantic's, and what the loader says besides: no null, no blank text, and keys that need each other."""
    schema = Constitution.model_json_schema(by_alias=True)
    signals = [kind.__name__ for kind in SIGNALS.values()]
    principle, *others = (schema["$defs"][name] for name in ("Principle", "Contrast", "Example", *signals))
    for text in (text for part in (schema, principle, *others) for text in part["properties"].values()):
        if "default" in text and text["default"] is None:  # a file leaves the key out instead of leaving it empty
            del text["default"]
            text.update(text.pop("anyOf")[0])
        if text.get("minLength") == 1:
            text["pattern"] = r"\S"
    principle["anyOf"] = [{"required": [key]} for key in ("compare", "contrast", "check", "classifier", "reference")]
    principle["not"] = {"required": ["check", "classifier"]}
    principle["properties"]["classifier"]["anyOf"] = [{"required": [key]} for key in ("at_least", "at_most")]
    principle["dependencies"] = {"question": ["desired"], "desired": ["question"]}
    return schema


def _require_tag(definition: dict[str, Any], tag: str) -> None:
    """The tag has a default in Python, but a file must write it; whoever points at it reads what it stands for."""
    definition["required"] = sorted({*definition.get("required", []), tag})
    field = definition["properties"][tag]
    field.pop("default", None)
    field.setdefault("description", definition.get("description", ""))


def _draft7(node: Any) -> Any:
    """Pydantic's draft 2020-12 in draft 7: `definitions`, tuples as `items`, and no keys beside a `$ref`."""
    if isinstance(node, list):
        return [_draft7(value) for value in node]
    if not isinstance(node, dict):
        return node
    values = {key: _draft7(value) for key, value in node.items() if key != "discriminator"}
    if isinstance(values.get("prefixItems"), list):
        values["items"], values["additionalItems"] = values.pop("prefixItems"), False
    if "$defs" in values:
        values["definitions"] = values.pop("$defs")
    if isinstance(reference := values.get("$ref"), str):
        values["$ref"] = reference.replace("#/$defs/", "#/definitions/")
        if len(values) > 1:
            values["allOf"] = [{"$ref": values.pop("$ref")}]
    return values
