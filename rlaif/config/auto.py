"""What `label.mode.kind=auto` stands for: the mode that an audit chose among several, with that audit as its reason.

Settled on a recipe's plain values before they are validated (`load.py`), so that a run's recipe names the mode itself.
Whether the audit is about this judge and constitution is for labelling to check (`rlaif.audits.gate`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlaif.config.base import Section
from rlaif.config.judging import Mode
from rlaif.errors import ConfigError
from rlaif.files import read_file
from rlaif.jsonl import first_problem, strict_loads

SCHEMA = "rlaif/audits/v1"
"""Of what `rlaif audit` writes."""


class ModeChoice(Section):
    """The mode that an audit proposes, as its JSON holds it under `modes.chosen`."""

    name: str
    """Its kind, and the settings that are not its kind's defaults."""
    mode: Mode
    reason: str
    """Its agreement with people on pairs that did not choose it, in words."""


def settle_mode(values: dict[str, Any], instead: Mode | None = None) -> str | None:
    """Put the chosen mode, or `instead`, where `label.mode` says `auto`, in place; say which and why.

    None where the recipe names its mode, and where what it says is no recipe anyway: validation tells more of that.
    ConfigError where the audit cannot be read, compared no modes, or proposes none of them.
    """
    label = values.get("label")
    if not isinstance(label, dict) or label.get("mode") != {"kind": "auto"}:
        return None
    if instead is not None:
        label["mode"] = instead.model_dump(mode="json")
        return None
    audit = label.get("audit")
    if audit is None:
        raise ConfigError(
            "label.mode.kind: auto takes the mode that an audit chose, and label.audit names none; make one with: "
            f"{command(Path('audit.json'), modes=True)}, and set label.audit.file=audit.json"
        )
    if not isinstance(audit, dict) or not isinstance(audit.get("file"), str):
        return None
    chosen = chosen_mode(Path(os.path.expanduser(audit["file"])))
    label["mode"] = chosen.mode.model_dump(mode="json")
    return f"label.mode: {chosen.name}, by audit {audit['file']}: {chosen.reason}"


def chosen_mode(path: Path) -> ModeChoice:
    """What the audit in this file proposes."""
    modes = read_audit(path, modes=True).get("modes")
    if not isinstance(modes, dict):
        raise ConfigError(
            f"label.mode.kind: auto: the audit {path} compared no modes; make one that did with: "
            f"{command(path, modes=True)}"
        )
    if modes.get("chosen") is None:
        raise ConfigError(
            f"label.mode.kind: auto: the audit {path} chose none. {modes.get('sentence', 'It does not say why.')} "
            "Audit with more labels, with another judge or constitution, or name a mode here"
        )
    try:
        return ModeChoice.model_validate(modes["chosen"])
    except ValidationError as error:
        raise ConfigError(
            f"label.audit.file: {path}: modes.chosen is not what `rlaif audit` writes: {first_problem(error)}"
        ) from None


def read_audit(path: Path, modes: bool = False) -> dict[str, Any]:
    """The audit that `label.audit.file` names. ConfigError where it is none, with the command that makes one (of
    several `modes`)."""
    try:
        audit = strict_loads(read_file(path).decode())
    except FileNotFoundError:
        raise ConfigError(f"label.audit.file: {path}: no such file; make it with: {command(path, modes)}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"label.audit.file: {path}: cannot be read as JSON: {error}") from None
    if not isinstance(audit, dict) or audit.get("schema") != SCHEMA or not isinstance(audit.get("audited"), dict):
        raise ConfigError(f"label.audit.file: {path}: is not what `rlaif audit` writes (schema {SCHEMA})")
    return audit


def command(path: Path, modes: bool = False) -> str:
    """How such an audit is made."""
    tried = " --modes compare,checklist,contrast" if modes else ""
    return f"rlaif audit RECIPE --gold FILE{tried} --out {path}"
