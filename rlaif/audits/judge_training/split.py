"""Which prompts a judge learns from, which say when to stop, and which audit it: no prompt is in two of them.

A prompt is known by what the user and the assistant said in it: with another system turn, or other blanks, it is the
same one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from rlaif.audits.judge_training.labels import PairLabel
from rlaif.config.training import JudgeTrainSection
from rlaif.errors import DataError
from rlaif.feedback.pairs import choice, heldout_prompts
from rlaif.records import Messages, content_id


class Split(NamedTuple):
    """Each in the order of the labels."""

    train: tuple[PairLabel, ...]
    heldout: tuple[PairLabel, ...]
    audit: tuple[PairLabel, ...]


def prompt_key(prompt: Messages) -> str:
    """What a judge's record and an audit know the prompt by."""
    return content_id([(m.role, " ".join(m.content.split())) for m in prompt if m.role != "system"])


def key_of(label: PairLabel) -> str:
    """Of the label's prompt."""
    return prompt_key(label.pair.prompt)


def keys_of(labels: Collection[PairLabel]) -> set[str]:
    """Of all of them."""
    return {key_of(label) for label in labels}


def decided(labels: Collection[PairLabel]) -> list[PairLabel]:
    """Those that have a preference."""
    return [label for label in labels if choice(label.p_a) != 0.5]


def split(labels: Sequence[PairLabel], audit: Sequence[PairLabel] | None, section: JudgeTrainSection) -> Split:
    """The labels by prompt, as hashes have it; `audit` takes the place of a share of them.

    DataError for audit labels on prompts of the others, and where a part that is asked for stays empty.
    """
    keys = keys_of(labels)
    if audit is not None:
        _refuse_shared(labels, audit)
        audited: set[str] = set()
    else:
        audited = heldout_prompts(keys, section.audit_share, "judge audit") if section.audit_share else set()
    heldout = heldout_prompts(keys - audited, section.heldout_share, "judge heldout")
    found = Split(
        train=tuple(label for label in labels if key_of(label) not in audited | heldout),
        heldout=tuple(label for label in labels if key_of(label) in heldout),
        audit=tuple(audit if audit is not None else (label for label in labels if key_of(label) in audited)),
    )
    if not found.train or not found.heldout:
        least = 2 if audit is not None or not section.audit_share else 3
        raise DataError(f"judge train: labels of {len(keys)} prompts are too few: it takes {least} at least")
    for name, part in (("held-out", found.heldout), ("audit", found.audit)):
        if part and not decided(part):
            raise DataError(f"judge train: not one of the {len(part)} {name} labels has a preference")
    return found


def _refuse_shared(labels: Sequence[PairLabel], audit: Sequence[PairLabel]) -> None:
    trained = keys_of(labels)
    shared = [label for label in audit if key_of(label) in trained]
    if shared:
        first = shared[0].pair
        raise DataError(
            f"judge train: {len(keys_of(shared))} prompts of the audit labels are among those of the gold (first: "
            f"{first.prompt_id}, pair {first.id}); audit on other prompts, or leave --audit out for a share of the gold"
        )
