"""How a policy's tokens are drawn, where that was found by a search: kept beside the weights as generation_config.json,
which transformers and vLLM read, and decode.json with the system turn.

What shapes logits is `local/shaping.py`'s in this process, and the server's elsewhere (`wire.py`). Nothing here needs
torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlaif.errors import DataError, one_line
from rlaif.forms import OBJECT
from rlaif.jsonl import read_json
from rlaif.records import Message, Messages, Record

DECODE = "decode.json"
"""Beside the weights in policy/, where decoding was searched: what was found, and every trial."""
BEST_OF_N = "best_of_n.json"
"""Beside the weights in policy/, where the policy is the best of n responses of the reference."""
NEVER = -100.0
"""The bias that bans a token at a server."""


class Shape(Record):
    """What is done to logits before temperature and nucleus, in this order: biases, the repetition penalty, bans, the
    `top_k` likeliest."""

    top_k: int = 0
    """0: all."""
    repetition_penalty: float = 1.0
    banned: tuple[int, ...] = ()
    bias: tuple[tuple[int, float], ...] = ()

    @property
    def wire(self) -> dict[str, Any]:
        """The fields of a request that say the same to vLLM."""
        bias = {str(token): value for token, value in (*self.bias, *((token, NEVER) for token in self.banned))}
        found = self.model_dump(include={"top_k", "repetition_penalty"}, exclude_defaults=True)
        return found | ({"logit_bias": bias} if bias else {})


class Decoding(Record):
    """A whole setting of the sampler."""

    temperature: float
    top_p: float = 1.0
    shape: Shape | None = None
    system: str | None = None
    """In place of the prompt's own system turn, if it has one; None: the prompt as it is."""

    def messages(self, prompt: Messages) -> Messages:
        """The conversation that is continued."""
        if self.system is None:
            return prompt
        return (Message(role="system", content=self.system), *(m for m in prompt if m.role != "system"))

    @property
    def generation_config(self) -> dict[str, Any]:
        """In transformers' words; what is at rest too, since their defaults are not."""
        shape = self.shape or Shape()
        return {
            "do_sample": True,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": shape.top_k,
            "repetition_penalty": shape.repetition_penalty,
            "bad_words_ids": [[token] for token in shape.banned] or None,
            "sequence_bias": [[[token], value] for token, value in shape.bias] or None,
        }

    @property
    def words(self) -> str:
        """For a person."""
        shape = self.shape or Shape()
        parts = [f"temperature {self.temperature:g}", f"top-p {self.top_p:g}"]
        parts += [f"top-k {shape.top_k}"] if shape.top_k else []
        parts += [f"repetition penalty {shape.repetition_penalty:g}"] if shape.repetition_penalty != 1 else []
        parts += [f"token {token} {value:+g}" for token, value in shape.bias]
        parts += [f"without the tokens {', '.join(map(str, shape.banned))}"] if shape.banned else []
        return ", ".join([*parts, *([f"system turn: {self.system}"] if self.system else [])])

    @classmethod
    def of(cls, folder: Path) -> Decoding | None:
        """That of a model's folder; None where none was searched."""
        if not (folder / DECODE).exists():
            return None
        file = folder / "generation_config.json"
        kept = {name: value for name, value in read_json(file, OBJECT).items() if value is not None}
        try:
            shape = Shape(
                top_k=kept.get("top_k", 0),
                repetition_penalty=kept.get("repetition_penalty", 1.0),
                banned=tuple(token for (token,) in kept.get("bad_words_ids", ())),
                bias=tuple((token, value) for (token,), value in kept.get("sequence_bias", ())),
            )
            return cls(
                temperature=kept.get("temperature", 1.0),
                top_p=kept.get("top_p", 1.0),
                shape=None if shape == Shape() else shape,
                system=read_json(folder / DECODE, OBJECT).get("system"),
            )
        except (TypeError, ValueError) as error:
            raise DataError(f"{file}: no setting of a sampler: {one_line(error)}") from None
