"""Answers that are given to a model in this process: which tokens say each label, and how likely whole answers are.

Shape suffixes: N answer tokens of all rows, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rlaif.errors import ModelError
from rlaif.models.day import strftime_now
from rlaif.models.engine import ChatRequest, Likelihood
from rlaif.models.labels import BLANK, speaker
from rlaif.models.local.architecture import backbone_of, next_logits
from rlaif.models.local.packing import Row, hidden_states, packs
from rlaif.models.local.tokens import common, encode_prompt, render
from rlaif.models.reasoning import closing, template_words
from rlaif.records import Message, Messages, plain

AT_ONCE = 128
"""Logits at a time, at most: 25 MB in float32 for 49,152 words."""


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
            count = len(tokenizer.encode(label, add_special_tokens=False))
            said_as = f"{count} tokens for this model" if count != 1 else "several tokens after this model's prompt"
            raise ModelError(f"label {label!r} is {said_as}; a label must be exactly one")
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
    return whole[len(common([prompt, whole])) :]


# ------------------------------------------------------------------------------------------------- likelihoods


def likelihoods(model: Any, rows: Sequence[Row], answers: Sequence[int], texts: Sequence[int]) -> list[Likelihood]:
    """Of each row's last `answers` tokens, of which the first `texts` are the answer's text and the others end it."""
    hidden = hidden_states(backbone_of(model), rows)
    # An answer may be the end of a row's response: siblings share a part of their prompts.
    before = [places[-count:] for places, count in zip(hidden.before, answers, strict=True)]
    targets = [token for row, count in zip(rows, answers, strict=True) for token in row.response[-count:]]
    places_N = torch.tensor([place for each in before for place in each], device=hidden.states_NH.device)
    logprobs = _chosen(model, hidden.states_NH.index_select(0, places_N), targets).tolist()
    found = []
    for count, text in zip(answers, texts, strict=True):
        own, logprobs = logprobs[:count], logprobs[count:]
        found.append(Likelihood(logprob=sum(own[:text]), end_logprob=sum(own[text:]), tokens=text))
    return found


def _chosen(model: Any, hidden_NH: Tensor, targets: Sequence[int]) -> Tensor:
    """logprob_N in float64 of float32 logits, also where weights are bf16: a ratio of two such numbers is small."""
    targets_N = torch.tensor(targets, device=hidden_NH.device)
    parts = zip(hidden_NH.split(AT_ONCE), targets_N.split(AT_ONCE), strict=True)
    return torch.cat([-F.cross_entropy(next_logits(model, h), t, reduction="none").double() for h, t in parts])


def shared_rows(whole: Sequence[Sequence[int]]) -> list[Row]:
    """The tokens of siblings, cut where they begin to differ (each keeps its last token for itself)."""
    shared = len(common([ids[:-1] for ids in whole]))
    return [Row(tuple(ids[:shared]), tuple(ids[shared:])) for ids in whole]


def answer_rows(group: Sequence[tuple[Sequence[int], int]]) -> list[Row]:
    """Siblings (their tokens, and how many at the end are the answer's) as rows: those after one prompt share it, or
    all share what their prompts have in common, whichever is less to read."""
    own = [Row(tuple(ids[:-answer]), tuple(ids[-answer:])) for ids, answer in group]
    tree = shared_rows([ids for ids, _ in group])
    longest = min(len(row.prompt) for row in own)  # an answer's tokens stay after the prompt
    if len(tree[0].prompt) > longest:
        return own
    return min(own, tree, key=lambda rows: sum(pack.length for pack in packs(rows)))
