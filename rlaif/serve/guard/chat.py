"""OpenAI's chat protocol before a guard: requests, replies, and errors in its shape.

Fields that are not known are left unread, as other servers do. An answer is judged whole, so `stream: true` gets it in
one piece.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from rlaif.errors import DataError
from rlaif.formats.rows import Unusable, message_list
from rlaif.jsonl import check_text
from rlaif.serve.guard.decision import Decision, Inquiry

if TYPE_CHECKING:
    from fastapi import APIRouter, Response


class StreamOptions(BaseModel):
    """What a stream holds besides."""

    include_usage: bool = False


class ChatBody(BaseModel):
    """The fields of a request that are read."""

    model_config = ConfigDict(extra="ignore")

    messages: list[dict[str, Any]]
    model: str | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    n: int | None = Field(default=None, ge=1, le=1)
    """One answer: it is the guard that draws more."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def inquiry(self, max_tokens: int) -> Inquiry:
        """What is asked; `max_tokens` where the request names none. DataError for messages that are no text."""
        try:
            messages = message_list(self.messages, "request", "messages")
        except Unusable as bad:
            raise DataError(f"messages: {bad.reason}") from None
        check_text([message.content for message in messages], "messages")
        return Inquiry(
            id=f"chatcmpl-{secrets.token_hex(12)}",
            messages=messages,
            max_tokens=self.max_completion_tokens or self.max_tokens or max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=self.top_p or 1.0,
            seed=secrets.randbits(31) if self.seed is None else self.seed % 2**63,
        )


def chat_routes(answer: Callable[[Inquiry], Awaitable[Decision]], name: str, max_tokens: int) -> APIRouter:
    """The addresses, for a policy of this name."""
    from fastapi import APIRouter  # noqa: PLC0415 (an extra; and slow to import)
    from fastapi.responses import StreamingResponse  # noqa: PLC0415

    router = APIRouter()

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "rlaif"}]}

    @router.post("/v1/chat/completions")
    async def completions(body: ChatBody) -> Any:
        if body.model not in (None, name):
            return error_reply(
                404, f"model: there is no {body.model[:80]!r} here; there is {name!r}", "model_not_found"
            )
        decision = await answer(body.inquiry(max_tokens))
        if decision.action == "input_refused":
            too_long = decision.principle == "policy.length"
            code = "context_length_exceeded" if too_long else "input_refused"
            return error_reply(400, decision.reason, code, "messages")
        if decision.text is None:
            return error_reply(503, decision.reason, "no_answer")
        if body.stream:
            options = body.stream_options or StreamOptions()
            return StreamingResponse(_chunks(decision, name, options), media_type="text/event-stream")
        choice = {"index": 0, "message": {"role": "assistant", "content": decision.text}, "logprobs": None}
        choice["finish_reason"] = _finish(decision)
        return {**_head(decision, name, "chat.completion"), "choices": [choice], "usage": _usage(decision)}

    return router


def error_reply(status: int, message: str, code: str, param: str | None = None) -> Response:
    """An error as OpenAI's servers write it."""
    from fastapi.responses import JSONResponse  # noqa: PLC0415 (an extra; and slow to import)

    kind = "server_error" if status >= 500 else "invalid_request_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": code}}, status)


def _head(decision: Decision, name: str, kind: str) -> dict[str, Any]:
    said = {"action": decision.action, "principle": decision.principle, "reason": decision.reason}
    return {"id": decision.id, "object": kind, "created": int(time.time()), "model": name, "guard": said}


def _finish(decision: Decision) -> str:
    return "content_filter" if decision.action == "refused" else "stop" if decision.finished else "length"


def _usage(decision: Decision) -> dict[str, int]:
    asked, written = decision.prompt_tokens, decision.completion_tokens
    return {"prompt_tokens": asked, "completion_tokens": written, "total_tokens": asked + written}


def _chunks(decision: Decision, name: str, options: StreamOptions) -> Iterator[str]:
    head = _head(decision, name, "chat.completion.chunk")
    delta = {"role": "assistant", "content": decision.text}
    rows = [{**head, "choices": [{"index": 0, "delta": delta, "finish_reason": _finish(decision)}]}]
    if options.include_usage:
        rows.append({**head, "choices": [], "usage": _usage(decision)})
    yield from (f"data: {json.dumps(row)}\n\n" for row in rows)
    yield "data: [DONE]\n\n"
