"""vLLM's /tokenize, scripted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def tokenized(body: dict[str, Any], vocabulary: Mapping[str, int]) -> dict[str, Any]:
    """What vLLM's /tokenize says of a prompt or a conversation: the longest known piece each time, else a character."""
    text = body.get("prompt") or "".join(f"<{turn['role']}>{turn['content']}" for turn in body["messages"])
    if "messages" in body:
        answered = body["messages"][-1]["role"] == "assistant" and not body.get("add_generation_prompt")
        text += "<end>" if answered else "<assistant>" * bool(body.get("add_generation_prompt"))
    pieces: list[str] = []
    while text:
        known = [piece for piece in vocabulary if text.startswith(piece)]
        pieces.append(max(known, key=len, default=text[0]))
        text = text[len(pieces[-1]) :]
    return {
        "tokens": [vocabulary.get(piece, 1000 + ord(piece[0])) for piece in pieces],
        "token_strs": [piece if piece in vocabulary else "?" for piece in pieces],
    }
