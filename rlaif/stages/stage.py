"""What a stage is: it says what it reads and writes beside what it does. Also what several stages share: the files that
they read from outside the run folder, models behind the reply cache, samples and judgments with a progress bar, and
folders that appear only when they are whole.

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
from rlaif.config.judging import ContrastMode, Mode, PanelMode, ReferenceMode
from rlaif.config.models import JudgeModel, PolicyModel, ScriptedModel, VllmModel, engine_of
from rlaif.config.recipe import OF_NO_OUTPUT
from rlaif.config.scoring import SignalScore, Source
from rlaif.config.sources import FileSource
from rlaif.console import bar
from rlaif.constitution import load_constitution
from rlaif.errors import ConfigError
from rlaif.feedback.human import source_files
from rlaif.feedback.judge import JudgeResult, judge_shards, passes
from rlaif.feedback.judge.result import Results
from rlaif.feedback.sample import SampleResult, Speakers, sample_responses
from rlaif.files import writing
from rlaif.formats import HumanSource
from rlaif.jsonl import Row, read_jsonl
from rlaif.models.cache import CachedModel
from rlaif.models.decoded import decoded
from rlaif.models.files import model_folders, module_files, named_files
from rlaif.models.open import opened
from rlaif.processes import leads, several
from rlaif.records import Pair, Prompt
from rlaif.resources import resolve
from rlaif.run_folder import Run
from rlaif.signals.kinds import Model as ModelSignal


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
    """The prompt files, and those of the held-out sets that they are held against."""
    filters = recipe.prompts.filters
    sources = [*recipe.prompts.sources, *(filters.decontaminate.against if filters and filters.decontaminate else ())]
    return [resolve("prompts/sets", s.path) for s in sources if isinstance(s, FileSource)]


def named(path: str | Path) -> Path:
    """What a recipe names by its path. ConfigError where nothing is there: a stage says so before any work."""
    found = Path(path).expanduser()
    if not found.exists():
        raise ConfigError(f"{found}: no such file or folder, which the recipe names")
    return found


def human_files(sources: Iterable[HumanSource], run: Run) -> list[Path]:
    """The files of what people said, and the answers given on a page, this run's or another's."""
    return [file for source in sources for file in source_files(source, run)]


def judge_files(recipe: Recipe) -> list[Path]:
    """Constitution, templates, and the judge where it lies on this disk."""
    return [*constitution_files(recipe), *mode_files(recipe.label.mode, recipe.judge)]


def constitution_files(recipe: Recipe, sources: Iterable[Source] = ()) -> list[Path]:
    """The constitution, and its classifiers and those of these sources as far as they lie on this disk."""
    folders = [folder for one in classifiers(recipe, sources) for folder in model_folders(one.model)]
    return [resolve("constitutions", recipe.constitution), *folders]


def classifiers(recipe: Recipe, sources: Iterable[Source]) -> list[ModelSignal]:
    """The models among the signals of the constitution and of these sources."""
    path = resolve("constitutions", recipe.constitution)
    principles = load_constitution(str(path)).principles if path.exists() else ()
    signals = [*(p.classifier for p in principles), *(s.signal for s in sources if isinstance(s, SignalScore))]
    return [one for one in signals if isinstance(one, ModelSignal)]


def mode_files(mode: Mode, judge: JudgeModel) -> list[Path]:
    """The templates of a mode of judging, and of its models (the judge, members of a panel, the weaker model of a
    contrast) what lies on this disk."""
    members = mode.members if isinstance(mode, PanelMode) else ()
    modes = [member.mode for member in members] if isinstance(mode, PanelMode) else [mode]
    models = [judge, *(member.model for member in members if member.model)]
    models += [one.against for one in modes if isinstance(one, ContrastMode) and one.against]
    names = [one.template for one in modes]
    names += [one.contradict for one in modes if isinstance(one, ReferenceMode)]
    templates = [resolve("prompts/judge", name) for name in names]
    return [*templates, *(file for model in models for file in model_files(model))]


def model_files(model: PolicyModel | JudgeModel) -> list[Path]:
    """The model as far as it lies on this disk, with what its server is told to read."""
    model = engine_of(model)
    if isinstance(model, ScriptedModel):
        return module_files(model.model.partition(":")[0])
    told = named_files(model.arguments) if isinstance(model, VllmModel) else []
    return [*model_folders(model.model), *told]


def user_files(recipe: Recipe) -> list[Path]:
    """Who talks with the policy where samples are conversations."""
    return model_files(recipe.sample.dialogue.user) if recipe.sample.dialogue else []


# ------------------------------------------------------------------------------------------- files of the run folder


def made(path: Path, stage: str) -> Path:
    """The path, which this stage should have made. ConfigError when it has not."""
    if not path.exists():
        raise ConfigError(f"{path}: not there yet; run the {stage} stage first")
    return path


def read_if_there(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of a file that this run may not have."""
    return read_jsonl(path, kind) if path.exists() else []


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


# ----------------------------------------------------------------------------------------------------------- asking


def asking(model: JudgeModel | PolicyModel, run: Run) -> contextlib.AbstractContextManager[CachedModel]:
    """The model `opened`; replies of one of unknown revision are this run's alone."""
    return opened(model, run.scope())


def draw_samples(
    recipe: Recipe, run: Run, model: PolicyModel, prompts: Sequence[Prompt], stage: str, n: int, seed: int
) -> SampleResult:
    """`n` responses of the model to each prompt, drawn as its folder says where it holds a setting of the sampler, and
    else as the recipe does."""
    with speaking(recipe, run, model, stage, len(prompts) * n) as speakers:
        drawn = speakers._replace(model=decoded(speakers.model, model))
        return sample_responses(drawn, prompts, recipe.sample, seed, stage, n)


@contextlib.contextmanager
def speaking(recipe: Recipe, run: Run, model: PolicyModel, stage: str, total: int) -> Iterator[Speakers]:
    """The model, who talks with it where `sample.dialogue` says so, and a bar for so many responses."""
    told = recipe.sample.dialogue
    talks = asking(told.user, run) if told else contextlib.nullcontext(None)
    count, unit = (total * told.turns, "turns") if told else (total, "responses")
    with asking(model, run) as cached, talks as user, bar(stage, count, unit) as advance:
        yield Speakers(cached, user, advance)


def judge_with_bar(recipe: Recipe, run: Run, pairs: Sequence[Pair], stage: str) -> JudgeResult:
    """The judge on these pairs, failures under the name of the stage."""
    return JudgeResult.total(shards_with_bar(recipe, run, pairs, len(pairs), stage))


def shards_with_bar(recipe: Recipe, run: Run, pairs: Iterable[Pair], total: int, stage: str) -> Results:
    """As `judge_with_bar`, a result for each shard; `pairs` as `judge_shards` takes them."""
    constitution = load_constitution(recipe.constitution)

    def open_judge(model: JudgeModel | None) -> contextlib.AbstractContextManager[CachedModel]:
        return asking(model or recipe.judge, run)

    with bar(stage, total * passes(recipe.label.mode), "pairs") as advance:
        for result in judge_shards(open_judge, pairs, constitution, recipe.label, recipe.seed, advance):
            yield result._replace(failures=tuple(f.model_copy(update={"stage": stage}) for f in result.failures))
