"""Which judged pairs people should look at: before they label (`rlaif route`), which writes route.jsonl, the pairs in
order, and routing.json, how they were chosen; and after (`rlaif conflicts`), where they and the judge disagree.

A share of every budget is spent at random, whatever the router: only those pairs tell how good the judge is. Next:
`routers.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, TypeAdapter

from rlaif.annotate import routers
from rlaif.annotate.publish import publish
from rlaif.config import Recipe, load_recipe
from rlaif.errors import ConfigError, DataError, did_you_mean
from rlaif.feedback.human import annotated_run, read_human, source_files, source_of
from rlaif.feedback.labelled import decided, match
from rlaif.feedback.pairs import choice
from rlaif.formats import Annotations, LabelSource
from rlaif.jsonl import read_json, read_jsonl, write_json, write_jsonl
from rlaif.records import Judgment, Pair, Record
from rlaif.run_folder import Run

ROUTERS = (*routers.WORTHS, "margin", "predicted")


class Routing(Record):
    """How the pairs of route.jsonl were chosen."""

    by: str
    budget: int
    seed: int
    picked: tuple[str, ...]
    """Ids of the pairs that this and earlier routings of the run chose for what the judge said of them: harder ones
    than the rest."""
    facts: dict[str, Any] = Field(default_factory=dict)
    """Of the router: the bands of the margins, or what the predictor is worth."""


ROUTING = TypeAdapter(Routing)


def read_routing(run: Run) -> Routing | None:
    """How this run's pairs were routed; None where they were not."""
    found = read_json(run.routing, ROUTING) if os.path.lexists(run.routing) else None
    return None if found is None else Routing.model_validate(found)


class Route(NamedTuple):
    """What was chosen, in numbers."""

    pairs: int
    by_chance: int
    unlabelled: int
    """Pairs to choose from."""
    facts: dict[str, Any]
    """As in `Routing`."""


def route(
    folder: Path, budget: int, by: str = "uncertainty", share: float = routers.BY_CHANCE, gold: Sequence[Path] = ()
) -> Route:
    """Choose pairs of this run's judgments, and write them.

    Pairs that people labelled already are not chosen again. `gold` holds human labels for `predicted`, beside the run's
    own. ConfigError for a folder without judgments and for an unknown router.
    """
    if by not in ROUTERS:
        raise ConfigError(f"route: no router {by!r}{did_you_mean(by, ROUTERS)}; there are {', '.join(ROUTERS)}")
    run = Run(folder)
    if not run.judgments.exists() or not run.recipe.exists():
        raise ConfigError(f"{folder}: no judgments of a run; `rlaif run RECIPE --until label --out {folder}` first")
    recipe = load_recipe(str(run.recipe))
    seed = recipe.seed
    judgments = read_jsonl(run.judgments, Judgment)
    human = known_labels(recipe, run, gold)
    labelled = {label.pair.id for label in human}
    unlabelled = [judgment for judgment in judgments if judgment.pair.id not in labelled]
    order, facts = _order(by, run, judgments, human, unlabelled, seed)
    if not order:
        raise DataError(f"{folder}: people have labelled every judged pair")
    at_random = routers.by_hash(unlabelled, seed)
    chosen, by_chance = routers.choose(order, at_random, budget, 1.0 if by == "random" else share)
    earlier = read_routing(run)
    picked = [*(earlier.picked if earlier else ()), *(pair for pair in chosen if pair not in by_chance)]
    pairs = {judgment.pair.id: judgment.pair for judgment in judgments}
    write_jsonl(run.route, [pairs[pair] for pair in chosen])
    write_json(run.routing, Routing(by=by, budget=budget, seed=seed, picked=tuple(dict.fromkeys(picked)), facts=facts))
    return Route(len(chosen), len(by_chance), len(order), facts)


def known_labels(recipe: Recipe, run: Run, gold: Sequence[Path]) -> list[Judgment]:
    """What people have said so far: in the recipe's data, in these files and on this run's page."""
    publish(run)
    sources: list[LabelSource] = [*recipe.preferences.human_data, *map(source_of, gold)]
    if not any(
        isinstance(source, Annotations) and annotated_run(source, run).folder == run.folder for source in sources
    ):
        sources.append(Annotations())
    # A page that nobody has answered yet says nothing.
    sources = [s for s in sources if not isinstance(s, Annotations) or any(f.exists() for f in source_files(s, run))]
    return read_human(sources, run, recipe.prompts.system).judgments if sources else []


def _order(
    by: str,
    run: Run,
    judgments: Sequence[Judgment],
    human: Sequence[Judgment],
    unlabelled: Sequence[Judgment],
    seed: int,
) -> tuple[list[str], dict[str, Any]]:
    """The router's order of the unlabelled pairs, and what it found out on the way."""
    if by == "margin":
        margins = _margins(run, judgments)
        elbow, knee = routers.bands([margins[judgment.pair.id] for judgment in unlabelled])
        inside = sum(elbow <= margins[judgment.pair.id] <= knee for judgment in unlabelled)
        facts: dict[str, Any] = {"elbow": elbow, "knee": knee, "pairs between them": inside}
        return routers.by_margin(unlabelled, margins, seed), facts
    if by == "predicted":
        found = routers.predict_errors(
            judgments, human, _margins(run, judgments) if run.reward_model.exists() else None
        )
        facts = {
            "labelled pairs": found.labelled,
            "errors of the judge among them": found.wrong,
            "chance of ranking an error first, out of fold": found.auc,
            "weights": found.weights,
        }
        return routers.ordered(unlabelled, lambda judgment: (0, found.p_wrong[judgment.pair.id]), seed), facts
    return routers.ordered(unlabelled, routers.WORTHS[by], seed), {}


def _margins(run: Run, judgments: Sequence[Judgment]) -> Mapping[str, float]:
    """The run's reward model on the judged pairs, as margins of the judge's choices."""
    if not run.reward_model.exists():
        raise ConfigError(f"{run.folder}: no reward model, which --by margin reads; `rlaif reward` first")
    from rlaif.rewards.model import score_pairs  # noqa: PLC0415 (torch)

    recipe = load_recipe(str(run.recipe))
    scored = score_pairs(run.reward_model, recipe.reward, recipe.policy.dtype, [j.pair for j in judgments])
    return routers.margins_of_choice(judgments, scored)


# ------------------------------------------------------------------------------------------------------ conflicts


class Conflict(Record):
    """A pair on which people and the judge prefer different responses: the judge's mistake, people's, or the
    constitution's."""

    pair: Pair
    p_human: float
    """P(a is better): 1 or 0."""
    p_judge: float
    swap_gap: float
    annotators: tuple[str, ...]


def conflicts(ai: Sequence[Judgment], human: Sequence[Judgment]) -> list[Conflict]:
    """The judge's surest mistakes, or people's, first."""
    people: dict[str, list[str]] = {}
    for label in human:
        people.setdefault(label.pair.id, []).append(label.annotator)
    found = [
        Conflict(
            pair=item.judgment.pair,
            p_human=item.p_human,
            p_judge=item.judgment.p_a,
            swap_gap=routers.swap_gap(item.judgment),
            annotators=tuple(sorted(set(people[item.judgment.pair.id]))),
        )
        for item in decided(match(ai, human))
        if choice(item.judgment.p_a) not in (0.5, item.p_human)
    ]
    return sorted(found, key=lambda conflict: (-abs(conflict.p_judge - 0.5), conflict.pair.id))


def conflicts_of(run: Run) -> list[Conflict]:
    """The conflicts in conflicts.jsonl of a run that mixes both sources; of any other, those of its own page.

    ConfigError for a run without both kinds of labels.
    """
    if run.conflicts.exists():
        return read_jsonl(run.conflicts, Conflict)
    publish(run)
    if not run.judgments.exists() or not run.annotations.exists():
        raise ConfigError(f"{run.folder}: needs labels of a judge and of people; `rlaif annotate` collects the latter")
    return conflicts(read_jsonl(run.judgments, Judgment), read_human([Annotations()], run).judgments)
