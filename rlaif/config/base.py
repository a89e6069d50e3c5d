"""What every section is made of. A docstring under a field is its help (`rlaif schema recipe`).

Where there are alternatives they are tagged unions, so a knob that does not apply cannot be set. Defaults cite their
source. What is derived is a property; nothing is filled in later.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from rlaif.errors import without_secrets

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused; no number is true, false, infinite or none."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, values: Any) -> Any:
        """pydantic takes true for 1."""
        if not isinstance(values, dict):
            return values
        _refuse(
            cls.__name__,
            {
                name: f"a number, not true or false (got {values[name]!r})"
                for name, field in cls.model_fields.items()
                if name in values and _holds_truth(values[name]) and _is_number(field.annotation)
            },
        )
        return values

    @model_validator(mode="before")
    @classmethod
    def _no_secret_in_a_url(cls, values: Any) -> Any:
        """It would be copied into the run folder, its cache keys and its messages."""
        if isinstance(values, dict):
            # What a section inside holds is that section's to refuse, at its place.
            own = {key: value for key, value in values.items() if not _holds_sections(cls, key)}
            _refuse(cls.__name__, {key: SECRET for key, value in own.items() if any(map(_is_secret, _texts(value)))})
        return values


SECRET = (
    "a URL must not hold a user, password or key, as recipes are copied into run folders; leave it out, and name an "
    "environment variable (`api_key_env` of a client model) that holds the key"
)


def _refuse(title: str, wrong: dict[str, str]) -> None:
    """ValidationError with these complaints by key; none of them shows the value."""
    problems = [
        InitErrorDetails(type="value_error", loc=(key,), input=None, ctx={"error": ValueError(message)})
        for key, message in wrong.items()
    ]
    if problems:
        raise ValidationError.from_exception_data(title, problems)


def _holds_sections(section: type[Section], key: str) -> bool:
    field = section.model_fields.get(key)
    return field is not None and any(isinstance(k, type) and issubclass(k, Section) for k in kinds_in(field.annotation))


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for pair in value.items() for each in pair for text in _texts(each))
    elif isinstance(value, list | tuple):
        yield from (text for each in value for text in _texts(each))


def _is_secret(text: str) -> bool:
    return ":/" in text and without_secrets(text) != text


def _holds_truth(value: Any) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
    return any(isinstance(each, bool) for each in inside)


def _is_number(annotation: Any) -> bool:
    """Whether numbers may stand there, alone or in a list or mapping, and true and false may not."""
    kinds = list(kinds_in(annotation))
    return (int in kinds or float in kinds) and bool not in kinds


def kinds_in(annotation: Any) -> Iterator[Any]:
    """Every type that an annotation names, at any depth."""
    inside = get_args(annotation)
    yield from (kind for each in inside for kind in kinds_in(each)) if inside else [annotation]
