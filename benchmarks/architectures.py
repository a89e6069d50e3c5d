"""Every architecture that transformers builds a causal language model of, tiny and random, against its own passes.

    python benchmarks/architectures.py [NAME ...] [--out table.md]

For each: how its rows are computed, the largest error of a token's log-probability beside neighbours, whether greedy
text is that of the model alone, and the largest error of a reward model's score; or the one line of the refusal.
Nothing is downloaded. A few minutes on two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import random
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from rlaif.errors import ModelError
from rlaif.models.local.architecture import backbone_of, output_of
from rlaif.models.local.generate import Sampling, generate
from rlaif.models.local.packing import Row, hidden_states
from rlaif.training.head import chosen_logprobs
from rlaif.training.scalar_model import ScalarModel

VOCABULARY = 128
SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "word_embed_proj_dim", "embedding_size"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "d_ff", "dff"), 96),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim"), 96),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 4),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 256),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_d_state", "ssm_state_size", "head_dim"), 16),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "rotary_dim", "sliding_window"), 8),
    **dict.fromkeys(("mamba_n_groups", "n_groups", "n_group", "topk_group"), 1),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size"), 16),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok", "moe_k"), 2),
    "mamba_d_ssm": 128,
    "vocab_size": VOCABULARY,
    "encoder_attention_heads": 4,
}
ALWAYS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "head_dim": 8,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
}
MORE: dict[str, dict[str, Any]] = {
    **{
        name: dict(LATENT, first_k_dense_replace=1) for name in ("deepseek_v2", "deepseek_v3", "glm4_moe_lite", "youtu")
    },
    "axk1": dict(LATENT, first_k_dense_replace=1),
    "bamba": {"attn_layer_indices": [1, 3]},
    "ernie4_5_moe": {"moe_num_experts": 4, "moe_k": 2},
    "bloom": {"hidden_size": 64, "n_head": 4, "n_layer": 4},
    "cpmant": {"dim_head": 16, "prompt_types": 4, "segment_types": 4, "prompt_length": 4},
    "deepseek_v2": dict(LATENT, first_k_dense_replace=1),
    "dots1": {"n_shared_experts": 1, "first_k_dense_replace": 1},
    "ctrl": {"dff": 96},
    "gemma3_text": {"query_pre_attn_scalar": 16},
    "gemma4_text": {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY, "global_head_dim": 16},
    "gpt_neo": {"num_layers": 4, "attention_types": [[["global", "local"], 2]], "window_size": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "longcat_flash": dict(LATENT, ffn_hidden_size=96, expert_ffn_hidden_size=32, moe_topk=2, zero_expert_num=2),
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 1, "state_size": 16},
    "qwen3_5_text": {
        "layer_types": ["linear_attention", "full_attention"] * 2,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
    },
    "qwen3_next": {
        "layer_types": ["linear_attention", "full_attention"] * 2,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
    },
    "reformer": {"axial_pos_embds_dim": [32, 32], "axial_pos_shape": [16, 16], "is_decoder": True},
    "roc_bert": {"pronunciation_vocab_size": 8, "shape_vocab_size": 8},
    "xlm": {"emb_dim": 64},
    "phi3": {
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "long_factor": [4.0] * 8,
            "short_factor": [1.0] * 8,
            "original_max_position_embeddings": 24,
        },
        "original_max_position_embeddings": 24,
    },
}


class Result(NamedTuple):
    """One line of the table."""

    name: str
    rows: str
    logprob: float | None = None
    text: str = ""
    score: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    lines = []
    for name in args.names or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        result = measure(name)
        error = "" if result.logprob is None else f"{result.logprob:.0e}"
        lines.append(f"| {result.name} | {result.rows} | {error} | {result.text} | {result.score} |")
        print(lines[-1], flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


def measure(name: str) -> Result:
    """What rlaif makes of this architecture."""
    try:
        model = build(name, AutoModelForCausalLM)
        rows = some_rows()
        expected = [alone(model, row) for row in rows]
    except Exception as error:
        return Result(name, f"not built here: {first_line(error)}")
    try:
        with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            hidden = hidden_states(backbone_of(model), rows).chosen()
            targets = torch.tensor([token for row in rows for token in row.response])
            found = chosen_logprobs(output_of(model), hidden, targets, 1.0).split([len(row.response) for row in rows])
    except ModelError as error:
        return Result(name, f"refused: {first_line(error)}")
    worst = max(float((ours - theirs).abs().max()) for ours, theirs in zip(found, expected, strict=True))
    way = backbone_of(model)._rlaif_way.name
    return Result(name, way, worst, text_of(model, rows), score_of(name, rows))


def build(name: str, kind: Any) -> Any:
    """A random model whose layers and attention matter, also where the defaults would hardly show them."""
    cls = CONFIG_MAPPING[name]
    known = set(inspect.signature(cls.__init__).parameters) | set(cls().to_dict())
    unset = {key for key, value in cls().to_dict().items() if value is None} & {"sliding_window", "num_key_value_heads"}
    sizes = {key: value for key, value in SMALL.items() if key in known - unset}
    config = cls(**(sizes | ALWAYS | MORE.get(name, {})))
    if hasattr(config, "is_decoder"):
        config.is_decoder = True
    with torch.device("meta"):
        if kind.from_config(config).num_parameters() > 2e7:
            raise ValueError("no small config known")
    torch.manual_seed(0)
    model = kind.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def some_rows() -> list[Row]:
    """Two prompts with two responses each, beyond every window."""
    dice = random.Random(1)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(dice.randrange(3, VOCABULARY) for _ in range(count))

    prompts = ids(13), ids(9)
    return [Row(prompts[0], ids(14)), Row(prompts[0], ids(11)), Row(prompts[1], ids(12)), Row(prompts[1], ids(15))]


@torch.no_grad()
def alone(model: Any, row: Row) -> torch.Tensor:
    """logprob_T of the response by the model's own forward pass."""
    tokens = torch.tensor([[*row.prompt, *row.response]])
    logprobs = torch.log_softmax(model(input_ids=tokens).logits[0].float(), -1)
    return logprobs[len(row.prompt) - 1 : -1].gather(1, torch.tensor(row.response)[:, None])[:, 0]


def text_of(model: Any, rows: Sequence[Row]) -> str:
    """Whether greedy text beside others is what the model alone gives, token by token."""
    prompts = [row.prompt for row in rows[1:3]]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            found = [sample.tokens for sample in generate(model, prompts, Sampling(12, 0.0), [0, 0], 0)]
        cached = "cached" if model._rlaif_caches else "recomputed"
        return cached if found == [greedy(model, prompt, 12) for prompt in prompts] else f"{cached}: DIFFERENT"
    except Exception as error:
        return f"error: {first_line(error)}"


@torch.no_grad()
def greedy(model: Any, prompt: Sequence[int], count: int) -> list[int]:
    """The likeliest token each time, by whole passes."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
        if tokens[-1] == 2:
            break
    return tokens[len(prompt) :]


def score_of(name: str, rows: Sequence[Row]) -> str:
    """The largest error of a score beside neighbours; empty where transformers has no classifier of the kind."""
    try:
        model = build(name, OneScore)
    except Exception:
        return ""
    try:
        with torch.no_grad():
            expected = torch.stack([model(input_ids=torch.tensor([[*p, *r]])).logits[0, 0] for p, r in rows])
            with contextlib.redirect_stdout(io.StringIO()):
                found = ScalarModel(model).scores(rows)
    except ModelError as error:
        return f"refused: {first_line(error)}"
    except Exception as error:
        return f"error: {first_line(error)}"
    return f"{float((found - expected).abs().max()):.0e}"


class OneScore:
    """AutoModelForSequenceClassification with one label."""

    @staticmethod
    def from_config(config: Any, **options: Any) -> Any:
        config.num_labels = 1
        return AutoModelForSequenceClassification.from_config(config, **options)


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')[:110]}".replace("|", "/")


if __name__ == "__main__":
    main()
