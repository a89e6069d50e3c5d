"""What an audit is about and the least it must say: for a recipe that requires an audit, and for `rlaif audit --gate`.

An audit is about a way of judging: the judge, how it is asked, by which constitution. Labelling must match it, part by
part. How a judge is reached (address, concurrency, batch size, time limits) changes no label and is left out, as is the
seed.

A gate is on values (`accuracy=0.6`) or, stricter, on the lower ends of their intervals (`accuracy.low=0.6`): a value
reaches its threshold half of the time by luck alone when the truth lies at it. What was not measured passes no gate.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rlaif.audits import MEASURES
from rlaif.config import Recipe
from rlaif.config.judging import CompareMode, ContrastMode, MemberMode, PanelMode, RankMode, ReviseMode
from rlaif.config.load import dotted, how_to_audit, read_audit
from rlaif.config.models import JudgeModel, LocalModel, ScriptedModel, VllmModel, engine_of
from rlaif.constitution import Constitution, load_constitution
from rlaif.digest import hash_path
from rlaif.errors import ConfigError, DataError, did_you_mean
from rlaif.feedback.calibration import Isotonic, Temperature, fitted
from rlaif.models.files import model_folders, named_files
from rlaif.models.scripted import from_path
from rlaif.records import content_id
from rlaif.stats import at
from rlaif.templates import load_template

LOW = ".low"
WITHOUT_INTERVAL = {"coverage"}
REACHED_BY = {
    "api_key_env",
    "base_urls",
    "batch_size",
    "concurrency",
    "max_model_len",
    "max_tries",
    "startup_timeout_s",
    "timeout_s",
}


# ----------------------------------------------------------------------------------------- what it is about


def identity(recipe: Recipe, constitution: Constitution) -> dict[str, Any]:
    """The whole way of judging as plain values. Files (templates, models on this disk) are named by their content.

    A recipe that revises is judged by `compare` wherever it is judged, and so is its audit.
    """
    mode = CompareMode() if isinstance(recipe.label.mode, ReviseMode) else recipe.label.mode
    return {
        "judge": _model(recipe.judge),
        "mode": _mode(mode),
        "aggregation": recipe.label.aggregation.model_dump(mode="json"),
        "check_margin": recipe.label.check_margin,
        "constitution": {"id": constitution.id, "version": constitution.version, "hash": constitution.hash},
    }


def differences(audited: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """`judge.model: the audit has 'x', the recipe 'y'` for each part that differs."""
    before, after = ({key: repr(value) for key, value in dotted(of).items()} for of in (audited, wanted))
    return [
        f"{key}: the audit has {before.get(key, 'nothing')}, the recipe {after.get(key, 'nothing')}"
        for key in before | after
        if before.get(key) != after.get(key)
    ]


def _model(config: JudgeModel) -> dict[str, Any]:
    config = engine_of(config)
    found = config.model_dump(mode="json", exclude=REACHED_BY)
    if isinstance(config, LocalModel | VllmModel):
        from rlaif.models.local.machine import resolve  # noqa: PLC0415 (brings torch)

        found["dtype"] = resolve(config.dtype)  # "auto" and what it stands for are one judge
    files = named_files(config.arguments) if isinstance(config, VllmModel) else []
    if isinstance(config, ScriptedModel):
        found["content"] = from_path(config.model).revision
    elif files := [*model_folders(config.model), *files]:
        found["content"] = content_id([hash_path(file) for file in files])
    return found


def _mode(mode: MemberMode | RankMode | PanelMode) -> dict[str, Any]:
    found = mode.model_dump(mode="json")
    if isinstance(mode, PanelMode):
        members = {
            member.name: {"model": _model(member.model) if member.model else None, "mode": _mode(member.mode)}
            for member in mode.members
        }
        return found | {"members": members}
    template = load_template(mode.template)
    found["template"] = {"name": template.name, "hash": template.hash}
    if isinstance(mode, ContrastMode) and mode.against is not None:
        found["against"] = _model(mode.against)
    return found


# ------------------------------------------------------------------------------------------------ its gate


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
    rows = (Shortfall(name, measured(audit, name), threshold) for name, threshold in gate.items())
    # Not "below", so that nan, which JSON can hold, fails too.
    return [row for row in rows if row.value is None or not row.value >= row.threshold]


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
