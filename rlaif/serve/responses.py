"""What NeMo-Gym sends and reads: objects of the Responses API, and the scores of its generative reward model."""

from __future__ import annotations

from typing import Any

from rlaif.errors import DataError, shown
from rlaif.formats.rows import Unusable, message_list
from rlaif.models.local.parsing import answer_in
from rlaif.records import Message, Messages
from rlaif.serve.service import NoScore

Turns = str | list[dict[str, Any]]


def turns(value: Turns, key: str) -> Messages:
    """A text as a user's turn, or messages as they are. DataError for what is none."""
    if isinstance(value, str):
        return (Message(role="user", content=value),)
    try:
        return message_list(value, "body", key)
    except Unusable as error:
        raise DataError(f"{key}: {error.reason}{f' ({error.detail})' if error.detail else ''}") from None


def comparison(i: int, j: int, p: float) -> dict[str, Any]:
    """As NeMo-Gym's generative reward model says it: scores from 1 to 5, ranking from 1 (the first) to 6."""
    scores = {"score_1": 1 + 4 * p, "score_2": 5 - 4 * p, "ranking": 6 - 5 * p}
    return {"response_i": i, "response_j": j, "judge_idx": 0, **scores}


def input_of(params: dict[str, Any]) -> Messages:
    """The conversation of Responses-API parameters: a text or items, after the instructions."""
    given, said = params.get("input"), params.get("instructions")
    system = [{"role": "system", "content": said}] if isinstance(said, str) and said else []
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if not isinstance(items, list):
        raise DataError(f"responses_create_params.input: must be a text or messages (got {shown(given)})")
    return turns([*system, *items], "responses_create_params.input")


def output_of(response: dict[str, Any], where: str) -> str:
    """The text of a Responses-API object's messages; its reasoning is no part of it."""
    items = response.get("output")
    if not isinstance(items, list):
        raise DataError(f"{where}.output: must be a list of items (got {shown(items)})")
    said = [item for item in items if isinstance(item, dict) and item.get("type", "message") == "message"]
    if not said:
        raise NoScore(f"{where}: has no message, so there is nothing to score")
    return answer_in("\n".join(message.content for message in turns(said, f"{where}.output")))
