"""Who sees whom in packed rows: the packs' own rule, and under it the rule of the model's layers.

A token sees its pack's prompt and its own segment, never ahead of itself. What a layer hides beyond that (a sliding
window, chunks) its model says as a function of two positions, which transformers hands on; it is asked for positions
in a row, not for places in the pack. So no config is read and no kind of layer is known by name.

Shape suffixes: R sequences of a run, L their length, P = R x L places; N tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.masking_utils import causal_mask_function

Rule = Callable[[Any, Any, Tensor, Tensor], Tensor]
"""transformers' mask function: (batch, head, query's position, key's position) to whether the query may look."""
SLACK = 1.2
"""Places that attention may compute for every token: calls of many sequences are worth some padding."""


class Run(NamedTuple):
    """Neighbouring sequences of nearly one length, computed together as if all were as long as the longest."""

    tokens: int
    """Real ones."""
    sequences: int
    length: int
    mask_R1LL: Tensor
    """Additive: 0 where a token may look, the dtype's lowest value elsewhere."""
    source_P: Tensor | None
    """Which of the run's tokens stands in each of the R x L places; on the right of a short sequence any will do, since
    nobody looks ahead. None where all are of one length."""
    places_N: Tensor | None
    """The place of each token."""


class RunMasks:
    """Packs in order of length, those of nearly one length together, under any rule."""

    def __init__(
        self, segments: Sequence[list[int]], positions: Sequence[list[int]], dtype: torch.dtype, device: Any
    ) -> None:
        """Of each pack, shortest first: the segment of every token (0: the prompt) and its position in its row."""
        self._runs: list[Run] = []
        self._seen: list[tuple[Tensor, Tensor]] = []  # seen_R1LL and at_RL of each run
        done = 0
        for members in alike([len(each) for each in segments]):
            packs = slice(done, done + len(members))
            done += len(members)
            segments_RL, at_RL = (right_pad(of[packs], 0, torch.long, device) for of in (segments, positions))
            seen_R1LL = _tree(segments_RL)
            mask_R1LL, places = additive(seen_R1LL, dtype), _places(members, device)
            self._runs.append(Run(sum(members), len(members), members[-1], mask_R1LL, *places))
            self._seen.append((seen_R1LL, at_RL))

    def __call__(self, rule: Rule) -> list[Run]:
        """The runs with this rule's masks; a rule that hides nothing more here has none of its own."""
        if rule is causal_mask_function:
            return self._runs
        return [self._under(rule, run, *seen) for run, seen in zip(self._runs, self._seen, strict=True)]

    @staticmethod
    def _under(rule: Rule, run: Run, seen_R1LL: Tensor, at_RL: Tensor) -> Run:
        both_R1LL = seen_R1LL & rule(0, 0, at_RL[:, None, :, None], at_RL[:, None, None, :])
        if torch.equal(both_R1LL, seen_R1LL):
            return run
        return run._replace(mask_R1LL=additive(both_R1LL, run.mask_R1LL.dtype))


def alike(lengths: Iterable[int]) -> Iterator[list[int]]:
    """Lengths, shortest first, cut where going on would compute more than `SLACK` places for every token."""
    members: list[int] = []
    for length in lengths:
        if members and (len(members) + 1) * length > SLACK * (sum(members) + length):
            yield members
            members = []
        members = [*members, length]
    if members:
        yield members


def right_pad(rows: Sequence[Sequence[Any]], value: Any, dtype: torch.dtype, device: Any) -> Tensor:
    """(rows, longest), short rows filled with `value` on the right."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows], dtype=dtype, device=device)


def _tree(segments_RL: Tensor) -> Tensor:
    """seen_R1LL: a token sees its prompt (segment 0) and its own segment, never ahead of itself."""
    own_RLL = segments_RL.unsqueeze(2) == segments_RL.unsqueeze(1)
    return (own_RLL | (segments_RL == 0).unsqueeze(1)).tril()[:, None]


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a token may look, the dtype's lowest value elsewhere."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)


def _places(lengths: Sequence[int], device: Any) -> tuple[Tensor | None, Tensor | None]:
    """(source_P, places_N) of a run."""
    longest = lengths[-1]
    if lengths[0] == longest:
        return None, None
    places = [row * longest + place for row, length in enumerate(lengths) for place in range(length)]
    source, passed = [], 0
    for length in lengths:
        source += [passed + min(place, length - 1) for place in range(longest)]
        passed += length
    return torch.tensor(source, device=device), torch.tensor(places, device=device)
