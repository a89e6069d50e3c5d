"""Bringing a stage up to date: whether it is to be done, what changed since it was finished, whether doing it again is
allowed, and whether another run has done it already.

A changed knob that would replace what a finished stage made is refused, unless the user says so: hours of labels must
not go for a typo. Changed files (a constitution that was edited, labels that people added) are followed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rlaif import __version__
from rlaif.config import Recipe, changed_keys
from rlaif.config.load import changes
from rlaif.console import heartbeat, say
from rlaif.digest import LARGE
from rlaif.errors import ConfigError, few
from rlaif.files import remove, writing
from rlaif.processes import check_launcher, leads, several
from rlaif.records import content_id
from rlaif.run_folder import Run
from rlaif.stages.stage import Stage

T = TypeVar("T")
SHOWN = 5
"""Changes that one line names."""


class Inputs(NamedTuple):
    """What a stage's outputs depend on, besides rlaif's version."""

    knobs: dict[str, Any]
    files: dict[str, str]
    """Hashes by name: a path, from the run folder on where it lies there."""

    @classmethod
    def of(cls, stage: Stage, recipe: Recipe, run: Run) -> Inputs:
        """As they are now."""
        files = {}
        for file in stage.inputs(recipe, run):
            inside = file.is_relative_to(run.folder)
            files[str(file.relative_to(run.folder) if inside else file)] = run.hash(file)
        return cls(stage.settings(recipe), files)

    @property
    def hash(self) -> str:
        """Of the knobs, the version and what is in the files; not of where these lie."""
        return content_id(self.knobs, __version__, list(self.files.values()))

    def read(self) -> dict[str, Any]:
        """What the manifest keeps."""
        return {"rlaif": __version__, **self._asdict()}

    def differences(self, stage: Stage, run: Run, otherwise: str) -> str:
        """What is no longer as the stage read it in this run: `otherwise` where nothing is, and empty where it did not
        finish there."""
        manifest = run.read_manifest()
        read = manifest.get("read", {}).get(stage.name)
        if read is None or stage.name not in manifest["stages"]:
            return ""
        files = [name for name in {**read["files"], **self.files} if read["files"].get(name) != self.files.get(name)]
        found = [*_knob_changes(read, self.knobs), *(f"{name} changed" for name in files)]
        return "; ".join((found or [otherwise])[:SHOWN])


def run_stage(recipe: Recipe, run: Run, stage: Stage, title: str, since: Sequence[Run] = ()) -> None:
    """Do one stage unless it is done already for these very inputs, here or in another run."""
    inputs = by_first(lambda: _due(recipe, run, stage, title, since))
    if inputs is None:
        return
    began, before = time.monotonic(), _stamps(stage, run)
    with heartbeat(stage.name):
        facts = stage.run(recipe, run) if stage.together else by_first(lambda: stage.run(recipe, run))
    if leads():
        for path, stamp in _stamps(stage, run).items():
            if before.get(path) == stamp:
                remove(path)  # of the time before: the stage did not write it now
    seconds = round(time.monotonic() - began, 1)
    facts = {"seconds": seconds, "dtypes": recipe.dtypes, **facts}
    run.mark_done(stage.name, inputs.hash, stage.outputs(run), facts, inputs.read())
    said = ", ".join(f"{key} {value}" for key, value in facts.items() if isinstance(value, int | str))
    say(f"{title}: done in {seconds:.0f} s{' (' + said + ')' if said else ''}")


def by_first(work: Callable[[], T]) -> T:
    """What `work` returns, done by the first of the processes that a launcher started, if it started several."""
    check_launcher()
    if not several():
        return work()
    from rlaif.training import parallel

    parallel.start()
    return parallel.first(work)


def _due(recipe: Recipe, run: Run, stage: Stage, title: str, since: Sequence[Run]) -> Inputs | None:
    """What the stage reads, if it is to be done now (and is noted as begun); None if it is done."""
    inputs = Inputs.of(stage, recipe, run)
    if run.is_done(stage.name, inputs.hash):
        say(f"{title}: up to date")
        return None
    if other := _take_over(stage, inputs, run, since):
        say(f"{title}: taken from {other}")
        return None
    again = inputs.differences(stage, run, "what it wrote was changed")
    say(f"{title} (again: {again})" if again else title)
    if len(since) == 1 and (found := inputs.differences(stage, since[0], "what it wrote there was changed")):
        say(f"  not as in {since[0].folder}: {found}")
    run.begin(stage.name, inputs.hash)
    return inputs


def _stamps(stage: Stage, run: Run) -> dict[Path, tuple[int, int]]:
    found = {path: os.stat(path) for path in stage.outputs(run) if path.exists()}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in found.items()}


# ----------------------------------------------------------------------------------------------- a changed recipe


def check_changes(recipe: Recipe, run: Run, wanted: Sequence[Stage], redo: bool) -> None:
    """Say what changed in the recipe since the folder was last worked on, and which finished stages are done again.

    ConfigError, naming both, where there are such stages and no `redo`. With it, stages that the recipe does not need
    any more go with their files.
    """
    earlier, manifest = run.earlier(), run.read_manifest()
    if earlier is None:
        return
    finished, read = manifest["stages"], manifest.get("read", {})
    if not redo and (old := [name for name in finished if name not in read]):
        raise ConfigError(
            f"{run.folder}: made by an earlier rlaif, which did not note what {old[0]} read; use another folder "
            "(--out), or do its stages again with --redo"
        )
    causes: dict[str, list[str]] = {}
    for stage in wanted:
        if stage.name in finished:
            before = read.get(stage.name)
            found = _knob_changes(before, stage.settings(recipe)) if before else ["rlaif: an earlier one made it"]
            for change in found:
                causes.setdefault(change, []).append(stage.name)
    gone = [name for name in finished if name not in {stage.name for stage in wanted}]
    again = [stage.name for stage in wanted if any(stage.name in names for names in causes.values())]
    changed = list(dict.fromkeys([*changed_keys(earlier, recipe), *causes]))
    follow = _followers(recipe, run, [s for s in wanted if s.name in finished], again) if changed else []
    if (causes or gone) and not redo:
        lines = [f"  {change} ({', '.join(stages)})" for change, stages in causes.items()]
        lines += [f"  what follows from these: {', '.join(follow)}"] if follow else []
        lines += [f"  no longer needed, and deleted: {', '.join(gone)}"] if gone else []
        raise ConfigError(
            f"{run.folder}: the recipe changed, and finished stages would be done again:\n{few(lines)}\n"
            f"  add --redo if they may; or keep them, and go on elsewhere with --out FOLDER --since {run.folder}"
        )
    if changed:
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        done = f"{', '.join([*again, *follow])} again" if again or follow else "every finished stage stays as it is"
        say(f"the recipe changed ({'; '.join(changed[:SHOWN])}{more}): {done}")
    if gone:
        say(f"no longer needed, and deleted: {', '.join(gone)}")
        run.forget(gone)


def _knob_changes(read: Mapping[str, Any], knobs: Mapping[str, Any]) -> list[str]:
    version = [] if read["rlaif"] == __version__ else [f"rlaif: {read['rlaif']} -> {__version__}"]
    return [*version, *changes(read["knobs"], knobs)]


def _followers(recipe: Recipe, run: Run, finished: Sequence[Stage], again: Sequence[str]) -> list[str]:
    """The finished stages that read what these write, directly or not, or the changed recipe's file."""
    written = {run.recipe}
    found = []
    for stage in finished:
        reads = written & set(stage.inputs(recipe, run))
        if reads and stage.name not in again:
            found.append(stage.name)
        if reads or stage.name in again:
            written |= set(stage.outputs(run))
    return found


# ------------------------------------------------------------------------------------------------- from other runs


def runs_there(folders: Sequence[Path], run: Run) -> list[Run]:
    """The runs in these folders. ConfigError for one that is none, or is `run` itself."""
    for folder in folders:
        if folder.resolve() == run.folder.resolve():
            raise ConfigError(f"--since {folder}: that is the run's own folder")
        manifest = Run(folder).read_manifest()
        if not manifest["stages"]:
            raise ConfigError(f"--since {folder}: no run has finished a stage there")
        if "read" not in manifest:
            raise ConfigError(f"--since {folder}: made by an earlier rlaif, which did not note what its stages read")
    return [Run(folder) for folder in folders]


def _take_over(stage: Stage, inputs: Inputs, run: Run, since: Sequence[Run]) -> str | None:
    """Copy what the first of these runs made of the very same inputs, and say of which; None where none has.

    The manifest keeps what that run noted (counts, seconds, when it finished) and where the outputs came from. The
    reply cache's scope stays the run's own.
    """
    for other in since:
        if not other.is_done(stage.name, inputs.hash):
            continue
        theirs = stage.outputs(other)
        for path in stage.outputs(run):
            if path.name not in {each.name for each in theirs}:
                remove(path)
        for path in theirs:
            _copy(path, run.folder / path.name)
        run.rewind_metrics(stage.name, 0)
        for row in other.read_metrics(stage.name):
            run.log(row)
        mark = other.read_manifest()["stages"][stage.name]
        facts = {key: value for key, value in mark.items() if key not in ("inputs", "outputs")}
        facts["taken_from"] = str(other.folder.resolve())
        run.mark_done(stage.name, inputs.hash, stage.outputs(run), facts, inputs.read())
        return str(other.folder)
    return None


def _copy(source: Path, target: Path) -> None:
    """A file, a folder or nothing, in one step. Never a link to either; large files share their bytes where the disk
    can: rlaif replaces files and does not write into them."""
    temporary = target.with_name(f".{target.name}.tmp")
    remove(temporary)
    with writing(target):
        if source.is_dir():
            shutil.copytree(source, temporary, copy_function=copy_file)
            remove(target)
        elif source.exists():
            copy_file(source, temporary)
        else:
            remove(target)
            return
        os.replace(temporary, target)


def copy_file(source: str | Path, target: str | Path) -> None:
    """A file; a large one shares its bytes where the disk can."""
    if os.stat(source).st_size >= LARGE:
        with contextlib.suppress(OSError):  # another disk
            os.link(os.path.realpath(source), target)
            return
    shutil.copyfile(source, target)
