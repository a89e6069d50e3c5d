"""The least that an audit must say: for the exit code of `rlaif audit`, and for a recipe that requires an audit.

A gate is on values (`accuracy=0.6`) or, stricter, on the lower ends of their intervals (`accuracy.low=0.6`): a value
reaches its threshold half of the time by luck alone when the truth lies at it. What was not measured passes no gate.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rlaif.audits import MEASURES
from rlaif.audits.identity import differences, identity
from rlaif.config import Recipe
from rlaif.config.judging import ReviseMode
from rlaif.config.load import how_to_audit, read_audit
from rlaif.constitution import load_constitution
from rlaif.errors import ConfigError, DataError, did_you_mean
from rlaif.feedback.calibration import Isotonic, Temperature, fitted
from rlaif.stats import at

LOW = ".low"
WITHOUT_INTERVAL = {"coverage"}


class Shortfall(NamedTuple):
    """One threshold that was not reached; `value` is None where nothing was measured."""

    name: str
    value: float | None
    threshold: float

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.name}: not measured, the gate wants {self.threshold:g}"
        return f"{self.name}: {self.value:.3f}, below the gate's {self.threshold:g}"


def parse_gate(text: str) -> dict[str, float]:
    """`accuracy=0.6,consistency.low=0.7` as thresholds by name. ConfigError for anything else."""
    thresholds: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ConfigError(f"gate {text!r}: {part.strip()!r} is not of the form name=value")
        try:
            threshold = float(value)
        except ValueError:
            raise ConfigError(f"gate {text!r}: {name} must be a number from 0 to 1 (got {value!r})") from None
        if name in thresholds:
            raise ConfigError(f"gate {text!r}: {name} is there twice")
        thresholds[name] = threshold
    check_names(thresholds, f"gate {text!r}")
    return thresholds


def check_names(gate: Mapping[str, float], where: str) -> None:
    """ConfigError, naming the place, for a measure that no audit has or a threshold outside 0 to 1."""
    known = [*MEASURES, *(name + LOW for name in MEASURES if name not in WITHOUT_INTERVAL)]
    for name, threshold in gate.items():
        if name not in known:
            raise ConfigError(f"{where}: no measure {name!r}{did_you_mean(name, known)}")
        if not 0 <= threshold <= 1:
            raise ConfigError(f"{where}: {name} must be a number from 0 to 1 (got {threshold:g})")


def check_gate(audit: Mapping[str, Any], gate: Mapping[str, float]) -> list[Shortfall]:
    """The thresholds that this audit does not reach, in the gate's order; none means that it passed."""
    values = {name: measured(audit, name) for name in gate}
    return [
        Shortfall(name, values[name], threshold)
        for name, threshold in gate.items()
        if (found := values[name]) is None or not found >= threshold  # so that nan, which JSON can hold, fails too
    ]


def measured(audit: Mapping[str, Any], name: str) -> float | None:
    """The measure of this name, or for `name.low` the lower end of its interval; None where the audit has none."""
    end = "low" if name.endswith(LOW) else "value"
    value = at(audit, f"{MEASURES[name.removesuffix(LOW)]}.{end}")
    return value if isinstance(value, int | float) else None


def check_requirement(recipe: Recipe) -> Temperature | Isotonic | None:
    """Hold `label.audit` against the audit that it names, and return the map that it asks for, if any.

    Raises ConfigError where the file is missing or is no audit, where it is about another way of judging (saying what
    differs), where it fails the gate, where it has no such map, and where the mode gives nothing to map.
    """
    requirement = recipe.label.audit
    if requirement is None:
        return None
    path = Path(os.path.expanduser(requirement.file))
    check_names(requirement.gate, "label.audit.gate")
    audit = read_audit(path)
    different = differences(audit["audited"], identity(recipe, load_constitution(recipe.constitution)))
    if different:
        raise ConfigError(
            f"label.audit.file: {path} is about another judge, mode or constitution: {'; '.join(different)}; "
            f"audit this one: {how_to_audit(path)}"
        )
    short = check_gate(audit, requirement.gate)
    if short:
        raise ConfigError(
            f"label.audit.gate: {path} does not pass: {'; '.join(map(str, short))}; use a better judge, mode or "
            "constitution, or lower the gate"
        )
    if requirement.calibrate == "none":
        return None
    if isinstance(recipe.label.mode, ReviseMode):
        raise ConfigError(
            f"label.audit.calibrate: {requirement.calibrate}: revise compares nothing, so there is no p(a) to correct "
            "but label.mode.confidence; set calibrate to none"
        )
    try:
        return fitted(audit.get("calibration") or {}, requirement.calibrate)
    except DataError as error:
        raise ConfigError(f"label.audit.calibrate: {path}: {error}") from None
