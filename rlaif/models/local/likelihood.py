"""How likely given answers are: rows that share what they can, and the log-probabilities of their last tokens.

Shape suffixes: N answer tokens of all rows, H hidden size, V vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlaif.models.chat import Likelihood
from rlaif.models.local.architecture import backbone_of, next_logits
from rlaif.models.local.packing import Row, hidden_states

AT_ONCE = 128
"""Logits at a time, at most: 25 MB in float32 for 49,152 words."""


def likelihoods(model: Any, rows: Sequence[Row], answers: Sequence[int], texts: Sequence[int]) -> list[Likelihood]:
    """Of each row's last `answers` tokens, of which the first `texts` are the answer's text and the others end it."""
    hidden = hidden_states(backbone_of(model), rows)
    before = [places[-count:] for places, count in zip(hidden.before, answers, strict=True)]
    targets = [token for row, count in zip(rows, answers, strict=True) for token in row.response[-count:]]
    places_N = torch.tensor([place for each in before for place in each], device=hidden.states_NH.device)
    logprobs = _chosen(model, hidden.states_NH.index_select(0, places_N), targets).tolist()
    found = []
    for count, text in zip(answers, texts, strict=True):
        own, logprobs = logprobs[:count], logprobs[count:]
        found.append(Likelihood(logprob=sum(own[:text]), end_logprob=sum(own[text:]), tokens=text))
    return found


def _chosen(model: Any, hidden_NH: Tensor, targets: Sequence[int]) -> Tensor:
    """logprob_N in float64 of float32 logits, also where weights are bf16: a ratio of two such numbers is small."""
    targets_N = torch.tensor(targets, device=hidden_NH.device)
    parts = zip(hidden_NH.split(AT_ONCE), targets_N.split(AT_ONCE), strict=True)
    return torch.cat([-F.cross_entropy(next_logits(model, h), t, reduction="none").double() for h, t in parts])


def shared_rows(whole: Sequence[Sequence[int]]) -> list[Row]:
    """The tokens of siblings, cut where they begin to differ (each keeps its last token for itself)."""
    shared = len(os.path.commonprefix([list(ids[:-1]) for ids in whole]))  # noqa: RUF071 (token by token)
    return [Row(tuple(ids[:shared]), tuple(ids[shared:])) for ids in whole]


def answer_rows(group: Sequence[tuple[Sequence[int], int]]) -> list[Row]:
    """Siblings (their tokens, and how many at the end are the answer's) as rows: those after one prompt share it, or
    all share what their prompts have in common, whichever is less to read."""
    own = [Row(tuple(ids[:-answer]), tuple(ids[-answer:])) for ids, answer in group]
    tree = shared_rows([ids for ids, _ in group])
    longest = min(len(row.prompt) for row in own)  # an answer's tokens stay after the prompt
    if len(tree[0].prompt) > longest:
        return own
    return min(own, tree, key=_tokens)


def _tokens(rows: Sequence[Row]) -> int:
    return sum(map(len, {row.prompt for row in rows})) + sum(len(row.response) for row in rows)
