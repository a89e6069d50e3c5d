"""`rlaif judge train`: labelled pairs in, a folder out that `judge.model` names like any other.

All that shapes the result is in one hash, the subject, under which the work lies beside the folder until that is whole:
the same command goes on after a kill, and another one begins anew. It runs in one process.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlaif import __version__
from rlaif.audits.gate import identity
from rlaif.audits.judge_training import worth
from rlaif.audits.judge_training.labels import PairLabels, read_labels
from rlaif.audits.judge_training.material import material_of, trainable_mode
from rlaif.audits.judge_training.record import FILE, SCHEMA, prompts_of, read_record, refuse_seen
from rlaif.audits.judge_training.split import Split, decided, key_of, keys_of, split
from rlaif.audits.judge_training.work import JudgeTrainOutcome, JudgeTrainTask, do
from rlaif.config import Recipe
from rlaif.config.models import LocalModel, VllmModel
from rlaif.console import say
from rlaif.constitution import Constitution, load_constitution
from rlaif.errors import ConfigError
from rlaif.jsonl import write_json
from rlaif.processes import several
from rlaif.records import content_id
from rlaif.run_folder import Run, versions
from rlaif.stats import Bootstrap
from rlaif.words import percent


class TrainedJudge(NamedTuple):
    """What the command line needs."""

    folder: Path | None
    """None: no epoch was better than none."""
    lines: list[str]
    record: dict[str, Any]
    """As in judge.json, written or not."""


def train_command(
    recipe: Recipe, gold: Sequence[Path], audit: Sequence[Path] | None = None, out: Path | None = None
) -> TrainedJudge:
    """Train the recipe's judge on these labels and write it to the folder `out` (default: runs/judge-<recipe>).

    `audit`: the labels by which it is audited before and after; without any a share of the prompts is kept for that.
    Raises ConfigError for a judge that cannot be trained and for an `out` that holds something else, DataError for
    labels that cannot be used and for audit labels on prompts that train.
    """
    base = judge_to_train(recipe)
    trainable_mode(recipe)
    constitution = load_constitution(recipe.constitution)
    labels = read_labels(gold, constitution)
    apart = read_labels(audit, constitution) if audit else None
    about = _about(recipe, constitution, labels, apart)
    target = out or Path("runs") / f"judge-{recipe.name}"
    if (done := _done(target, about["subject"])) is not None:
        say(f"{target}: up to date")
        return TrainedJudge(target, _lines(done, target), done)
    parts = split(labels.labels, apart.labels if apart else None, recipe.judge_training)
    refuse_seen(recipe, [label.pair for label in parts.audit])
    material = material_of(recipe, constitution, parts.train)
    _say(labels, apart, parts)
    place = target.resolve()
    hidden = place.with_name(f".{place.name}.training")
    with Run(hidden).lock():
        run = Run(hidden / about["subject"])
        folder = run.folder / place.name
        worked = do(JudgeTrainTask(recipe, base, constitution, material, parts, run, folder))
        record = about | _found(recipe, base, parts, worked, folder)
        if worked.trained.best:
            write_json(folder / FILE, record)
            shutil.copyfile(run.metrics, folder / "rlaif_metrics.jsonl")
            folder.rename(place)
        shutil.rmtree(hidden)
    return TrainedJudge(target if worked.trained.best else None, _lines(record, target), record)


def judge_to_train(recipe: Recipe) -> LocalModel:
    """The recipe's judge as a model in this process. ConfigError for one whose weights are not here."""
    judge = recipe.judge
    if not isinstance(judge, LocalModel | VllmModel):
        raise ConfigError(
            f"judge train: judge.backend={judge.backend}: its weights are not here; only those of local and vllm can "
            "be trained (judge.backend=local judge.model=...)"
        )
    if several():
        raise ConfigError("judge train: runs in one process; start it without accelerate launch")
    from rlaif.models.local.machine import resolve  # noqa: PLC0415 (brings torch)

    batch_size = judge.batch_size if isinstance(judge, LocalModel) else LocalModel(model=judge.model).batch_size
    dtype = resolve(judge.dtype)
    return LocalModel(model=judge.model, revision=judge.revision, dtype=dtype, batch_size=batch_size)


def _about(recipe: Recipe, constitution: Constitution, labels: PairLabels, apart: PairLabels | None) -> dict[str, Any]:
    """Of judge.json what is known beforehand: what is trained, by what, from which labels."""
    sections = {"label", "judge_training", "compute", "evaluate", "seed"}
    about = {
        "recipe": recipe.name,
        "base": identity(recipe, constitution),
        "sections": recipe.model_dump(mode="json", include=sections),
        "gold": _labels(labels),
        "audit_gold": _labels(apart) if apart is not None else None,
        "rlaif": __version__,
    }
    return {"schema": SCHEMA, "subject": content_id(about), **about, "confidence": recipe.evaluate.confidence}


def _labels(labels: PairLabels) -> dict[str, Any]:
    return {
        "files": [file._asdict() for file in labels.files],
        "pairs": len(labels.labels),
        "unusable": len(labels.failures),
        "first_unusable": [f"{row.id}: {row.reason}" for row in labels.failures[:20]],
        "repeated": labels.repeated,
        "contradicted": labels.contradicted,
        "other_constitution": labels.other_constitution,
    }


def _done(target: Path, subject: str) -> dict[str, Any] | None:
    """The record of this very training, if it is there already. ConfigError where something else is."""
    if not target.exists():
        return None
    record = read_record(target) if target.is_dir() else None
    if record is not None and record["subject"] == subject:
        return record
    if target.is_dir() and not any(target.iterdir()):
        return None
    what = "a judge that was trained otherwise" if record is not None else "there already, and no trained judge"
    raise ConfigError(f"{target}: {what}; name another folder with --out, or delete this one")


def _found(recipe: Recipe, base: LocalModel, parts: Split, worked: JudgeTrainOutcome, folder: Path) -> dict[str, Any]:
    """Of judge.json what came of it."""
    from rlaif.models.embedded import resolve_model  # noqa: PLC0415

    trained, taught = worked.trained, [subject.label for subject in worked.material.subjects]
    bootstrap = Bootstrap.of(recipe.evaluate, recipe.seed)
    audited = None
    if worked.before is not None and worked.after is not None:
        audited = worth.worth(parts.audit, worked.before, worked.after, bootstrap)
    return {
        "base_revision": resolve_model(base.model, base.revision).revision,
        "base_dtype": base.dtype,
        "revision": resolve_model(str(folder)).revision if trained.best else None,
        "pairs": {"train": len(taught), "heldout": len(parts.heldout), "audit": len(parts.audit)},
        "left_out": dict(sorted(worked.material.dropped.items())),
        "steps": trained.steps,
        "epochs": [seen._asdict() for seen in trained.epochs],
        "best_epoch": trained.best,
        "heldout": len(decided(parts.heldout)),
        "audit": audited,
        "versions": versions(),
        "prompts": sorted({key_of(label) for label in (*taught, *parts.heldout)} | prompts_of(recipe.judge)),
    }


def _say(labels: PairLabels, apart: PairLabels | None, parts: Split) -> None:
    """How many labels there are, and for what."""
    for name, some in (("gold", labels), ("audit", apart)):
        if some is None:
            continue
        counts = {
            "rows without a usable label": len(some.failures),
            "rows about a pair that has a label": some.repeated,
            "pairs labelled both ways": some.contradicted,
            "judgments by another constitution, used as a whole": some.other_constitution,
        }
        said = "".join(f", {what} {count}" for what, count in counts.items() if count)
        first = f" (first: {some.failures[0].id}: {some.failures[0].reason})" if some.failures else ""
        say(f"{name}: {len(some.labels)} labelled pairs{said}{first}")
    uses = zip(("train", "say when to stop", "audit"), parts, strict=True)
    shares = [f"{len(part)} of {len(keys_of(part))} prompts {use}" for use, part in uses if part]
    say(f"pairs: {', '.join(shares)}")


def _lines(record: Mapping[str, Any], target: Path) -> list[str]:
    """What to print in the end."""
    epochs, best, count = record["epochs"], record["best_epoch"], record["heldout"]
    untrained = percent(epochs[0]["agreement"])
    if not best:
        return [
            f"No epoch agreed more with the held-out labels of {count} pairs than the untrained judge ({untrained}): "
            "no model was written; more labels, or another judge_training.learning_rate, may help"
        ]
    ends = f"After epoch {best} it agrees with {percent(epochs[best]['agreement'])} of the held-out labels"
    audited = worth.table(record["audit"], record["confidence"]) if record["audit"] else ["No audit: no labels for one"]
    return [
        *audited,
        f"{ends} of {count} pairs, by which that epoch was chosen; untrained with {untrained}",
        f"judge: {target} (judge.model={target}; {FILE} in it says what it came from)",
    ]
