"""Every knob that a stage reads is one that it declares: a change of it would go unnoticed otherwise."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from rlaif.config import Recipe, Section
from rlaif.pipeline import STAGES, run_recipe, stages_of
from rlaif.run_folder import Run
from rlaif.testing import small_recipe
from tests.test_modes import CONSTITUTION
from tests.tiers import some

pytestmark = pytest.mark.usefixtures("blank_plots")
PANEL = {"kind": "panel", "members": [{"name": "plain"}, {"name": "rated", "mode": {"kind": "score"}}]}
JUDGED = {"kind": "ppo", "scoring": {"kind": "judge"}}
REVISED = {"label__mode": {"kind": "revise", "max_tokens": 8}}
PEOPLE = [{"kind": "file", "path": "human.jsonl"}]
BY_TAG = {"kind": "by_tag", "human": ["talk"], "ai": ["maths"]}
ENSEMBLE = {"reward__ensemble": {"members": 2, "kind": "independent"}}
RECIPES: dict[str, dict[str, Any]] = {
    "ai": {},
    "human": {"preferences__labels": {"kind": "human", "human_data": PEOPLE}},
    "human pairs": {"preferences__labels": {"kind": "ai", "pairs": "human", "human_data": PEOPLE}},
    "mixed": {"preferences__labels": {"kind": "mix", "human_data": PEOPLE, "policy": BY_TAG}},
    "dpo": {"optimise": {"kind": "dpo", "lora": None}},
    "sft": {"optimise": {"kind": "sft", "lora": None}, **REVISED},
    "sft on the judge": {"optimise": {"kind": "sft", "lora": None, "data": {"kind": "judge", "max_tokens": 4}}},
    "best of n": {"optimise": {"kind": "best_of_n", "n": 2}, "evaluate__measures": [{"kind": "words"}]},
    "best of n by the judge": {"optimise": {"kind": "best_of_n", "n": 2, "scoring": {"kind": "judge"}}},
    "decode": {
        "optimise": {"kind": "decode", "trials": 2, "prompts": 4, "system": ["Say it."], "scoring": {"kind": "checks"}}
    },
    "decode by the judge": {"optimise": {"kind": "decode", "trials": 1, "prompts": 4, "scoring": {"kind": "judge"}}},
    "demonstrations": {
        "reward__loss": {"kind": "demonstrations", "data": {"kind": "file", "path": "shown.jsonl"}, "preferences": 0.5}
    },
    "judged ppo": {"optimise": JUDGED, "evaluate__seed": 3},
    "tricks": {"evaluate__hacking": {"responses": 2}},
    "tricks on a judge": {
        "optimise": {"kind": "dpo", "lora": None},
        "evaluate__hacking": {"source": {"kind": "judge"}, "responses": 2},
    },
    "gold": {"optimise__gold": {"source": {"kind": "judge"}}},
    "grpo by checks": {"optimise": {"kind": "grpo", "scoring": {"kind": "checks"}, "responses_per_prompt": 2}},
    "panel": {"label__mode": PANEL},
    "scores": {"label__mode": {"kind": "score"}, "reward__loss": {"kind": "regression"}},
    "ranks": {"label__mode": {"kind": "rank"}, "label__pairs_per_prompt": 1, "label__pair_choice": "checks"},
    "reasons": {"label__mode": {"kind": "reasoned", "max_tokens": 8}},
    "origins": {"sample__contrast": {"labels": "origin"}, "sample__responses_per_prompt": 2},
    "origins and judge": {"sample__contrast": {"labels": "both"}, "sample__responses_per_prompt": 2},
    "heads": {"reward__principle_heads": True, "reward__denoise": {"kind": "flip", "members": 2}},
    "ensemble": {**ENSEMBLE, "optimise__scoring": {"kind": "ensemble"}, "preferences__ties": "keep"},
}
"""What differs from a plain run. All are as small as can be."""
FEW = ["decode", "demonstrations", "human pairs", "mixed", "best of n by the judge", "judged ppo", "scores", "origins"]
SMALL_STEP = {
    "steps": 1,
    "rollouts_per_step": 4,
    "minibatch_size": 4,
    "epochs": 1,
    "max_tokens": 4,
    "lora": None,
    "critic_lora": None,
}


def recipe_of(folder: Path, model: str, name: str) -> Recipe:
    changes = dict(RECIPES[name])
    own = changes.get("optimise")
    if own and own["kind"] in ("ppo", "grpo"):
        changes["optimise"] = {k: v for k, v in SMALL_STEP.items() if own["kind"] == "ppo" or k != "critic_lora"} | own
    elif not own:
        changes |= {f"optimise__{key}": value for key, value in SMALL_STEP.items()}
    labels = changes.get("preferences__labels")
    if labels and "human_data" in labels:
        changes["preferences__labels"] = labels | {"human_data": [PEOPLE[0] | {"path": str(folder / "human.jsonl")}]}
    if "path" in changes.get("reward__loss", {}).get("data", {}):
        data = {"kind": "file", "path": str(folder / "shown.jsonl")}
        changes["reward__loss"] = changes["reward__loss"] | {"data": data}
    settings = {
        "judge__model": "tests.scripted_judge:every_part",
        "prompts__heldout": 4,
        "sample__max_tokens": 4,
        "sample__responses_per_prompt": 2,
        "label__max_failures": 1.0,
        "preferences__tie_margin": 0.0,
        "reward__epochs": 1,
        "evaluate__bootstrap_samples": 20,
    }
    recipe = small_recipe(folder, model, prompts=24, **(settings | changes))
    (folder / "letters.yaml").write_text(CONSTITUTION)
    tags = ["maths", "talk"]
    rows = [json.dumps({"prompt": f"Say {i}", "tags": [tags[i % 2]]}) + "\n" for i in range(24)]
    (folder / "prompts.jsonl").write_text("".join(rows))
    said = [
        {"prompt": f"Say {i}", "chosen": "abc" * (i % 3 + 1), "rejected": f"0{i}", "tags": [tags[i % 2]]}
        for i in range(24)
    ]
    (folder / "human.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said))
    shown = [json.dumps({"prompt": f"Say {i}", "completion": "abc"}) + "\n" for i in range(24)]
    (folder / "shown.jsonl").write_text("".join(shown))
    return Recipe.model_validate(recipe.model_dump(mode="json"))  # each section is an object of its own


class Spy:
    """While a stage runs, the dotted names of what it reads of one recipe.

    A section that is passed through is not read, but its `kind` is where it could be of another. Of a property that the
    stage declares the name is read, and not what it is derived from.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.knobs = {name: set(stage.knobs(recipe)) for name, stage in STAGES.items()}
        self.stage: str | None = None
        self.reads: dict[str, set[str]] = {name: set() for name in STAGES}
        self._names: dict[int, str] = {}
        self._kept = list(self._walk(recipe, ""))
        self._inside = threading.local()

    def _walk(self, value: Any, name: str) -> Iterator[Section]:
        if isinstance(value, Section):
            self._names[id(value)] = name
            yield value
            for key, inner in vars(value).items():
                yield from self._walk(inner, f"{name}.{key}".removeprefix("."))
        elif isinstance(value, tuple):
            for inner in value:
                yield from self._walk(inner, name)

    def note(self, section: Section, attribute: str) -> Any:
        """What reading the attribute gives; it is noted."""
        value_of = super(Section, section).__getattribute__
        name = self._names.get(id(section))
        if self.stage is None or name is None or getattr(self._inside, "property", False):
            return value_of(attribute)
        kind = type(section)
        place = f"{name}.{attribute}".removeprefix(".")
        if attribute in kind.model_fields:
            value = value_of(attribute)
            if not isinstance(value, Section):
                self.reads[self.stage].add(place)
            elif tag := next((tag for tag in ("kind", "backend") if tag in type(value).model_fields), None):
                self.reads[self.stage].add(f"{place}.{tag}")
            return value
        if isinstance(getattr(kind, attribute, None), property) and place in self.knobs[self.stage]:
            self.reads[self.stage].add(place)
            self._inside.property = True
            try:
                list(self._walk(value_of(attribute), place))  # sections that it gives are known by its name
                return value_of(attribute)
            finally:
                self._inside.property = False
        if attribute in ("__dict__", "model_dump", "model_dump_json", "model_copy"):
            self.reads[self.stage].add(name or "the whole recipe")
        return value_of(attribute)


def undeclared(reads: set[str], knobs: set[str]) -> set[str]:
    return {read for read in reads if not any(read == knob or read.startswith(f"{knob}.") for knob in knobs)}


class Watched:
    """What each stage read and declared in one run."""

    def __init__(self, recipe: Recipe, spy: Spy) -> None:
        self.reads = {name: spy.reads[name] for name in stages_of(recipe)}
        self.knobs = {name: spy.knobs[name] for name in self.reads}


@pytest.fixture(scope="module")
def watched(tmp_path_factory, shallow_folder) -> Callable[[str], Watched]:
    """What a run of this recipe read, each run once."""
    return cache(lambda name: watch(tmp_path_factory.mktemp("knobs"), shallow_folder, name))


def watch(folder: Path, model: str, recipe_name: str) -> Watched:
    """Run the whole recipe under a spy."""
    recipe = recipe_of(folder, model, recipe_name)
    spy = Spy(recipe)

    def spied(stage: str) -> Any:
        def run(given: Recipe, run: Run) -> dict[str, Any]:
            assert given is recipe, "the spy knows this one"
            spy.stage = stage
            try:
                return plain[stage].run(given, run)
            finally:
                spy.stage = None

        return run

    def reading(section: Section, attribute: str) -> Any:
        return spy.note(section, attribute)

    with pytest.MonkeyPatch.context() as patch:
        plain = dict(STAGES)
        patch.setattr(Section, "__getattribute__", reading)
        for name, stage in plain.items():
            patch.setitem(STAGES, name, stage._replace(run=spied(name)))
        run_recipe(recipe, folder / "run")
    return Watched(recipe, spy)


@some("name", FEW, [name for name in RECIPES if name not in FEW])
def test_a_stage_reads_no_knob_that_it_does_not_declare(watched, name):
    found = watched(name)
    wrong = {stage: undeclared(reads, found.knobs[stage]) for stage, reads in found.reads.items()}
    assert not {stage: sorted(names) for stage, names in wrong.items() if names}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_without_any_one_of_its_declarations_that_would_be_red(watched, stage):
    """So none is there for nothing either: each costs work that is done again."""
    runs = [run for run in map(watched, RECIPES) if stage in run.reads]
    declared = set().union(*(run.knobs[stage] for run in runs))
    idle = {knob for knob in declared if not any(undeclared(r.reads[stage], r.knobs[stage] - {knob}) for r in runs)}
    assert not idle
