"""Token rows into batches without padding, and hidden states back out at the right places.

Rows that share a prompt are packed into one sequence, prompt first, under a mask that keeps the responses from
seeing each other: the prompt is computed once. The packs of a batch lie end to end in one row; only attention treats
them one by one (attention.py). What comes out is padded on the right; only generation pads on the left.

Shape suffixes: B rows, T response tokens, H hidden size; N tokens of all packs; R packs of one length L.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlaif.models.local import flex
from rlaif.models.local.attention import Run, use_packed_attention
from rlaif.models.local.threads import share_cores

SLACK = 1.2
"""Places that attention may compute for every token: calls of many sequences are worth some padding."""


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


def right_pad(rows: Sequence[Sequence[Any]], value: Any, dtype: torch.dtype, device: Any) -> Tensor:
    """(rows, longest), short rows filled with `value` on the right."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows], dtype=dtype, device=device)


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
    positions: list[int]
    segments: list[list[int]]
    """Of each pack: 0 for its prompt, then the responses' numbers."""
    before: list[list[int]]
    last: list[int]


def hidden_states(backbone: Any, rows: Sequence[Row]) -> Hidden:
    """One forward pass over all rows, each prompt computed once, nothing padded (on a GPU, up to whole blocks)."""
    use_packed_attention(backbone)
    share_cores()
    layout, parameter = _lay_out(rows), next(backbone.parameters())
    length = len(layout.tokens)
    by_blocks = flex.usable(backbone)
    spare = flex.filled(length) - length if by_blocks else 0
    ids_N, positions_N = torch.tensor(
        [layout.tokens + [0] * spare, layout.positions + [0] * spare], device=parameter.device
    )
    windows = _windows(backbone.config, layout.positions)
    packed = (
        _blocks(layout.segments, positions_N, windows)
        if by_blocks
        else _runs(layout.segments, parameter.dtype, parameter.device, layout.positions, windows)
    )
    states_1NH = backbone(
        input_ids=ids_N.unsqueeze(0),
        position_ids=positions_N.unsqueeze(0),
        attention_mask=torch.zeros(
            1, 1, 1, 1, dtype=parameter.dtype, device=parameter.device
        ),  # `packed` holds the masks
        use_cache=False,
        packed=packed,
    ).last_hidden_state
    return Hidden(states_1NH[0, :length] if spare else states_1NH[0], layout.before, layout.last)


def _lay_out(rows: Sequence[Row]) -> _Layout:
    before, last = [[0]] * len(rows), [0] * len(rows)
    tokens: list[int] = []
    positions: list[int] = []
    segments: list[list[int]] = []
    for pack in sorted(packs(rows), key=lambda pack: pack.length):  # those of nearly one length share their attention
        prompt_end = len(tokens) + len(pack.prompt)
        tokens += pack.prompt
        positions += range(len(pack.prompt))
        segments.append([0] * len(pack.prompt))
        for number, row in enumerate(pack.rows, start=1):
            response, start = rows[row].response, len(tokens)
            before[row] = [prompt_end - 1, *range(start, start + len(response) - 1)]
            last[row] = start + len(response) - 1 if response else prompt_end - 1
            tokens += response
            positions += range(len(pack.prompt), len(pack.prompt) + len(response))
            segments[-1] += [number] * len(response)
    return _Layout(tokens, positions, segments, before, last)


def _windows(config: Any, positions: Sequence[int]) -> list[int]:
    """The model's sliding window, where it hides anything from anyone."""
    window = getattr(config.get_text_config(), "sliding_window", None)
    return [window] if isinstance(window, int) and window <= max(positions, default=0) else []


def _blocks(segments: Sequence[list[int]], positions_N: Tensor, windows: Sequence[int]) -> flex.Blocks:
    """Masks of the whole row, filled up to the length of `positions_N`."""
    own: list[int] = []
    prompts: list[int] = []
    first = 0  # number of the pack's prompt among all segments
    for each in segments:
        own += [first + number for number in each]
        prompts += [first] * len(each)
        first += each[-1] + 1
    spare = [flex.NOWHERE] * (len(positions_N) - len(own))
    segments_N, prompts_N = torch.tensor([own + spare, prompts + spare], dtype=torch.int32, device=positions_N.device)
    return flex.blocks(segments_N, prompts_N, positions_N, windows)


def _runs(
    segments: Sequence[list[int]], dtype: torch.dtype, device: Any, positions: Sequence[int], windows: Sequence[int]
) -> list[Run]:
    """Packs in order of length, those of nearly one length together."""
    runs = []
    done = 0
    for members in _alike(segments):
        longest, tokens = len(members[-1]), sum(map(len, members))
        padded = right_pad(members, 0, torch.long, device)
        masks_R1LL: dict[int | None, Tensor] = {None: _tree_mask(padded, dtype)}
        if windows:
            starts = accumulate(map(len, members[:-1]), initial=done)
            own = [positions[start : start + len(each)] for start, each in zip(starts, members, strict=True)]
            at_RL = right_pad(own, 0, torch.long, device)
            far_R1LL = at_RL[:, None, :, None] - at_RL[:, None, None, :]
            for window in windows:
                masks_R1LL[window] = masks_R1LL[None].masked_fill(far_R1LL >= window, torch.finfo(dtype).min)
        done += tokens
        if tokens == padded.numel():
            runs.append(Run(tokens, len(members), longest, masks_R1LL, None, None))
            continue
        places = [row * longest + place for row, each in enumerate(members) for place in range(len(each))]
        source, passed = [], 0
        for each in members:
            source += [passed + min(place, len(each) - 1) for place in range(longest)]
            passed += len(each)
        source_P, places_N = (torch.tensor(found, device=device) for found in (source, places))
        runs.append(Run(tokens, len(members), longest, masks_R1LL, source_P, places_N))
    return runs


def padded_runs(lengths: Iterable[int]) -> list[tuple[int, int]]:
    """(sequences, length) of the runs that attention computes for packs of these lengths, padded."""
    return [(len(run), len(run[-1])) for run in _alike([[0] * length for length in sorted(lengths)])]


def _alike(segments: Sequence[list[int]]) -> Iterator[list[list[int]]]:
    """Cut where going on would compute more than `SLACK` places for every token; shortest packs first."""
    members: list[list[int]] = []
    for each in segments:
        if members and (len(members) + 1) * len(each) > SLACK * (sum(map(len, members)) + len(each)):
            yield members
            members = []
        members = [*members, each]
    if members:
        yield members


def _tree_mask(segments_RL: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask (R, 1, L, L): a token sees its prompt (segment 0) and its own segment, never ahead of itself."""
    own_RLL = segments_RL.unsqueeze(2) == segments_RL.unsqueeze(1)
    seen_RLL = (own_RLL | (segments_RL == 0).unsqueeze(1)).tril()
    lowest = torch.finfo(dtype).min
    return torch.zeros(seen_RLL.shape, dtype=dtype, device=seen_RLL.device).masked_fill(~seen_RLL, lowest)[:, None]
