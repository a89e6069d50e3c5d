"""Token rows into batches without padding, and hidden states back out at the right places.

Rows that share a prompt are packed into one sequence, prompt first, under a mask that keeps the responses from
seeing each other: the prompt is computed once. The packs of a batch lie end to end in one row; only attention treats
them one by one (attention.py). Not every model can be computed so: a convolution or a recurrence would run on from one
row into the next. So when a model is first used a few short rows are computed by every way below, fastest first, until
one agrees with transformers' own pass over each row alone. What comes out is padded on the right; only generation pads
on the left.

Shape suffixes: B rows, T response tokens, H hidden size; N tokens of all rows; S tokens of the longest row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlaif.console import say
from rlaif.errors import ModelError, one_line
from rlaif.models.local import flex
from rlaif.models.local.architecture import agree, constant_up_to, pass_through, trial
from rlaif.models.local.attention import BucketMasks, alike, packing, use_packed_attention
from rlaif.models.local.machine import share_cores


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


class HiddenStates(NamedTuple):
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


# ------------------------------------------------------------------------------------------------- one forward pass


def hidden_states(backbone: Any, rows: Sequence[Row]) -> HiddenStates:
    """One pass over all rows by the fastest way that is right for this model; ModelError where none is."""
    share_cores()
    way = prepare(backbone)
    limit = constant_up_to(backbone.config)
    if limit is None or all(len(row.prompt) + len(row.response) <= limit for row in rows):
        return way.run(backbone, rows)
    return one_by_one(backbone, rows)


class _Layout(NamedTuple):
    """The packs of a batch end to end, shortest first: those of nearly one length share their attention."""

    tokens: list[int]
    positions: list[list[int]]
    """Of each pack: where in its row every token stands."""
    segments: list[list[int]]
    """Of each pack: 0 for its prompt, then the responses' numbers."""
    before: list[list[int]]
    last: list[int]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> _Layout:
        new = cls([], [], [], [[0]] * len(rows), [0] * len(rows))
        for pack in sorted(packs(rows), key=lambda pack: pack.length):
            first = len(pack.prompt)
            prompt_end = len(new.tokens) + first
            new.tokens.extend(pack.prompt)
            positions, segments = list(range(first)), [0] * first
            for number, row in enumerate(pack.rows, start=1):
                response, start = rows[row].response, len(new.tokens)
                # The first token was chosen in the prompt's last state, which all siblings share.
                new.before[row] = [prompt_end - 1, *range(start, start + len(response) - 1)]
                new.last[row] = start + len(response) - 1 if response else prompt_end - 1
                new.tokens.extend(response)
                positions += range(first, first + len(response))  # each response goes on where the prompt ends
                segments += [number] * len(response)
            new.positions.append(positions)
            new.segments.append(segments)
        return new


def packed(backbone: Any, rows: Sequence[Row]) -> HiddenStates:
    """Each prompt computed once, nothing padded. By products, a bucket of packs at a time."""
    use_packed_attention(backbone)
    layout, parameter = _Layout.of(rows), next(backbone.parameters())
    masks = BucketMasks(layout.segments, layout.positions, parameter.dtype, parameter.device)
    with packing(masks):
        states_1NH = pass_through(backbone, [layout.tokens], [list(chain(*layout.positions))])
    return HiddenStates(states_1NH[0], layout.before, layout.last)


def packed_by_blocks(backbone: Any, rows: Sequence[Row]) -> HiddenStates:
    """The same on a GPU: the row as a whole, filled up to whole blocks."""
    use_packed_attention(backbone)
    layout, device = _Layout.of(rows), next(backbone.parameters()).device
    length = len(layout.tokens)
    spare = flex.filled(length) - length
    own: list[int] = []  # of each token its segment, numbered through the whole row
    prompts: list[int] = []  # and the segment of its pack's prompt
    first = 0
    for segments in layout.segments:
        own += [first + number for number in segments]
        prompts += [first] * len(segments)
        first += segments[-1] + 1
    segments_N, prompts_N = (
        torch.tensor(ids + [flex.NOWHERE] * spare, dtype=torch.int32, device=device) for ids in (own, prompts)
    )
    positions = [*chain(*layout.positions), *[0] * spare]
    with packing(flex.BlockMasks(segments_N, prompts_N, torch.tensor(positions, device=device))):
        states_1NH = pass_through(backbone, [layout.tokens + [0] * spare], [positions])
    return HiddenStates(states_1NH[0, :length], layout.before, layout.last)


def padded(backbone: Any, rows: Sequence[Row]) -> HiddenStates:
    """Rows of nearly one length together, padded on the right, where nothing that looks back can see it."""
    lengths = [len(row.prompt) + len(row.response) for row in rows]
    order = iter(sorted(range(len(rows)), key=lengths.__getitem__))
    return _in_batches(backbone, rows, (list(islice(order, len(batch))) for batch in alike(sorted(lengths))))


def one_by_one(backbone: Any, rows: Sequence[Row]) -> HiddenStates:
    """Every row in a pass of its own: what transformers itself says of it."""
    return _in_batches(backbone, rows, ([place] for place in range(len(rows))))


def _in_batches(backbone: Any, rows: Sequence[Row], batches: Iterable[list[int]]) -> HiddenStates:
    """Places of rows that pass together, each whole; their states end to end in that order."""
    before, last = [[0]] * len(rows), [0] * len(rows)
    found: list[Tensor] = []
    start = 0
    for batch in batches:
        whole = [[*rows[i].prompt, *rows[i].response] for i in batch]
        longest = max(map(len, whole))
        states_BSH = pass_through(backbone, [ids + [0] * (longest - len(ids)) for ids in whole], None)
        for states_SH, i in zip(states_BSH, batch, strict=True):
            prompt, response = map(len, rows[i])
            found.append(states_SH[: prompt + response])
            before[i] = list(range(start + prompt - 1, start + prompt + response - 1))
            start += prompt + response
            last[i] = start - 1
    return HiddenStates(torch.cat(found), before, last)


# --------------------------------------------------------------------------------------- which way is right for a model


class ForwardWay(NamedTuple):
    """How to compute rows."""

    name: str
    run: Callable[[Any, Sequence[Row]], HiddenStates]
    usable: Callable[[Any], bool] = lambda backbone: True


WAYS = (
    ForwardWay("packed by blocks", packed_by_blocks, lambda backbone: flex.usable(backbone)),  # noqa: PLW0108 (looked up late)
    ForwardWay("packed", packed),
    ForwardWay("rows padded to one length", padded),
    ForwardWay("rows one by one", one_by_one),
)
"""Fastest first."""


def prepare(backbone: Any) -> ForwardWay:
    """The first way that is right for this model, tried once. ModelError where not even the last one is."""
    known: ForwardWay | None = getattr(backbone, "_rlaif_way", None)
    if known is None:
        known = backbone._rlaif_way = _first_right(backbone)
    return known


@torch.no_grad()
def _first_right(backbone: Any) -> ForwardWay:
    name, own = type(backbone).__name__, backbone.config._attn_implementation
    if getattr(backbone.config.get_text_config(), "attn_logit_softcapping", None) is not None and own == "sdpa":
        backbone.set_attn_implementation(own := "eager")  # the model's own definition: sdpa leaves the cap out
    long, short = tuple(trial(backbone.config)), tuple(trial(backbone.config)[::-1])
    rows = [Row(long[:5], long[5:]), Row(long[:5], short[:4]), Row(short[:3], short[5:11])]  # two of them siblings
    alone, problem = WAYS[-1], ""
    expected = alone.run(backbone, rows)
    if not agree(pass_through(backbone, [long[:5]], None)[0], expected.states_NH[:5]):
        raise ModelError(f"{name}: what a token sees depends on later tokens; use a causal language model")
    for way in WAYS[:-1]:
        if not way.usable(backbone):
            continue
        try:
            found = way.run(backbone, rows)
            if agree(found.chosen(), expected.chosen()) and agree(found.at_last(), expected.at_last()):
                if problem:
                    say(f"  {name}: {way.name}, which is slower, for packed rows come out wrong ({problem})")
                return way
            problem = problem or "one row's states depend on another's"
        except Exception as error:  # whatever a model's code raises
            problem = problem or one_line(error)
        if backbone.config._attn_implementation != own:
            backbone.set_attn_implementation(own)
    say(f"  {name}: {alone.name}, which is slow, for all else comes out wrong ({problem})")
    return alone
