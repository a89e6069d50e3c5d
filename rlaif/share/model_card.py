"""README.md of a reward model or a policy: what it is, what it is worth with intervals, how it is loaded, its limits.

The figures and their words are those of the report (`rlaif/evaluation/`); nothing is computed here but counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlaif.evaluation import tables
from rlaif.evaluation.report import reward_sentences
from rlaif.evaluation.verdict import verdict
from rlaif.forms import OBJECT
from rlaif.jsonl import read_json
from rlaif.models.decoding import BEST_OF_N, DECODE
from rlaif.share.contents import Contents
from rlaif.share.facts import About
from rlaif.share.loading import load_policy, load_reward
from rlaif.share.markdown import escaped, table, written
from rlaif.share.sections import FEEDBACK, data_section, judge_section, judged_by, maker, recipe_section, tags, title
from rlaif.stats import at
from rlaif.words import counted, percent


def model_card(about: About, what: str, contents: Contents, repo: str) -> str:
    """The card of a reward model or policy whose files are `contents`; `repo` is its name in the snippets."""
    from huggingface_hub import ModelCardData  # noqa: PLC0415 (slow, as every import of it here)

    reward = what == "reward_model"
    kind = FEEDBACK[about.recipe.preferences.labels.kind]
    data = ModelCardData(
        **(about.parent.license or {"license": "unknown"}),
        base_model=about.parent.base,
        datasets=about.datasets() or None,
        library_name="transformers",
        pipeline_tag="text-classification" if reward else "text-generation",
        tags=["rlaif", "reward-model" if reward else about.recipe.optimise.kind, *tags(about)],
    )
    what_it_is = _reward_model(about, kind) if reward else _policy(about, kind, contents.folder)
    figures = _reward_figures(about) if reward else _policy_figures(about)
    loading = load_reward(about, contents.folder, repo) if reward else load_policy(repo)
    sections = {
        "": what_it_is,
        "What it is worth": figures,
        "How to load it": loading,
        "What it learnt from": data_section(about, about.run.preferences),
        "The judge": judge_section(about)[: None if reward else 1],  # a policy's figures say the rest
        "The recipe": recipe_section(about),
        "Limits": _limits(about, reward),
        "Licence": [escaped(about.parent.sentence)],
    }
    return written(data, title(about, "reward model" if reward else "policy"), sections)


def _reward_model(about: About, kind: str) -> list[str]:
    members = about.recipe.reward.ensemble
    several = f"{counted(members.members, 'reward model')} (an ensemble)" if members else "A reward model"
    started = "trained from" if members is None else "each trained from"
    return [
        f"{several}, {started} {escaped(about.parent.name)} by {maker(about)} on {kind}{judged_by(about)}. "
        "It reads a conversation and gives its last response one number: the higher, the likelier is the response to "
        "be the preferred one among responses to the same prompt.",
    ]


def _policy(about: About, kind: str, folder: Path) -> list[str]:
    if (folder / BEST_OF_N).exists():
        n = read_json(folder / BEST_OF_N, OBJECT).get("n")
        return [
            f"The weights are those of {escaped(about.parent.name)}, unchanged: the policy of this run is the best of "
            f"{n} of its responses by the run's reward, so draw as many and score them for what the figures say.",
        ]
    if (folder / DECODE).exists():
        system = read_json(folder / DECODE, OBJECT).get("system")
        return [
            f"The weights are those of {escaped(about.parent.name)}, unchanged; generation_config.json says how to "
            f"draw from them{' after the system turn in decode.json' if system else ''}, as found by a search.",
        ]
    learnt = f" on {kind}{judged_by(about)}" if about.recipe.learns_from else ", without preferences"
    return [
        f"A policy, trained from {escaped(about.parent.name)} by {maker(about)} with "
        f"{about.recipe.optimise.kind.upper()}{learnt}. An adapter that it was trained through is merged "
        "into the weights.",
    ]


# ---------------------------------------------------------------------------------------------- its figures


def _reward_figures(about: About) -> list[str]:
    evaluation = about.run.evaluation
    rows = tables.worth(evaluation)
    if not rows:
        return ["This run has no figures of the reward model: how often it is right is unknown."]
    confidence = percent(evaluation.get("confidence", 0.95))
    head = ("On held-out pairs", "Value", f"{confidence} interval", "Pairs")
    reading = "The intervals are made by resampling prompts. These pairs trained nothing."
    return [*map(escaped, reward_sentences(about.run)), table(head, rows), f"{reading} {_measured_on(about)}"]


def _policy_figures(about: About) -> list[str]:
    evaluation = about.run.evaluation
    found = verdict(evaluation)
    if not evaluation:
        return found.paragraphs
    told = at(evaluation, "heldout") or {}
    against = "the reference" if about.recipe.reference else "the model before training"
    reading = (
        f"On {told.get('responses', 0):,} responses to {told.get('prompts', 0):,} held-out prompts, against {against}; "
        f"in brackets {percent(evaluation.get('confidence', 0.95))} intervals, made by resampling prompts. "
    )
    changes = [(row[0].replace("  ", "\u2013 "), *row[1:]) for row in tables.changes(evaluation)]
    rows = table(("", "Before", "After", "Interval"), changes)
    return [f"**{found.heading}.**", *map(escaped, found.paragraphs), rows, reading + _measured_on(about)]


def _measured_on(about: About) -> str:
    machine = at(about.run.manifest, "machine") or {}
    dtype = about.recipe.dtypes.get("policy")
    on = f"Measured on {machine['processor']}" if machine.get("processor") else ""
    return f"{on}{f', {dtype}' if dtype else ''}." if on else ""


def _limits(about: About, reward: bool) -> list[str]:
    evaluation = about.run.evaluation
    if not evaluation:
        return ["- Nothing was measured: this run has no evaluation of what it holds now."]
    said = []
    if reward:
        pairs = at(evaluation, "reward_model.heldout_accuracy.n") or 0
        said += [
            f"The figures rest on {counted(pairs, 'held-out pair')}; read the interval, not the value.",
            "Agreement is with labels made as the training labels were: it says nothing of whether these are right.",
            "Scores of responses to different prompts are not comparable, and optimising against it finds its errors.",
        ]
    else:
        prompts = at(evaluation, "heldout.prompts") or 0
        said += [
            f"The figures rest on {counted(prompts, 'held-out prompt')} like those of training, answered by sampling."
        ]
        judged = at(evaluation, "policy.win_rate_vs_reference.value") is not None
        said += ["Win rates are by the judge of the run, which is no independent one."] if judged else []
        said += ["No measure was taken that no part of the run has seen."] * (not _unseen(evaluation))
        said += map(escaped, verdict(evaluation).cautions)
    said += ["Whether it is safe was not tested." if not reward else "It was not tested on attacks."]
    return ["\n".join(f"- {one}" for one in said)]


def _unseen(evaluation: Mapping[str, Any]) -> bool:
    return any(not one.get("seen") for one in evaluation.get("measures", ()))
