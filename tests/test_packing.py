"""Packed rows mean what each row means alone: hidden states, read-outs and microbatches, against a plain forward."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.attention.flex_attention as torch_flex
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM
from transformers.masking_utils import causal_mask_function

from rlaif.models.local import attention, flex
from rlaif.models.local.generate import Sampling, generate, left_pad
from rlaif.models.local.packing import HiddenStates, Row, microbatches, packed, packed_by_blocks, packs, response_mask
from rlaif.testing import tiny_model
from tests.tiny import same_bits_on_two_threads_and_on_one
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
        hidden = packed(BACKBONE, rows)
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
    monkeypatch.setattr(attention, "plain_up_to", lambda dtype: longest_plain)
    rows = [Row((i, 8, 9), (10, i)) for i in range(3)] + random_rows(2, prompts=3, responses=3)
    with torch.no_grad():
        last_BH = packed(BACKBONE, rows).at_last()
        expected_BH = torch.stack([alone(row)[-1] for row in rows])
    torch.testing.assert_close(last_BH, expected_BH, atol=1e-5, rtol=0)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12).map(sorted))
def test_packs_of_nearly_one_length_are_computed_together_with_little_padding(lengths: list[int]) -> None:
    found = list(attention.alike(lengths))
    assert [length for members in found for length in members] == lengths
    for members in found:
        assert len(members) * members[-1] <= attention.SLACK * sum(members)
    for members, following in pairwise(found):
        together = [*members, following[0]]
        assert len(together) * together[-1] > attention.SLACK * sum(together)


@pytest.mark.parametrize("longest_plain", [0, 10**6])
def test_padding_in_attention_changes_neither_states_nor_gradients(
    longest_plain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "plain_up_to", lambda dtype: longest_plain)
    rows = [Row((i, *range(8)), tuple(range(20, 22 + i))) for i in range(4)]
    segments = [[0] * 9 + [1] * (2 + i) for i in range(4)]
    (bucket,) = attention.BucketMasks(segments, segments, torch.float32, "cpu")(causal_mask_function)
    assert bucket.places_N is not None and len(bucket.lengths) * bucket.lengths[-1] > sum(bucket.lengths)
    weight = BACKBONE.get_input_embeddings().weight.requires_grad_()
    ours = packed(BACKBONE, rows).at_last()
    plain = torch.stack([BACKBONE(input_ids=torch.tensor([[*p, *r]])).last_hidden_state[0, -1] for p, r in rows])
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=0)
    found, expected = (torch.autograd.grad(states.square().mean(), weight)[0] for states in (ours, plain))
    weight.requires_grad_(False)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_a_model_that_has_packed_still_reads_and_writes_as_before() -> None:
    """The attention stays registered in the model: without packs it is transformers' own, left padding included."""
    fresh, used = tiny_model(5), tiny_model(5)
    packed(used.model, random_rows(1, prompts=2, responses=2))
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

    @wraps(forward)
    def spy(**inputs: Tensor) -> object:
        seen.append(inputs["input_ids"])
        return forward(**inputs)

    monkeypatch.setattr(BACKBONE, "forward", spy)
    packed(BACKBONE, [Row((5,) * 20, (i, i)) for i in range(4)])
    assert [tuple(tokens.shape) for tokens in seen] == [(1, 28)]


@pytest.mark.parametrize("sibling", [0, 1])
def test_a_response_does_not_see_its_siblings(sibling: int) -> None:
    """Neither the one after it, nor the one before it, which a causal mask alone would show."""
    rows = [Row((7, 8, 9), (10, 11)), Row((7, 8, 9), (12, 13, 14))]
    changed = list(rows)
    changed[sibling] = Row((7, 8, 9), (99, 98, 97)[: len(rows[sibling].response)])
    with torch.no_grad():
        one, other = (packed(BACKBONE, batch).at_last() for batch in (rows, changed))
    torch.testing.assert_close(one[1 - sibling], other[1 - sibling], atol=1e-6, rtol=0)
    assert (one[sibling] - other[sibling]).abs().max() > 1e-2


def test_the_last_real_token_is_read_under_any_padding() -> None:
    short, long = Row((7, 8), (9,)), Row((5, 6), tuple(range(40, 80)))
    with torch.no_grad():
        padded = packed(BACKBONE, [short, long]).at_last()
    torch.testing.assert_close(padded[0], alone(short)[-1], atol=1e-5, rtol=0)
    torch.testing.assert_close(padded[1], alone(long)[-1], atol=1e-5, rtol=0)


def test_an_empty_response_is_read_at_the_end_of_its_prompt() -> None:
    row = Row((7, 8, 9), ())
    with torch.no_grad():
        torch.testing.assert_close(packed(BACKBONE, [row]).at_last()[0], alone(row)[-1], atol=1e-6, rtol=0)


def test_gradients_of_packed_rows_are_those_of_the_rows() -> None:
    model = tiny_model(3).model
    rows = random_rows(4, prompts=2, responses=2)

    def gradient(batches: list[list[Row]]) -> Tensor:
        model.zero_grad()
        for batch in batches:
            packed(model, batch).at_last().square().sum().backward()
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


# ----------------------------------------------------------------------------------------- what GPUs compute (flex.py)


@pytest.fixture
def by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention as on a GPU, uncompiled; what torch forbids on a CPU are gradients, which it can compute there."""
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *states: None)


def mistral(seed: int, window: int) -> Any:
    """Two layers with a sliding window, two query heads to a key head."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(seed)
    config = MistralConfig(vocab_size=262, num_key_value_heads=2, sliding_window=window, **sizes)
    return MistralForCausalLM(config).eval().model


def states_and_gradients(read: Callable[[], Tensor], backbone: Any) -> list[Tensor]:
    """last_BH, and the gradients of a loss that is not the same for any two of its numbers."""
    last_BH = read()
    weight_BH = torch.linspace(-1, 1, last_BH.numel()).view_as(last_BH)
    return [last_BH, *torch.autograd.grad((last_BH * weight_BH).sum(), list(backbone.parameters()))]


def each_alone(backbone: Any, rows: list[Row]) -> Tensor:
    """last_BH by transformers' own attention, row by row."""
    ids = [torch.tensor([[*row.prompt, *row.response]]) for row in rows]
    return torch.stack([backbone(input_ids=one).last_hidden_state[0, -1] for one in ids])


LAYOUTS = [(1, 1, 9), (1, 5, 60), (3, 2, 90), (6, 1, 30)]
"""Prompts, responses to each, longest of either: rows of one to four blocks."""
MODELS: dict[str, Callable[[int], Any]] = {
    "two heads to a key": lambda seed: tiny_model(seed).model,
    "every head its key": lambda seed: tiny_model(seed, num_key_value_heads=4).model,
    "three heads, one key": lambda seed: (
        tiny_model(seed, hidden_size=48, num_attention_heads=3, num_key_value_heads=1).model
    ),
    "a window": lambda seed: mistral(seed, window=7),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_attention_by_blocks_is_the_models_own(model: str, layout: tuple[int, int, int], by_blocks: None) -> None:
    """Block masks, dense masks and each row alone: the same states and gradients, whatever lies beside a row."""
    fresh, used = MODELS[model](1), MODELS[model](1)
    rows = random_rows(sum(layout), *layout)
    expected = states_and_gradients(lambda: each_alone(fresh, rows), fresh)
    found = states_and_gradients(lambda: packed_by_blocks(used, rows).at_last(), used)
    dense = states_and_gradients(lambda: packed(used, rows).at_last(), used)
    for ours, masked, theirs in zip(found, dense, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(masked, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("way", [packed, packed_by_blocks], ids=["buckets", "blocks"])
def test_a_window_hides_what_lies_behind_it(way: Callable[..., HiddenStates], by_blocks: None) -> None:
    """Counted along each row, not along the pack: a second response sees as much of its prompt as the first."""
    rows = [Row((5, 6, 7, 8, 9), (10, 11)), Row((5, 6, 7, 8, 9), (12, 13))]
    changed = [row._replace(prompt=(99, *row.prompt[1:])) for row in rows]
    longer = Row(tuple(range(20, 29)), (30, 31))  # so that a window of 7 does hide something
    for window, sees in ((3, False), (7, True)):
        # Through two layers a state reaches twice as far; one layer shows the window itself.
        backbone = mistral(2, window)
        backbone.layers = backbone.layers[:1]
        with torch.no_grad():
            one, other = (way(backbone, [*batch, longer]).at_last()[:2] for batch in (rows, changed))
        assert [bool((a - b).abs().max() > 1e-4) for a, b in zip(one, other, strict=True)] == [sees, sees]


def test_a_row_is_filled_up_to_whole_blocks_and_never_to_one(by_blocks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [flex.filled(tokens) for tokens in (1, 256, 257, 4096)] == [256, 256, 384, 4096]
    row = Row((7, 8, 9), tuple(range(10, 40)))
    backbone = tiny_model(3).model
    with torch.inference_mode():  # as judges read
        hidden = packed_by_blocks(backbone, [row])
        torch.testing.assert_close(hidden.at_last()[0], alone(row)[-1], atol=1e-5, rtol=0)
    assert hidden.states_NH.shape[0] == 33


def test_masks_are_made_once_for_all_layers(by_blocks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    original = flex.create_block_mask
    monkeypatch.setattr(
        flex, "create_block_mask", lambda *args, **options: made.append(1) or original(*args, **options)
    )
    with torch.no_grad():
        packed_by_blocks(tiny_model(3).model, random_rows(1, 3, 2))
    assert len(made) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch.compile's own
def test_the_kernel_is_compiled_for_each_form_and_not_for_each_length(
    by_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once with the first length as a constant, once with a variable: five lengths of two models make four graphs."""
    graphs: list[Any] = []

    def compiler(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    compiled = torch.compile(flex._attend, fullgraph=True, backend=compiler)
    monkeypatch.setattr(flex, "_kernel", lambda query: compiled)
    models = [tiny_model(3).model, tiny_model(3, num_attention_heads=2, num_key_value_heads=1).model]
    for longest in (20, 60, 80, 100, 120):
        for model in models:
            packed_by_blocks(model, random_rows(longest, prompts=4, responses=2, longest=longest))
    assert len(graphs) <= 4
    calls = [node for graph in graphs for node in graph.graph.nodes if node.target is torch_flex.flex_attention_hop]
    assert {node.args[5] for node in calls} == {1 / 8**0.5, 1 / 16**0.5}  # the scale is a constant of the kernel


@pytest.mark.parametrize("spoilt", [False, True])
def test_a_kernel_is_used_only_where_it_is_right(
    spoilt: bool, by_blocks: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    form = flex.Form(4, 2, 16, torch.float32, torch.device("cpu"))
    kernel = flex._uncompiled
    monkeypatch.setattr(flex, "_uncompiled", lambda q, k, v, mask: kernel(q, k, v * 1.1 if spoilt else v, mask))
    flex._proven.cache_clear()
    assert flex._proven(form) is not spoilt
    assert ("results are wrong" in capsys.readouterr().out) is spoilt


def test_a_kernel_that_does_not_compile_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a CPU torch refuses gradients: as good a refusal as any."""
    form = flex.Form(4, 2, 16, torch.float32, torch.device("cpu"))
    flex._proven.cache_clear()
    assert [flex._proven(form) for _ in range(3)] == [False] * 3
    (line,) = capsys.readouterr().out.splitlines()
    assert "flex_attention cannot be used here" in line and "backward" in line
    flex._proven.cache_clear()


@pytest.mark.parametrize(("sequences", "length"), [(6, 101), (2, 180), (16, 60)])
def test_attentions_gradients_are_the_same_bits_on_one_thread_and_on_two(sequences: int, length: int) -> None:
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(sequences, heads, length, 64, generator=draw, requires_grad=True) for heads in (9, 3, 3))
    wanted = torch.randn(q.shape, generator=draw)
    mask = torch.zeros(sequences, 1, length, length)
    same_bits_on_two_threads_and_on_one(
        lambda: torch.autograd.grad(attention._plain(q, k, v, mask, 0.125, attention.Extras()), (q, k, v), wanted)
    )


@pytest.mark.parametrize("take", ["before_response", "chosen", "at_last"])
def test_gradients_of_states_that_siblings_share_are_the_same_bits_on_one_thread_and_on_two(take: str) -> None:
    draw = torch.Generator().manual_seed(0)
    before = [[sibling // 4 * 100, *range(sibling * 50, sibling * 50 + 48)] for sibling in range(12)]
    states = torch.randn(673, 576, generator=draw, requires_grad=True)
    taken = getattr(HiddenStates(states, before, [0] * 12), take)
    wanted = torch.randn(taken().shape, generator=draw)
    same_bits_on_two_threads_and_on_one(lambda: torch.autograd.grad(taken(), states, wanted))
