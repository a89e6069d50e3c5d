"""What an audit is about: the judge, how it is asked, by which constitution. Labelling must match it, part by part.

How a judge is reached (address, concurrency, batch size, time limits) changes no label and is left out, as is the
seed: an audit is about a way of judging, not about one draw. Next: `gate.py`, which compares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlaif.config import Recipe
from rlaif.config.judging import CompareMode, ContrastMode, MemberMode, PanelMode, RankMode, ReviseMode
from rlaif.config.models import JudgeModel, LocalModel, ScriptedModel, VllmModel
from rlaif.constitution import Constitution
from rlaif.digest import hash_path
from rlaif.models.files import model_folders, named_files
from rlaif.models.scripted import from_path
from rlaif.records import content_id
from rlaif.templates import load_template

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


def identity(recipe: Recipe, constitution: Constitution) -> dict[str, Any]:
    """The whole way of judging as plain values. Files (templates, models on this disk) are named by their content.

    A recipe that revises is judged by `compare` wherever it is judged, and so is its audit.
    """
    mode = CompareMode() if isinstance(recipe.label.mode, ReviseMode) else recipe.label.mode
    return {
        "judge": _model(recipe.judge),
        "mode": _panel(mode) if isinstance(mode, PanelMode) else _mode(mode),
        "aggregation": recipe.label.aggregation.model_dump(mode="json"),
        "check_margin": recipe.label.check_margin,
        "constitution": {"id": constitution.id, "version": constitution.version, "hash": constitution.hash},
    }


def subject(audited: Mapping[str, Any]) -> str:
    """One hash of an identity: two audits are about the same thing when theirs are equal."""
    return content_id(audited)


def differences(audited: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """`judge.model: the audit has 'x', the recipe 'y'` for each part that differs."""
    before, after = dict(_flat(audited)), dict(_flat(wanted))
    keys = [*before, *(key for key in after if key not in before)]
    return [
        f"{key}: the audit has {_shown(before, key)}, the recipe {_shown(after, key)}"
        for key in keys
        if _shown(before, key) != _shown(after, key)
    ]


def _model(config: JudgeModel) -> dict[str, Any]:
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


def _mode(mode: MemberMode | RankMode) -> dict[str, Any]:
    template = load_template(mode.template)
    found = mode.model_dump(mode="json") | {"template": {"name": template.name, "hash": template.hash}}
    if isinstance(mode, ContrastMode) and mode.against is not None:
        found["against"] = _model(mode.against)
    return found


def _panel(mode: PanelMode) -> dict[str, Any]:
    members = {
        member.name: {"model": _model(member.model) if member.model else None, "mode": _mode(member.mode)}
        for member in mode.members
    }
    return mode.model_dump(mode="json") | {"members": members}


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, child in value.items():
            yield from _flat(child, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _shown(parts: Mapping[str, Any], key: str) -> str:
    return repr(parts[key]) if key in parts else "nothing"
