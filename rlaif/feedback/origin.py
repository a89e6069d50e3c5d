"""Contrastive responses (RLCD, arXiv 2307.12950): written under the two instructions of a principle's `contrast`, and
what their origins say of the pairs.

The model reads the prompt with an instruction; the response keeps the prompt alone, and says in `origin` which
instruction it was. That labels the pair (`label_by_origin`), or the judge's label is held to it (`hold_to_origin`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from rlaif.config.feedback import ContrastSample, SampleSection
from rlaif.constitution import Constitution, Principle
from rlaif.constitution.persona import Unfilled
from rlaif.errors import ConfigError, did_you_mean
from rlaif.feedback.judge.result import JudgeResult
from rlaif.feedback.pairs import choice, followed, may_pair, origins_by_text
from rlaif.feedback.sample import NO_PRINCIPLE, Place, SampleResult, Speakers, write_responses
from rlaif.feedback.verdict import draw
from rlaif.records import Failure, Judgment, Origin, Pair, PrincipleJudgment, Prompt, Provenance, Response
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
        try:
            found = self.constitution.asked_of("contrast", prompt.tags, prompt.given)
        except Unfilled as error:
            raise ConfigError(f"sample.contrast: prompt {prompt.id}: {error}") from None
        candidates = [p for p in found if p.id in self.ids]
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
    speakers: Speakers,
    prompts: Sequence[Prompt],
    instructions: Instructions,
    section: SampleSection,
    seed: int,
    stage: str,
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
    if speakers.progress is not None and failures:
        speakers.progress(len(failures))
    result = write_responses(speakers, places, section, seed, stage)
    return result._replace(failures=(*failures, *result.failures))


class PairOrigin(NamedTuple):
    """What the origins of a pair's two texts say."""

    principle: str
    text: str
    """The one that was written under the principle's `for`."""
    model: str
    """Which wrote it."""


def pair_origins(pairs: Iterable[Pair], responses: Sequence[Response]) -> dict[str, PairOrigin]:
    """What origins say of each of the pairs, by its id; nothing of pairs of plain samples."""
    origins = origins_by_text(responses)
    models = {(r.prompt_id, r.text): r.model for r in reversed(responses)}
    found = {}
    for pair in pairs:
        known = origins.get(pair.prompt_id, {})
        for text, other in ((pair.a, pair.b), (pair.b, pair.a)):
            principle = followed(known.get(text, ()), known.get(other, ()))
            if principle is not None:
                found[pair.id] = PairOrigin(principle, text, models[pair.prompt_id, text])
    return found


def unpaired(responses: Sequence[Response]) -> dict[str, int]:
    """Of the couples of a `for` and an `against` response to a prompt those that make no pair, by cause.

    equal_texts  both are the same text
    both_ways    other responses have the same two texts, with the sides exchanged
    """
    origins = origins_by_text(responses)
    counts = {"equal_texts": 0, "both_ways": 0}
    sides: dict[tuple[str, str], dict[str, list[str]]] = {}
    for r in responses:
        if r.origin is not None:
            of_principle = sides.setdefault((r.prompt_id, r.origin.principle), {"for": [], "against": []})
            of_principle[r.origin.side].append(r.text)
    for (prompt_id, _), texts in sides.items():
        known = origins[prompt_id]
        for one, other in product(texts["for"], texts["against"]):
            counts["equal_texts"] += one == other
            counts["both_ways"] += one != other and not may_pair(known[one], known[other])
    return {cause: count for cause, count in counts.items() if count}


def label_by_origin(
    pairs: Sequence[Pair],
    crossed: Mapping[str, PairOrigin],
    section: SampleSection,
    constitution: Constitution,
    revision: str,
    seed: int,
) -> JudgeResult:
    """A judgment of each pair: p_origin for the response that was written under `for`, by that one principle alone.

    Provenance names the model that wrote the responses, of this revision, in the place of a judge.
    """
    contrast = section.contrast
    assert contrast is not None
    template = load_template(contrast.template, "contrast")
    knobs = section.model_dump(include={"temperature", "top_p", "max_tokens"})
    provenance = Provenance(
        constitution=constitution.id,
        constitution_version=constitution.version,
        constitution_hash=constitution.hash,
        judge="",
        judge_revision=revision,
        template=template.name,
        template_hash=template.hash,
        sampling=knobs | {"p_origin": contrast.p_origin, "seed": seed},
        aggregation="origin",
    )
    judgments = []
    for pair in pairs:
        principle, text, model = crossed[pair.id]
        p_a = contrast.p_origin if pair.a == text else 1 - contrast.p_origin
        judgments.append(
            Judgment(
                pair=pair,
                source="ai",
                annotator=f"origin:{model}",
                p_a=p_a,
                principles=(PrincipleJudgment(principle=principle, checked=False, p_a=p_a),),
                provenance=provenance.model_copy(update={"judge": model}),
            )
        )
    return JudgeResult(judgments=tuple(judgments), failures=())


class OriginAgreement(NamedTuple):
    """How many judgments prefer the response written under `for`, the other, or neither."""

    judge_with_origin: int
    judge_against_origin: int
    judge_even: int


def hold_to_origin(
    result: JudgeResult, crossed: Mapping[str, PairOrigin], agreed_only: bool
) -> tuple[JudgeResult, OriginAgreement]:
    """The judge's result and how often it agrees with the origin of the pairs.

    With `agreed_only` a judgment that prefers the other becomes a tie: its p_a is 0.5, and what its principles say
    stays. So nothing trains on it where ties are dropped, and `rlaif route` sends it to people first.
    """
    judgments = []
    counts = {1.0: 0, 0.0: 0, 0.5: 0}
    for judgment in result.judgments:
        preferred = choice(judgment.p_of(crossed[judgment.pair.id].text))
        counts[preferred] += 1
        opposed = agreed_only and preferred == 0.0
        judgments.append(judgment.model_copy(update={"p_a": 0.5}) if opposed else judgment)
    return result._replace(judgments=tuple(judgments)), OriginAgreement(counts[1.0], counts[0.0], counts[0.5])
