"""How an OpenAI-compatible server wants to be asked, found out from what it refuses.

Servers differ in how many likeliest tokens they tell (20, 5, none), in the name of the token limit, and in what else
they let a request say. A refusal that names a parameter is answered with the next thing to try.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

TOP_LOGPROBS = 20
"""The most that OpenAI's API and vLLM's default allow."""
FEWER = (10, 5, 2, 1, 0)
LIMITS = ("max_tokens", "max_completion_tokens")
OURS = (*LIMITS, "top_logprobs", "logprobs", "temperature", "logprob_token_ids", "return_tokens_as_token_ids")
UNSUPPORTED = re.compile(
    r"unsupported|n[o']t support|unrecogni[sz]ed|unknown|unexpected|n[o']t (?:permit|allow)|n[o']t be set|extra|forbid",
    re.IGNORECASE,
)


class Dialect(NamedTuple):
    """What is known of a server so far."""

    top_logprobs: int = TOP_LOGPROBS
    """0: only the token itself is told."""
    limit: str = "max_tokens"
    temperature: bool = True
    """Whether a request for labels, where nothing is sampled, may name one."""
    by_id: bool = True
    """Whether labels may be asked for by token id, where ids are known."""

    def after(self, message: str, parameter: str | None, asked: Mapping[str, Any]) -> Dialect | None:
        """The next to try once a request with the body `asked` was refused for this parameter; None where nothing is
        left."""
        changes: dict[str, Any] = {}
        if parameter in {"top_logprobs", "logprobs"}:
            changes = {"top_logprobs": self._fewer(message, parameter) if asked.get("top_logprobs") else None}
        elif parameter in LIMITS and self.limit == "max_tokens":
            changes = {"limit": "max_completion_tokens"}
        elif parameter == "temperature" and "logprobs" in asked and self.temperature:
            changes = {"temperature": False}
        elif parameter in {"logprob_token_ids", "return_tokens_as_token_ids"} and self.by_id:
            changes = {"by_id": False}
        return self._replace(**changes) if changes and None not in changes.values() else None

    def _fewer(self, message: str, parameter: str) -> int | None:
        allowed = [n for n in map(int, re.findall(r"\b\d{1,4}\b", message)) if 0 < n < self.top_logprobs]
        if allowed:
            return max(allowed)
        if UNSUPPORTED.search(message):
            return 0 if parameter == "top_logprobs" else None
        return next(n for n in FEWER if n < self.top_logprobs)


USUAL = Dialect()


def refused_parameter(data: bytes, message: str, asked: Mapping[str, Any]) -> str | None:
    """The parameter of the body `asked` that a refusal is about: by its field `param`, else by the words."""
    try:
        error = json.loads(data)["error"]["param"]
    except (ValueError, LookupError, TypeError, RecursionError):
        error = None
    if error in asked and error in OURS:
        return str(error)
    named = [name for name in OURS if name in asked and re.search(rf"\b{name}\b", message)]
    return named[0] if named else None
