"""What every section is made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails

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
        wrong = [
            InitErrorDetails(
                type="value_error",
                loc=(name,),
                input=values[name],
                ctx={"error": ValueError(f"a number, not true or false (got {values[name]!r})")},
            )
            for name, field in cls.model_fields.items()
            if name in values and _holds_truth(values[name]) and _is_number(field.annotation)
        ]
        if wrong:
            raise ValidationError.from_exception_data(cls.__name__, wrong)
        return values


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
