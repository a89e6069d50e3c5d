"""`LocalChatModel`: a window of requests is sorted by kind and length, cut into batches, answered batch by batch.

Batches are formed from a window's requests in a fixed order, and each batch is a lot. So a run that was killed and
asks again for what is missing of that window forms the same batches, and gets the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch

from rlaif.config.models import LocalModel
from rlaif.models.engine import ChatRequest, InLots, Lot, Reply
from rlaif.models.local.answers import KnownLabels, answer_rows, likelihoods, shared_rows
from rlaif.models.local.architecture import backbone_of, context_of, next_logits
from rlaif.models.local.attribution import Attribution, blank_of, integrated_gradients, pieces_of, places_of
from rlaif.models.local.generate import Sampling, generate
from rlaif.models.local.load import LoadedModel, free_memory, load_language_model
from rlaif.models.local.machine import DTYPES, resolve
from rlaif.models.local.packing import hidden_states
from rlaif.models.local.tokens import TemplateRefusal, answer_of, encode_prompt, encode_response, prompt_end, turn_of
from rlaif.models.reasoning import left_open
from rlaif.records import Messages

WINDOW = 1 << 17
"""Requests that are sorted together: those of a turn of judging 2,000 pairs under 32 principles."""


class EncodedRequest(NamedTuple):
    """A request as tokens."""

    place: int
    """Among the requests."""
    request: ChatRequest
    ids: list[int]
    """Of the prompt, then of the request's `answer` and of what ends it, if it has one."""
    answer: int = 0
    """How many are of the answer and its end."""


class LocalChatModel(InLots):
    """See `Engine`. Loads the model at once; `close` frees it."""

    window = WINDOW

    def __init__(self, config: LocalModel) -> None:
        # A folder's path says where it lies, not what it is; its revision is a hash of its content.
        self.name = Path(config.model).name if Path(config.model).is_dir() else config.model
        self._batch_size = config.batch_size
        dtype = resolve(config.dtype)
        loaded: LoadedModel = load_language_model(config.model, config.revision, DTYPES[dtype])
        self._thinking = config.thinking
        self.revision = f"{loaded.revision}-{dtype}{'-thinking' if config.thinking else ''}"
        self._model, self._tokenizer = loaded.model, loaded.tokenizer
        self._context = context_of(loaded.model.config)
        self._labels = KnownLabels(self._tokenizer)

    def lots(self, requests: Iterable[ChatRequest]) -> Iterator[Lot]:
        """Batch by batch."""
        waiting = enumerate(requests)
        while window := list(islice(waiting, self.window)):
            yield from (make() for make in self.unmade(window))

    def unmade(self, window: Sequence[tuple[int, ChatRequest]]) -> Iterator[Callable[[], Lot]]:
        """A whole batch at a time; before them the prompts that the model does not read.

        Those take no place in a batch: an error is not cached, so asked again it would cut the batches elsewhere.
        """
        encoded, refused = [], {}
        for number, request in window:
            try:
                item = self._encode(number, request)
            except TemplateRefusal as error:
                refused[number] = Reply(error=str(error), refused="form")
                continue
            count, more = len(item.ids), 0 if item.answer else request.max_tokens
            if self._context is not None and count + more > self._context:
                written = f", with {more} to write," if count < self._context else ""
                reason = f"prompt of {count} tokens{written} does not fit a context of {self._context}"
                refused[number] = Reply(error=reason, prompt_tokens=count, refused="length")
                continue
            encoded.append(item)
        if refused:
            yield lambda: list(refused.items())
        for batch in _batches(encoded, self._batch_size):
            if batch[0].answer:
                yield partial(self._read_answers, batch)
            else:
                yield partial(self._read_labels if batch[0].request.labels else self._write, batch)

    def _encode(self, index: int, request: ChatRequest) -> EncodedRequest:
        thinking = self._thinking and not request.labels and request.answer is None
        ids = encode_prompt(self._tokenizer, request.messages, thinking=thinking)
        if request.answer is None:
            return EncodedRequest(index, request, ids)
        answer = encode_response(self._tokenizer, request.answer)
        return EncodedRequest(index, request, [*ids, *answer], len(answer))

    def _begun(self, ids: list[int]) -> bool | None:
        """Whether the prompt leaves a block of reasoning open; else a model may still write the end of one."""
        return (self._thinking and left_open(prompt_end(self._tokenizer, ids))) or None

    def _write(self, batch: Sequence[EncodedRequest]) -> list[tuple[int, Reply]]:
        first = batch[0].request
        sampling = Sampling(first.max_tokens, first.temperature, first.top_p, first.shape)
        prompts = [item.ids for item in batch]
        seeds = [item.request.seed for item in batch]
        samples = generate(self._model, prompts, sampling, seeds, self._tokenizer.pad_token_id or 0)
        return [
            (
                item.place,
                Reply(
                    **answer_of(self._tokenizer, sample.tokens, sample.finished, self._begun(item.ids)),
                    prompt_tokens=len(item.ids),
                    completion_tokens=len(sample.tokens),
                ),
            )
            for item, sample in zip(batch, samples, strict=True)
        ]

    @torch.inference_mode()
    def _read_labels(self, batch: Sequence[EncodedRequest]) -> list[tuple[int, Reply]]:
        """The log-probability that the answer begins with each label; what requests share is read once."""
        labels = batch[0].request.labels
        lead, ids = self._labels.tokens(self._model, batch[0].request)
        rows = [row for group in _siblings(batch) for row in shared_rows([[*item.ids, *lead] for item in group])]
        hidden_BH = hidden_states(backbone_of(self._model), rows).at_last()
        logprobs_BV = torch.log_softmax(next_logits(self._model, hidden_BH), -1)
        logprobs_BL = torch.stack([logprobs_BV[:, tokens].logsumexp(-1).clamp(max=0.0) for tokens in ids], -1).tolist()
        return [
            (
                item.place,
                Reply(
                    text=labels[max(range(len(labels)), key=values.__getitem__)],
                    label_logprobs=dict(zip(labels, values, strict=True)),
                    prompt_tokens=len(item.ids),
                    completion_tokens=1,
                ),
            )
            for item, values in zip(batch, logprobs_BL, strict=True)
        ]

    @torch.inference_mode()
    def _read_answers(self, batch: Sequence[EncodedRequest]) -> list[tuple[int, Reply]]:
        """How likely each answer is; what requests share is read once."""
        rows = [row for group in _siblings(batch) for row in answer_rows([(item.ids, item.answer) for item in group])]
        ends = [item.answer - len(turn_of(self._tokenizer).written) for item in batch]
        found = likelihoods(self._model, rows, [item.answer for item in batch], ends)
        return [
            (item.place, Reply(likelihood=likely, prompt_tokens=len(item.ids)))
            for item, likely in zip(batch, found, strict=True)
        ]

    def explained(
        self, request: ChatRequest, marked: Messages, mark: str, text: str
    ) -> tuple[Attribution, list[tuple[str, float]]]:
        """What each token of `text` did to the log-odds of the request's first label over its second; `marked` are its
        messages with `mark` in the place of `text`."""
        ids = encode_prompt(self._tokenizer, request.messages)
        places = places_of(self._tokenizer, ids, request.messages, marked, mark, text)
        lead, (first, second) = self._labels.tokens(self._model, request)

        def log_odds(hidden_BH: torch.Tensor) -> torch.Tensor:
            logits_BV = next_logits(self._model, hidden_BH)
            return logits_BV[:, first].logsumexp(-1) - logits_BV[:, second].logsumexp(-1)

        blank = blank_of(self._tokenizer)
        found = integrated_gradients(backbone_of(self._model), log_odds, [*ids, *lead], places, blank)
        return found, pieces_of(self._tokenizer, [ids[place] for place in places], found.tokens)

    def close(self) -> None:
        self._model = None
        free_memory()


def _batches(encoded: Sequence[EncodedRequest], size: int) -> Iterator[list[EncodedRequest]]:
    """Requests of one kind (same labels or same sampling) and similar length, about `size` at a time, longest first.

    Siblings, which share a prefix, stay together.
    """

    def kind(item: EncodedRequest) -> tuple[object, ...]:
        request = item.request
        drawn = (request.max_tokens, request.temperature, request.top_p)
        # A shape came later: windows without one are cut as before.
        return (request.labels, item.answer > 0, *drawn, *((str(request.shape),) if request.shape else ()))

    groups = sorted(_siblings(encoded), key=lambda group: (kind(group[0]), -_length(group), group[0].place))
    batch: list[EncodedRequest] = []
    for group in groups:
        if batch and (len(batch) + len(group) > size or kind(group[0]) != kind(batch[0])):
            yield batch
            batch = []
        batch = batch + group
    if batch:
        yield batch


def _siblings(encoded: Sequence[EncodedRequest]) -> list[list[EncodedRequest]]:
    """Requests that are only read and have the same shared prefix, together; any other request alone."""
    groups: dict[object, list[EncodedRequest]] = {}
    for item in encoded:
        request = item.request
        *before, last = request.messages
        shared = last.content[: request.shared_prefix]
        read = (request.labels or item.answer) and shared
        key = (tuple(before), last.role, shared, request.labels, item.answer > 0) if read else item.place
        groups.setdefault(key, []).append(item)
    return list(groups.values())


def _length(group: Sequence[EncodedRequest]) -> int:
    return max(len(item.ids) for item in group)
