"""Which form a row seems to have, by its keys alone: for messages, and for gold files, which name no form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHAPES: tuple[tuple[str, tuple[set[str], ...]], ...] = (
    ("judgments", ({"pair", "p_a"},)),
    ("comparisons", ({"chosen"}, {"rejected"}, {"text_correct"}, {"text_incorrect"})),
    ("shp", ({"human_ref_A"}, {"human_ref_B"})),
    ("ultrafeedback", ({"instruction", "completions"},)),
    ("argilla", ({"fields", "responses"}, {"ranking.responses"}, {"rating.responses"})),
    ("label_studio", ({"data", "annotations"},)),
    ("edits", ({"original", "edited"},)),
    ("csv", ({"response_a", "response_b", "choice"},)),
    ("likert", ({"response_a", "response_b", "rating"},)),
    ("rankings", ({"prompt", "responses"},)),
    ("ratings", ({"prompt", "response", "rating"}, {"prompt", "response", "helpfulness"})),
    ("thumbs", ({"prompt", "completion", "label"}, {"prompt", "response", "label"})),
)
"""Form and the keys, any set of which gives it away; the first that fits counts."""


def kind_of(row: Mapping[str, Any]) -> str | None:
    """The `kind` of the form whose keys the row has; None if it has no form's."""
    return next((kind for kind, shapes in SHAPES if any(keys <= row.keys() for keys in shapes)), None)
