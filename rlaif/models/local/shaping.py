"""Which token comes next: logits shaped, then drawn from by temperature and nucleus; and how likely each draw was.

Shape suffixes: B rows, V vocabulary, K the likeliest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlaif.models.decoding import Shape

SORTED_TOKENS = 256  # nearly always enough for the nucleus; the exact fallback sorts the whole vocabulary


def pick_tokens(logits_BV: Tensor, uniform_B: Tensor, temperature: float, top_p: float) -> Tensor:
    """One token a row by inverting the cumulative distribution at `uniform_B` (in [0, 1)).

    With top_p below 1 only the smallest set of most likely tokens whose probability reaches top_p takes part
    (nucleus sampling, arXiv 1904.09751).
    """
    if temperature == 0:
        return logits_BV.argmax(-1)
    probs_BV = torch.softmax(logits_BV.float() / temperature, dim=-1)
    if top_p >= 1:
        return _invert(probs_BV, uniform_B)
    values_BK, tokens_BK = probs_BV.topk(min(SORTED_TOKENS, probs_BV.shape[-1]))
    picked_B = _from_nucleus(values_BK, tokens_BK, uniform_B, top_p)
    short_B = values_BK.sum(-1) < top_p
    if short_B.any():
        everything = probs_BV[short_B].sort(descending=True)
        picked_B[short_B] = _from_nucleus(everything.values, everything.indices, uniform_B[short_B], top_p)
    return picked_B


def _from_nucleus(values_BK: Tensor, tokens_BK: Tensor, uniform_B: Tensor, top_p: float) -> Tensor:
    """One of the sorted tokens before which less than top_p of the probability lies."""
    before_BK = values_BK.cumsum(-1) - values_BK  # the probability of all that is likelier
    kept_BK = values_BK.masked_fill(before_BK >= top_p, 0.0)
    return tokens_BK.gather(1, _invert(kept_BK, uniform_B).unsqueeze(1)).squeeze(1)


def _invert(weights_BV: Tensor, uniform_B: Tensor) -> Tensor:
    cumulative = weights_BV.cumsum(-1)  # (B, V), up to a sum that need not be 1
    target = uniform_B.to(cumulative.dtype) * cumulative[:, -1]
    index = torch.searchsorted(cumulative, target.unsqueeze(1), right=True).squeeze(1)
    return index.clamp(max=weights_BV.shape[-1] - 1)  # rounding may put the target at the very end


def draw_logprobs(logits_BV: Tensor, temperature: float, top_p: float) -> Tensor:
    """The log-probability of each token as `pick_tokens` draws it; -inf outside the nucleus."""
    logprobs_BV = (logits_BV.float() / temperature).log_softmax(-1)
    if top_p >= 1:
        return logprobs_BV
    probs, tokens_BV = logprobs_BV.exp().sort(descending=True)
    out_BV = torch.zeros_like(probs, dtype=torch.bool).scatter(1, tokens_BV, probs.cumsum(-1) - probs >= top_p)
    return logprobs_BV.masked_fill(out_BV, float("-inf")).log_softmax(-1)


class Shaper:
    """Logits of rows that grow, shaped: it remembers which tokens each row holds, where that matters."""

    def __init__(self, shape: Shape, rows: Sequence[Sequence[int]], vocabulary: int, device: torch.device) -> None:
        self._shape = shape
        self._seen_BV: Tensor | None = None
        self._bias_V = torch.zeros(vocabulary, device=device)
        for token, value in (*shape.bias, *((token, float("-inf")) for token in shape.banned)):
            self._bias_V[token] = value
        if shape.repetition_penalty != 1:
            self._seen_BV = torch.zeros(len(rows), vocabulary, dtype=torch.bool, device=device)
            for seen_V, row in zip(self._seen_BV, rows, strict=True):
                seen_V[list(row)] = True

    def shaped(self, logits_BV: Tensor) -> Tensor:
        """As transformers' processors of the same names do."""
        logits_BV = logits_BV.float() + self._bias_V
        if self._seen_BV is not None:
            penalty = self._shape.repetition_penalty
            punished_BV = torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
            logits_BV = torch.where(self._seen_BV, punished_BV, logits_BV)
        if 0 < self._shape.top_k < logits_BV.shape[-1]:
            least_B = logits_BV.topk(self._shape.top_k).values[:, -1:]
            logits_BV = logits_BV.masked_fill(logits_BV < least_B, float("-inf"))
        return logits_BV

    def add(self, token_B: Tensor) -> None:
        """Each row has grown by a token."""
        if self._seen_BV is not None:
            self._seen_BV.scatter_(1, token_B.unsqueeze(1), True)

    def keep(self, running_B: Tensor) -> None:
        """Drop the other rows."""
        if self._seen_BV is not None:
            self._seen_BV = self._seen_BV[running_B]
