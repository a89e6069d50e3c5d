"""Tiny models of many families: byte-level tokenizers with the chat template and the special tokens of each."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rlaif.testing import CHAT_TEMPLATE, tiny_model


def same_bits_on_two_threads_and_on_one(compute: Callable[[], tuple[torch.Tensor, ...]]) -> None:
    """Tests have one thread. Runs have one for each free core, and go on to the same bytes with another number."""
    found = []
    for threads in (2, 1):
        torch.set_num_threads(threads)
        found.append(compute())
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


class Family(NamedTuple):
    """How a family of models ends a turn. `end` is what its template writes after an assistant's message."""

    special: tuple[str, ...]
    template: str
    end: tuple[str, ...]
    eos: str
    bos: str | None = None
    pad: str | None = None


_ALTERNATING = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
FAMILIES = {
    "llama3": Family(
        ("<|begin|>", "<|eos|>", "<|head|>", "<|/head|>", "<|eot|>", "<|pad|>"),
        "{{ bos_token }}{% for m in messages %}<|head|>{{ m['role'] }}<|/head|>\n\n{{ m['content'] | trim }}<|eot|>"
        "{% endfor %}{% if add_generation_prompt %}<|head|>assistant<|/head|>\n\n{% endif %}",
        ("<|eot|>",),
        eos="<|eos|>",
        bos="<|begin|>",
        pad="<|eos|>",
    ),
    "gemma": Family(
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        f"{_ALTERNATING}{{{{ bos_token }}}}{{% for m in messages %}}<start_of_turn>"
        "{{ 'model' if m['role'] == 'assistant' else 'user' }}\n{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        ("<end_of_turn>", "\n"),
        eos="<eos>",
        bos="<bos>",
        pad="<pad>",
    ),
    "phi": Family(
        ("<unk>", "<|eos|>", "<|assistant|>", "<|user|>", "<|system|>", "<|end|>"),
        "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
        ("<|end|>", "\n", "<|eos|>"),
        eos="<|eos|>",
        pad="<|eos|>",
    ),
    "mistral": Family(
        ("<unk>", "<s>", "</s>"),
        f"{_ALTERNATING}{{{{ bos_token }}}}{{% for m in messages %}}{{% if m['role'] == 'user' %}}"
        "[INST] {{ m['content'] }} [/INST]{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}",
        ("</s>",),
        eos="</s>",
        bos="<s>",
        pad="</s>",
    ),
    "eos alone": Family(
        ("<|endoftext|>",),
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
        ("<|endoftext|>",),
        eos="<|endoftext|>",
        bos="<|endoftext|>",
        pad="<|endoftext|>",
    ),
    "a line": Family(
        ("<|endoftext|>",),
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
        ("\n",),
        eos="<|endoftext|>",
    ),
    "nothing": Family(
        ("<|endoftext|>", "<|pad|>"),
        "{% for m in messages %}{{ '\n' if not loop.first }}{{ m['role'] }}: {{ m['content'] }}{% endfor %}"
        "{{ '\n' + 'assistant: ' if add_generation_prompt }}",
        (),
        eos="<|endoftext|>",
        pad="<|pad|>",
    ),
    "thinking may be off": Family(
        ("<|pad|>", "<|im_start|>", "<|im_end|>"),
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ '<think>\n\n</think>\n\n' if loop.last and "
        "m['role'] == 'assistant' }}{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}"
        "<|im_start|>assistant\n{{ '<think>\n\n</think>\n\n' if enable_thinking is false }}{% endif %}",
        ("<|im_end|>", "\n"),
        eos="<|im_end|>",
        pad="<|pad|>",
    ),
    "always thinks": Family(
        ("<|pad|>", "<|user|>", "<|bot|>", "<|end|>"),
        "{% for m in messages %}{{ '<|bot|>' if m['role'] == 'assistant' else '<|user|>' }}"
        "{{ m['content'].split('</think>')[-1] | trim }}{{ '<|end|>' if m['role'] == 'assistant' }}{% endfor %}"
        "{% if add_generation_prompt %}<|bot|><think>\n{% endif %}",
        ("<|end|>",),
        eos="<|end|>",
        pad="<|pad|>",
    ),
    "says how it thinks": Family(
        ("<|pad|>", "<|im_start|>", "<|im_end|>"),
        "<|im_start|>system\n{{ '/no_think' if enable_thinking is false else '/think' }}<|im_end|>\n" + CHAT_TEMPLATE,
        ("<|im_end|>", "\n"),
        eos="<|im_end|>",
        pad="<|pad|>",
    ),
}


def tokenizer_of(family: str) -> PreTrainedTokenizerFast:
    """Byte-level, with the family's template and special tokens; one with a BOS puts it before every text."""
    special, template, _, eos, bos, pad = FAMILIES[family]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate([*special, *alphabet])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bos is not None:
        place = [(bos, special.index(bos))]
        tokenizer.post_processor = processors.TemplateProcessing(f"{bos} $A", f"{bos} $A {bos} $B", place)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=eos,
        bos_token=bos,
        pad_token=pad,
        additional_special_tokens=list(special),
        chat_template=template,
    )


def save_family(family: str, folder: Path, **changes: object) -> str:
    """A model of exactly as many tokens as the family's tokenizer has, and that."""
    tokenizer = tokenizer_of(family)
    tiny_model(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **changes,
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
