"""What stages depend on outside the run folder: when one of these files changes, the stage is done again.

Not the run's own artefacts (`pipeline.py` lists those), and nothing is read here. Data sets and models of a hub are
pinned by their revisions in the recipe.
"""

from __future__ import annotations

import os
from pathlib import Path

from rlaif.config import Recipe
from rlaif.config.judging import ContrastMode, Mode, PanelMode
from rlaif.config.measures import CodeMeasure
from rlaif.config.models import JudgeModel, PolicyModel, ScriptedModel, VllmModel
from rlaif.config.optimise import Dpo, JudgeDemonstrations, OnPolicy, Sft, VllmRollouts
from rlaif.config.scoring import JudgeScore
from rlaif.config.sources import FileSource
from rlaif.feedback.human import source_files
from rlaif.feedback.judge import modes_of
from rlaif.formats.rows import path_of
from rlaif.models.files import model_folders, module_files, named_files
from rlaif.resources import resolve
from rlaif.run import Run


def prompt_files(recipe: Recipe) -> list[Path]:
    """The prompt files."""
    return [resolve("prompts/sets", s.path) for s in recipe.prompts.sources if isinstance(s, FileSource)]


def human_files(recipe: Recipe, run: Run) -> list[Path]:
    """The files of human labels and gold questions, and the answers given on a page, this run's or another's."""
    sources = [*recipe.preferences.labels.human_data, *recipe.preferences.annotators.gold]
    return [file for source in sources for file in source_files(source, run)]


def included_files(recipe: Recipe) -> list[Path]:
    """The preferences of earlier rounds."""
    return [Path(os.path.expanduser(name)) for name in recipe.preferences.include]


def constitution_files(recipe: Recipe) -> list[Path]:
    """The constitution."""
    return [resolve("constitutions", recipe.constitution)]


def judge_files(recipe: Recipe) -> list[Path]:
    """Constitution, template, and the judge where it lies on this disk."""
    rules = [*constitution_files(recipe), *_templates(recipe.label.mode)]
    mode = recipe.label.mode
    members = [member.model for member in mode.members if member.model] if isinstance(mode, PanelMode) else []
    members += [one.against for one in modes_of(recipe) if isinstance(one, ContrastMode) and one.against]
    return [*rules, *(file for model in [recipe.judge, *members] for file in _model(model))]


def instruction_files(recipe: Recipe) -> list[Path]:
    """What `sample.contrast` says to the policy: constitution and template."""
    contrast = recipe.sample.contrast
    if contrast is None:
        return []
    return [*constitution_files(recipe), resolve("prompts/judge", contrast.template)]


def _templates(mode: Mode) -> list[Path]:
    modes = [member.mode for member in mode.members] if isinstance(mode, PanelMode) else [mode]
    return [resolve("prompts/judge", one.template) for one in modes if not isinstance(one, PanelMode)]


def audit_files(recipe: Recipe) -> list[Path]:
    """The audit that labelling requires."""
    return [Path(os.path.expanduser(recipe.label.audit.file))] if recipe.label.audit else []


def policy_files(recipe: Recipe) -> list[Path]:
    """The policy to begin with, where it is a folder on this disk."""
    return _model(recipe.policy)


def reference_files(recipe: Recipe) -> list[Path]:
    """What evaluation compares with, where it is a folder on this disk."""
    return _model(recipe.compared_with)


def method_files(recipe: Recipe) -> list[Path]:
    """What scores or teaches the policy from outside the run: constitution, judges, templates, demonstrations."""
    method = recipe.optimise
    if isinstance(method, Sft):
        if isinstance(method.data, FileSource):
            return [path_of(method.data)]
        return _model(recipe.judge) if isinstance(method.data, JudgeDemonstrations) else []
    if isinstance(method, Dpo):
        return []
    gold = [method.gold.source] if isinstance(method, OnPolicy) and method.gold else []
    judges = [source for source in [*method.sources, *gold] if isinstance(source, JudgeScore)]
    templates = [file for judge in judges for file in _templates(judge.mode)]
    models = [file for judge in judges for file in _model(judge.model or recipe.judge)]
    rollouts = method.rollouts if isinstance(method, OnPolicy) else None
    told = named_files(rollouts.arguments) if isinstance(rollouts, VllmRollouts) else []
    return [*constitution_files(recipe), *templates, *models, *told]


def measure_files(recipe: Recipe) -> list[Path]:
    """The modules of functions that measure responses."""
    functions = [m.function for m in recipe.evaluate.measures if isinstance(m, CodeMeasure)]
    return [file for function in functions for file in module_files(function.partition(":")[0])]


def backbone_files(recipe: Recipe) -> list[Path]:
    """The policy, and the reward model's own backbone where it has one, as far as they are folders on this disk."""
    own = recipe.reward.model
    return [*policy_files(recipe), *(model_folders(own) if own else [])]


def _model(model: PolicyModel | JudgeModel) -> list[Path]:
    if isinstance(model, ScriptedModel):
        return module_files(model.model.partition(":")[0])
    told = named_files(model.arguments) if isinstance(model, VllmModel) else []
    return [*model_folders(model.model), *told]
