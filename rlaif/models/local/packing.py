"""Token rows into padded batches that waste little, and hidden states back out at the right places.

Rows that share a prompt are packed into one sequence, prompt first, under a mask that keeps the responses from
seeing each other: the prompt is computed once. Training pads on the right; only generation pads on the left.

Shape suffixes: B rows, T response tokens, H hidden size; P packs, S tokens of a pack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


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
    """Positions in groups that keep a prompt's rows together, packs of similar length, at most `max_tokens`.

    The bound counts padding; a single pack above it still makes a group of its own.
    """
    group: list[int] = []
    count = 0
    for pack in sorted(packs(rows), key=lambda pack: (pack.length, pack.rows)):
        if group and (count + 1) * pack.length > max_tokens:
            yield group
            group, count = [], 0
        group = group + pack.rows
        count += 1
    if group:
        yield group


def right_pad(rows: Sequence[Sequence[Any]], value: Any, dtype: torch.dtype, device: Any) -> Tensor:
    """(rows, longest), short rows filled with `value` on the right."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows], dtype=dtype, device=device)


def response_mask(rows: Sequence[Row], device: Any) -> Tensor:
    """mask_BT: True on real response tokens."""
    return right_pad([[True] * len(row.response) for row in rows], False, torch.bool, device)


@torch.no_grad()
def in_microbatches(
    rows: Sequence[Row], max_tokens: int, device: Any, compute: Callable[[list[Row]], Tensor]
) -> Tensor:
    """What `compute` says of each response token (B, T), asked a microbatch at a time; 0 on padding."""
    mask_BT = response_mask(rows, device)
    whole_BT = torch.zeros(mask_BT.shape, device=device)
    for group in microbatches(rows, max_tokens):
        part_BT = compute([rows[i] for i in group])
        whole_BT[group, : part_BT.shape[1]] = part_BT
    return whole_BT * mask_BT


class Hidden(NamedTuple):
    """The backbone's last layer over packed rows, and where in it each row's response lies."""

    states_PSH: Tensor
    pack_of: list[int]
    """For each row, the index of its pack."""
    before: list[list[int]]
    """For each row and response token, the position before it: the state in which the token was chosen."""
    last: list[int]
    """For each row, the position of its last real token."""

    def before_response(self) -> Tensor:
        """hidden_BTH at the position before each response token (padding repeats position 0)."""
        device = self.states_PSH.device
        at_BT = right_pad(self.before, 0, torch.long, device)
        return self.states_PSH[torch.tensor(self.pack_of, device=device).unsqueeze(1), at_BT]

    def at_last(self) -> Tensor:
        """hidden_BH at each row's last real token."""
        device = self.states_PSH.device
        return self.states_PSH[torch.tensor(self.pack_of, device=device), torch.tensor(self.last, device=device)]


def hidden_states(backbone: Any, rows: Sequence[Row]) -> Hidden:
    """One forward pass over all rows, each prompt computed once."""
    layout = packs(rows)
    pack_of, before, last = [0] * len(rows), [[0]] * len(rows), [0] * len(rows)
    tokens, positions, segments = [], [], []
    for index, pack in enumerate(layout):
        tokens.append(list(pack.prompt))
        positions.append(list(range(len(pack.prompt))))
        segments.append([0] * len(pack.prompt))
        for number, row in enumerate(pack.rows, start=1):
            response, start = rows[row].response, len(tokens[-1])
            pack_of[row] = index
            before[row] = [len(pack.prompt) - 1, *range(start, start + len(response) - 1)]
            last[row] = start + len(response) - 1 if response else len(pack.prompt) - 1
            tokens[-1] += response
            positions[-1] += range(len(pack.prompt), len(pack.prompt) + len(response))
            segments[-1] += [number] * len(response)
    parameter = next(backbone.parameters())
    device = parameter.device
    # Nothing stands to the right of a lone row but padding, which a causal mask hides: no mask, fastest kernel.
    shared = any(len(pack.rows) > 1 for pack in layout)
    mask = _tree_mask(right_pad(segments, -1, torch.long, device), parameter.dtype) if shared else None
    states_PSH = backbone(
        input_ids=right_pad(tokens, 0, torch.long, device),
        position_ids=right_pad(positions, 0, torch.long, device),
        attention_mask=mask,
        use_cache=False,
    ).last_hidden_state
    return Hidden(states_PSH, pack_of, before, last)


def _tree_mask(segments_PS: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask (P, 1, S, S): a token sees its prompt (segment 0) and its own segment, never ahead of itself."""
    own_PSS = segments_PS.unsqueeze(2) == segments_PS.unsqueeze(1)
    seen_PSS = (own_PSS | (segments_PS == 0).unsqueeze(1)).tril()
    return torch.zeros(seen_PSS.shape, dtype=dtype, device=seen_PSS.device).masked_fill(
        ~seen_PSS, torch.finfo(dtype).min
    )[:, None]
