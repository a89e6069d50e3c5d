"""POST /feedback: what users say of a served policy's answers, into the store of the annotation page.

    {"kind": "thumbs", "response_id": "chatcmpl-...", "up": false}
    {"kind": "edit", "response_id": "chatcmpl-...", "edited": "What it should have said."}
    {"kind": "pair", "response_id": "chatcmpl-...", "other": "Another answer.", "choice": "other"}

In place of `response_id` a body may hold `prompt` and `response`; besides, `annotator`, `reason` and an `id`, by which
a body that is sent twice counts once. Without an id that is the hash of the body.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, StrictBool, TypeAdapter, ValidationError, model_validator

from rlaif.annotate.guard import same
from rlaif.annotate.store import Annotator, AnswerId, AnswerStore, ServedReply, Thumb
from rlaif.errors import DataError
from rlaif.formats.judgments import edit_of
from rlaif.formats.rows import Unusable, prompt_value
from rlaif.jsonl import check_text, first_problem
from rlaif.records import Answer, Judgment, Prompt, Record, content_id, oriented

if TYPE_CHECKING:
    from fastapi import APIRouter, Request


class _Said(Record):
    id: AnswerId | None = None
    annotator: Annotator = "user"
    reason: str = ""
    response_id: str | None = None
    prompt: str | list[dict[str, Any]] | None = None
    response: str | None = None

    @model_validator(mode="after")
    def _of_one_response(self) -> Self:
        given = [self.response_id is not None, self.prompt is not None, self.response is not None]
        if given not in ([True, False, False], [False, True, True]):
            raise ValueError("say of which response: response_id, or prompt and response")
        return self


class ThumbsBody(_Said):
    """Whether the response is liked."""

    kind: Literal["thumbs"]
    up: StrictBool


class EditBody(_Said):
    """What the response should have been."""

    kind: Literal["edit"]
    edited: str


class PairBody(_Said):
    """Which of two responses is better."""

    kind: Literal["pair"]
    other: str
    choice: Literal["response", "other", "tie"]


Feedback = Annotated[ThumbsBody | EditBody | PairBody, Field(discriminator="kind")]
_FEEDBACK: TypeAdapter[Feedback] = TypeAdapter(Feedback)
P_RESPONSE = {"response": 1.0, "tie": 0.5, "other": 0.0}


class UnknownResponse(DataError):
    """A response that this service never sent."""


def keep_feedback(store: AnswerStore, body: bytes) -> str:
    """Keep what the body says; its id. It is on disk when this returns; said twice it counts once.

    DataError for a body that is none, UnknownResponse for one of a response that was not sent from here.
    """
    try:
        said = _FEEDBACK.validate_json(body)
    except ValidationError as error:
        raise DataError(f"feedback: {first_problem(error)}") from None
    check_text(said, "feedback")
    identity = said.id or content_id(said.model_dump(mode="json"))
    prompt, text = _about(store, said)
    other = {"edit": "edited", "pair": "other"}.get(said.kind)
    second = getattr(said, other).strip() if other else ""
    if other and (not second or second == text):
        raise DataError(f"feedback: {other}: must be another text than the response, and not blank")
    if isinstance(said, ThumbsBody):
        thumb = Thumb(
            prompt=prompt.messages, completion=text, label=said.up, annotator=said.annotator, reason=said.reason
        )
        store.keep(identity, "thumb", thumb)
    elif isinstance(said, EditBody):
        store.keep(identity, "edit", edit_of(prompt, text, second, said.annotator))
    else:
        pair, p = oriented(prompt, text, second), P_RESPONSE[said.choice]
        answer = Answer(reason=said.reason) if said.reason else None
        p_a = p if pair.a == text else 1 - p
        judged = Judgment(pair=pair, source="human", annotator=said.annotator, p_a=p_a, answer=answer)
        store.keep(identity, "pair", judged)
    return identity


def _about(store: AnswerStore, said: Feedback) -> tuple[Prompt, str]:
    """The prompt and the response."""
    if said.response_id is not None:
        found = store.kept("reply", said.response_id)
        if not found:
            raise UnknownResponse(f"feedback: response_id: no answer {said.response_id[:80]!r} was sent from here")
        served = ServedReply.model_validate_json(found[0][1])
        return Prompt.of(served.prompt), served.text.strip()
    try:
        prompt = Prompt.of(prompt_value(said.prompt, "feedback", "prompt"))
    except Unusable as bad:
        raise DataError(f"feedback: {bad.reason}") from None
    text = (said.response or "").strip()
    if not text:
        raise DataError("feedback: response: is blank")
    return prompt, text


def feedback_routes(keep: Callable[[bytes], Any], token: str | None) -> APIRouter:
    """The address; `keep` is called with each body. A `token` is asked for here; None: somebody has asked already."""
    from fastapi import APIRouter, Request  # noqa: PLC0415 (an extra; and slow to import)

    from rlaif.serve.guard.chat import error_reply  # noqa: PLC0415 (of the same extra)

    router = APIRouter()

    @router.post("/feedback")
    async def feedback(request: Request) -> Any:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if token is not None and not (scheme.lower() == "bearer" and same(given.strip(), token)):
            return error_reply(401, "feedback needs the service's token: `Authorization: Bearer TOKEN`", "no_token")
        try:
            return {"id": await keep(await request.body())}
        except UnknownResponse as error:
            return error_reply(404, str(error), "unknown_response")

    feedback.__annotations__["request"] = Request  # what is imported here FastAPI cannot find by name
    return router
