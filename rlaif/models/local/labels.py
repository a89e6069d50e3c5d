"""Which token ids of a model in this process say each label, and where an answer to a prompt begins."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Any, NamedTuple

from rlaif.errors import ModelError
from rlaif.models.chat import ChatRequest
from rlaif.models.day import strftime_now
from rlaif.models.labels import BLANK, speaker
from rlaif.models.local.tokens import encode_prompt, label_token, render
from rlaif.models.reasoning import closing, template_words
from rlaif.records import Message, Messages, plain


class LabelTokens(NamedTuple):
    """Where the labels' probabilities are read."""

    lead: list[int]
    """Tokens of white space that come before an answer, read after the prompt: with some tokenizers a digit."""
    ids: list[list[int]]
    """For each label, the tokens that say it."""


def decoded(tokenizer: Any) -> list[str]:
    """The text of every token by itself."""
    texts: list[str] = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], clean_up_tokenization_spaces=False)
    return texts


def label_tokens(
    tokenizer: Any, texts: Sequence[str], size: int, messages: Messages, labels: tuple[str, ...]
) -> LabelTokens:
    """What says each label as the answer to these messages; `texts` is `decoded`, `size` the number of logits.

    ModelError for a label that is several tokens there.
    """
    said = speaker(labels)
    ids: dict[str, list[int]] = {label: [] for label in labels}
    for token, text in enumerate(texts[:size]):
        if (label := said(text)) is not None:
            ids[label].append(token)
    leads = []
    for label in labels:
        answer = _answer(tokenizer, messages, label)
        lead = list(takewhile(lambda token: not texts[token].strip(BLANK), answer))
        first = texts[answer[len(lead)]].strip(BLANK) if len(answer) > len(lead) else ""
        if not ids[label] or (first and first != label and label.startswith(first)):
            label_token(tokenizer, label)  # says how many
            raise ModelError(
                f"label {label!r} is several tokens after this model's prompt; a label must be exactly one"
            )
        leads.append(lead if first and said(first) == label else [])
    if any(lead != leads[0] for lead in leads):
        raise ModelError(f"labels {' '.join(labels)}: some begin with a blank token of their own for this model")
    return LabelTokens(leads[0], [ids[label] for label in labels])


class KnownLabels:
    """The tokens of each set of labels, found when it is first asked about: every prompt of a model ends alike."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._texts: list[str] = []
        self._known: dict[tuple[str, ...], LabelTokens] = {}

    def tokens(self, model: Any, request: ChatRequest) -> LabelTokens:
        """Those of the request's labels, for a model that has this tokenizer."""
        if request.labels not in self._known:
            self._texts = self._texts or decoded(self._tokenizer)
            size = model.get_output_embeddings().weight.shape[0]
            found = label_tokens(self._tokenizer, self._texts, size, request.messages, request.labels)
            self._known[request.labels] = found
        return self._known[request.labels]


def _answer(tokenizer: Any, messages: Messages, label: str) -> list[int]:
    """The tokens after the prompt when the assistant's turn is the label, as the template writes such turns; as the
    tokenizer reads on where the template then writes the prompt itself in another way."""
    prompt = encode_prompt(tokenizer, messages)
    words = template_words(False)
    with suppress(ModelError):  # some templates refuse a conversation that the assistant ends
        whole = render(tokenizer, (*messages, Message(role="assistant", content=label)), **words)
        if whole[: len(prompt)] == prompt:
            return whole[len(prompt) :]
    text = tokenizer.apply_chat_template(
        plain(messages), add_generation_prompt=True, tokenize=False, strftime_now=strftime_now, **words
    )
    whole = tokenizer.encode(text + closing(text) + label, add_special_tokens=False)
    same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(prompt, whole, strict=False))))
    return whole[same:]
