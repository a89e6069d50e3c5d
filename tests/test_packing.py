"""Packed rows mean what each row means alone: hidden states, read-outs and microbatches, against a plain forward."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlaif.models.local import attention, packing
from rlaif.models.local.generate import Sampling, generate, left_pad
from rlaif.models.local.packing import Row, hidden_states, microbatches, packs, response_mask
from tests.tiny import tiny_model
from tests.tiny_training import random_rows

BACKBONE = tiny_model(3).model
ids = st.lists(st.integers(0, 250), min_size=1, max_size=7).map(tuple)
rows_of_shared_prompts = st.lists(ids, min_size=1, max_size=3).flatmap(
    lambda prompts: st.lists(st.builds(Row, st.sampled_from(prompts), ids), min_size=1, max_size=6)
)


@torch.no_grad()
def alone(row: Row) -> Tensor:
    """states_SH of one row, unpadded, with nothing beside it and no mask or positions of ours."""
    return BACKBONE(input_ids=torch.tensor([[*row.prompt, *row.response]])).last_hidden_state[0]


@settings(deadline=None)
@given(rows_of_shared_prompts)
def test_packed_states_equal_each_row_alone(rows: list[Row]) -> None:
    with torch.no_grad():
        hidden = hidden_states(BACKBONE, rows)
    before_BTH, last_BH = hidden.before_response(), hidden.at_last()
    for b, row in enumerate(rows):
        expected_SH = alone(row)
        start, length = len(row.prompt), len(row.response)
        # The state in which token t was chosen is the one before it: the prompt's last token for t = 0.
        torch.testing.assert_close(
            before_BTH[b, :length], expected_SH[start - 1 : start + length - 1], atol=1e-5, rtol=0
        )
        torch.testing.assert_close(last_BH[b], expected_SH[-1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("longest_plain", [0, 10**6])
def test_both_ways_of_attending_agree_with_the_models_own(longest_plain: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short sequences by plain products, long ones by the fused kernel; here several packs share a length."""
    monkeypatch.setattr(attention, "LONGEST_PLAIN", longest_plain)
    rows = [Row((i, 8, 9), (10, i)) for i in range(3)] + random_rows(2, prompts=3, responses=3)
    with torch.no_grad():
        last_BH = hidden_states(BACKBONE, rows).at_last()
        expected_BH = torch.stack([alone(row)[-1] for row in rows])
    torch.testing.assert_close(last_BH, expected_BH, atol=1e-5, rtol=0)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12).map(sorted))
def test_packs_of_nearly_one_length_are_computed_together_with_little_padding(lengths: list[int]) -> None:
    found = list(packing._alike([[0] * length for length in lengths]))
    assert [len(each) for members in found for each in members] == lengths
    for members in found:
        assert len(members) * len(members[-1]) <= packing.SLACK * sum(map(len, members))
    for members, following in pairwise(found):
        together = [*members, following[0]]
        assert len(together) * len(together[-1]) > packing.SLACK * sum(map(len, together))


@pytest.mark.parametrize("longest_plain", [0, 10**6])
def test_padding_in_attention_changes_neither_states_nor_gradients(
    longest_plain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "LONGEST_PLAIN", longest_plain)
    rows = [Row((i, *range(8)), tuple(range(20, 22 + i))) for i in range(4)]
    (run,) = packing._runs([[0] * 9 + [1] * (2 + i) for i in range(4)], torch.float32, "cpu")
    assert run.places_N is not None and run.sequences * run.length > run.tokens
    weight = BACKBONE.get_input_embeddings().weight.requires_grad_()
    ours = hidden_states(BACKBONE, rows).at_last()
    plain = torch.stack([BACKBONE(input_ids=torch.tensor([[*p, *r]])).last_hidden_state[0, -1] for p, r in rows])
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=0)
    found, expected = (torch.autograd.grad(states.square().mean(), weight)[0] for states in (ours, plain))
    weight.requires_grad_(False)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_a_model_that_has_packed_still_reads_and_writes_as_before() -> None:
    """The attention stays registered in the model: without packs it is transformers' own, left padding included."""
    fresh, used = tiny_model(5), tiny_model(5)
    hidden_states(used.model, random_rows(1, prompts=2, responses=2))
    tokens, mask = left_pad([[5, 6, 7], [8, 9, 10, 11, 12]], 0, "cpu")
    with torch.no_grad():
        one, other = (model(input_ids=tokens, attention_mask=mask).logits for model in (fresh, used))
    torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    sampling = Sampling(max_tokens=8, temperature=1.0)
    assert generate(fresh, [[5, 6], [7, 8, 9]], sampling, [1, 2], 0) == generate(
        used, [[5, 6], [7, 8, 9]], sampling, [1, 2], 0
    )


def test_a_shared_prompt_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    forward = BACKBONE.forward

    def spy(**inputs: Tensor) -> object:
        seen.append(inputs["input_ids"])
        return forward(**inputs)

    monkeypatch.setattr(BACKBONE, "forward", spy)
    hidden_states(BACKBONE, [Row((5,) * 20, (i, i)) for i in range(4)])
    assert [tuple(tokens.shape) for tokens in seen] == [(1, 28)]


@pytest.mark.parametrize("sibling", [0, 1])
def test_a_response_does_not_see_its_siblings(sibling: int) -> None:
    """Neither the one after it, nor the one before it, which a causal mask alone would show."""
    rows = [Row((7, 8, 9), (10, 11)), Row((7, 8, 9), (12, 13, 14))]
    changed = list(rows)
    changed[sibling] = Row((7, 8, 9), (99, 98, 97)[: len(rows[sibling].response)])
    with torch.no_grad():
        one, other = (hidden_states(BACKBONE, batch).at_last() for batch in (rows, changed))
    torch.testing.assert_close(one[1 - sibling], other[1 - sibling], atol=1e-6, rtol=0)
    assert (one[sibling] - other[sibling]).abs().max() > 1e-2


def test_the_last_real_token_is_read_under_any_padding() -> None:
    short, long = Row((7, 8), (9,)), Row((5, 6), tuple(range(40, 80)))
    with torch.no_grad():
        padded = hidden_states(BACKBONE, [short, long]).at_last()
    torch.testing.assert_close(padded[0], alone(short)[-1], atol=1e-5, rtol=0)
    torch.testing.assert_close(padded[1], alone(long)[-1], atol=1e-5, rtol=0)


def test_an_empty_response_is_read_at_the_end_of_its_prompt() -> None:
    row = Row((7, 8, 9), ())
    with torch.no_grad():
        torch.testing.assert_close(hidden_states(BACKBONE, [row]).at_last()[0], alone(row)[-1], atol=1e-6, rtol=0)


def test_gradients_of_packed_rows_are_those_of_the_rows() -> None:
    model = tiny_model(3).model
    rows = random_rows(4, prompts=2, responses=2)

    def gradient(batches: list[list[Row]]) -> Tensor:
        model.zero_grad()
        for batch in batches:
            hidden_states(model, batch).at_last().square().sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    torch.testing.assert_close(gradient([rows]), gradient([[row] for row in rows]), atol=1e-4, rtol=1e-4)


@given(rows_of_shared_prompts)
@settings(deadline=None)
def test_the_mask_counts_response_tokens(rows: list[Row]) -> None:
    mask_BT = response_mask(rows, "cpu")
    assert mask_BT.sum(1).tolist() == [len(row.response) for row in rows]
    assert all(real.tolist() == sorted(real.tolist(), reverse=True) for real in mask_BT)  # on the left


@settings(deadline=None)
@given(rows_of_shared_prompts, st.integers(1, 60))
def test_microbatches_cover_rows_once_keep_prompts_whole_and_respect_the_bound(rows: list[Row], bound: int) -> None:
    groups = list(microbatches(rows, bound))
    assert sorted(i for group in groups for i in group) == list(range(len(rows)))
    for group in groups:
        prompts = {rows[i].prompt for i in group}
        assert all(i in group for i, row in enumerate(rows) if row.prompt in prompts)
        layout = packs([rows[i] for i in group])
        assert sum(pack.length for pack in layout) <= bound or len(layout) == 1


def test_microbatches_take_the_shortest_packs_first_and_fill_up() -> None:
    rows = [Row((i,), (5,) * length) for i, length in enumerate((30, 2, 29, 3))]
    assert list(microbatches(rows, 37)) == [[1, 3, 2], [0]]
    assert list(microbatches(rows, 36)) == [[1, 3], [2], [0]]
