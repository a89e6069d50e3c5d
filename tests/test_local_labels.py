"""Which tokens a model in this process is read at, for tokenizers and templates of several families."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlaif.config.models import LocalModel
from rlaif.errors import ModelError
from rlaif.models.engine import ChatRequest
from rlaif.models.engine import ask as replies_of
from rlaif.models.local.answers import LabelTokens, decoded, label_tokens
from rlaif.models.local.model import LocalChatModel
from rlaif.records import Message
from rlaif.testing import tiny_tokenizer

BLANK = "\u2581"
ON_A_NEW_LINE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
AFTER_A_BLANK = (
    "{% for m in messages %}{{ '[INST] ' + m['content'] + ' [/INST]' if m['role'] == 'user' "
    "else ' ' + m['content'] + '</s>' }}{% endfor %}"
)
THOUGHTS_CUT = (
    "{% for m in messages %}{{ m['role'] + ':' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: <think>\n{% endif %}"
)
NO_LAST_WORD = "{% if messages[-1]['role'] == 'assistant' %}{{ raise_exception('No.') }}{% endif %}" + THOUGHTS_CUT
QUESTION = (Message(role="user", content="Which one?"),)


def sentencepiece(template: str, *merged: str) -> PreTrainedTokenizerFast:
    """Llama 2's kind: a blank before the first word of a text, one token per character but for `merged`, and a byte
    token that reads as A does."""
    characters = [*map(chr, range(33, 127)), "\n", BLANK]
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, "<0x41>": 3}
    merges = []
    for text in (*characters, *(word[: n + 1] for word in merged for n in range(1, len(word)))):
        if text not in vocabulary:
            vocabulary[text] = len(vocabulary)
            merges += [(text[:-1], text[-1])] * (len(text) > 1)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=BLANK, prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(replacement=BLANK, prepend_scheme="first")]
    )
    found = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", bos_token="<s>", unk_token="<unk>", pad_token="<unk>"
    )
    found.chat_template = template
    return found


def read_at(tokenizer: PreTrainedTokenizerFast, *labels: str) -> LabelTokens:
    return label_tokens(tokenizer, decoded(tokenizer), len(tokenizer), QUESTION, labels)


def shown(tokenizer: PreTrainedTokenizerFast, found: LabelTokens) -> tuple[list[str], list[set[str]]]:
    lead = tokenizer.convert_ids_to_tokens(found.lead)
    return lead, [set(tokenizer.convert_ids_to_tokens(ids)) for ids in found.ids]


@pytest.mark.parametrize("template", [ON_A_NEW_LINE, AFTER_A_BLANK, THOUGHTS_CUT, NO_LAST_WORD])
def test_a_letter_is_read_in_all_its_spellings_whatever_the_template(template: str) -> None:
    tokenizer = sentencepiece(template, BLANK + "A", BLANK + "B")
    spellings = [{"A", "a", BLANK + "A", "<0x41>"}, {"B", "b", BLANK + "B"}]
    assert shown(tokenizer, read_at(tokenizer, "A", "B")) == ([], spellings)


def test_a_digit_that_comes_after_a_blank_token_is_read_there() -> None:
    """Llama 2's and Mistral's tokenizers part digits from what stands before them."""
    tokenizer = sentencepiece(AFTER_A_BLANK)
    assert shown(tokenizer, read_at(tokenizer, "0", "7")) == ([BLANK], [{"0"}, {"7"}])
    tokenizer.chat_template = ON_A_NEW_LINE
    assert read_at(tokenizer, "0", "7").lead == []


def test_a_word_that_is_one_token_elsewhere_only_is_refused() -> None:
    tokenizer = sentencepiece(AFTER_A_BLANK, BLANK + "Yes", BLANK + "No")
    assert shown(tokenizer, read_at(tokenizer, "Yes", "No"))[1] == [{BLANK + "Yes"}, {BLANK + "No"}]
    tokenizer.chat_template = ON_A_NEW_LINE
    with pytest.raises(ModelError, match="'Yes' is several tokens after this model's prompt"):
        read_at(tokenizer, "Yes", "No")
    with pytest.raises(ModelError, match="label 'Maybe' is 6 tokens"):
        read_at(tokenizer, "Maybe", "No")


def test_a_byte_level_tokenizer_and_a_vocabulary_larger_than_the_model() -> None:
    tokenizer = tiny_tokenizer()
    found = read_at(tokenizer, "A", "B")
    assert shown(tokenizer, found) == ([], [{"A", "a"}, {"B", "b"}])
    few = label_tokens(tokenizer, decoded(tokenizer), max(found.ids[0]), QUESTION, ("A",))
    assert len(few.ids[0]) == 1


def test_a_judge_is_read_by_what_it_would_say_next(tmp_path: Path) -> None:
    """The model says the bare letter, the tokenizer by itself makes another token of it."""
    tokenizer = sentencepiece(ON_A_NEW_LINE, BLANK + "A", BLANK + "B")
    wanted = {"A": 0.7, "B": 0.1, BLANK + "A": 0.01, BLANK + "B": 0.05, "<0x41>": 0.04}
    rest = (1 - math.fsum(wanted.values())) / (len(tokenizer) - len(wanted))
    settings = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=False, **settings))
    with torch.no_grad():
        for weight in model.model.layers.parameters():
            weight.zero_()
        model.model.embed_tokens.weight.fill_(1.0)  # so that the last state is all ones, whatever the prompt
        logits = [math.log(wanted.get(token, rest)) for token in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))]
        model.lm_head.weight.copy_(torch.tensor(logits)[:, None].expand(-1, 8) / 8)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    judge = LocalChatModel(LocalModel(model=str(tmp_path), dtype="float32"))
    (reply,) = replies_of(judge, [ChatRequest(messages=QUESTION, labels=("A", "B"))])
    assert reply.label_logprobs is not None
    found = {label: math.exp(logprob) for label, logprob in reply.label_logprobs.items()}
    assert found == pytest.approx({"A": 0.75 + rest, "B": 0.15 + rest}, abs=1e-4)  # a and b besides
