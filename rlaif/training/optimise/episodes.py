"""Rollouts of several turns: the policy answers, a user (a model or a function) says more, and so on.

Each of the policy's turns is a row of its own, its prompt the conversation so far: only what the policy wrote is
trained. All rows of an episode have the episode's score, and are compared with the same turn of the prompt's others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rlaif.config.optimise import OnPolicy
from rlaif.errors import TrainingError
from rlaif.formats.turns import bare
from rlaif.models.local.generate import Sampling
from rlaif.models.local.packing import Row
from rlaif.models.local.tokens import encode_prompt, response_text
from rlaif.models.user import Said, user_says
from rlaif.records import Message, Messages, Prompt, derive_seed
from rlaif.training import parallel
from rlaif.training.optimise.actors import Actors
from rlaif.training.samplers import SampledResponse


class Written(NamedTuple):
    """All turns of a step's episodes: the first turns of all, then the second, and so on."""

    prompts: list[Prompt]
    rows: list[Row]
    samples: list[SampledResponse]
    texts: list[str]
    later: list[Messages | None]
    """Of each episode: what came after its prompt; None where the user did not answer."""


def write(actors: Actors, prompts: Sequence[Prompt], section: OnPolicy, step: int, seed: int) -> Written:
    """One episode per prompt; of one turn, unless `section.dialogue` says more."""
    found = Written([], [], [], [], [() for _ in prompts])
    for turn in range(section.turns):
        told = [(*p.messages, *(more or ())) for p, more in zip(prompts, found.later, strict=True)]
        asked = [p.model_copy(update={"messages": each}) for p, each in zip(prompts, told, strict=True)]
        # By place, not by prompt: where one prompt comes twice in a step, its responses still differ.
        again = (turn,) if turn else ()
        seeds = [derive_seed(seed, "ppo", step, place, *again) for place in range(len(prompts))]
        encoded = [encode_prompt(actors.policy.tokenizer, p.messages, section.max_prompt_tokens) for p in asked]
        samples = actors.sampler.sample(encoded, Sampling(section.max_tokens, section.temperature), seeds)
        texts = [response_text(actors.policy.tokenizer, each.tokens).strip() for each in samples]
        for place, text in enumerate(texts):
            if (before := found.later[place]) is not None:
                found.later[place] = (*before, Message(role="assistant", content=bare(text)))
        found.prompts.extend(asked)
        found.rows.extend(Row(tuple(ids), tuple(each.tokens)) for ids, each in zip(encoded, samples, strict=True))
        found.samples.extend(samples)
        found.texts.extend(texts)
        if turn + 1 < section.turns:
            _user_says(actors, prompts, found.later, section, (seed, "ppo user", step, turn))
    return found


def _user_says(
    actors: Actors,
    prompts: Sequence[Prompt],
    later: list[Messages | None],
    section: OnPolicy,
    names: tuple[object, ...],
) -> None:
    """A turn of the user more for each episode; None for one whose user fails or says nothing."""
    told, places = section.dialogue, [place for place, turns in enumerate(later) if turns is not None]
    talks = [(*prompts[place].messages, *(later[place] or ())) for place in places]

    def replies() -> list[Said]:
        assert told is not None and actors.user is not None, "only the first process asks"
        return user_says(actors.user, told, talks, [derive_seed(*names, place) for place in places])

    found = parallel.first(replies)
    if found and not any(said.text for said in found):
        why = found[0].error or "it said nothing"
        raise TrainingError(f"optimise.dialogue.user answered in none of {len(found)} conversations: {why}")
    for place, said in zip(places, found, strict=True):
        turn = (Message(role="user", content=said.text),)
        later[place] = (*(later[place] or ()), *turn) if said.text else None
