"""The modes that an audit is to compare, from the words of the command line, and what each is called in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rlaif.config.base import Section, written
from rlaif.config.judging import (
    ChecklistMode,
    CompareMode,
    ContrastMode,
    Mode,
    PanelMode,
    RankMode,
    ReasonedMode,
    ScoreMode,
)
from rlaif.errors import ConfigError, did_you_mean, shown

DEFAULTS: dict[str, Mode] = {
    mode.kind: mode
    for mode in (CompareMode(), ReasonedMode(), ScoreMode(), ChecklistMode(), ContrastMode(), RankMode())
}
"""What a name stands for where the recipe's own mode is of another kind."""
NO_NAMES = {
    "revise": "it compares nothing, and its audit is that of compare; name compare",
    "panel": "a panel has members; write it as '{kind: panel, members: [{name: one}, {name: two}]}'",
    "auto": "which mode that is the audit is to find out",
}


def parse_modes(words: Sequence[str], own: Mode) -> tuple[Mode, ...]:
    """Each `compare,checklist` or `{kind: contrast, length: mean}`, as modes in the order of their names.

    A name stands for the mode `own` where that is of its kind, else for the kind with its defaults. ConfigError for
    what is no mode, for one that is there twice, and for fewer than two.
    """
    found: dict[str, Mode] = {}
    for mode in (mode for text in words for mode in _modes(text, own)):
        name = mode_name(mode)
        if name in found:
            same = found[name] == mode
            raise ConfigError(
                f"--modes: {name} is {'there twice' if same else 'two panels; rename the members of one'}"
            )
        found[name] = mode
    if len(found) < 2:
        raise ConfigError(f"--modes: name at least two, to choose one of them (got {', '.join(found)})")
    return tuple(found[name] for name in sorted(found))


def mode_name(mode: Mode) -> str:
    """The kind, and what is set otherwise than by default: `contrast length=mean`."""
    if isinstance(mode, PanelMode):
        return f"panel {mode.combine} of {', '.join(member.name for member in mode.members)}"
    knobs = mode.model_dump(mode="json", exclude={"kind"}, exclude_defaults=True)
    told = {key: value.get("model", value) if isinstance(value, dict) else value for key, value in knobs.items()}
    return " ".join([mode.kind, *(f"{key}={value}" for key, value in told.items())])


def _modes(text: str, own: Mode) -> Iterator[Mode]:
    if text.lstrip().startswith("{"):
        mode: Mode = written(text, _Place, "--modes")
        if mode.kind == "revise":
            raise ConfigError(f"--modes: not revise: {NO_NAMES['revise']}")
        yield mode
        return
    for name in (part.strip() for part in text.split(",")):
        if name == own.kind == "panel":
            yield own
            continue
        if name in NO_NAMES:
            raise ConfigError(f"--modes: not {name}: {NO_NAMES[name]}")
        if name not in DEFAULTS:
            raise ConfigError(f"--modes: no mode {shown(name)}{did_you_mean(name, DEFAULTS)}")
        yield own if own.kind == name else DEFAULTS[name]


class _Place(Section):
    """A place for a mode, as a recipe has `label.mode`."""

    mode: Mode
