"""Whether what people ask has changed, and how far they agree with the judge: two samples, and a test of each.

Both tests are permutations of prompts: had nothing changed, any split of the prompts into the two samples would have
been as likely as the one found. Words stand for topics, since they need no model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from rlaif.records import Record, content_id, grouped
from rlaif.stats import Array, Bootstrap, Estimate, mean_of
from rlaif.words import counted, with_interval

WORD = re.compile(r"[぀-ヿ㐀-鿿]|[^\W_぀-ヿ㐀-鿿]+")
"""A word; of scripts that write no spaces, a character."""
MOST_PROMPTS = 1000
"""Of each sample, chosen by hash."""
MOST_WORDS = 4000
SHUFFLES = 999
PORTION = 100
LEVEL = 0.01
"""Below this a change is called one."""


class TopicDrift(Record):
    """How far the words of two sets of prompts lie apart."""

    distance: float
    """The Jensen-Shannon divergence of their words, in bits: 0 for the same, 1 for none in common."""
    p: float
    """The chance of one as large, had nothing changed."""
    prompts: int
    before: int
    risen: tuple[str, ...]
    """The words that add most to the distance among those that are more frequent now."""

    def __str__(self) -> str:
        what = "differ from" if self.p < LEVEL else "show no difference from"
        risen = f"; more often now: {', '.join(self.risen)}" if self.p < LEVEL and self.risen else ""
        return (
            f"prompt topics: {counted(self.prompts, 'prompt')} {what} {self.before:,} that training knew "
            f"(distance {self.distance:.2f} of 1, p = {self.p:.3f}){risen}"
        )


class AgreementDrift(Record):
    """How often the judge prefers what people prefer."""

    now: Estimate
    before: Estimate | None = None
    p: float | None = None
    """The chance of a difference as large, had nothing changed."""

    def __str__(self) -> str:
        said = f"people and the judge agree on {with_interval(self.now)} of {counted(self.now.n, 'pair')}"
        if self.before is None or self.p is None:
            return f"{said}; no earlier feedback to compare with"
        what = "changed from" if self.p < LEVEL else "no sign of a change from"
        return f"{said}; {what} {with_interval(self.before)} before (p = {self.p:.3f})"


def topic_drift(before: Sequence[str], now: Sequence[str], seed: int) -> TopicDrift | None:
    """How far the topics of the prompts now are from those before; None where either has fewer than two."""
    samples = [_sample(texts) for texts in (now, before)]
    if min(map(len, samples)) < 2:
        return None
    counts = [Counter(WORD.findall(text.lower())) for texts in samples for text in texts]
    documents = Counter(word for count in counts for word in count)
    words = [word for word, number in documents.most_common(MOST_WORDS) if number > 1]
    rows = np.array([[count[word] for word in words] for count in counts], dtype=float).reshape(len(counts), len(words))
    rows /= np.maximum(rows.sum(axis=1, keepdims=True), 1)  # every prompt counts the same
    size = len(samples[0])
    distance, p = _permuted(rows, size, _jensen_shannon, seed)
    one, other = (_shares(part.sum(axis=0)[None])[0] for part in (rows[:size], rows[size:]))
    gain = np.where(one > other, _terms(one, (one + other) / 2), 0)
    order = sorted(range(len(words)), key=lambda place: (-gain[place], words[place]))[:5]
    risen = tuple(words[place] for place in order if gain[place] > 0)
    return TopicDrift(distance=distance, p=p, prompts=size, before=len(samples[1]), risen=risen)


Hits = Sequence[tuple[float, str]]
"""Whether the judge agreed, and the prompt."""


def agreement_drift(before: Hits, now: Hits, seed: int) -> AgreementDrift | None:
    """The agreement now, and whether it differs from that before; None where there is none now."""
    bootstrap = Bootstrap(seed=seed)
    found = mean_of(now, bootstrap)
    earlier = mean_of(before, bootstrap)
    if found is None:
        return None
    if earlier is None:
        return AgreementDrift(now=found)
    parts = [grouped(hits, lambda hit: hit[1]).values() for hits in (now, before)]
    rows = [[sum(value for value, _ in group), len(group)] for part in parts for group in part]
    _, p = _permuted(np.array(rows, dtype=float), len(parts[0]), _difference, seed)
    return AgreementDrift(now=found, before=earlier, p=p)


def _sample(texts: Sequence[str]) -> list[str]:
    return sorted(set(texts), key=lambda text: content_id("drift", text))[:MOST_PROMPTS]


def _permuted(rows: Array, size: int, statistic: Callable[[Array, Array], Array], seed: int) -> tuple[float, float]:
    """The statistic of the sums of the first `size` rows and of the others, and its p-value over SHUFFLES splits."""
    rng, total = np.random.default_rng(seed), rows.sum(axis=0)
    first = rows[:size].sum(axis=0)[None]
    found = float(statistic(first, total - first)[0])
    as_far = 0
    for start in range(0, SHUFFLES, PORTION):
        chosen = np.zeros((min(PORTION, SHUFFLES - start), len(rows)))
        chosen[:, :size] = 1
        sums = rng.permuted(chosen, axis=1) @ rows
        as_far += int(np.sum(statistic(sums, total - sums) >= found - 1e-9))  # equal splits must count as equal
    return found, (1 + as_far) / (1 + SHUFFLES)


def _shares(sums: Array) -> Array:
    shares: Array = sums / np.maximum(sums.sum(axis=1, keepdims=True), 1e-12)
    return shares


def _terms(p: Array, mean: Array) -> Array:
    terms: Array = p * np.log2(np.where(p > 1e-12, p, 1) / np.where(p > 1e-12, mean, 1))
    return terms


def _jensen_shannon(one: Array, other: Array) -> Array:
    p, q = _shares(one), _shares(other)
    mean = (p + q) / 2
    distance: Array = (_terms(p, mean).sum(axis=1) + _terms(q, mean).sum(axis=1)) / 2
    return distance


def _difference(one: Array, other: Array) -> Array:
    return np.abs(one[:, 0] / one[:, 1] - other[:, 0] / other[:, 1])
