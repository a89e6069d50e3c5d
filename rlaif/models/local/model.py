"""`LocalChatModel`: requests sorted by kind and length, cut into batches, answered batch by batch.

Batches are formed from the requests in a fixed order, and each batch is handed on whole. So a run that was killed
and asks again for what is missing forms the same batches, and gets the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from rlaif.config.sections import LocalModel
from rlaif.models.chat import ChatRequest, OnReplies, Reply
from rlaif.models.local.dtype import DTYPES, resolve
from rlaif.models.local.generate import Sampling, generate
from rlaif.models.local.load import Loaded, free_memory, load_language_model
from rlaif.models.local.packing import Row, hidden_states
from rlaif.models.local.tokens import encode_prompt, label_token, response_text

Encoded = tuple[int, ChatRequest, list[int]]  # index of the request, the request, its prompt's token ids


class LocalChatModel:
    """See `ChatModel`. Loads the model at once; `close` frees it."""

    def __init__(self, config: LocalModel) -> None:
        # A folder's path says where it lies, not what it is; its revision is a hash of its content.
        self.name = Path(config.model).name if Path(config.model).is_dir() else config.model
        self._batch_size = config.batch_size
        dtype = resolve(config.dtype)
        loaded: Loaded = load_language_model(config.model, config.revision, DTYPES[dtype])
        self.revision = f"{loaded.revision}-{dtype}"
        self._model, self._tokenizer = loaded.model, loaded.tokenizer
        self._context: int = loaded.model.config.max_position_embeddings

    def chat(self, requests: Sequence[ChatRequest], on_replies: OnReplies | None = None) -> list[Reply]:
        replies: list[Reply | None] = [None] * len(requests)
        encoded = [(i, r, encode_prompt(self._tokenizer, r.messages)) for i, r in enumerate(requests)]
        for answered in self._answer(encoded):
            for index, reply in answered:
                replies[index] = reply
            if on_replies is not None:
                on_replies(answered)
        return [reply for reply in replies if reply is not None]

    def _answer(self, encoded: Sequence[Encoded]) -> Iterator[list[tuple[int, Reply]]]:
        """Replies, a whole batch at a time; before them the prompts that are too long for the model.

        Those take no place in a batch: an error is not cached, so asked again it would cut the batches elsewhere.
        """
        too_long = {}
        for index, request, ids in encoded:
            if len(ids) + request.max_tokens > self._context:
                error = f"prompt of {len(ids)} tokens does not fit a context of {self._context}"
                too_long[index] = Reply(error=error, prompt_tokens=len(ids))
        if too_long:
            yield list(too_long.items())
        for batch in _batches([item for item in encoded if item[0] not in too_long], self._batch_size):
            yield self._read_labels(batch) if batch[0][1].labels else self._write(batch)

    def _write(self, batch: Sequence[Encoded]) -> list[tuple[int, Reply]]:
        first = batch[0][1]
        sampling = Sampling(first.max_tokens, first.temperature, first.top_p)
        prompts = [ids for _, _, ids in batch]
        seeds = [request.seed for _, request, _ in batch]
        samples = generate(self._model, prompts, sampling, seeds, self._tokenizer.pad_token_id or 0)
        return [
            (
                index,
                Reply(
                    text=response_text(self._tokenizer, sample.tokens),
                    finish_reason="stop" if sample.finished else "length",
                    prompt_tokens=len(ids),
                    completion_tokens=len(sample.tokens),
                    token_ids=tuple(sample.tokens),
                ),
            )
            for (index, _, ids), sample in zip(batch, samples, strict=True)
        ]

    @torch.inference_mode()
    def _read_labels(self, batch: Sequence[Encoded]) -> list[tuple[int, Reply]]:
        """The next token's log-probabilities of the labels; what requests share is read once."""
        labels = batch[0][1].labels
        label_ids = [label_token(self._tokenizer, label) for label in labels]
        rows = [row for group in _siblings(batch) for row in _rows(group)]
        hidden_BH = hidden_states(getattr(self._model, self._model.base_model_prefix), rows).at_last()
        # In float32: bf16 rounds a logit near 20 to the nearest eighth, which is more than a weak judge says.
        logits_BV = F.linear(hidden_BH.float(), self._model.get_output_embeddings().weight.float())
        logprobs_BL = torch.log_softmax(logits_BV, -1)[:, label_ids].tolist()
        return [
            (
                index,
                Reply(
                    text=labels[max(range(len(labels)), key=values.__getitem__)],
                    label_logprobs=dict(zip(labels, values, strict=True)),
                    prompt_tokens=len(ids),
                    completion_tokens=1,
                ),
            )
            for (index, _, ids), values in zip(batch, logprobs_BL, strict=True)
        ]

    def close(self) -> None:
        self._model = None
        free_memory()


def _batches(encoded: Sequence[Encoded], size: int) -> Iterator[list[Encoded]]:
    """Requests of one kind (same labels or same sampling) and similar length, about `size` at a time, longest first.

    Siblings, which share a prefix, stay together.
    """

    def kind(item: Encoded) -> tuple[object, ...]:
        request = item[1]
        return (request.labels, request.max_tokens, request.temperature, request.top_p)

    groups = sorted(_siblings(encoded), key=lambda group: (kind(group[0]), -_length(group), group[0][0]))
    batch: list[Encoded] = []
    for group in groups:
        if batch and (len(batch) + len(group) > size or kind(group[0]) != kind(batch[0])):
            yield batch
            batch = []
        batch = batch + group
    if batch:
        yield batch


def _siblings(encoded: Sequence[Encoded]) -> list[list[Encoded]]:
    """Label requests with the same shared prefix, together; any other request alone."""
    groups: dict[object, list[Encoded]] = {}
    for item in encoded:
        index, request, _ = item
        *before, last = request.messages
        shared = last.content[: request.shared_prefix]
        key = (tuple(before), last.role, shared, request.labels) if request.labels and shared else index
        groups.setdefault(key, []).append(item)
    return list(groups.values())


def _length(group: Sequence[Encoded]) -> int:
    return max(len(ids) for _, _, ids in group)


def _rows(group: Sequence[Encoded]) -> list[Row]:
    """The siblings' tokens cut where they begin to differ (each keeps at least its last token for itself)."""
    ids = [item[2] for item in group]
    shared = len(os.path.commonprefix([row[:-1] for row in ids]))  # noqa: RUF071 (token by token)
    return [Row(tuple(row[:shared]), tuple(row[shared:])) for row in ids]
