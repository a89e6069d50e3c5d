"""A real transformer small enough to learn in seconds: 2 layers, 300 byte-level tokens, built in code."""

from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token; the end of a turn and padding are tokens of their own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|pad|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    vocabulary |= {character: i for i, character in enumerate(alphabet, start=3)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def tiny_model(seed: int = 0, **changes: object) -> LlamaForCausalLM:
    """Random weights, grouped-query attention, tied embeddings: the embedded model's architecture in small."""
    settings = {
        "vocab_size": 262,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**(settings | changes))).eval()


def save_tiny(folder: Path, seed: int = 0, **changes: object) -> str:
    """Write model and tokenizer as a Hugging Face folder; returns its path as text."""
    tiny_model(seed, **changes).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def same_bits_on_two_threads_and_on_one(compute: Callable[[], tuple[torch.Tensor, ...]]) -> None:
    """Tests have one thread. Runs have one for each free core, and go on to the same bytes with another number."""
    found = []
    for threads in (2, 1):
        torch.set_num_threads(threads)
        found.append(compute())
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
