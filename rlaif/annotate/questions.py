"""Which pairs people are asked about, and the principles that they may decide one by one. Nothing is asked here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from rlaif.config import Recipe, load_recipe
from rlaif.constitution import Principle, load_constitution
from rlaif.errors import ConfigError, DataError
from rlaif.feedback.human import read_human, source_of
from rlaif.feedback.pairs import make_pairs
from rlaif.formats import Annotations, AnyForm, LabelSource, human_rows, kind_of
from rlaif.jsonl import first_problem, read_jsonl, read_objects
from rlaif.records import Judgment, Pair, Response, oriented, prompt_of
from rlaif.run_folder import Run


class Questions(NamedTuple):
    """What the page asks. Every pair once, a and b by hash, wherever it came from."""

    pairs: tuple[Pair, ...]
    gold: tuple[Pair, ...]
    """Pairs whose right answer is known: every annotator gets them, and nothing on the page tells them apart."""
    principles: tuple[Principle, ...]

    def principles_for(self, pair: Pair) -> tuple[str, ...]:
        """Ids of the principles that apply to the pair's prompt."""
        return tuple(p.id for p in self.principles if not p.tags or set(p.tags) & set(pair.tags))


def read_questions(run: Run, pairs: Path | None, gold: Path | None, principles: bool) -> Questions:
    """What there is to ask in this run; `pairs` and `gold` name files to take instead of the run's own.

    Pairs come from route.jsonl, else from judgments.jsonl, else all are made of responses.jsonl. Gold questions come
    from the recipe's `preferences.annotators.gold` unless a file is given; one that is also a pair is only gold.
    ConfigError where nothing is found, DataError with its place for a row that is no pair.
    """
    recipe = load_recipe(str(run.recipe)) if run.recipe.exists() else None
    known = _once(_gold(run, recipe, gold))
    asked = _once(read_pairs(pairs) if pairs else _pairs_of(run, recipe))
    asked = {key: pair for key, pair in asked.items() if key not in known}
    if not asked:
        raise ConfigError(f"{pairs or run.folder}: no pairs to ask about")
    shown = load_constitution(recipe.constitution).principles if recipe and principles else ()
    # What only code decides has no words to put to a person, who would not decide it better either; two instructions
    # to whoever answers are no question.
    return Questions(tuple(asked.values()), tuple(known.values()), tuple(p for p in shown if wording(p)))


def wording(principle: Principle) -> str:
    """The principle as a question; empty for one that only code or its contrast decides."""
    return principle.compare or principle.question or ""


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a file whose rows are pairs or judgments. DataError, with file and line, for any other row."""
    pairs = []
    for number, value in read_objects(path):
        text = json.dumps(value)
        try:
            pair = Judgment.model_validate_json(text).pair if "pair" in value else Pair.model_validate_json(text)
            prompt_of(pair)
        except ValidationError as error:
            raise DataError(f"{path}:{number}: neither a pair nor a judgment: {first_problem(error)}") from None
        if pair.a == pair.b:
            raise DataError(f"{path}:{number}: a and b are the same text, so there is nothing to compare")
        pairs.append(pair)
    return pairs


def _pairs_of(run: Run, recipe: Recipe | None) -> list[Pair]:
    for path in (run.route, run.judgments):
        if path.exists():
            return read_pairs(path)
    if not run.responses.exists():
        raise ConfigError(
            f"{run.folder}: nothing to compare: no {run.route.name}, {run.judgments.name} or {run.responses.name}; "
            "make some with `rlaif sample`, or name a file with --pairs"
        )
    responses = read_jsonl(run.responses, Response)
    prompts = {response.prompt_id: prompt_of(response) for response in responses}
    return make_pairs(list(prompts.values()), responses, None, recipe.seed if recipe else 0)


def _gold(run: Run, recipe: Recipe | None, file: Path | None) -> list[Pair]:
    sources: Sequence[LabelSource] = recipe.preferences.annotators.gold if recipe else ()
    sources = tuple(source for source in sources if not isinstance(source, Annotations))  # these are answers already
    if file is not None:
        source = source_of(file)
        if isinstance(source, AnyForm) and {kind_of(row.value) for row in human_rows(source)} <= {None, "judgments"}:
            return read_pairs(file)
        sources = (source,)
    if not sources:
        return []
    data = read_human(sources, run, recipe.prompts.system if recipe else None)
    return [judgment.pair for judgment in data.judgments]


def _once(pairs: Iterable[Pair]) -> dict[str, Pair]:
    found: dict[str, Pair] = {}
    for pair in pairs:
        as_is = oriented(prompt_of(pair), pair.a, pair.b).a == pair.a
        found.setdefault(pair.id, pair if as_is else pair.swapped())
    return found
