"""The JSON Schemas for editors: as strict as the loaders, explained, and the shipped file is the current one."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rlaif.checkup import SCHEMAS, json_schema, schema_header, write_schema
from rlaif.config.recipe import Recipe
from rlaif.constitution import Constitution
from rlaif.constitution.checks import CHECKS
from rlaif.errors import ConfigError
from rlaif.resources import available, resolve
from rlaif.signals.kinds import SIGNALS

jsonschema = pytest.importorskip("jsonschema")

FILE = "constitution.schema.json"
HEAD = {"schema": "rlaif/constitution/v1", "id": "c", "version": "1.0.0", "title": "T"}
JUDGED = {"id": "a", "compare": "Which response is calmer?"}
RECIPE = yaml.safe_load(resolve("recipes", "quickstart").read_text())


def validator(kind: str) -> Any:
    schema = json_schema(kind)
    return jsonschema.validators.validator_for(schema)(schema)


CONSTITUTION, RECIPES = validator("constitution"), validator("recipe")


def constitution(principle: dict[str, Any], **head: Any) -> dict[str, Any]:
    return HEAD | head | {"principles": [principle]}


@pytest.mark.parametrize("kind", SCHEMAS)
def test_the_schema_is_a_schema_of_the_draft_that_it_names(kind):
    found = validator(kind)
    assert isinstance(found, jsonschema.Draft7Validator)
    found.check_schema(found.schema)
    assert list(found.schema)[:3] == ["$schema", "$id", "title"]
    assert found.schema["$id"] == f"urn:{SCHEMAS[kind]}" and found.schema["title"] == f"rlaif {kind}"


@pytest.mark.parametrize(
    ("found", "folder"), [(CONSTITUTION, "constitutions"), (RECIPES, "recipes")], ids=["constitution", "recipe"]
)
def test_what_is_shipped_fits(found, folder):
    for name in available(folder):
        value = yaml.safe_load(resolve(folder, name).read_text())
        assert [error.message for error in found.iter_errors(value)] == []
        assert not found.is_valid(value | {"nmae": 1})


def test_the_shipped_file_is_current_and_the_constitutions_name_it():
    folder = resolve("constitutions", "harmlessness").parent
    current = json.loads((folder / FILE).read_text())
    assert current == json_schema("constitution"), f"run: rlaif schema constitution --out constitutions/{FILE}"
    for name in available("constitutions"):
        first = resolve("constitutions", name).read_text().split("\n")[0]
        assert first == schema_header(folder / FILE) == "# yaml-language-server: $schema=constitution.schema.json"


@pytest.mark.parametrize("kind", SCHEMAS)
def test_writing_says_which_line_to_add(kind, tmp_path):
    path = tmp_path / "deep" / "mine.schema.json"
    told = write_schema(kind, path)
    assert json.loads(path.read_text()) == json_schema(kind)
    assert told.startswith(f"{path}: ") and f"a {kind}" in told
    assert told.split("\n")[-1] == "# yaml-language-server: $schema=mine.schema.json"


def test_an_unknown_kind_names_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match="no schema of 'recipes'; did you mean 'recipe'"):
        write_schema("recipes", tmp_path / "x.json")


@pytest.mark.parametrize(
    "value",
    [
        constitution({"id": "a"}),  # nothing decides it
        constitution(JUDGED | {"wieght": 2}),
        constitution(JUDGED | {"weight": 0}),
        constitution(JUDGED | {"weight": "2"}),
        constitution(JUDGED | {"veto": "yes"}),
        constitution(JUDGED | {"priority": 1.5}),
        constitution(JUDGED | {"tags": "harmful"}),
        constitution(JUDGED | {"tags": [""]}),
        constitution(JUDGED | {"question": "Is it calm?"}),
        constitution(JUDGED | {"desired": "yes"}),
        constitution(JUDGED | {"question": "Is it calm?", "desired": False}),
        constitution(JUDGED | {"question": "Is it calm?", "desired": "maybe"}),
        constitution(JUDGED | {"critique": None}),
        constitution(JUDGED | {"compare": " "}),
        constitution(JUDGED | {"id": "a b"}),
        constitution({"id": "a", "contrast": {}}),
        constitution({"id": "a", "contrast": {"against": "x"}}),
        constitution({"id": "a", "contrast": {"for": " "}}),
        constitution({"id": "a", "contrast": {"for_": "x"}}),
        constitution({"id": "a", "contrast": {"for": "x", "agianst": "y"}}),
        constitution({"id": "a", "contrast": {"for": "x", "against": 3}}),
        constitution({"id": "a", "contrast": ["x", "y"]}),
        constitution(JUDGED | {"contrast": {"against": ""}}),
        constitution({"id": "a", "check": {"kind": "max_word", "limit": 3}}),
        constitution({"id": "a", "check": {"kind": "max_words"}}),
        constitution({"id": "a", "check": {"kind": "max_words", "limit": 0}}),
        constitution({"id": "a", "check": {"kind": "max_words", "limit": 3, "limt": 3}}),
        constitution({"id": "a", "check": {"kind": "no_list", "limit": 3}}),
        constitution({"id": "a", "check": {"text": "x"}}),  # fits one check only, but does not say which
        constitution({"id": "a", "check": "no_list"}),
        constitution({"id": "a", "classifier": {"kind": "repetition"}}),
        constitution({"id": "a", "classifier": {"kind": "repetition", "n": 0, "at_most": 1}}),
        constitution({"id": "a", "classifier": {"kind": "keywords", "at_most": 1}}),
        constitution({"id": "a", "classifier": {"kind": "sentimant", "at_most": 1}}),
        constitution({"id": "a", "check": {"kind": "no_list"}, "classifier": {"kind": "repetition", "at_most": 1}}),
        constitution(JUDGED, version=1.0),
        constitution(JUDGED, version=""),
        constitution(JUDGED, schema="rlaif/constitution/v9"),
        constitution(JUDGED, titel="T"),
        constitution(JUDGED, examples=[{"prompt": "p", "response": "r", "critique": "c"}]),
        constitution(JUDGED, examples=[{"prompt": "p", "response": "r", "critique": "c", "revision": " "}]),
        HEAD,
        HEAD | {"principles": []},
    ],
)
def test_what_the_loader_refuses_in_a_constitution_the_schema_refuses(value):
    assert not _loads(value)
    assert not CONSTITUTION.is_valid(value)


VALUES = st.sampled_from(
    [None, True, "", " ", "x", "yes", "no", 0, 1, 2.5, -1, [], ["x"], [""], {}, {"kind": "no_list"}]
)
CHECK = st.one_of(
    VALUES,
    st.fixed_dictionaries(
        {},
        optional={"kind": st.sampled_from([*CHECKS, "max_word", 1])}
        | dict.fromkeys(("limit", "pattern", "text", "n", "max_share", "limt"), VALUES),
    ),
)
# That the two sides differ only the loader knows.
CONTRAST = st.one_of(
    VALUES,
    st.fixed_dictionaries({}, optional={"for": VALUES, "against": VALUES, "x": VALUES}).filter(
        lambda sides: sides.get("for") != sides.get("against")
    ),
)
PRINCIPLE = st.fixed_dictionaries(
    {"id": st.sampled_from(["a", "", "a b", 1])},
    optional=dict.fromkeys(("compare", "critique", "question", "desired", "weight", "priority", "veto", "x"), VALUES)
    | {"tags": VALUES, "check": CHECK, "contrast": CONTRAST},
)


@settings(max_examples=300, deadline=None)
@given(PRINCIPLE, st.fixed_dictionaries({}, optional=dict.fromkeys(("version", "title", "preamble", "y"), VALUES)))
def test_schema_and_loader_agree_on_any_constitution(principle, head):
    value = constitution(principle, **head)
    assert CONSTITUTION.is_valid(value) == _loads(value)


def _loads(value: dict[str, Any]) -> bool:
    """Whether the loader takes it; it refuses keys left empty before the model sees them."""
    if None in _leaves(value):
        return False
    try:
        Constitution.model_validate(value)
    except ValidationError:
        return False
    return True


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _leaves(inner)
    else:
        yield value


@pytest.mark.parametrize(
    "change",
    [
        {"judge": {"model": "m"}},
        {"judge": {"backend": "lokal", "model": "m"}},
        {"judge": {"backend": "local", "model": "m", "base_urls": ["x"]}},
        {"policy": {"backend": "client", "model": "m", "base_urls": ["x"]}},
        {"label": {"mode": {"kind": "reasoned", "clamp": [0.4]}}},
        {"label": {"mode": {"kind": "reasoned", "clamp": [0.4, 0.6, 0.6]}}},
        {"label": {"mode": {"kind": "reasoned", "clamp": [0.4, "x"]}}},
        {"label": {"mode": {"kind": "checklists"}}},
        {"label": {"aggregation": {"decided": 0.1}}},
        {"seed": "x"},
        {"sample": {"responses_per_prompt": 1}},
    ],
)
def test_what_the_loader_refuses_in_a_recipe_the_schema_refuses(change):
    value = RECIPE | change
    with pytest.raises(ValidationError):
        Recipe.model_validate(value)
    assert not RECIPES.is_valid(value)


@pytest.mark.parametrize(
    "change",
    [
        {"judge": {"backend": "client", "model": "m", "base_urls": ["x"], "revision": None}},
        {"label": {"mode": {"kind": "reasoned", "clamp": [0.3, 0.7]}}},
        {"label": {"mode": {"kind": "panel", "members": [{"name": "a"}, {"name": "b", "mode": {"kind": "score"}}]}}},
        {"label": {"audit": {"file": "a.json", "gate": {"accuracy": 0.6}}}},
    ],
)
def test_what_the_loader_takes_in_a_recipe_the_schema_takes(change):
    value = RECIPE | change
    Recipe.model_validate(value)
    assert [error.message for error in RECIPES.iter_errors(value)] == []


def test_hovering_over_any_key_of_a_constitution_says_something():
    schema = json_schema("constitution")
    for definition in (schema, *(schema["definitions"][name] for name in ("Principle", "Contrast", "Example"))):
        assert [key for key, value in definition["properties"].items() if not value.get("description")] == []
    kinds = {d["properties"]["kind"]["const"]: d for d in schema["definitions"].values() if "kind" in d["properties"]}
    known = CHECKS | SIGNALS
    assert set(kinds) == set(known)
    for kind, definition in kinds.items():
        assert definition["properties"]["kind"]["description"] == inspect.cleandoc(known[kind].__doc__ or "")


def test_no_key_stands_beside_a_reference():
    """Draft 7 ignores it: a description there would never be shown."""

    def references(node: Any) -> Iterator[dict[str, Any]]:
        if isinstance(node, dict | list):
            if isinstance(node, dict) and "$ref" in node:
                yield node
            for value in node.values() if isinstance(node, dict) else node:
                yield from references(value)

    found = list(references(json_schema("recipe")))
    assert len(found) > 20
    for node in found:
        assert list(node) == ["$ref"] and node["$ref"].startswith("#/definitions/")


def test_schemas_hold_no_path_of_this_machine():
    for kind in SCHEMAS:
        assert str(Path.cwd()) not in json.dumps(json_schema(kind))
