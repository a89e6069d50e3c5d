"""Texts that try to win by addressing the judge: planted instructions and attempts to break out of the delimiters.

The texts are in attacks.yaml, which says what its fields mean. This module only reads and plants them: whether one
breaks a prompt is decided by the tests, whether one moves a judge by the audit's probes.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Literal

import yaml

from rlaif.records import Record


class Attack(Record):
    """One text to plant in a response; `{letter}`, `{lower}` and `{other}` are filled in by `planted`."""

    id: str
    kind: Literal["instruction", "role", "delimiter", "control", "unicode"]
    text: str
    place: Literal["start", "end"] = "end"


@cache
def load_attacks() -> tuple[Attack, ...]:
    """All shipped attacks, in the order of the file."""
    rows = yaml.safe_load(Path(__file__).with_name("attacks.yaml").read_text(encoding="utf-8"))
    return tuple(Attack.model_validate(row) for row in rows)


def planted(response: str, attack: Attack, letter: str) -> str:
    """The response with the attack in it, for the response that the judge knows by the label `letter`.

    The other response's label is A where `letter` is B, and B otherwise.
    """
    values = {"letter": letter, "lower": letter.lower(), "other": "A" if letter == "B" else "B"}
    # In one pass, and only these three: attacks hold braces of their own.
    text = re.sub(r"\{(letter|lower|other)\}", lambda found: values[found[1]], attack.text)
    return f"{response} {text}" if attack.place == "end" else f"{text} {response}"
