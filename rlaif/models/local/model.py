"""`LocalChatModel`: requests sorted by kind and length, cut into batches, answered batch by batch.

Batches are formed from the requests in a fixed order, and each batch is handed on whole. So a run that was killed
and asks again for what is missing forms the same batches, and gets the same bytes.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence

import torch

from rlaif.config.sections import LocalModel
from rlaif.models.chat import ChatRequest, OnReplies, Reply
from rlaif.models.local.generate import Sampling, generate, left_pad
from rlaif.models.local.load import DTYPES, Loaded, load_language_model
from rlaif.models.local.tokens import encode_prompt, label_token

Encoded = tuple[int, ChatRequest, list[int]]  # index of the request, the request, its prompt's token ids


class LocalChatModel:
    """See `ChatModel`. Loads the model at once; `close` frees it."""

    def __init__(self, config: LocalModel) -> None:
        self.name = config.model
        self._batch_size = config.batch_size
        loaded: Loaded = load_language_model(config.model, config.revision, DTYPES[config.dtype])
        self.revision = loaded.revision
        self._model, self._tokenizer = loaded.model, loaded.tokenizer
        self._context: int = loaded.model.config.max_position_embeddings

    def chat(self, requests: Sequence[ChatRequest], on_replies: OnReplies | None = None) -> list[Reply]:
        replies: list[Reply | None] = [None] * len(requests)
        encoded = [(i, r, encode_prompt(self._tokenizer, r.messages)) for i, r in enumerate(requests)]
        for batch in _batches(encoded, self._batch_size):
            answered = self._answer(batch)
            for index, reply in answered:
                replies[index] = reply
            if on_replies is not None:
                on_replies(answered)
        return [reply for reply in replies if reply is not None]

    def _answer(self, batch: Sequence[Encoded]) -> list[tuple[int, Reply]]:
        """The whole batch: prompts too long for the model become errors, the others are read or continued."""
        answered = []
        fitting = []
        for index, request, ids in batch:
            room = self._context - len(ids) - request.max_tokens
            if room < 0:
                error = f"prompt of {len(ids)} tokens does not fit a context of {self._context}"
                answered.append((index, Reply(error=error, prompt_tokens=len(ids))))
            else:
                fitting.append((index, request, ids))
        if fitting:
            answered += self._read_labels(fitting) if fitting[0][1].labels else self._write(fitting)
        return answered

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
                    text=self._tokenizer.decode(sample.tokens, skip_special_tokens=True),
                    finish_reason="stop" if sample.finished else "length",
                    prompt_tokens=len(ids),
                    completion_tokens=len(sample.tokens),
                ),
            )
            for (index, _, ids), sample in zip(batch, samples, strict=True)
        ]

    @torch.inference_mode()
    def _read_labels(self, batch: Sequence[Encoded]) -> list[tuple[int, Reply]]:
        labels = batch[0][1].labels
        label_ids = [label_token(self._tokenizer, label) for label in labels]
        tokens_BS, mask_BS = left_pad(
            [ids for _, _, ids in batch], self._tokenizer.pad_token_id or 0, self._model.device
        )
        logits_BV = self._model(
            input_ids=tokens_BS,
            attention_mask=mask_BS,
            position_ids=(mask_BS.cumsum(1) - 1).clamp(min=0),
            logits_to_keep=1,
            use_cache=False,
        ).logits[:, -1]
        logprobs_BL = torch.log_softmax(logits_BV.float(), -1)[:, label_ids].tolist()
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
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _batches(encoded: Sequence[Encoded], size: int) -> Iterator[list[Encoded]]:
    """Requests of one kind (same labels or same sampling) and similar length, `size` at a time, longest first."""

    def kind(item: Encoded) -> tuple[object, ...]:
        request = item[1]
        return (request.labels, request.max_tokens, request.temperature, request.top_p)

    ordered = sorted(encoded, key=lambda item: (kind(item), -len(item[2]), item[0]))
    batch: list[Encoded] = []
    for item in ordered:
        if batch and (len(batch) == size or kind(item) != kind(batch[0])):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
