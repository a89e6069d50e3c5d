"""From what users say of a served policy to the next round of `rlaif iterate`.

FOLDER/feedback-k holds what round k learns from people: what came since the round before, as the files of an annotation
page, and what was found about it. It is written once and whole, before the round: a round that is killed goes on with
the same rows, whatever has come meanwhile.

    annotations.jsonl, annotation_edits.jsonl, annotation_thumbs.jsonl    what people said
    judged.jsonl    what the judge says of the same pairs
    drift.json      whether prompts or the agreement with the judge have changed
    feedback.json   ids of all that is in it: they are not taken again
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from rlaif.annotate.publish import labels_of, write_labels
from rlaif.config import Recipe
from rlaif.config.feedback import AiLabels
from rlaif.console import say
from rlaif.errors import ConfigError
from rlaif.evaluation.drift import AgreementDrift, TopicDrift, agreement_drift, topic_drift
from rlaif.feedback.human import NoPair, read_human
from rlaif.feedback.labelled import decided, match
from rlaif.feedback.pairs import read_preferences
from rlaif.feedback.prompts import read_prompts
from rlaif.formats import Annotations
from rlaif.iterate import Table, check, feedback_of, iterate, round_folder
from rlaif.jsonl import read_text, write_json, write_jsonl
from rlaif.pipeline import stages_of
from rlaif.records import Judgment, Messages, Record
from rlaif.run_folder import Run
from rlaif.stages.due import by_first
from rlaif.stages.stage import judge_with_bar
from rlaif.words import counted

JUDGED = "judged.jsonl"


class Hit(Record):
    """A pair on which people prefer a response, and whether the judge prefers it too (0.5: neither)."""

    pair_id: str
    prompt_id: str
    agrees: float


class RoundFeedback(Record):
    """What one round takes from people."""

    ids: tuple[str, ...]
    """Of every thumb, edit, pair and answer in it."""
    pairs: int
    on_heldout: int
    """Pairs on prompts that are kept for evaluation: they train nothing."""
    judge_failures: int
    """Pairs of which the judge said nothing: they are in no figure of agreement."""
    hits: tuple[Hit, ...]
    """Of the pairs that came first in this round."""


class Drift(Record):
    """What was found before the round; None where there was too little to tell."""

    topics: TopicDrift | None
    agreement: AgreementDrift | None


def iterate_from_feedback(recipe: Recipe, service: Path, folder: Path, redo: bool = False) -> Table | None:
    """Train the next round on what people said on this service, or in this run, since the last; the table of rounds.
    None, and the screen says why, where nothing came, or nothing that trains before more comes.

    A round that was begun goes on with the feedback that it had. ConfigError for a recipe or a folder that cannot be
    used.
    """
    if recipe.learns_from not in ("preferences", "reward_model"):
        raise ConfigError(f"iterate: optimise.kind={recipe.optimise.kind} learns nothing from people's labels here")
    if isinstance(recipe.preferences.labels, AiLabels) and recipe.preferences.labels.pairs == "human":
        raise ConfigError("iterate: --from-feedback: preferences.labels.pairs=human has no place for further labels")
    check(recipe)
    number = next(number for number in count(1) if not _done(recipe, folder, number))
    if not by_first(lambda: feedback_of(folder, number).exists() or _take(recipe, Run(service), folder, number)):
        return None
    return iterate(recipe, number, folder, redo)


def _done(recipe: Recipe, folder: Path, number: int) -> bool:
    run = Run(round_folder(folder, number))
    ran = run.manifest.exists() and set(stages_of(recipe)) <= set(run.read_manifest()["stages"])
    return ran and (recipe.iterate is None or run.gates.exists())


def _take(recipe: Recipe, service: Run, folder: Path, number: int) -> bool:
    """Write the round's feedback and say what it is; False, and nothing is written, where nothing trains yet."""
    if not service.answers.exists():
        _check_folder(service)
        return _not_yet(f"nothing came in {service.folder} since the last round")
    earlier = [feedback_of(folder, before) for before in range(1, number) if feedback_of(folder, before).exists()]
    rounds = [RoundFeedback.model_validate_json(read_text(before / "feedback.json")) for before in earlier]
    labels = labels_of(service, {name for before in rounds for name in before.ids})
    if not labels.ids:
        return _not_yet(f"nothing came in {service.folder} since the last round")
    target = feedback_of(folder, number)
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    write_labels(Run(temporary), labels)
    came = f"{counted(len(labels.ids), 'row')} came in {service.folder} since the last round"
    try:
        human, on_heldout = _usable(recipe, temporary)
    except NoPair:
        return _not_yet(f"{came}, and no two of them make a pair yet: a thumb waits for one the other way")
    if not human:
        return _not_yet(f"{came}, and no pair that may train: their prompts are kept for evaluation")
    pairs = list({judgment.pair.id: judgment.pair for judgment in human}.values())
    say(f"feedback for round {number}: {counted(len(labels.ids), 'row')}, {counted(len(pairs), 'pair')}")
    if on_heldout:
        say(f"  {on_heldout} on prompts that are kept for evaluation: not used")
    result = judge_with_bar(recipe, Run(round_folder(folder, number)), pairs, "drift")
    failed = len({failure.id for failure in result.failures})
    if failed:
        say(f"  of {failed} the judge said nothing: {result.failures[0].reason}")
    write_jsonl(temporary / JUDGED, result.judgments)
    seen = {hit.pair_id for before in rounds for hit in before.hits}  # thumbs may pair again
    hits = tuple(
        Hit(pair_id=item.judgment.pair.id, prompt_id=item.prompt_id, agrees=item.right)
        for item in decided(match(result.judgments, human))
        if item.judgment.pair.id not in seen
    )
    drift = Drift(
        topics=topic_drift(_known_prompts(recipe, folder, number), [_last(pair.prompt) for pair in pairs], recipe.seed),
        agreement=agreement_drift(_rows(rounds[-1].hits if rounds else ()), _rows(hits), recipe.seed),
    )
    for found in (drift.topics, drift.agreement):
        if found is not None:
            say(f"  {found}")
    write_json(temporary / "drift.json", drift)
    taken = RoundFeedback(ids=labels.ids, pairs=len(pairs), on_heldout=on_heldout, judge_failures=failed, hits=hits)
    write_json(temporary / "feedback.json", taken)
    temporary.rename(target)
    return True


def _not_yet(why: str) -> bool:
    say(why)
    return False


def _check_folder(service: Run) -> None:
    """ConfigError for a folder without answers.sqlite to which no feedback can come."""
    given, wanted = f"--from-feedback {service.folder}", "name the folder of `rlaif serve --guard`, or of a run"
    if not service.folder.is_dir():
        raise ConfigError(f"{given}: no such folder; {wanted}")
    guards = [read_text(path) for path in service.folder.glob("guard-*.yaml")]
    if guards and not any("\nfeedback: true" in text for text in guards):
        raise ConfigError(f"{given}: a guard without feedback: serve it with feedback=true")
    if guards or service.manifest.exists() or not any(path.name[0] != "." for path in service.folder.iterdir()):
        return
    what = "a service that scores for trainers, which takes no feedback"
    raise ConfigError(f"{given}: {what if service.judgments.exists() else 'neither a guard nor a run'}; {wanted}")


def _usable(recipe: Recipe, feedback: Path) -> tuple[list[Judgment], int]:
    """What people said that may train, and the number of labels that may not."""
    data = read_human([Annotations(run=str(feedback))], Run(feedback), recipe.prompts.system, "feedback")
    heldout = {prompt.id for prompt in read_prompts(recipe.prompts).heldout}
    kept = [judgment for judgment in data.judgments if judgment.pair.prompt_id not in heldout]
    return kept, len(data.judgments) - len(kept)


def _rows(hits: Sequence[Hit]) -> list[tuple[float, str]]:
    return [(hit.agrees, hit.prompt_id) for hit in hits]


def _known_prompts(recipe: Recipe, folder: Path, number: int) -> list[str]:
    """What the round before trained on; for the first, the recipe's prompts."""
    before = Run(round_folder(folder, number - 1)).preferences
    if before.exists():
        return [_last(row.prompt) for row in read_preferences(before)]
    return [_last(prompt.messages) for prompt in read_prompts(recipe.prompts).train]


def _last(prompt: Messages) -> str:
    return prompt[-1].content
