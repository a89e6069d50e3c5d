"""Whatever architecture a model has: what rlaif computes is what transformers' own pass over a row alone computes, or
one line says why not. Tiny random models whose layers do more than plain causal attention."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

from rlaif.errors import ModelError
from rlaif.models.local.architecture import backbone_of, output_of
from rlaif.models.local.generate import Sampling, generate
from rlaif.models.local.load import load_language_model
from rlaif.models.local.packing import Row, hidden_states
from rlaif.testing import tiny_model, tiny_tokenizer
from rlaif.training.head import chosen_and_entropy, chosen_logprobs
from rlaif.training.scalar_model import ScalarModel

SIZES: dict[str, Any] = {
    "vocab_size": 262,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "long_factor": [4.0] * 4,
    "short_factor": [1.0] * 4,
    "original_max_position_embeddings": 24,
}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
LATENT = {"num_key_value_heads": 4, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
WAYS = {
    "packed": [
        ("mistral", {"sliding_window": 8}),
        ("gemma2", {"sliding_window": 8, "head_dim": 8, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
        ("gemma3_text", {"sliding_window": 8, "head_dim": 8}),
        ("olmo3", {"sliding_window": 8}),
        ("gpt_oss", {"sliding_window": 8, "head_dim": 8, **EXPERTS}),
        ("llama4_text", {"head_dim": 8, "attention_chunk_size": 8, "intermediate_size_mlp": 48, **EXPERTS}),
        ("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 24}),
        ("deepseek_v3", {**LATENT, "v_head_dim": 6, "head_dim": 4, "first_k_dense_replace": 2}),
        ("stablelm", {}),
        ("granite", {"logits_scaling": 3.0}),
        ("cohere", {"logit_scale": 0.3}),
        ("phi", {}),
    ],
    "rows padded to one length": [
        ("lfm2", {"layer_types": ["conv", "full_attention"]}),
        ("qwen3_5_text", {"head_dim": 8, **LINEAR}),
        ("bloom", {"n_head": 4, "n_layer": 2}),
        ("mamba", {"state_size": 8}),
    ],
}
CASES = [(kind, more, way) for way, kinds in WAYS.items() for kind, more in kinds]
by_kind = pytest.mark.parametrize(("kind", "more", "way"), CASES, ids=[kind for kind, _, _ in CASES])


def config(kind: str, more: dict[str, Any]) -> Any:
    cls = hf.models.auto.configuration_auto.CONFIG_MAPPING[kind]
    known = cls().to_dict().keys() | {"pad_token_id", "bos_token_id", "eos_token_id"}
    return cls(**{k: v for k, v in SIZES.items() if k in known} | more)


def sharpened(model: Any) -> Any:
    """Random weights so large that attention looks at something and caps cap."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


def causal(kind: str, more: dict[str, Any], dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    model = sharpened(hf.AutoModelForCausalLM.from_config(config(kind, more), dtype=dtype))
    if kind == "gemma2":
        model.set_attn_implementation("eager")  # transformers' fused attention leaves the cap out
    return model


def some_rows() -> list[Row]:
    """Two prompts with two responses each, longer than any window here."""
    dice = random.Random(3)
    prompts = [tuple(dice.choices(range(3, 262), k=count)) for count in (13, 9)]
    lengths = ((0, 14), (0, 11), (1, 12), (1, 15))
    return [Row(prompts[place], tuple(dice.choices(range(3, 262), k=count))) for place, count in lengths]


def logprobs_alone(model: Any, row: Row) -> Tensor:
    """logprob_T of the response by the model's own pass."""
    logits = model(input_ids=torch.tensor([[*row.prompt, *row.response]])).logits[0, len(row.prompt) - 1 : -1]
    return torch.log_softmax(logits.float(), -1).gather(1, torch.tensor(row.response)[:, None])[:, 0]


def logprobs(model: Any, rows: Sequence[Row]) -> Tensor:
    """logprob_N of all responses, beside each other."""
    targets = torch.tensor([token for row in rows for token in row.response])
    return chosen_logprobs(output_of(model), hidden_states(backbone_of(model), rows).chosen(), targets, 1.0)


@by_kind
@torch.no_grad()
def test_a_row_beside_others_has_the_log_probabilities_that_it_has_alone(
    kind: str, more: dict[str, Any], way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model, rows = causal(kind, more), some_rows()
    expected = torch.cat([logprobs_alone(model, row) for row in rows])
    torch.testing.assert_close(logprobs(model, rows), expected, atol=1e-4, rtol=0)
    one_more = torch.cat([logprobs(model, [row]) for row in rows])
    torch.testing.assert_close(one_more, expected, atol=1e-4, rtol=0)
    assert (f"{way}, which is slower" in capsys.readouterr().out) is (way != "packed")


@by_kind
@torch.no_grad()
def test_text_beside_others_is_what_the_model_says_alone(kind: str, more: dict[str, Any], way: str) -> None:
    model, prompts = causal(kind, more), [row.prompt for row in some_rows()[1:3]]
    expected = []
    for prompt in prompts:
        tokens = list(prompt)
        while len(tokens) < len(prompt) + 6 and 2 not in tokens:
            tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
        expected.append(tokens[len(prompt) :])
    found = generate(model, [*prompts, prompts[0]], Sampling(6, 0.0), [0, 0, 0], 0)
    assert [sample.tokens for sample in found] == [*expected, expected[0]]


@by_kind
@torch.no_grad()
def test_a_score_is_that_of_transformers_own_classifier(kind: str, more: dict[str, Any], way: str) -> None:
    settings = config(kind, more)
    settings.num_labels = 1
    try:
        torch.manual_seed(0)
        model = sharpened(hf.AutoModelForSequenceClassification.from_config(settings, dtype=torch.float32))
    except ValueError:
        pytest.skip("transformers has no classifier of this kind")
    rows = some_rows()
    if kind == "gemma2":
        model.set_attn_implementation("eager")
    expected = torch.stack([model(input_ids=torch.tensor([[*p, *r]])).logits[0, 0] for p, r in rows])
    torch.testing.assert_close(ScalarModel(model).scores(rows), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["gemma2", "granite", "phi", "lfm2"])
def test_gradients_are_those_of_the_models_own_pass(kind: str) -> None:
    """Also through logits that are capped or scaled, a head with a bias, and rows that are padded."""
    more = next(more for name, more, _ in CASES if name == kind)
    ours, theirs, rows = causal(kind, more), causal(kind, more), some_rows()
    logprobs(ours, rows).square().sum().backward()
    torch.cat([logprobs_alone(theirs, row) for row in rows]).square().sum().backward()
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        scale = 1e-4 * float(other.grad.abs().max()) + 1e-4
        torch.testing.assert_close(one.grad, other.grad, atol=scale, rtol=1e-3, msg=lambda m, name=name: f"{name}: {m}")


@torch.no_grad()
def test_entropy_is_that_of_the_capped_logits() -> None:
    model, rows = causal(*CASES[1][:2]), some_rows()[:1]
    hidden = hidden_states(backbone_of(model), rows).chosen()
    _, entropy = chosen_and_entropy(output_of(model), hidden, torch.tensor(rows[0].response), 1.0)
    tokens = torch.tensor([[*rows[0].prompt, *rows[0].response]])
    logits = model(input_ids=tokens).logits[0, len(rows[0].prompt) - 1 : -1]
    torch.testing.assert_close(entropy, torch.distributions.Categorical(logits=logits).entropy())


@pytest.mark.parametrize(("kind", "way"), [("llama", "packed"), ("lfm2", "rows padded to one length")])
def test_in_bf16_rounding_is_told_from_what_is_wrong(kind: str, way: str, capsys: pytest.CaptureFixture[str]) -> None:
    more = {"layer_types": ["conv", "full_attention"]} if kind == "lfm2" else {}
    model = causal(kind, more, torch.bfloat16)
    with torch.no_grad():
        hidden_states(backbone_of(model), some_rows())
    assert (way in capsys.readouterr().out) is (way != "packed")


def test_a_model_that_looks_ahead_is_refused_in_one_line(tmp_path: Path) -> None:
    hf.BertLMHeadModel(hf.BertConfig(**SIZES, is_decoder=False)).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="BertModel: what a token sees depends on later tokens") as caught:
        load_language_model(str(tmp_path), None, torch.float32)
    assert str(caught.value).startswith(f"{tmp_path}: ") and "\n" not in str(caught.value)


def test_logits_that_need_more_than_the_last_states_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(1)
    forward = type(model).forward

    def shifted(self: Any, input_ids: Tensor, **options: Any) -> Any:
        output = forward(self, input_ids=input_ids, **options)
        output.logits = output.logits + self.model.embed_tokens(input_ids).sum(-1, keepdim=True) * torch.arange(262)
        return output

    monkeypatch.setattr(type(model), "forward", shifted)
    with pytest.raises(ModelError, match="not made of its last hidden states alone"):
        output_of(model)


def test_attention_that_gets_more_than_is_known_is_left_to_the_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An option that packing would leave out, however little it changes in the trial."""
    model, rows = tiny_model(1), some_rows()
    attention = type(model.model.layers[0].self_attn)
    forward = attention.forward
    monkeypatch.setattr(attention, "forward", lambda self, *args, **kw: forward(self, *args, **kw, sharpness=1.0))
    usual = model.config._attn_implementation
    with torch.no_grad():
        expected = torch.cat([logprobs_alone(model, row) for row in rows])
        torch.testing.assert_close(logprobs(model, rows), expected, atol=1e-5, rtol=0)
    said = capsys.readouterr().out
    assert "LlamaAttention passes sharpness to its attention" in said and said.count("\n") <= 2
    assert model.config._attn_implementation == usual


def test_a_model_is_tried_once() -> None:
    backbone = backbone_of(tiny_model(1))
    hidden_states(backbone, some_rows())
    seen: list[int] = []
    backbone.register_forward_hook(lambda *args: seen.append(1))
    hidden_states(backbone, some_rows())
    assert seen == [1]


@torch.no_grad()
def test_rows_longer_than_the_short_rotations_do_not_change_their_neighbours() -> None:
    """`longrope` turns all of a batch faster once one row is long: each is computed as if it were alone."""
    model = causal("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 24})
    short, long = Row((5, 6, 7), (8, 9, 10)), Row((5, 6, 7), tuple(range(20, 60)))
    together = logprobs(model, [short, long])
    alone = torch.cat([logprobs_alone(model, row) for row in (short, long)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_a_classifier_with_more_than_a_head_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config("llama", {})
    settings.num_labels = 1
    model = hf.AutoModelForSequenceClassification.from_config(settings).eval()
    model.score.register_forward_hook(lambda module, args, output: output.tanh() + 1)
    with pytest.raises(ModelError, match="scores by more than `score`"):
        ScalarModel(model)


@torch.no_grad()
@pytest.mark.parametrize("lengths", [(20, 8), (30, 8), (40, 30)], ids=str)
def test_text_that_grows_beyond_the_short_rotations_is_what_the_model_says_alone(lengths: tuple[int, int]) -> None:
    """From one token on all rotations are others, those of what was read before too."""
    model = causal("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 24})
    prompts = [list(range(20, 20 + length)) for length in lengths]
    expected = []
    for prompt in prompts:
        tokens = list(prompt)
        while len(tokens) < len(prompt) + 10 and 2 not in tokens:
            tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
        expected.append(tokens[len(prompt) :])
    found = generate(model, prompts, Sampling(10, 0.0), [0, 0], 0)
    assert [sample.tokens for sample in found] == expected
