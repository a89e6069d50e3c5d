"""What a stage is: it says what it reads and writes beside what it does. Also the files that several stages read from
outside the run folder, and folders that appear only when they are whole.

A stage is done again when a knob that it declares or the content of one of its files changes, and at no other time.
Data sets and models of a hub are pinned by their revisions in the recipe. Next: `pipeline.py`.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

from pydantic_core import to_jsonable_python

from rlaif.config import Recipe
from rlaif.config.judging import ContrastMode, Mode, PanelMode
from rlaif.config.models import JudgeModel, PolicyModel, ScriptedModel, VllmModel
from rlaif.config.recipe import OF_NO_OUTPUT
from rlaif.config.sources import FileSource
from rlaif.feedback.human import source_files
from rlaif.files import writing
from rlaif.formats import HumanSource
from rlaif.models.files import model_folders, module_files, named_files
from rlaif.processes import leads, several
from rlaif.resources import resolve
from rlaif.run_folder import Run


class Stage(NamedTuple):
    """One arrow of the drawing in `pipeline.py`."""

    name: str
    run: Callable[[Recipe, Run], dict[str, Any]]
    """Does it; returns facts for the manifest (counts, tokens)."""
    knobs: Callable[[Recipe], Sequence[str]]
    """Dotted names of what it reads of the recipe: sections, single values or properties."""
    inputs: Callable[[Recipe, Run], list[Path]]
    outputs: Callable[[Run], list[Path]]
    together: bool = False
    """Whether all processes of `accelerate launch` do it together; else the first works and the rest wait."""

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """The values of its knobs as JSON, less those that change nothing it writes (`OF_NO_OUTPUT`)."""
        found = {}
        for knob in self.knobs(recipe):
            if knob in OF_NO_OUTPUT:
                continue
            found[knob] = to_jsonable_python(reduce(getattr, knob.split("."), recipe))
            for other in OF_NO_OUTPUT:
                if other.startswith(f"{knob}.") and found[knob]:
                    *sections, last = other.removeprefix(f"{knob}.").split(".")
                    reduce(dict.__getitem__, sections, found[knob]).pop(last, None)
        return found


# ------------------------------------------------------------------------------------ files outside the run folder


def prompt_files(recipe: Recipe) -> list[Path]:
    """The prompt files."""
    return [resolve("prompts/sets", s.path) for s in recipe.prompts.sources if isinstance(s, FileSource)]


def human_files(sources: Iterable[HumanSource], run: Run) -> list[Path]:
    """The files of what people said, and the answers given on a page, this run's or another's."""
    return [file for source in sources for file in source_files(source, run)]


def constitution_file(recipe: Recipe) -> Path:
    """The constitution."""
    return resolve("constitutions", recipe.constitution)


def judge_files(recipe: Recipe) -> list[Path]:
    """Constitution, template, and the judge where it lies on this disk."""
    mode = recipe.label.mode
    members = mode.members if isinstance(mode, PanelMode) else ()
    models = [recipe.judge, *(member.model for member in members if member.model)]
    models += [weaker for one in (mode, *(member.mode for member in members)) if (weaker := weaker_model(one))]
    return [
        constitution_file(recipe),
        *template_files(mode),
        *(file for model in models for file in model_files(model)),
    ]


def weaker_model(mode: Mode) -> JudgeModel | None:
    """The model that reads the other side of a contrast, where it is another one."""
    return mode.against if isinstance(mode, ContrastMode) else None


def template_files(mode: Mode) -> list[Path]:
    """The templates of a mode of judging."""
    modes = [member.mode for member in mode.members] if isinstance(mode, PanelMode) else [mode]
    return [resolve("prompts/judge", one.template) for one in modes if not isinstance(one, PanelMode)]


def model_files(model: PolicyModel | JudgeModel) -> list[Path]:
    """The model as far as it lies on this disk, with what its server is told to read."""
    if isinstance(model, ScriptedModel):
        return module_files(model.model.partition(":")[0])
    told = named_files(model.arguments) if isinstance(model, VllmModel) else []
    return [*model_folders(model.model), *told]


# -------------------------------------------------------------------------------------------------------- folders


@contextlib.contextmanager
def publishing(folder: Path) -> Iterator[Path]:
    """A folder to write into that takes its name only when it is whole. Of several processes, which all come here, the
    first writes and names it; the others leave when it is there."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    if leads():
        shutil.rmtree(temporary, ignore_errors=True)
    with writing(folder):
        yield temporary
        if leads():
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
    if several():
        from rlaif.training import parallel

        parallel.wait()
