"""The world: prompts with a handful of possible responses each, and what a response is truly worth.

A response is a bag of words. Its worth is the sum of its words' values, so length in itself is worth nothing; the gold
preference between two of them is Bradley and Terry's. Nobody but `truth.py` and the simulated people see it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from rlaif.records import Message, Pair, Prompt, Response, content_id

Array = NDArray[np.float64]


VALUE_OF = {
    **dict.fromkeys(("true", "exact", "sound", "proven"), 1.0),
    **dict.fromkeys(("clear", "plain", "brief", "tidy"), 0.8),
    **dict.fromkeys(("kind", "warm", "polite", "patient"), 0.6),
    **dict.fromkeys(("rude", "cold", "harsh", "smug"), -1.0),
    **dict.fromkeys(("false", "wrong", "vague", "faked"), -1.5),
    **dict.fromkeys(("well", "so", "indeed", "surely", "rather", "anyway"), 0.0),
}
"""Every word there is and its gold value in log-odds. The last six are filler: they make a response longer, no more."""
FALSEHOODS = ("false", "wrong", "vague", "faked")
WORDS = tuple(VALUE_OF)
VALUES = np.array(list(VALUE_OF.values()))
MEANS = np.where(VALUES == 0, 0.6, 0.15)
"""How often each word is in a response, on average (Poisson)."""


class World(NamedTuple):
    """N prompts with K possible responses each. The policy before training gives each of them with probability 1/K."""

    seed: int
    counts: NDArray[np.int64]
    """How often each word is in each response (N, K, words). No two responses to a prompt have the same counts."""

    @property
    def gold(self) -> Array:
        """u, what each response is truly worth (N, K)."""
        return np.asarray(self.counts @ VALUES)

    @property
    def lengths(self) -> Array:
        """In words (N, K)."""
        return np.asarray(self.counts.sum(axis=2), dtype=float)

    def prompt(self, n: int) -> Prompt:
        """The n-th prompt."""
        text = f"Simulated prompt {n} of world {self.seed}"
        return Prompt.of((Message(role="user", content=text),))

    def responses(self, n: int) -> list[Response]:
        """All possible responses to it, `index` being the place in `counts`."""
        prompt = self.prompt(n)
        texts = [text_of(counts) for counts in self.counts[n]]
        return [
            Response(
                id=content_id(prompt.id, text),
                prompt_id=prompt.id,
                prompt=prompt.messages,
                index=k,
                text=text,
                finished=True,
                tokens=len(text.split()),
                model="simulated",
            )
            for k, text in enumerate(texts)
        ]


def make_world(prompts: int, responses: int, seed: int) -> World:
    """A world. Responses that are empty, or like another to the same prompt, are drawn again."""
    rng = np.random.default_rng([seed, 0])
    counts = rng.poisson(MEANS, size=(prompts, responses, len(WORDS)))
    while True:
        like = (counts[:, :, None] == counts[:, None, :]).all(axis=3)
        wrong = (like & np.tri(responses, k=-1, dtype=bool)).any(axis=2) | ~counts.any(axis=2)
        if not wrong.any():
            return World(seed, counts)
        counts[wrong] = rng.poisson(MEANS, size=(int(wrong.sum()), len(WORDS)))


def text_of(counts: NDArray[np.int64]) -> str:
    """The response with these words."""
    return " ".join(word for word, count in zip(WORDS, counts, strict=True) for _ in range(count))


def features(text: str) -> Array:
    """What a reward model sees of a response: how often each word occurs, and the length."""
    words = text.split()
    return np.array([*(words.count(word) for word in WORDS), len(words)], dtype=float)


def gold_value(text: str) -> float:
    """u of a text."""
    return float(sum(VALUE_OF[word] for word in text.split()))


def gold_preference(pair: Pair) -> float:
    """P(a is truly better) = sigma(u(a) - u(b))."""
    return float(expit(gold_value(pair.a) - gold_value(pair.b)))
