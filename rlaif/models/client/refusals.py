"""What no other try mends: failures that may befall every request of a kind. What may pass is `replicas.Transient`."""

from __future__ import annotations

from rlaif.models.client.replicas import TOO_LARGE, HttpResponse

OF_THE_REQUEST = frozenset({400, 404, 409, 413, 414, 422, 431, 451, TOO_LARGE})
"""Refusals that may concern this request and no other."""


class Unfit(Exception):
    """A failure that may befall every request of its kind; for `certain` it does."""

    def __init__(self, reason: str, line: str, *, certain: bool = False) -> None:
        super().__init__(reason)
        self.line = line
        self.certain = certain


def unwelcome(response: HttpResponse) -> Unfit | None:
    """Whether a refusal is about who asks rather than what is asked."""
    if response.status >= 500 or response.status in OF_THE_REQUEST:
        return None
    key = "; api_key_env names the environment variable that holds the key" * (response.status in {401, 403})
    return Unfit(response.error, f"{response.server.url}: {response.error}{key}", certain=response.status == 401)
