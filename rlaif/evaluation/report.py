"""report.html: one self-contained page about one run, for a person.

It reads the run folder alone and measures nothing that evaluation.json does not hold; the words at the top
come from `verdict.py`, rows and key figures from `tables.py`. Parts that a run does not have are left out, or
said to be missing where that matters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlaif.evaluation import tables
from rlaif.evaluation.artefacts import Artefacts, read_artefacts
from rlaif.evaluation.examples import examples
from rlaif.evaluation.slices import slices_part
from rlaif.evaluation.subgroups import subgroups_part
from rlaif.evaluation.tricks import hacking_part
from rlaif.evaluation.truth import truth_part
from rlaif.evaluation.verdict import verdict
from rlaif.models.decoding import Decoding
from rlaif.pages import kit, plots
from rlaif.pages.kit import Part
from rlaif.stats import at, estimate_at
from rlaif.words import SOURCES, counted, duration, number, percent, with_interval

KINDS = {
    "ai": "AI feedback (RLAIF)",
    "human": "human feedback (RLHF)",
    "mix": "human and AI feedback (hybrid)",
}


def write_report(run_folder: Path, out: Path | None = None) -> Path:
    """Write the page, by default as report.html in the run folder, and return its path."""
    run = read_artefacts(run_folder)
    found = verdict(run.evaluation)
    confidence = percent(run.evaluation.get("confidence"))
    reading = f"In brackets and small print: {confidence} intervals, made by resampling the held-out prompts."
    parts: kit.Parts = [
        kit.verdict(found.heading, found.paragraphs, found.cautions, found.outcome),
        kit.tiles(tables.tiles(run.evaluation), reading),
        tables.principles_part(run.evaluation),
        tables.measures_part(run.evaluation),
        truth_part(run.evaluation),
        tables.labels_part(run.evaluation),
        slices_part(run.evaluation),
        subgroups_part(run.evaluation),
        _judge(run),
        _training(run, confidence),
        hacking_part(run.evaluation),
        examples(run),
        _cost(run),
        _provenance(run),
    ]
    footer = "Made by `rlaif report` from the files of this run."
    title = run.setting("title", str) or run.name
    return kit.write_page(out or run_folder / "report.html", title, _facts(run), parts, footer)


def _facts(run: Artefacts) -> dict[str, str]:
    kind = KINDS.get(run.setting("preferences.labels.kind", str) or "")
    if run.setting("reward.loss.kind", str) == "demonstrations":
        joined = bool(run.setting("reward.loss.preferences", float))
        kind = f"demonstrations{f' and {kind}' if joined else ''}, against the policy's samples"
    judged = run.evaluation.get("judge", {}).get("order_consistency")
    by_source = Counter[str]()
    for (source, _), count in run.preferences.items():
        by_source[source] += count
    sources = ", ".join(f"{n:,} {SOURCES.get(s, s)}" for s, n in sorted(by_source.items()))
    facts = {
        "Run": run.name,
        "Trained on": kind,
        "Constitution": run.setting("constitution", str),
        "Policy": run.setting("policy.model", str),
        "Compared with": run.setting("reference.model", str),
        "Method": run.setting("optimise.kind", str),
        "Decoding": decoding.words if (decoding := Decoding.of(run.folder / "policy")) else None,
        "Judge": run.setting("judge.model", str) if kind != KINDS["human"] or judged else None,
        "Pairs": _contrast(run),
        "Prompts left out": _filtered(run, "dropped"),
        "Personal data masked": _filtered(run, "masked"),
        "Preferences": sources,
        "Number format": _dtypes(run),
    }
    return {name: value for name, value in facts.items() if value}


def _filtered(run: Artefacts, what: str) -> str:
    """By the filters of prompts, by cause."""
    found = at(run.evaluation, f"filters.{what}") or {}
    return ", ".join(f"{cause} {count:,}" for cause, count in found.items())


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


# ------------------------------------------------------------------------------------------------ the judge


def _judge(run: Artefacts) -> list[Part]:
    """What is known of the judge itself."""
    consistency, coverage = (at(run.evaluation, f"judge.{part}") or {} for part in ("order_consistency", "coverage"))
    if not consistency and not coverage.get("judged") and not coverage.get("failed"):
        return [kit.heading("The judge"), kit.paragraph("No AI judge was used.")]
    orders = "every pair in both orders" if consistency else "each response alone, so there is no order"
    intro = [f"{run.setting('judge.model', str) or 'The judge'} read {orders}."]
    if coverage.get("value") is not None:
        intro.append(
            f"Of {coverage['judged'] + coverage['failed']:,} pairs, {coverage['judged']:,} have a judgment "
            f"({percent(coverage['value'])})."
        )
    if consistency:
        intro.append(
            "A judge that reads the responses prefers the same one whichever is shown first. Where it does not, "
            "it preferred a position. The swap gap is how far its probability moved when the order did."
        )
    rows = tables.judge(consistency)
    by_principle = {name: estimate_at(entry) for name, entry in consistency.get("by_principle", {}).items()}
    alt = "Order consistency of the judge, by principle"
    plot = kit.dots("Same response preferred in both orders", alt, by_principle, plots.A_COIN)
    head = ("Principle", "Same response, both orders", "Always the first", "Always the second", "Undecided")
    failed = Counter(str(row.get("reason")) for row in run.failures)
    first = {str(row.get("reason")): str(row.get("detail", ""))[:200] for row in reversed(run.failures)}
    table = kit.table((*head, "Mean swap gap", "Pairs"), rows, totals=int(len(rows) > 1))
    failures = kit.failures([(reason, count, first[reason]) for reason, count in failed.most_common()])
    return kit.section("The judge", "", kit.paragraph(*intro), plot, table, *failures)


# ------------------------------------------------------------------------------------------------ training


def _training(run: Artefacts, confidence: str) -> list[Part]:
    head = ("The reward model", "Value", f"{confidence} interval", "Pairs")
    worth = kit.table(head, tables.worth(run.evaluation), kind="wide")
    reading = kit.note(
        "On held-out pairs, which it never saw. A soft label agrees with the response that the model prefers by the "
        "probability that it gives to it; the calibration error is never below 0, and by chance above it."
    )
    curves, reward = _curves(run.metrics, CURVES), [kit.paragraph(sentence) for sentence in reward_sentences(run)]
    if not curves and not reward:
        return []
    details = kit.details("What the reward model is worth", reading, worth) if worth else None
    optimiser = kit.details("Optimiser", _curves(run.metrics, OPTIMISER))
    return kit.section("Training", "", *reward, details, curves, optimiser)


def reward_sentences(run: Artefacts) -> list[str]:
    """What the reward model says of held-out labels; without one, what the run has instead."""
    accuracy = at(run.evaluation, "reward_model.heldout_accuracy")
    if not accuracy:
        note = at(run.evaluation, "reward_model.note")
        return [f"This run has {note}.", *_implicit_reward(run.metrics)] if note else []
    sentences = []
    for source, entry in accuracy.get("by_source", {}).items():
        if found := estimate_at(entry):
            sentences.append(
                f"On {counted(found.n, 'held-out pair')} with {SOURCES.get(source, source)} labels the reward model "
                f"agrees with {with_interval(found)}."
            )
    loss, floor = estimate_at(accuracy, "cross_entropy"), accuracy.get("label_entropy")
    if loss and floor is not None:
        sentences.append(
            f"Its cross-entropy there is {number(loss.value)} nats per pair: a coin has 0.693, and these "
            f"soft labels allow no less than {number(floor)}."
        )
    return [" ".join(sentences)] if sentences else []


def _implicit_reward(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """What DPO found on held-out preferences."""
    found = [row["heldout_accuracy"] for row in metrics if "heldout_accuracy" in row]
    return [f"The policy's implicit reward ranks {percent(found[-1])} of held-out pairs as labelled."] if found else []


CURVES: tuple[tuple[str, str, dict[str, str], bool], ...] = (
    ("optimise", "Training: score", {"score": "score", "reward": "reward, after KL"}, False),
    ("optimise", "Training: KL, nats per response", {"kl": "KL"}, False),
    ("optimise", "Training: share of rollouts that pass", {}, True),
    ("optimise", "Training: response length, tokens", {"response_tokens": "tokens"}, False),
    ("optimise", "Training: loss", {"loss": "loss"}, False),
    ("optimise", "Training: pairs ranked as they were labelled", {"accuracy": "implicit reward"}, True),
    (
        "optimise",
        "Training: drift from the reference, nats",
        {"chosen_drift": "chosen", "rejected_drift": "rejected"},
        False,
    ),
    ("reward", "Reward model: loss, nats per pair", {"loss": "loss"}, False),
    ("reward", "Reward model: accuracy in training", {"accuracy": "accuracy"}, True),
)
"""Stage, title, the metrics with their names (none: the checks that it logged), and whether they are shares."""
OPTIMISER: tuple[tuple[str, str, dict[str, str], bool], ...] = (
    ("optimise", "Finished before the token limit", {"finished": "finished"}, True),
    ("optimise", "Entropy of the policy", {"entropy": "entropy"}, False),
    ("optimise", "Clipped share of tokens", {"clip_fraction": "clipped"}, False),
    ("optimise", "Variance explained by the critic", {"explained_variance": "explained"}, False),
    ("optimise", "Losses", {"policy_loss": "policy", "value_loss": "value"}, False),
    ("optimise", "KL coefficient", {"kl_coef": "coefficient"}, False),
)


def _curves(metrics: Sequence[Mapping[str, Any]], wanted: Sequence[tuple[str, str, dict[str, str], bool]]) -> Part:
    """A plot for each of which anything was logged."""
    shown = []
    for stage, title, names, share in wanted:
        rows = [row for row in metrics if row.get("stage") == stage]
        found = {name: [row.get(key) for row in rows] for key, name in (names or _checks(rows)).items()}
        series = {name: values for name, values in found.items() if any(value is not None for value in values)}
        if series:
            svg = plots.curves(title, [row["step"] for row in rows], series, share)
            shown.append(kit.picture(svg, f"{title}, by step"))
    return kit.grid(*shown)


def _checks(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The checks that training logged, all of them together first."""
    found = {key: key.removeprefix("pass/") for row in rows for key in row if key.startswith("pass/")}
    return {"pass/all": "all checks"} | found | {"pass/all": "all checks"} if "pass/all" in found else found


# ------------------------------------------------------------------------------------------------ cost, origin


def _cost(run: Artefacts) -> list[Part]:
    cost = run.evaluation.get("cost", {})
    told = "The judge was not called." if cost else ""
    if cost.get("judge_calls"):
        told = (
            f"The judge was called {cost['judge_calls']:,} times and read "
            f"{cost.get('prompt_tokens', 0):,} tokens, writing {cost.get('completion_tokens', 0):,}."
        )
    marks = run.manifest.get("stages", {}).items()
    seconds = {stage: mark["seconds"] for stage, mark in marks if isinstance(mark, dict) and "seconds" in mark}
    seconds = seconds or cost.get("seconds", {})
    rows = [(stage, duration(value)) for stage, value in seconds.items()]
    rows += [("Together", duration(sum(seconds.values())))] if rows else []
    return kit.section("Cost", "", kit.paragraph(told), kit.table(("Stage", "Time"), rows, totals=1, kind="wide"))


def _provenance(run: Artefacts) -> list[Part]:
    parts = {
        "Recipe, resolved": run.recipe_text,
        "Constitution": run.evaluation.get("constitution"),
        "Versions": run.manifest.get("versions"),
        "Git": run.manifest.get("git"),
        "Stages, with hashes of inputs and outputs": run.manifest.get("stages"),
    }
    return kit.provenance(parts, "Neither recipe.yaml nor manifest.json is in the folder.")
