"""Demonstrations against samples: what somebody showed to a prompt is better than what the policy wrote to it.

So a demonstration is a preference for which nobody compared anything (SPIN, arXiv 2401.01335; inverse reinforcement
learning). Whose demonstrations these are, stages and audits know.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rlaif.console import say
from rlaif.errors import DataError
from rlaif.feedback.pairs import heldout_prompts, with_heldout
from rlaif.feedback.prompts import DemonstrationText
from rlaif.records import Message, Messages, Pair, Preference, Prompt, Response, Source, grouped, prompt_of


class Shown(NamedTuple):
    """A demonstration, and what was sampled to its prompt: different texts, none of them blank or demonstrated."""

    prompt: Prompt
    text: str
    samples: tuple[str, ...]


def against(
    demonstrations: Sequence[DemonstrationText], responses: Iterable[Response], place: str
) -> tuple[list[Shown], dict[str, int]]:
    """Each demonstration that has samples, once. It answers the samples' prompt if its turns are the same, system turns
    aside; the prompt is then as the policy read it. How many have none, which is said on the screen too: their prompt
    was not sampled (`without_samples`), or all samples are blank or demonstrated themselves (`reached`). DataError,
    beginning with `place`, where none has samples."""
    samples = grouped(responses, lambda response: _spoken(response.prompt))
    each = {(_spoken(shown.prompt.messages), shown.text): None for shown in demonstrations}
    found = []
    for turns, text in each:
        rows = samples.get(turns, [])
        if different := dict.fromkeys(row.text for row in rows if row.text and (turns, row.text) not in each):
            found.append(Shown(prompt_of(rows[0]), text, tuple(different)))
    alone = sum(turns not in samples for turns, _ in each)
    reached = len(each) - len(found) - alone
    others = f"{alone} answer no sampled prompt, of {reached} all samples are blank or demonstrated"
    if not found:
        raise DataError(
            f"{place}: of {len(each)} demonstrations none stands against a sample: {others} (prompts must be the same, "
            "word for word)"
        )
    say(f"  {len(found)} demonstrations against samples; {others}")
    return found, {"without_samples": alone, "reached": reached}


def _spoken(prompt: Messages) -> Messages:
    return tuple(message for message in prompt if message.role != "system")


def preferences_of(
    shown: Sequence[Shown], source: Source, earlier: Sequence[Preference], weight: float, heldout_share: float
) -> list[Preference]:
    """A row for each demonstration and sample; those of one demonstration weigh 1 together, each of `earlier` so much
    as it weighs there times `weight`. A prompt that either holds out is held out."""
    rows = [
        Preference(
            prompt=one.prompt.messages,
            chosen=_turn(one.text),
            rejected=_turn(sample),
            p_chosen=1.0,
            source=source,
            weight=1 / len(one.samples),
            split="train",
            prompt_id=one.prompt.id,
            pair_id=Pair.of(one.prompt, one.text, sample).id,
            tags=one.prompt.tags,
        )
        for one in shown
        for sample in one.samples
    ]
    rows += [row.model_copy(update={"weight": row.weight * weight}) for row in earlier if weight]
    known = {row.prompt_id for row in earlier if row.split == "heldout"}
    return list(with_heldout(rows, known | heldout_prompts({one.prompt.id for one in shown}, heldout_share)))


def _turn(text: str) -> Messages:
    return (Message(role="assistant", content=text),)
