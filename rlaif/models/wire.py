"""The OpenAI chat format, without a network: requests to JSON, and what came back to a Reply.

Written against vLLM 0.32. Anything a server sends is data from outside: it is checked here, once. Sending is
`client`'s.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ValidationError

from rlaif.jsonl import first_problem
from rlaif.models.dialect import USUAL, Dialect
from rlaif.models.engine import ChatRequest, Reply, excess, is_logprob
from rlaif.models.labels import from_likeliest, total
from rlaif.models.reasoning import THINKS_FIRST, begins, template_words, written
from rlaif.records import plain

Shape = TypeVar("Shape", bound=BaseModel)

LONGEST = 200
"""Characters of a server's words in a message."""
MOST_TOKENS = 10**8
"""Of one request; a server that counts more counts nothing."""
STOPPED = {"content_filter": "the server's content filter stopped the reply"} | dict.fromkeys(
    ("error", "abort", "aborted", "cancelled", "canceled"), "the server broke the reply off"
)
"""The reasons for which a reply ends that leave no answer."""
LabelIds = Mapping[str, tuple[int, ...]]
"""The ids of the tokens that say each label."""


class BadReply(Exception):
    """A reply that cannot be used. `whole` is False where it was cut off, so that asking again may help."""

    def __init__(self, reason: str, *, whole: bool = True) -> None:
        super().__init__(reason)
        self.whole = whole


class NoLogprobs(BadReply):
    """A reply without the log-probabilities that were asked for, or `by_id` not told by token id."""

    def __init__(self, reason: str, *, by_id: bool = False) -> None:
        super().__init__(reason)
        self.by_id = by_id


class _Token(BaseModel):
    token: str
    logprob: float


class _Position(BaseModel):
    token: str = ""
    logprob: float = -math.inf
    top_logprobs: list[_Token] | None = None

    @property
    def taken(self) -> tuple[str, float]:
        """The token itself."""
        return self.token, self.logprob

    @property
    def told(self) -> list[tuple[str, float]]:
        """The likeliest tokens, or the one that was taken where no others are told."""
        return [(top.token, top.logprob) for top in self.top_logprobs or ()] or [self.taken]


class _Logprobs(BaseModel):
    content: list[_Position] | None = None


class _Message(BaseModel):
    content: str | list[Any] | None = None
    """Some servers send parts."""
    reasoning_content: Any = None
    reasoning: Any = None
    """Where the server sets it apart: two names for one thing."""

    @property
    def text(self) -> str | None:
        if not isinstance(self.content, list):
            return self.content
        parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in self.content]
        texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
        return "".join(text for text in texts if isinstance(text, str)) if texts else None

    @property
    def reasoned(self) -> bool:
        parts = self.content if isinstance(self.content, list) else []
        apart = any(isinstance(part, dict) and part.get("type") in {"thinking", "reasoning"} for part in parts)
        return apart or bool(self.reasoning_content or self.reasoning)


class _Choice(BaseModel):
    index: int | None = None
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None
    token_ids: list[int] | None = None


def _sane(count: Any) -> Any:
    """0 for what no request can take: an answer is not lost for that."""
    absurd = isinstance(count, int | float) and math.isfinite(count) and not 0 <= count <= MOST_TOKENS
    return 0 if absurd or count is None else count


class _Usage(BaseModel):
    prompt_tokens: Annotated[int, BeforeValidator(_sane)] = 0
    completion_tokens: Annotated[int, BeforeValidator(_sane)] = 0


class _Answer(BaseModel):
    choices: list[_Choice]
    usage: _Usage | None = None


class Tokens(BaseModel):
    """What vLLM's /tokenize makes of a text."""

    tokens: list[int] = []
    token_strs: list[str] | None = None
    max_model_len: int | None = None

    @property
    def ending(self) -> str:
        """The last of them as text. Byte-level tokens spell a space and an end of line in their own way."""
        text = "".join((self.token_strs or [])[-24:])
        return text.replace("\u0120", " ").replace("\u2581", " ").replace("\u010a", "\n")


class _Model(BaseModel):
    id: str


class _Models(BaseModel):
    data: list[_Model]


def request_body(
    request: ChatRequest,
    model: str,
    label_ids: LabelIds | None,
    extra: Mapping[str, Any],
    dialect: Dialect = USUAL,
    thinking: bool | None = None,
) -> dict[str, Any]:
    """The JSON of POST /chat/completions, in the server's dialect.

    With `label_ids` (vLLM) the log-probs of exactly those tokens are asked for; without, the likeliest. `extra` is
    added as it is. `thinking` is said to the chat template; None says nothing, as some servers refuse the word.
    """
    body: dict[str, Any] = {"model": model, "messages": plain(request.messages), **extra}
    if thinking is not None:
        body.setdefault("chat_template_kwargs", template_words(thinking and not request.labels))
    if not request.labels:
        return body | {
            dialect.limit: request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed,
            **(request.shape.wire if request.shape else {}),
        }
    body |= {dialect.limit: 1, "logprobs": True}
    if dialect.temperature:
        body["temperature"] = 0.0
    if label_ids is None:
        return body | ({"top_logprobs": dialect.top_logprobs} if dialect.top_logprobs else {})
    # A model that would think first has no label as its first token; templates without thinking ignore this.
    body.setdefault("chat_template_kwargs", template_words(False))
    ids = sorted({token for label in request.labels for token in label_ids[label]})
    return body | {"logprob_token_ids": ids, "return_tokens_as_token_ids": True}


def parse_reply(data: bytes, request: ChatRequest, label_ids: LabelIds | None, begun: bool | None = None) -> Reply:
    """The Reply in the body of a 200, its reasoning set apart (`begun`: see there). Raises BadReply with the reason
    where there is none."""
    answer = from_json(_Answer, data)
    choice, usage = _first(answer.choices), answer.usage or _Usage()
    ended = (choice.finish_reason or "").lower()
    if ended in STOPPED:
        raise BadReply(f"{STOPPED[ended]} (finish_reason {ended})", whole=ended == "content_filter")
    tokens = {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
    if request.labels:
        if begun or begins(choice.message.text or ""):
            raise BadReply(THINKS_FIRST)
        found = _label_logprobs(choice, request, label_ids)
        return Reply(text=max(found, key=found.__getitem__), label_logprobs=found, **tokens)
    text, elsewhere = choice.message.text, choice.message.reasoned
    if text is None and not elsewhere:
        raise BadReply(f"the reply has no text (finish_reason {shorten(repr(choice.finish_reason))})")
    finish: Literal["length", "stop"] = "length" if choice.finish_reason == "length" else "stop"
    ids = tuple(choice.token_ids or ())
    return Reply(**written(text or "", finish, ids, begun=begun, elsewhere=elsewhere), **tokens)


def from_json(shape: type[Shape], data: bytes) -> Shape:
    """The body of a reply, checked. Raises BadReply."""
    try:
        return shape.model_validate_json(data)
    except ValidationError as error:
        whole = error.errors(include_url=False)[0]["type"] != "json_invalid"
        reason = first_problem(error) if whole else f"the reply is not JSON: {_start(data)}"
        raise BadReply(reason, whole=whole) from None


def _first(choices: list[_Choice]) -> _Choice:
    """The one that was asked for, wherever among others it stands."""
    if not choices:
        raise BadReply("the reply has no choices")
    first = [choice for choice in choices if choice.index == 0] if len(choices) > 1 else choices
    if len(first) != 1:
        raise BadReply(f"the reply has {len(choices)} choices, {len(first)} of them with index 0")
    return first[0]


def _label_logprobs(choice: _Choice, request: ChatRequest, label_ids: LabelIds | None) -> dict[str, float]:
    if choice.logprobs is None or not choice.logprobs.content:
        raise NoLogprobs("the reply has no log-probabilities")
    position = choice.logprobs.content[0]
    told = position.told
    if label_ids is None:
        try:
            return from_likeliest(told, request.labels, position.taken)
        except ValueError as error:
            raise BadReply(str(error)) from None
    found = dict([position.taken, *told])
    if len(set(told)) != len(dict(told)):
        raise BadReply("the reply tells the log-probability of one token twice, and not alike")
    if not any(token.startswith("token_id:") for token in found):
        raise NoLogprobs("the reply has no log-probabilities by token id", by_id=True)
    names = {label: [f"token_id:{token}" for token in label_ids[label]] for label in request.labels}
    by_label = {label: _of_tokens(label, names[label], found) for label in request.labels}
    if too_much := excess(found[token] for tokens in names.values() for token in tokens):
        raise BadReply(too_much)
    return by_label


def _of_tokens(label: str, tokens: list[str], found: Mapping[str, float]) -> float:
    for token in tokens:
        if token not in found:
            raise BadReply(f"label token {label!r} ({token}) not in the reply")
        if not is_logprob(found[token]):
            raise BadReply(f"label token {label!r} has log-probability {found[token]}")
    return total([found[token] for token in tokens])


def tokenized(data: bytes) -> Tokens:
    """The body of vLLM's /tokenize; no tokens where the body is something else."""
    try:
        return Tokens.model_validate_json(data)
    except ValidationError:
        return Tokens()


def model_names(data: bytes) -> list[str]:
    """The ids in the body of GET /models; none where the body is something else."""
    try:
        return [model.id for model in _Models.model_validate_json(data).data]
    except ValidationError:
        return []


def error_message(data: bytes) -> str:
    """The server's own words in the body of a failed request, on one short line."""
    try:
        body = json.loads(data)
        if isinstance(body, dict):
            body = body.get("error", body)
        if isinstance(body, dict):
            body = body.get("message") or body.get("detail") or body
        return shorten(body if isinstance(body, str) else json.dumps(body))
    except (ValueError, RecursionError):
        return _start(data)


def _start(data: bytes) -> str:
    return shorten(data[: 8 * LONGEST].decode(errors="replace")) or "nothing"


def shorten(text: str) -> str:
    """A text from outside on one line, for a message: no longer than LONGEST, and with nothing that no file could hold
    or that a terminal would obey."""
    line = " ".join(text[: 8 * LONGEST].split())
    line = "".join(character if character.isprintable() else "\ufffd" for character in line)
    return line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."
