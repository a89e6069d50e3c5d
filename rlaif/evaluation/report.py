"""report.html: one self-contained page about one run, for a person.

It reads the run folder alone and measures nothing that evaluation.json does not hold; the words at the top
come from `verdict.py`, rows and key figures from `tables.py`. Parts that a run does not have are left out, or
said to be missing where that matters.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlaif.evaluation import plots, tables
from rlaif.evaluation.artefacts import Artefacts, read_artefacts
from rlaif.evaluation.measured import label_table, measure_rows, measure_sentences
from rlaif.evaluation.page import Picture, picture, write_page
from rlaif.evaluation.reward_worth import worth_table
from rlaif.evaluation.verdict import Verdict, verdict
from rlaif.words import duration, number, percent, span

KINDS = {
    "ai": "AI feedback (RLAIF)",
    "human": "human feedback (RLHF)",
    "mix": "human and AI feedback (hybrid)",
}
EXAMPLES = 12


def write_report(run_folder: Path, out: Path | None = None) -> Path:
    """Write the page, by default as report.html in the run folder, and return its path."""
    run = read_artefacts(run_folder)
    path = out or run_folder / "report.html"
    evaluation = run.evaluation
    context = {
        "title": run.setting("title", str) or run.name,
        "facts": _facts(run),
        "verdict": _verdict(evaluation) if evaluation else _not_evaluated(),
        "tiles": tables.tiles(evaluation),
        "principles": tables.principles(evaluation),
        "measures": measure_rows(evaluation),
        "labels": label_table(evaluation),
        "principle_plot": tables.principle_plot(evaluation),
        "prompts": evaluation.get("heldout", {}).get("prompts", 0),
        "responses": evaluation.get("heldout", {}).get("responses", 0),
        "confidence": percent(evaluation.get("confidence")),
        "judge": tables.judge(run),
        "reward": _reward(run),
        "worth": worth_table(evaluation),
        "curves": _curves(run.metrics),
        "more_curves": _more_curves(run.metrics),
        "examples": _examples(run),
        "cost": _cost(evaluation),
        "stages": _stages(run),
        "provenance": _provenance(run),
    }
    write_page(path, "report.html.jinja", context)
    return path


def _verdict(evaluation: Mapping[str, Any]) -> Verdict:
    """The checks first, then the measures that no part of the run has seen."""
    found = verdict(evaluation)
    measured = measure_sentences(evaluation)
    first, *rest = found.paragraphs
    return found._replace(paragraphs=[first, *([" ".join(measured)] if measured else []), *rest])


def _not_evaluated() -> Verdict:
    sentence = "This run has no evaluation.json: nothing can be said about it until `rlaif evaluate` has run."
    return Verdict("unclear", "Not evaluated yet", [sentence], [])


def _facts(run: Artefacts) -> dict[str, str]:
    kind = KINDS.get(run.setting("preferences.labels.kind", str) or "")
    judged = run.evaluation.get("judge", {}).get("order_consistency")
    by_source = Counter[str]()
    for (source, _), count in run.preferences.items():
        by_source[source] += count
    names = {"ai": "AI", "human": "human"}
    sources = ", ".join(f"{n:,} {names.get(s, s)}" for s, n in sorted(by_source.items()))
    facts = {
        "Run": run.name,
        "Trained on": kind,
        "Constitution": run.setting("constitution", str),
        "Policy": run.setting("policy.model", str),
        "Compared with": run.setting("reference.model", str),
        "Method": run.setting("optimise.kind", str),
        "Judge": run.setting("judge.model", str) if kind != KINDS["human"] or judged else None,
        "Pairs": _contrast(run),
        "Preferences": sources,
        "Number format": _dtypes(run),
    }
    return {name: value for name, value in facts.items() if value}


def _contrast(run: Artefacts) -> str | None:
    """How pairs were made under two instructions, and how often the judge agrees; None where they were not."""
    labels, label = run.setting("sample.contrast.labels", str), run.manifest.get("stages", {}).get("label")
    if labels is None or label is None:
        return None
    counts = [label.get(f"judge_{which}", 0) for which in ("with_origin", "against_origin", "even")]
    if not sum(counts):
        return "written under two instructions, labelled by which of them it was"
    agreed = f"the judge prefers what was written under `for` in {percent(counts[0] / sum(counts))} of {sum(counts):,}"
    return f"written under two instructions; {agreed}{', and the others are ties' if labels == 'both' else ''}"


def _dtypes(run: Artefacts) -> str:
    """Of the models that have one, those of one format together: bfloat16 (policy, judge)."""
    models: dict[str, list[str]] = {}
    for name in ("policy", "reference", "judge"):
        if found := run.setting(f"{name}.dtype", str):
            models.setdefault(found, []).append(name)
    return "; ".join(f"{found} ({', '.join(names)})" for found, names in models.items())


# ------------------------------------------------------------------------------------------------ training


def _reward(run: Artefacts) -> list[str]:
    accuracy = run.evaluation.get("reward_model", {}).get("heldout_accuracy")
    if not accuracy:
        note = run.evaluation.get("reward_model", {}).get("note")
        return [f"This run has {note}.", *_implicit_reward(run.metrics)] if note else []
    sentences = []
    for source, entry in accuracy.get("by_source", {}).items():
        if entry:
            labels = {"ai": "AI", "human": "human"}.get(source, source)
            sentences.append(
                f"On {entry['n']:,} held-out pairs with {labels} labels the reward model agrees with "
                f"{percent(entry['value'])} ({span(entry, 'share')})."
            )
    loss, floor = accuracy.get("cross_entropy"), accuracy.get("label_entropy")
    if loss and floor is not None:
        sentences.append(
            f"Its cross-entropy there is {number(loss['value'])} nats per pair: a coin has 0.693, and these "
            f"soft labels allow no less than {number(floor)}."
        )
    return [" ".join(sentences)] if sentences else []


def _implicit_reward(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """What DPO found on held-out preferences."""
    found = [row["heldout_accuracy"] for row in metrics if "heldout_accuracy" in row]
    return [f"The policy's implicit reward ranks {percent(found[-1])} of held-out pairs as labelled."] if found else []


def _series(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> dict[str, list[float | None]]:
    """Curves by label, for those of the metrics that were logged at all."""
    found = {label: [row.get(key) for row in rows] for key, label in names.items()}
    return {label: values for label, values in found.items() if any(v is not None for v in values)}


def _plot(
    rows: Sequence[Mapping[str, Any]], title: str, names: Mapping[str, str], share: bool = False
) -> list[Picture]:
    series = _series(rows, names)
    if not series:
        return []
    return [picture(plots.curves(title, [row["step"] for row in rows], series, share), f"{title}, by step")]


def _curves(metrics: Sequence[Mapping[str, Any]]) -> list[Picture]:
    steps = [row for row in metrics if row.get("stage") == "optimise"]
    reward = [row for row in metrics if row.get("stage") == "reward"]
    checks = {key: key.removeprefix("pass/") for row in steps for key in row if key.startswith("pass/")}
    if "pass/all" in checks:
        checks = {"pass/all": "all checks"} | {k: v for k, v in checks.items() if k != "pass/all"}
    return [
        *_plot(steps, "Training: score", {"score": "score", "reward": "reward, after KL"}),
        *_plot(steps, "Training: KL, nats per response", {"kl": "KL"}),
        *_plot(steps, "Training: share of rollouts that pass", checks, share=True),
        *_plot(steps, "Training: response length, tokens", {"response_tokens": "tokens"}),
        *_plot(steps, "Training: loss", {"loss": "loss"}),
        *_plot(steps, "Training: pairs ranked as they were labelled", {"accuracy": "implicit reward"}, share=True),
        *_plot(
            steps, "Training: drift from the reference, nats", {"chosen_drift": "chosen", "rejected_drift": "rejected"}
        ),
        *_plot(reward, "Reward model: loss, nats per pair", {"loss": "loss"}),
        *_plot(reward, "Reward model: accuracy in training", {"accuracy": "accuracy"}, share=True),
    ]


def _more_curves(metrics: Sequence[Mapping[str, Any]]) -> list[Picture]:
    steps = [row for row in metrics if row.get("stage") == "optimise"]
    return [
        *_plot(steps, "Finished before the token limit", {"finished": "finished"}, share=True),
        *_plot(steps, "Entropy of the policy", {"entropy": "entropy"}),
        *_plot(steps, "Clipped share of tokens", {"clip_fraction": "clipped"}),
        *_plot(steps, "Variance explained by the critic", {"explained_variance": "explained"}),
        *_plot(steps, "Losses", {"policy_loss": "policy", "value_loss": "value"}),
        *_plot(steps, "KL coefficient", {"kl_coef": "coefficient"}),
    ]


# ------------------------------------------------------------------------------------- examples, cost, origin


def _examples(run: Artefacts) -> list[dict[str, Any]]:
    """One response a prompt, in the order of the file: picking would mislead."""
    limit = run.setting("evaluate.examples", int) or EXAMPLES
    by_prompt: dict[str, Mapping[str, Any]] = {}
    for row in run.samples:
        by_prompt.setdefault(row["prompt_id"], row)
    return [
        {"prompt": row["prompt"], "before": _side(row, "before"), "after": _side(row, "after")}
        for row in list(by_prompt.values())[:limit]
    ]


def _side(row: Mapping[str, Any], when: str) -> dict[str, Any]:
    score, kl = row.get(f"score_{when}"), row.get("kl") if when == "after" else None
    facts = [f"{row[f'{when}_tokens']} tokens"]
    facts += [f"score {number(score)}"] if score is not None else []
    facts += [f"KL {number(kl)}"] if kl is not None else []
    return {
        "text": row[when],
        "facts": facts,
        "finished": row[f"{when}_finished"],
        "passes": row.get(f"{when}_passes", {}),
    }


def _cost(evaluation: Mapping[str, Any]) -> str:
    cost = evaluation.get("cost", {})
    if not cost.get("judge_calls"):
        return "The judge was not called." if cost else ""
    return (
        f"The judge was called {cost['judge_calls']:,} times and read "
        f"{cost.get('prompt_tokens', 0):,} tokens, writing {cost.get('completion_tokens', 0):,}."
    )


def _stages(run: Artefacts) -> list[dict[str, Any]]:
    seconds = {
        stage: mark["seconds"]
        for stage, mark in run.manifest.get("stages", {}).items()
        if isinstance(mark, dict) and "seconds" in mark
    } or run.evaluation.get("cost", {}).get("seconds", {})
    rows = [{"name": stage, "time": duration(value), "total": False} for stage, value in seconds.items()]
    return [*rows, {"name": "Together", "time": duration(sum(seconds.values())), "total": True}] if rows else []


def _provenance(run: Artefacts) -> dict[str, str]:
    parts = {
        "Recipe, resolved": run.recipe_text,
        "Constitution": _pretty(run.evaluation.get("constitution")),
        "Versions": _pretty(run.manifest.get("versions")),
        "Git": _pretty(run.manifest.get("git")),
        "Stages, with hashes of inputs and outputs": _pretty(run.manifest.get("stages")),
    }
    return {name: text for name, text in parts.items() if text}


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) if value else ""
