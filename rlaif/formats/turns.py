"""Conversations of several turns as one response: the turns after the prompt stand in one text, as HH-RLHF transcripts
write them ("...\\n\\nHuman: ...\\n\\nAssistant: ..."), so that pairs, preferences and rewards hold them like any other.
"""

from __future__ import annotations

from collections.abc import Sequence

from rlaif.formats.rows import HH_ROLES, HH_TURN
from rlaif.records import Message, Messages, Response

NAMES = {role: name for name, role in HH_ROLES.items()}


def as_text(turns: Sequence[Message]) -> str:
    """The turns after a prompt, the first being the assistant's, as one response."""
    first, *rest = (bare(turn.content) for turn in turns)
    later = [f"{NAMES[turn.role]}: {text}" for turn, text in zip(turns[1:], rest, strict=True)]
    return "\n\n".join([first, *later])


def bare(text: str) -> str:
    """One turn's text, cut before what would begin another: who writes a turn does not write the next one's too."""
    found = HH_TURN.search("\n\n" + text.strip())
    return text.strip()[: max(found.start() - 2, 0)].rstrip() if found else text.strip()


def turns_of(text: str) -> Messages:
    """A response's turns: one, unless it is a transcript."""
    first, *rest = HH_TURN.split(text)
    later = [(HH_ROLES[name], body.strip()) for name, body in zip(rest[::2], rest[1::2], strict=True)]
    return tuple(Message(role=role, content=body) for role, body in [("assistant", first.strip()), *later])


def spoken(response: Response) -> list[tuple[str, Messages]]:
    """Each turn of the policy's and what stands before it: one, unless the response is a conversation."""
    if not response.turns:
        return [(response.text, response.prompt)]
    whole = (*response.prompt, *turns_of(response.text))
    begins = len(response.prompt)
    return [(whole[at].content, whole[:at]) for at in range(begins, len(whole)) if whole[at].role == "assistant"]


def own_words(text: str) -> str:
    """What the assistant says in a conversation, a turn after the other."""
    return "\n\n".join(turn.content for turn in turns_of(text) if turn.role == "assistant")


def own_text(response: Response) -> str:
    """The response's text, of a conversation the policy's own words."""
    return own_words(response.text) if response.turns else response.text
