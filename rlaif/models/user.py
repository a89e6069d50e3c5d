"""Who talks with the policy: a model, or a function of yours, that says what a person would say next."""

from __future__ import annotations

from collections.abc import Sequence

from rlaif.config.rollouts import Dialogue
from rlaif.formats.turns import bare
from rlaif.models.engine import ChatRequest, Engine, ask
from rlaif.records import Message, Messages, Role

OTHER: dict[Role, Role] = {"user": "assistant", "assistant": "user"}


def user_says(user: Engine, told: Dialogue, talks: Sequence[Messages], seeds: Sequence[int]) -> list[str]:
    """The user's next turn in each conversation, "" where the user fails or says nothing. The user is told
    `instruction` and shown the conversation, without its system turn, with the sides exchanged."""
    requests = [
        ChatRequest(
            messages=(
                Message(role="system", content=told.instruction),
                *(Message(role=OTHER[turn.role], content=turn.content) for turn in talk if turn.role != "system"),
            ),
            max_tokens=told.max_tokens,
            temperature=told.temperature,
            seed=seed if told.temperature else 0,
        )
        for talk, seed in zip(talks, seeds, strict=True)
    ]
    return ["" if reply.error else bare(reply.text) for reply in ask(user, requests)]
