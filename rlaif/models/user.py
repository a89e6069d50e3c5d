"""Who talks with the policy: a model, or a function of yours, that says what a person would say next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rlaif.config.rollouts import Dialogue
from rlaif.formats.turns import bare
from rlaif.models.engine import ChatRequest, Engine, ask
from rlaif.records import Message, Messages, Role, alternating

OTHER: dict[Role, Role] = {"user": "assistant", "assistant": "user"}


class Said(NamedTuple):
    """A user's turn: `text` is "" where it says nothing, `error` why where it failed."""

    text: str
    error: str | None


def user_says(user: Engine, told: Dialogue, talks: Sequence[Messages], seeds: Sequence[int]) -> list[Said]:
    """The user's next turn in each conversation. The user is told `instruction` and shown the conversation, without
    its system turn, with the sides exchanged."""
    requests = [
        ChatRequest(
            messages=exchanged(talk, told.instruction),
            max_tokens=told.max_tokens,
            temperature=told.temperature,
            seed=seed if told.temperature else 0,
        )
        for talk, seed in zip(talks, seeds, strict=True)
    ]
    return [Said("" if reply.error else bare(reply.text), reply.error) for reply in ask(user, requests)]


def exchanged(talk: Messages, instruction: str) -> Messages:
    """The conversation as the user reads it, the sides taking turns. The instruction is the first of the other side's
    turns and no system turn, which some templates do not know."""
    turns = (Message(role=OTHER[turn.role], content=turn.content) for turn in talk if turn.role != "system")
    return alternating([Message(role="user", content=instruction), *turns])
