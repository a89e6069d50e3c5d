"""What every section is made of, and what is said of a bad one: `file:line: section.key: message (got value)`.

A docstring under a field is its help (`rlaif schema recipe`). Where there are alternatives they are tagged unions, so a
knob that does not apply cannot be set. Defaults cite their source. What is derived is a property; nothing is filled in
later. Recipes, studies and constitutions are all explained here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, InitErrorDetails
from yaml import Node

from rlaif.errors import ConfigError, did_you_mean, few, shown, without_secrets
from rlaif.strict_yaml import NotYaml, line_of, parse_yaml

M = TypeVar("M", bound=BaseModel)
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]

SECRET = (
    "a URL must not hold a user, password or key, as recipes are copied into run folders; leave it out, and name an "
    "environment variable (`api_key_env` of a client model) that holds the key"
)
TAGS = ("backend", "kind")
"""The keys that tell the alternatives of a union apart."""
MOST_EXPLAINED = 500
"""Mistakes of one file: to find the line and the nearest name of each takes time."""


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused; no number is true, false, infinite or none."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, values: Any) -> Any:
        """pydantic takes true for 1."""
        if isinstance(values, dict):
            truths = {}
            for name, field in cls.model_fields.items():
                value, kinds = values.get(name), [*kinds_in(field.annotation)]
                held = [*value.values()] if isinstance(value, dict) else value
                truth = any(isinstance(each, bool) for each in (held if isinstance(held, list | tuple) else [held]))
                if truth and (int in kinds or float in kinds) and bool not in kinds:
                    truths[name] = f"a number, not true or false (got {value!r})"
            _refuse(cls.__name__, truths)
        return values

    @model_validator(mode="before")
    @classmethod
    def _no_secret_in_a_url(cls, values: Any) -> Any:
        """It would be copied into the run folder, its cache keys and its messages."""
        if isinstance(values, dict):
            # What a section inside holds is that section's to refuse, at its place.
            fields = cls.model_fields
            own = {k: value for k, value in values.items() if k not in fields or not models_in(fields[k].annotation)}
            texts = [(key, text) for key, value in own.items() for text in _texts(value) if ":/" in text]
            _refuse(cls.__name__, {key: SECRET for key, text in texts if without_secrets(text) != text})
        return values


def _refuse(title: str, wrong: dict[str, str]) -> None:
    """ValidationError with these complaints by key; none of them shows the value."""
    problems = [
        InitErrorDetails(type="value_error", loc=(key,), input=None, ctx={"error": ValueError(message)})
        for key, message in wrong.items()
    ]
    if problems:
        raise ValidationError.from_exception_data(title, problems)


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for pair in value.items() for each in pair for text in _texts(each))
    elif isinstance(value, list | tuple):
        yield from (text for each in value for text in _texts(each))


def kinds_in(annotation: Any) -> Iterator[Any]:
    """Every type that an annotation names, at any depth."""
    inside = get_args(annotation)
    yield from (kind for each in inside for kind in kinds_in(each)) if inside else [annotation]


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections inside an annotation such as `tuple[A | B, ...]`."""
    return [kind for kind in kinds_in(annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]


def repeated(values: Iterable[object]) -> list[int]:
    """The positions of values that came before."""
    listed = [*values]
    return [position for position, value in enumerate(listed) if value in listed[:position]]


class Mistake(NamedTuple):
    """One thing that is wrong with a file's values."""

    place: tuple[int | str, ...]
    """The keys that lead to it, as the file writes them."""
    called: str
    """The same as text; an item of a list is called by its `id`, where it has one."""
    message: str

    def __str__(self) -> str:
        return f"{self.called}: {self.message}".removeprefix(": ")


def mistakes(error: ValidationError, values: Any, root: Any, words: Mapping[str, str] | None = None) -> list[Mistake]:
    """Each mistake in the values of a `root`, a model or a union of some, with the nearest valid name for a typo;
    MOST_EXPLAINED at most. `words`: what is said for those kinds of pydantic's errors."""
    problems = error.errors(include_url=False)
    inside = {problem["loc"][:length] for problem in problems for length in range(len(problem["loc"]))}
    found = []
    for problem in problems[:MOST_EXPLAINED]:
        if problem["loc"] not in inside:  # a complaint about what contains another mistake only repeats it
            path = (*problem["loc"], *problem.get("ctx", {}).get("at", ()))
            found.append(mistake_at(path, values, _message(problem, root, words or {})))
    return found


def mistake_at(path: Sequence[int | str], values: Any, message: str) -> Mistake:
    """Without the alternatives of unions, which pydantic names on its path to a value (`ppo.kl.fixed.coef`)."""
    place: list[int | str] = []
    called = []
    node, named = values, False
    for part in path:
        if not named and isinstance(node, dict) and part in [node.get(tag) for tag in TAGS]:
            named = True
            continue
        named = False
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            node = None
        name = node.get("id") if isinstance(node, dict) and isinstance(part, int) else None
        place.append(part)
        called.append(name if isinstance(name, str) and re.fullmatch(r"[\w-]{1,80}", name) else str(part)[:80])
    return Mistake(tuple(place), ".".join(called), message)


def validated(
    model: type[M],
    path: Path,
    node: Node | None,
    values: Any,
    overridden: Collection[str] = (),
    words: Mapping[str, str] | None = None,
    known: Sequence[Mistake] = (),
) -> M:
    """The values of a file as a `model`. `node` is the file as it is written, `overridden` the dotted keys that do not
    come from it, `known` what is wrong with it already. ConfigError, a line with its place for each mistake."""
    found, beyond = [*known], 0
    try:
        whole = model.model_validate(values)
    except ValidationError as error:
        told = {mistake.place for mistake in known}
        found += [mistake for mistake in mistakes(error, values, model, words) if mistake.place not in told]
        beyond = max(0, error.error_count() - MOST_EXPLAINED)
    if not found:
        return whole
    lines = []
    for mistake in found:
        keys = {".".join(map(str, mistake.place[:length])) for length in range(1, len(mistake.place) + 1)}
        line = line_of(node, mistake.place) or 0
        source = "override" if keys & set(overridden) else f"{path}:{line}" if line else str(path)
        lines.append((line, f"{source}: {mistake}"))
    raise ConfigError(few([text for _, text in sorted(lines, key=lambda each: each[0])], beyond)) from None


def written(text: str, place: type[Section], option: str) -> Any:
    """The value of the only key of `place`, written as `{kind: ..., ...}` on the command line after `option`.

    ConfigError, in one line, for text that is no YAML or no such value.
    """
    (key,) = place.model_fields
    try:
        values = {key: parse_yaml(text)[1]}
        return getattr(place.model_validate(values), key)
    except NotYaml as error:
        raise ConfigError(f"{option} {shown(text)}: {error.problems[0][1]}") from None
    except ValidationError as error:
        first, *_ = mistakes(error, values, place)
        raise ConfigError(f"{option} {shown(text)}: {first}") from None


def _message(problem: ErrorDetails, root: Any, words: Mapping[str, str]) -> str:
    kind, context, place = problem["type"], problem.get("ctx", {}), problem["loc"]
    got = f"(got {shown(problem['input'])})"
    tag = str(context.get("discriminator", "")).strip("'")
    match kind:
        case "extra_forbidden":
            keys = {key for model in _models_at(place[:-1], root) for key in _fields(model)}
            message = f"no such key{did_you_mean(str(place[-1]), keys)}"
        case "missing":
            message = "required, but missing"
        case "union_tag_not_found":
            known = [m.model_fields[tag].default for m in _models_at(place, root) if tag in m.model_fields]
            message = f"must say its '{tag}' {got}{did_you_mean('', known)}"
        case "union_tag_invalid":
            known, value = re.findall("'(.*?)'", context["expected_tags"]), str(context["tag"])
            message = f"no {tag} {shown(value)}{did_you_mean(value, known)}"
        case "value_error":
            message = str(context["error"])
        case "model_type" | "model_attributes_type" if kind not in words:
            message = f"a section of keys and values, not a single value {got}"
        case _:
            message = f"{words.get(kind, problem['msg'])} {got}"
    return message


def _models_at(path: Sequence[int | str], root: Any) -> list[type[BaseModel]]:
    """Those that may stand at the end of pydantic's path."""
    models, in_mapping = models_in(root), False
    for part in path:
        if isinstance(part, int) or in_mapping:
            in_mapping = False
            continue  # an item of a list has the models of the list, and one of a mapping those of the mapping
        if len(models) > 1:
            models = [m for m in models if part in [m.model_fields[t].default for t in TAGS if t in m.model_fields]]
        else:
            annotations = [_fields(model)[part].annotation for model in models]
            models = [inside for annotation in annotations for inside in models_in(annotation)]
            in_mapping = any(get_origin(annotation) is dict for annotation in annotations)
    return models


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """By the names that files use."""
    return {field.alias or name: field for name, field in model.model_fields.items()}
