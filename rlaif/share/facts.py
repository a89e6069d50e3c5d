"""What a card says of a run, as plain values: recipe, constitution, data, judge, audit. Paths and hosts stay here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import yaml

from rlaif.audits.requirement import REACHED_BY, differences, identity
from rlaif.config import Recipe, load_recipe
from rlaif.config.base import TAGS, Section
from rlaif.config.load import changes, read_audit
from rlaif.config.models import ClientModel
from rlaif.constitution import load_constitution
from rlaif.digest import hash_path
from rlaif.errors import DataError, RlaifError
from rlaif.evaluation.artefacts import Artefacts, read_artefacts
from rlaif.forms import OBJECT
from rlaif.jsonl import read_json, read_rows
from rlaif.resources import available
from rlaif.run_folder import Run
from rlaif.share.contents import without_places
from rlaif.share.parent import Parent, model_of, parent_of
from rlaif.stats import at
from rlaif.words import counted

NOT_TOLD = REACHED_BY | {"tracking"}
"""Knobs that say how this machine reaches its servers and trackers, and nothing of what was made."""
INSIDE = re.compile(r"(?<![\w.-])(?:~[\w.-]*|\.{1,2})?(?:/[\w.@+~-]+){2,}/?")
"""A path inside a text, as an argument of a program has it."""
COUNTED = {
    "sample": {"responses": ("response", "responses"), "failed": ("prompt without one", "prompts without one")},
    "label": {"pairs": ("judged pair", "judged pairs"), "unlabelled": ("of them without a label",) * 2},
    "pairs": {"ties_dropped": ("tie left out", "ties left out")},
}
"""What the manifest counts of a stage, and the words for one and for several."""


class About(NamedTuple):
    """A run, for its cards."""

    run: Artefacts
    recipe: Recipe
    parent: Parent
    """Of what is shared; for preferences the policy that wrote the responses."""

    @property
    def constitution(self) -> dict[str, str]:
        """Its id, version and hash when the run was evaluated, else as the file is now; empty where it is gone."""
        found = self.run.evaluation.get("constitution") or {}
        if {"id", "version", "hash"} <= found.keys():
            return {key: str(found[key]) for key in ("id", "version", "hash")}
        try:
            now = load_constitution(self.recipe.constitution)
        except RlaifError:
            return {}
        return {"id": now.id, "version": now.version, "hash": now.hash}

    @property
    def digest(self) -> str:
        """Of recipe.yaml."""
        return hash_path(self.run.folder / "recipe.yaml")

    @property
    def hosts(self) -> list[str]:
        """Of the servers that the recipe names, less this machine."""
        urls = self.recipe.judge.base_urls if isinstance(self.recipe.judge, ClientModel) else ()
        names = {urlsplit(url).hostname or "" for url in urls}
        return sorted(names - {"", "localhost", "127.0.0.1", "::1"})

    @property
    def judge(self) -> str | None:
        """The judge's name and mode; None where people alone labelled."""
        labels, contrast = self.recipe.preferences.labels, self.recipe.sample.contrast
        if labels.kind == "human" or (contrast is not None and contrast.labels == "origin"):
            return None
        mode = self.recipe.label.mode.kind
        return f"{without_places(self.recipe.judge.model)} ({mode})"

    def overrides(self) -> list[str]:
        """How the recipe differs from the shipped one of its name; empty where none has that name."""
        if self.recipe.name not in available("recipes"):
            return []
        shipped, own = (_plain(one.model_dump(mode="json")) for one in (load_recipe(self.recipe.name), self.recipe))
        return [line for line in changes(shipped, own) if NOT_TOLD.isdisjoint(line.partition(":")[0].split("."))]

    def knobs(self) -> str:
        """Every value of the recipe that is not rlaif's default, as YAML."""
        return yaml.safe_dump(_told(self.recipe), sort_keys=False, allow_unicode=True)

    def sources(self) -> dict[str, str]:
        """Where prompts and people's labels came from."""
        prompts = [_source(one) for one in self.recipe.prompts.sources]
        return {"prompts": ", ".join(prompts), "labels": ", ".join(map(_source, self.recipe.preferences.human_data))}

    def datasets(self) -> list[str]:
        """Data sets of the hub among the sources."""
        every = [*self.recipe.prompts.sources, *self.recipe.preferences.human_data]
        return list(dict.fromkeys(one.dataset for one in every if one.kind == "hub"))

    def counts(self) -> list[str]:
        """What came of prompts, pairs and labels, failures among it; nothing of a stage that was not run."""
        marks = self.run.manifest.get("stages", {})
        found = [
            f"{number:,} {words[number != 1]}"
            for stage, keys in COUNTED.items()
            for key, words in keys.items()
            if isinstance(number := at(marks, f"{stage}.{key}"), int)
        ]
        lost = at(marks, "sample.prompt_failures") or {}
        told = ", ".join(f"{cause}: {number:,}" for cause, number in lost.items())
        found += [f"{counted(sum(lost.values()), 'prompt')} left out ({told})"] if lost else []
        return [*found, *_failures(self.run.failures, "failure", "of the judge"), *self._human_failures()]

    def _human_failures(self) -> list[str]:
        rows = read_rows(Run(self.run.folder).human_failures, OBJECT)
        return _failures(rows, "row", "of people's labels that could not be used")

    def made_up(self) -> str | None:
        """Which of the people were none."""
        file = self.run.folder / "annotators.json"
        people = read_json(file, OBJECT).get("annotators", []) if file.exists() else []
        simulated = sum(bool(one.get("simulated")) for one in people)
        return f"{simulated} of {counted(len(people), 'annotator')} are simulated: no person." if simulated else None

    def audit(self) -> str | None:
        """What an audit of this judge, asked in this way by this constitution, says of it; None where none is found.

        It may be the one that the recipe requires, lie in the run folder, or where `rlaif audit` writes it by default.
        """
        required = self.recipe.label.audit
        folder = self.run.folder
        places = [Path(required.file).expanduser()] if required else []
        places += [folder / "audit.json", folder / "audit" / "audit.json"]
        places += [folder.resolve().parent / f"audit-{self.recipe.name}" / "audit.json"]
        for place in places:
            if place.is_file() and (sentence := self._said_by(place)):
                return sentence
        return None

    def _said_by(self, place: Path) -> str | None:
        try:
            audit, constitution = read_audit(place), load_constitution(self.recipe.constitution)
            wanted = identity(self.recipe, constitution) | {"constitution": self.constitution}
        except RlaifError:
            return None
        sentence = at(audit, "opinion.sentence")
        return sentence if isinstance(sentence, str) and not differences(audit["audited"], wanted) else None


def about(folder: Path, what: str) -> About:
    """DataError where there is no such run, ConfigError where its recipe cannot be read."""
    run = read_artefacts(folder)
    if not Run(folder).recipe.is_file():
        raise DataError(f"{folder}: no run folder: it has no recipe.yaml, of which the card tells")
    if _is_stale(run.manifest):  # it measured other weights
        run = run._replace(evaluation={})
    recipe = load_recipe(str(Run(folder).recipe))
    name, revision = model_of(run.recipe, what) or (recipe.policy.model, recipe.policy.revision)
    read = run.manifest.get("read", {}).values()
    return About(run, recipe, parent_of(name, revision, [file for stage in read for file in stage["files"]]))


def _is_stale(manifest: Mapping[str, Any]) -> bool:
    """Whether what was evaluated has been made anew since."""
    ended = {name: str(done.get("finished", "")) for name, done in manifest.get("stages", {}).items()}
    return any(ended[name] > ended.get("evaluate", "") for name in ("pairs", "reward", "optimise") if name in ended)


def _failures(rows: Sequence[Mapping[str, Any]], one: str, what: str) -> list[str]:
    """How many there are, by their reasons; nothing where there is none."""
    reasons = Counter(str(row.get("reason")) for row in rows)
    told = ", ".join(f"{reason}: {count:,}" for reason, count in reasons.most_common())
    return [f"{counted(len(rows), one)} {what} ({told})"] if rows else []


def _clean(text: str) -> str:
    """With every path in it cut to its last part."""
    text = "=".join(map(without_places, text.split("=")))
    return text if "://" in text else INSIDE.sub(lambda path: path[0].rstrip("/").rpartition("/")[2], text)


def _told(section: Section) -> dict[str, Any]:
    """What a section says beyond its defaults, with what tells it from its alternatives."""
    found: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if name in NOT_TOLD or (name not in TAGS and value == field.get_default(call_default_factory=True)):
            continue
        found[name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return _told(value)
    if isinstance(value, dict):
        return {key: _plain(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inside) for inside in value]
    return _clean(value) if isinstance(value, str) else value


def _source(source: Any) -> str:
    if source.kind == "hub":
        return "/".join(filter(None, (source.dataset, source.data_dir)))
    return str(without_places(source.path)) if source.kind == "file" else "answers on a page of rlaif"
