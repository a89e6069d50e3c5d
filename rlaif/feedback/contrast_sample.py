"""Responses under the two instructions of a principle's `contrast` (RLCD, arXiv 2307.12950).

The model reads the prompt with an instruction; the response keeps the prompt alone, and says in `origin` which
instruction it was. Next: `origin.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rlaif.config.feedback import ContrastSample, SampleSection
from rlaif.constitution import Constitution, Principle
from rlaif.errors import ConfigError, did_you_mean
from rlaif.feedback.sample import NO_PRINCIPLE, Place, Progress, SampleResult, write_responses
from rlaif.feedback.verdict import draw
from rlaif.models.chat import ChatModel
from rlaif.records import Failure, Origin, Prompt
from rlaif.templates import JudgeTemplate, load_template


class Instructions(NamedTuple):
    """The principles that may be drawn, and how one of their instructions is put."""

    constitution: Constitution
    ids: frozenset[str]
    template: JudgeTemplate

    @classmethod
    def of(cls, section: ContrastSample, constitution: Constitution) -> Instructions:
        """ConfigError where `section.principles` names none of the constitution's, or one without a `contrast`, and
        where no principle has one."""
        known = {principle.id for principle in constitution.principles}
        able = {principle.id for principle in constitution.principles if principle.contrast is not None}
        if not able:
            raise ConfigError(
                f"sample.contrast: no principle of constitution {constitution.id} has a `contrast`; give it one with "
                "`for` and `against`, or set sample.contrast=null"
            )
        for name in section.principles:
            if name not in able:
                problem = f"principle {name!r} has no `contrast`" if name in known else f"no principle {name!r}"
                raise ConfigError(f"sample.contrast.principles: {problem}{did_you_mean(name, able)}")
        return cls(constitution, frozenset(section.principles or able), load_template(section.template, "contrast"))

    def principle_for(self, prompt: Prompt, seed: int) -> Principle | None:
        """One of those that apply to the prompt's tags, by weight, fixed by the seed and the prompt; None where none
        does."""
        candidates = [p for p in self.constitution.for_tags(prompt.tags) if p.id in self.ids]
        return draw(candidates, seed, prompt.id) if candidates else None

    def places(self, prompt: Prompt, principle: Principle, count: int) -> list[Place]:
        """The first half of the prompt's responses under the principle's `for`, the others under `against`."""
        assert principle.contrast is not None
        follows, opposes = (
            (self.template.instructed(prompt.messages, instruction), Origin(principle=principle.id, side=side))
            for side, instruction in (("for", principle.contrast.for_), ("against", principle.contrast.against))
        )
        return [Place(prompt, index, *(follows if 2 * index < count else opposes)) for index in range(count)]


def sample_contrasts(
    model: ChatModel,
    prompts: Sequence[Prompt],
    instructions: Instructions,
    section: SampleSection,
    seed: int,
    stage: str,
    progress: Progress | None = None,
) -> SampleResult:
    """`section.responses_per_prompt` responses to each prompt, half under each instruction; see `write_responses`.

    To a prompt to which no principle applies nothing is written: each response that it would have had is a failure.
    These come first.
    """
    count = section.responses_per_prompt
    places: list[Place] = []
    failures: list[Failure] = []
    for prompt in prompts:
        principle = instructions.principle_for(prompt, seed)
        if principle is not None:
            places += instructions.places(prompt, principle, count)
            continue
        tags = f"prompt tags: {', '.join(prompt.tags) or 'none'}"
        failures += [
            Failure(stage=stage, id=prompt.id, reason=NO_PRINCIPLE, detail=f"response {index}: {tags}")
            for index in range(count)
        ]
    if progress is not None and failures:
        progress(len(failures))
    result = write_responses(model, places, section, seed, stage, progress)
    return result._replace(failures=(*failures, *result.failures))
