"""Which tokens of a response moved a reward model's score, or that of a principle's head: to be shown, and as the
credit of a policy's tokens (`optimise.credit`).

Shape suffixes: B responses, T response tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlaif.models.local.attribution import Attribution, blank_of, pieces_of
from rlaif.models.local.load import load_tokenizer
from rlaif.models.local.packing import Row, response_mask
from rlaif.models.local.tokens import turn_of
from rlaif.records import Prompt
from rlaif.training import parallel
from rlaif.training.lessons import encode_scored
from rlaif.training.reward.ensemble import load_members, member_folders
from rlaif.training.scalar_model import ScalarModel, as_ended

Pieces = list[tuple[str, float]]
Credit = Callable[[Sequence[Row]], Tensor]
"""credit_BT of rows as a policy wrote them; 0 on what ends a turn and on padding."""


def explain_scores(
    folder: Path, head: str | None, prompts: Sequence[Prompt], texts: Sequence[str], max_length: int
) -> Iterator[tuple[Pieces, Attribution]]:
    """Of each text after its prompt: its pieces with what each did to the score, which is counted from that of a blank
    response of the same length. Of an ensemble the members' mean. The weights are read as float32: rounding would end
    the sum."""
    models = load_members(folder, torch.float32, head)
    tokenizer = load_tokenizer(str((member_folders(folder) or [folder])[0]))
    turn, blank = turn_of(tokenizer), blank_of(tokenizer)
    for prompt, text in zip(prompts, texts, strict=True):
        (row,) = encode_scored(tokenizer, prompt.messages, [text], max_length)
        body = turn.body(row.response)
        each = [model.attribution(row, len(body), blank) for model in models]
        found = Attribution(*(np.mean(parts, axis=0).tolist() for parts in zip(*each, strict=True)))
        pieces = pieces_of(tokenizer, body, found.tokens)
        read = "".join(piece for piece, _ in pieces)
        whole = read.rstrip("\ufffd")
        if read != text and text.startswith(whole):  # max_length cut the rest off, perhaps in the midst of a character
            half = pieces.pop()[1] if whole != read else 0.0
            pieces.append((text[len(whole) :], half))
        yield pieces, found


def by_attribution(members: Sequence[ScalarModel], tokenizer: Any, steps: int) -> Credit:
    """The mean of the members' attributions; processes share the responses."""
    turn, blank = turn_of(tokenizer), blank_of(tokenizer)

    def credit(rows: Sequence[Row]) -> Tensor:
        credit_BT = torch.zeros(response_mask(rows, members[0].model.device).shape, device=members[0].model.device)
        read = as_ended(rows, tokenizer)
        for (place,), weight in parallel.turns([[place] for place in range(len(rows))]):
            length = len(turn.body(rows[place].response))
            for member in members if length else ():
                found = torch.tensor(member.attribution(read[place], length, blank, steps, steps).tokens)
                if weight:
                    credit_BT[place, :length] += found.to(credit_BT) / len(members)
        return parallel.add_up(credit_BT)

    return credit
