"""Token rows into batches without padding, and hidden states back out at the right places.

Rows that share a prompt are packed into one sequence, prompt first, under a mask that keeps the responses from
seeing each other: the prompt is computed once. The packs of a batch lie end to end in one row; only attention treats
them one by one (attention.py). Not every model can be computed so: a convolution or a recurrence would run on from one
row into the next. Of the ways below the first is taken that is right for a model (architecture.py); the others are
slower. What comes out is padded on the right; only generation pads on the left.

Shape suffixes: B rows, T response tokens, H hidden size; N tokens of all rows; S tokens of the longest row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlaif.models.local import flex
from rlaif.models.local.architecture import ForwardWay, constant_up_to, pass_through, way_of
from rlaif.models.local.attention import packing, use_packed_attention
from rlaif.models.local.masks import RunMasks, alike, right_pad
from rlaif.models.local.threads import share_cores


class Row(NamedTuple):
    """One sequence: the conversation, then the response with its end token where it has one."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]


class Pack(NamedTuple):
    """A prompt and the rows (positions in the batch) that follow it."""

    prompt: tuple[int, ...]
    rows: list[int]
    length: int
    """Tokens: the prompt once, and every response."""


def packs(rows: Sequence[Row]) -> list[Pack]:
    """Rows gathered by prompt, in order of first appearance."""
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for position, row in enumerate(rows):
        by_prompt.setdefault(row.prompt, []).append(position)
    return [
        Pack(prompt, members, len(prompt) + sum(len(rows[i].response) for i in members))
        for prompt, members in by_prompt.items()
    ]


def microbatches(rows: Sequence[Row], max_tokens: int) -> Iterator[list[int]]:
    """Positions in groups that keep a prompt's rows together, at most `max_tokens` each, shortest packs first.

    A single pack above the bound still makes a group of its own.
    """
    group: list[int] = []
    tokens = 0
    for pack in sorted(packs(rows), key=lambda pack: (pack.length, pack.rows)):
        if group and tokens + pack.length > max_tokens:
            yield group
            group, tokens = [], 0
        group = group + pack.rows
        tokens += pack.length
    if group:
        yield group


def response_mask(rows: Sequence[Row], device: Any) -> Tensor:
    """mask_BT: True on real response tokens."""
    return right_pad([[True] * len(row.response) for row in rows], False, torch.bool, device)


class Hidden(NamedTuple):
    """The backbone's last layer over packed rows, and where in it each row's response lies."""

    states_NH: Tensor
    before: list[list[int]]
    """For each row and response token, the position before it: the state in which the token was chosen."""
    last: list[int]
    """For each row, the position of its last real token."""

    def before_response(self) -> Tensor:
        """hidden_BTH at the position before each response token (padding repeats position 0)."""
        positions_BT = right_pad(self.before, 0, torch.long, self.states_NH.device)
        return self._at(positions_BT.flatten()).unflatten(0, positions_BT.shape)

    def chosen(self) -> Tensor:
        """hidden_NH at the same positions, row after row, without padding."""
        return self._at(torch.tensor([i for row in self.before for i in row], device=self.states_NH.device))

    def at_last(self) -> Tensor:
        """hidden_BH at each row's last real token."""
        return self._at(torch.tensor(self.last, device=self.states_NH.device))

    def _at(self, positions_N: Tensor) -> Tensor:
        """Not by [positions_N]: siblings share a prompt's last state, and the gradient of indexing adds up what it
        repeats in any order, once there are several threads."""
        return self.states_NH.index_select(0, positions_N)


class _Layout(NamedTuple):
    """The packs of a batch end to end."""

    tokens: list[int]
    positions: list[list[int]]
    """Of each pack: where in its row every token stands."""
    segments: list[list[int]]
    """Of each pack: 0 for its prompt, then the responses' numbers."""
    before: list[list[int]]
    last: list[int]


def hidden_states(backbone: Any, rows: Sequence[Row]) -> Hidden:
    """One pass over all rows by the fastest way that is right for this model; ModelError where none is."""
    share_cores()
    way = prepare(backbone)
    limit = constant_up_to(backbone.config)
    if limit is None or all(len(row.prompt) + len(row.response) <= limit for row in rows):
        return way.run(backbone, rows)
    return one_by_one(backbone, rows)


def prepare(backbone: Any) -> ForwardWay:
    """Find out how to compute this model, if that is not known yet. ModelError where no way is right."""
    return way_of(backbone, WAYS, lambda prompt, response: Row(tuple(prompt), tuple(response)))


def packed(backbone: Any, rows: Sequence[Row]) -> Hidden:
    """Each prompt computed once, nothing padded. By products, a run of packs at a time."""
    use_packed_attention(backbone)
    layout, parameter = _lay_out(rows), next(backbone.parameters())
    masks = RunMasks(layout.segments, layout.positions, parameter.dtype, parameter.device)
    positions = [position for pack in layout.positions for position in pack]
    with packing(masks):
        states_1NH = pass_through(backbone, [layout.tokens], [positions])
    return Hidden(states_1NH[0], layout.before, layout.last)


def packed_by_blocks(backbone: Any, rows: Sequence[Row]) -> Hidden:
    """The same on a GPU: the row as a whole, filled up to whole blocks."""
    use_packed_attention(backbone)
    layout, device = _lay_out(rows), next(backbone.parameters()).device
    length = len(layout.tokens)
    spare = flex.filled(length) - length
    segments_N, prompts_N = (torch.tensor(ids, dtype=torch.int32, device=device) for ids in _numbered(layout, spare))
    positions = [position for pack in layout.positions for position in pack] + [0] * spare
    with packing(flex.BlockMasks(segments_N, prompts_N, torch.tensor(positions, device=device))):
        states_1NH = pass_through(backbone, [layout.tokens + [0] * spare], [positions])
    return Hidden(states_1NH[0, :length], layout.before, layout.last)


def padded(backbone: Any, rows: Sequence[Row]) -> Hidden:
    """Rows of nearly one length together, padded on the right, where nothing that looks back can see it."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].prompt) + len(rows[i].response))
    whole = [[*rows[i].prompt, *rows[i].response] for i in order]
    found, done = [], 0
    for members in alike(map(len, whole)):
        batch = whole[done : done + len(members)]
        done += len(batch)
        states_BSH = pass_through(backbone, [ids + [0] * (members[-1] - len(ids)) for ids in batch], None)
        found += [states_SH[: len(ids)] for states_SH, ids in zip(states_BSH, batch, strict=True)]
    return _end_to_end(rows, order, found)


def one_by_one(backbone: Any, rows: Sequence[Row]) -> Hidden:
    """Every row in a pass of its own: what transformers itself says of it."""
    found = [pass_through(backbone, [[*row.prompt, *row.response]], None)[0] for row in rows]
    return _end_to_end(rows, range(len(rows)), found)


WAYS = (
    ForwardWay("packed by blocks", packed_by_blocks, lambda backbone: flex.usable(backbone)),  # noqa: PLW0108 (looked up late)
    ForwardWay("packed", packed),
    ForwardWay("rows padded to one length", padded),
    ForwardWay("rows one by one", one_by_one),
)
"""Fastest first."""


def _end_to_end(rows: Sequence[Row], order: Sequence[int], states: Sequence[Tensor]) -> Hidden:
    """`states` of whole rows, in this order of the rows."""
    before, last = [[0]] * len(rows), [0] * len(rows)
    start = 0
    for row in order:
        prompt, response = map(len, rows[row])
        before[row] = list(range(start + prompt - 1, start + prompt + response - 1))
        start += prompt + response
        last[row] = start - 1
    return Hidden(torch.cat(list(states)), before, last)


def _lay_out(rows: Sequence[Row]) -> _Layout:
    before, last = [[0]] * len(rows), [0] * len(rows)
    tokens: list[int] = []
    positions: list[list[int]] = []
    segments: list[list[int]] = []
    for pack in sorted(packs(rows), key=lambda pack: pack.length):  # those of nearly one length share their attention
        prompt_end = len(tokens) + len(pack.prompt)
        tokens += pack.prompt
        positions.append(list(range(len(pack.prompt))))
        segments.append([0] * len(pack.prompt))
        for number, row in enumerate(pack.rows, start=1):
            response, start = rows[row].response, len(tokens)
            before[row] = [prompt_end - 1, *range(start, start + len(response) - 1)]
            last[row] = start + len(response) - 1 if response else prompt_end - 1
            tokens += response
            positions[-1] += range(len(pack.prompt), len(pack.prompt) + len(response))
            segments[-1] += [number] * len(response)
    return _Layout(tokens, positions, segments, before, last)


def _numbered(layout: _Layout, spare: int) -> tuple[list[int], list[int]]:
    """Of each token its segment, numbered through the whole row, and its pack's prompt; then what fills the row up."""
    own: list[int] = []
    prompts: list[int] = []
    first = 0  # number of the pack's prompt among all segments
    for each in layout.segments:
        own += [first + number for number in each]
        prompts += [first] * len(each)
        first += each[-1] + 1
    return own + [flex.NOWHERE] * spare, prompts + [flex.NOWHERE] * spare


def padded_runs(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """(sequences, length) of the runs that attention computes for packs of these lengths, padded."""
    return [(len(run), run[-1]) for run in alike(sorted(lengths))]
