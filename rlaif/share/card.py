"""README.md of a reward model, a policy or preferences: what it is, what it is worth with intervals, how it is loaded.

The figures and their words are those of the report (`rlaif/evaluation/`); nothing is computed here but counts.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlaif.evaluation import tables
from rlaif.evaluation.report import KINDS, reward_sentences
from rlaif.evaluation.verdict import judge_sentences, verdict
from rlaif.forms import OBJECT
from rlaif.jsonl import read_json
from rlaif.share.contents import Contents, split_file
from rlaif.share.facts import About
from rlaif.share.loading import load_policy, load_reward
from rlaif.share.markdown import code, escaped, table, written
from rlaif.stats import at
from rlaif.words import SOURCES, counted, percent

SIZES = (("n<1K", 1_000), ("1K<n<10K", 10_000), ("10K<n<100K", 100_000), ("100K<n<1M", 10**6), ("1M<n<10M", 10**7))
TURNS = {"list": [{"name": "role", "dtype": "string"}, {"name": "content", "dtype": "string"}]}
FEATURES: dict[str, Any] = {
    **dict.fromkeys(("prompt", "chosen", "rejected"), TURNS),
    "p_chosen": {"dtype": "float64"},
    "source": {"dtype": "string"},
    "weight": {"dtype": "float64"},
    **{key: {"dtype": "string"} for key in ("split", "prompt_id", "pair_id")},
    "tags": {"list": "string"},
}
"""The columns of preferences.jsonl, as a data set's card declares them."""
BEST_OF_N = "best_of_n.json"
FEEDBACK = {"ai": "AI feedback", "human": "human feedback", "mix": "human and AI feedback"}


def model_card(about: About, what: str, contents: Contents, repo: str) -> str:
    """The card of a reward model or policy whose files are `contents`; `repo` is its name in the snippets."""
    from huggingface_hub import ModelCardData  # noqa: PLC0415 (slow, as every import of it here)

    reward = what == "reward_model"
    kind = FEEDBACK[about.recipe.preferences.labels.kind]
    data = ModelCardData(
        **_license(about),
        base_model=about.parent.base,
        datasets=about.datasets() or None,
        library_name="transformers",
        pipeline_tag="text-classification" if reward else "text-generation",
        tags=["rlaif", "reward-model" if reward else about.recipe.optimise.kind, *_tags(about)],
    )
    what_it_is = _reward_model(about, kind) if reward else _policy(about, kind, contents.folder)
    figures = _reward_figures(about) if reward else _policy_figures(about)
    loading = load_reward(about, contents.folder, repo) if reward else load_policy(repo)
    sections = {
        "": what_it_is,
        "What it is worth": figures,
        "How to load it": loading,
        "What it learnt from": _data(about, about.run.preferences),
        "The judge": _judge(about)[: None if reward else 1],  # a policy's figures say the rest
        "The recipe": _recipe(about),
        "Limits": _limits(about, reward),
        "Licence": [about.parent.sentence],
    }
    return written(data, _title(about, "reward model" if reward else "policy"), sections)


def dataset_card(about: About, contents: Contents, repo: str) -> str:
    """The card of preferences."""
    from huggingface_hub import DatasetCardData  # noqa: PLC0415

    rows = {split: sum(n for (_, s), n in contents.rows.items() if s == split) for split in ("train", "heldout")}
    files = {split: split_file(Path(), split).name for split, count in rows.items() if count}
    bytes_of = {split: (contents.folder / name).stat().st_size for split, name in files.items()}
    told = [copy.deepcopy({"name": name} | kind) for name, kind in FEATURES.items()]  # YAML writes no aliases then
    splits = [{"name": split, "num_bytes": bytes_of[split], "num_examples": rows[split]} for split in files]
    total = sum(bytes_of.values())
    sources = {source for source, _ in contents.rows}
    data = DatasetCardData(
        license="unknown",
        pretty_name=" ".join((about.recipe.title or about.recipe.name).split()),
        size_categories=[next((name for name, most in SIZES if sum(rows.values()) < most), "n>10M")],
        annotations_creators=["machine-generated"] * ("ai" in sources) + ["crowdsourced"] * ("human" in sources),
        tags=["rlaif", "preference", "reward-modeling", *_tags(about)],
        configs=[{"config_name": "default", "data_files": [{"split": s, "path": name} for s, name in files.items()]}],
        dataset_info={"features": told, "splits": splits, "download_size": total, "dataset_size": total},
    )
    kind = FEEDBACK[about.recipe.preferences.labels.kind]
    split_by = ", and no prompt is in both" if contents.split_by_prompt else ""
    sections = {
        "": [
            f"Pairs of responses to one prompt, each with the one that {kind} "
            f"prefers and how sure that is, made by rlaif {_versions(about).get('rlaif', '')}{_by(about)}. A row is a "
            "conversational preference as TRL reads it.",
        ],
        "Columns": [
            "`prompt`, `chosen` and `rejected` are messages. `p_chosen` is the probability, from 0.5 (a tie) to 1, "
            "that chosen is the better; `weight` is what the row counts in training; `source` says who labelled it. "
            f"`heldout` measures a reward model and trains none{split_by if 'heldout' in files else ''}.",
        ],
        "How to load it": [code(f'from datasets import load_dataset\n\nrows = load_dataset("{repo}", split="train")')],
        "Where the rows come from": _data(about, contents.rows),
        "The judge": _judge(about),
        "The recipe": _recipe(about),
        "Limits": _dataset_limits(about),
        "Licence": [
            f"The responses were written by {about.parent.name}. {about.parent.sentence} The licence of the prompts "
            "and of people's labels is their sources'. rlaif does not know which licence all of them allow together, "
            "so the card says `unknown`: set it before you pass this on.",
        ],
    }
    return written(data, _title(about, "preferences"), sections)


# ---------------------------------------------------------------------------------------------- what it is


def _title(about: About, what: str) -> str:
    return f"{escaped(about.recipe.title or about.recipe.name)}: {what}"


def _by(about: About) -> str:
    constitution = about.constitution
    judged = about.judge is not None and constitution
    return f" by the constitution {constitution['id']} {constitution['version']}" if judged else ""


def _reward_model(about: About, kind: str) -> list[str]:
    members = about.recipe.reward.ensemble
    several = f"{counted(members.members, 'reward model')} (an ensemble)" if members else "A reward model"
    started = "trained from" if members is None else "each trained from"
    return [
        f"{several}, {started} {about.parent.name} by rlaif {_versions(about).get('rlaif', '')} on {kind}{_by(about)}. "
        "It reads a conversation and gives its last response one number: the higher, the likelier is the response to "
        "be the preferred one among responses to the same prompt.",
    ]


def _policy(about: About, kind: str, folder: Path) -> list[str]:
    if (folder / BEST_OF_N).exists():
        n = read_json(folder / BEST_OF_N, OBJECT).get("n")
        return [
            f"The weights are those of {about.parent.name}, unchanged: the policy of this run is the best of {n} of "
            "its responses by the run's reward, so whoever wants what the figures say draws as many and scores them.",
        ]
    learnt = f" on {kind}{_by(about)}" if about.recipe.learns_from else ", without preferences"
    return [
        f"A policy, trained from {about.parent.name} by rlaif {_versions(about).get('rlaif', '')} with "
        f"{about.recipe.optimise.kind.upper()}{learnt}. An adapter that it was trained through is merged "
        "into the weights.",
    ]


def _versions(about: About) -> Mapping[str, Any]:
    return at(about.run.manifest, "versions") or {}


def _tags(about: About) -> list[str]:
    kind = about.recipe.preferences.labels.kind
    return {"ai": ["ai-feedback"], "human": ["human-feedback", "rlhf"]}.get(kind, ["ai-feedback", "human-feedback"])


def _license(about: About) -> dict[str, Any]:
    return dict(about.parent.license) or {"license": "unknown"}


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


# ------------------------------------------------------------------------------------ data, judge, recipe, limits


def _data(about: About, rows: Counter[tuple[str, str]]) -> list[str]:
    if not rows:
        return ["This run has no preferences; the recipe says what it learnt from."]
    kind = KINDS[about.recipe.preferences.labels.kind]
    sources = about.sources()
    system = " A system prompt stands before each." if about.recipe.prompts.system else ""
    contrast = (
        " Responses were written in pairs under two opposed instructions." if about.recipe.sample.contrast else ""
    )
    said = [f"Labels: {kind}. Prompts: {escaped(sources['prompts'])}.{system}{contrast}"]
    said += [f"People's labels: {escaped(sources['labels'])}."] if sources["labels"] else []
    said += [made_up] if (made_up := about.made_up()) else []
    labelled = [
        (SOURCES.get(source, source), *(f"{rows[source, split]:,}" for split in ("train", "heldout")))
        for source in sorted({source for source, _ in rows})
    ]
    counts = about.counts()
    return [" ".join(said), table(("Labels", "Train", "Held out"), labelled), f"{'; '.join(counts)}." if counts else ""]


def _judge(about: About) -> list[str]:
    if about.judge is None:
        return ["No AI judge labelled these preferences."]
    audit = about.audit()
    said = (
        f"An audit against human labels says: {audit}" if audit else "No audit of this judge lies beside the run: how "
    )
    said += "" if audit else "often it agrees with people is unknown."
    evaluation = about.run.evaluation
    return [
        f"{escaped(about.judge)}. {said}",
        *([escaped(" ".join(judge_sentences(evaluation)))] if evaluation else []),
    ]


def _recipe(about: About) -> list[str]:
    constitution, overrides = about.constitution, about.overrides()
    versions = ", ".join(f"{name} {version}" for name, version in _versions(about).items())
    facts = [
        f"Recipe `{escaped(about.recipe.name)}`, seed {about.recipe.seed}, digest of recipe.yaml `{about.digest}`.",
        f"Constitution {constitution['id']} {constitution['version']}, hash `{constitution['hash']}`."
        if constitution
        else "The constitution's file is gone.",
        f"Made with {versions}." if versions else "",
    ]
    changed = "Beside the shipped recipe of that name: " + "; ".join(f"`{line}`" for line in overrides) + "."
    knobs = (
        f"Every value that is not rlaif's default (paths are cut to their last part):\n\n{code(about.knobs(), 'yaml')}"
    )
    return [" ".join(filter(None, facts)), *([changed] if overrides else []), knobs]


def _limits(about: About, reward: bool) -> list[str]:
    evaluation = about.run.evaluation
    if not evaluation:
        return ["- Nothing was measured: this run has no evaluation.json."]
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


def _dataset_limits(about: About) -> list[str]:
    said = ["Labels are opinions of who gave them, not facts; texts by a model may be wrong, and were not filtered."]
    if about.judge:
        said += ["`p_chosen` of an AI label is the judge's own, calibrated only where the recipe says so."]
    return ["\n".join(f"- {one}" for one in said)]


def _unseen(evaluation: Mapping[str, Any]) -> bool:
    return any(not one.get("seen") for one in evaluation.get("measures", ()))
