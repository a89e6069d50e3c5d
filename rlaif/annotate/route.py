"""`rlaif route RUN`: which judged pairs go to people under a budget. Writes route.jsonl, the pairs in order, and
routing.json, how they were chosen; `rlaif annotate RUN` then shows them.

A share of every budget is spent at random, whatever the router: only those pairs tell how good the judge is. Next:
`routers.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, TypeAdapter

from rlaif.annotate import routers
from rlaif.annotate.predictor import predict_errors
from rlaif.annotate.publish import publish
from rlaif.annotate.routers import margins_of_choice
from rlaif.config import load_recipe
from rlaif.errors import ConfigError, DataError, did_you_mean
from rlaif.feedback.human import read_human, source_of
from rlaif.formats import Annotations
from rlaif.jsonl import read_json, read_jsonl, write_json, write_jsonl
from rlaif.records import Judgment, Pair, Record
from rlaif.run_folder import Run

By = Literal["random", "uncertainty", "swap_gap", "disagreement", "margin", "predicted"]
ROUTERS: tuple[By, ...] = ("random", "uncertainty", "swap_gap", "disagreement", "margin", "predicted")


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


def route_command(
    folder: Path, budget: int, by: str = "uncertainty", share: float = routers.BY_CHANCE, gold: Sequence[Path] = ()
) -> list[str]:
    """Choose, write, and return what to print.

    Pairs that people labelled already are not chosen again. `gold` holds human labels for `predicted`, beside the run's
    own. ConfigError for a folder without judgments and for an unknown router.
    """
    if by not in ROUTERS:
        raise ConfigError(f"route: no router {by!r}{did_you_mean(by, ROUTERS)}; there are {', '.join(ROUTERS)}")
    run = Run(folder)
    if not run.judgments.exists() or not run.recipe.exists():
        raise ConfigError(f"{folder}: no judgments of a run; `rlaif run RECIPE --until label --out {folder}` first")
    recipe = load_recipe(str(run.recipe))
    judgments = read_jsonl(run.judgments, Judgment)
    human = _known(run, gold)
    order, facts = _order(by, run, judgments, human, recipe.seed)
    if not order:
        raise DataError(f"{folder}: people have labelled every judged pair")
    unlabelled = set(order)
    at_random = [pair for pair in routers.by_hash(judgments, recipe.seed) if pair in unlabelled]
    chosen = routers.choose(order, at_random, budget, 1.0 if by == "random" else share)
    earlier = read_routing(run)
    picked = [*(earlier.picked if earlier else ()), *(pair for pair in chosen.pairs if pair not in chosen.by_chance)]
    pairs: dict[str, Pair] = {judgment.pair.id: judgment.pair for judgment in judgments}
    write_jsonl(run.route, [pairs[pair] for pair in chosen.pairs])
    routing = Routing(by=by, budget=budget, seed=recipe.seed, picked=tuple(dict.fromkeys(picked)), facts=facts)
    write_json(run.routing, routing)
    return [
        f"{len(chosen.pairs)} of {len(order)} unlabelled pairs, {len(chosen.by_chance)} of them by chance, "
        f"the rest by {by}",
        *(f"  {name}: {_told(value)}" for name, value in facts.items()),
        f"next: rlaif annotate {folder}",
    ]


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {number:+.2f}" for name, number in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _known(run: Run, gold: Sequence[Path]) -> list[Judgment]:
    """What people have said so far, on this run's page and in these files."""
    publish(run)
    sources = [source_of(one) for one in gold]
    if run.annotations.exists() and run.annotations.stat().st_size:
        sources.append(Annotations())
    return read_human(sources, run).judgments if sources else []


def _order(
    by: str, run: Run, judgments: Sequence[Judgment], human: Sequence[Judgment], seed: int
) -> tuple[list[str], dict[str, Any]]:
    """The router's order of the pairs that nobody has labelled, and what it found out on the way."""
    done = {label.pair.id for label in human}
    open_ones = [judgment for judgment in judgments if judgment.pair.id not in done]
    facts: dict[str, Any] = {}
    if by == "margin":
        margins = _margins(run, judgments)
        elbow, knee = routers.bands([margins[judgment.pair.id] for judgment in open_ones])
        inside = sum(elbow <= margins[judgment.pair.id] <= knee for judgment in open_ones)
        facts = {"elbow": elbow, "knee": knee, "pairs between them": inside}
        return routers.by_margin(open_ones, margins, seed), facts
    if by == "predicted":
        scored = _margins(run, judgments) if run.reward_model.exists() else None
        predicted = predict_errors(judgments, human, scored)
        facts = {
            "labelled pairs": predicted.labelled,
            "errors of the judge among them": predicted.wrong,
            "chance of ranking an error first, out of fold": predicted.auc,
            "weights": predicted.weights,
        }
        return routers.by_predicted_error(open_ones, predicted.p_wrong, seed), facts
    simple = {
        "random": routers.by_hash,
        "uncertainty": routers.by_uncertainty,
        "swap_gap": routers.by_swap_gap,
        "disagreement": routers.by_disagreement,
    }
    return simple[by](open_ones, seed), facts


def _margins(run: Run, judgments: Sequence[Judgment]) -> Mapping[str, float]:
    """The run's reward model on the judged pairs, as margins of the judge's choices."""
    if not run.reward_model.exists():
        raise ConfigError(f"{run.folder}: no reward model, which --by margin reads; `rlaif reward` first")
    from rlaif.rewards.model import score_pairs  # noqa: PLC0415 (torch)

    recipe = load_recipe(str(run.recipe))
    scored = score_pairs(run.reward_model, recipe.reward, recipe.policy.dtype, [j.pair for j in judgments])
    return margins_of_choice(judgments, scored)
