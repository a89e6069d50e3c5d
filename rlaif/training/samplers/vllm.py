"""Rollouts from a vLLM server that is given the policy's weights before every step, and is checked to have them.

The server reads a folder (`write_weights`) when it starts and again at each `sync`; `parity` judges whether it is the
policy that learns. With several processes the first one owns the server, and all get what it writes.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlaif.config.models import ClientModel, VllmModel
from rlaif.config.rollouts import VllmRollouts
from rlaif.errors import ModelError, TrainingError
from rlaif.files import writing
from rlaif.models.client.tokens import Lost, TokenClient, TokenRequest
from rlaif.models.embedded import ResolvedModel
from rlaif.models.local.generate import Sampling, end_tokens
from rlaif.models.local.packing import Row, response_mask
from rlaif.models.local.tokens import encode_prompt
from rlaif.models.process import ServerProcess
from rlaif.models.server import check_alive, require_vllm, runs_on_cpu, start_server, stop_server
from rlaif.models.wire_tokens import Continuation
from rlaif.records import Message
from rlaif.training import parallel
from rlaif.training.policy_model import PolicyModel
from rlaif.training.samplers import SampledResponse
from rlaif.training.samplers.parity import Follower, LogprobPair, Parity, check

NAME = "policy"
PROBE_TOKENS = 48
"""Of the answer to each question in the fixed text."""
AGAIN_TOKENS = 32
"""Of what is written anew to each at every later sync."""
PROBE_TEMPERATURE = 0.7
"""Not 1, so that a server which tells log-probabilities of another temperature than it draws from shows."""
PROBE_BATCH = 4096
"""Tokens of the probe in one forward pass."""
PROBE_TEXT = (
    "A traveller came to a village by the sea in the last days of autumn. The boats were drawn up on the sand, and "
    "smoke stood above every roof. She asked the first child that she met where one could sleep and eat, and the child "
    "pointed to a long low house with a green door, and said that there one paid with stories. "
)
"""Longer than a block of the server's prefix cache, so that a cache that outlived its weights shows."""
PROBE_QUESTIONS = ("What happened next?", "Why stories?", "Name three things in this scene.", "Continue in verse.")


class ServerSample(NamedTuple):
    """What the server showed of itself after a sync."""

    rows: list[Row]
    """Written just now."""
    written: list[float]
    """The log-probabilities that came with them, row after row."""
    read: list[float]
    """What it says of the fixed text, token by token."""
    log: str


class VllmSampler:
    """The server starts at the first `sync`, with the weights of that moment; `folder` is where it reads them."""

    def __init__(self, config: VllmRollouts, policy: PolicyModel, folder: Path) -> None:
        require_vllm()
        self.parity: Parity | None = None
        """Of the last sync."""
        self._config = config
        self._policy = policy
        self._folder = folder.resolve()
        self._process: ServerProcess | None = None
        self._client: TokenClient | None = None
        self._probe: list[Row] = []
        self._follower = Follower()

    # ------------------------------------------------------------------------------------------- the protocol

    def sync(self) -> None:
        """The server writes with the policy's weights as they are now. TrainingError where it turns out not to."""
        write_weights(self._policy, self._folder, own_head=runs_on_cpu())
        parallel.first(self._reload if self._probe else self._start)
        self.parity = self._compare()

    def sample(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[SampledResponse]:
        """One response to each prompt, with the log-probabilities of its tokens at the sampling temperature."""
        ends = end_tokens(self._policy.model)
        requests = [
            TokenRequest(prompt, sampling.max_tokens, sampling.temperature, sampling.top_p, seed, ends)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        written = parallel.first(lambda: self._ask(requests))
        return [SampledResponse(one.tokens, one.tokens[-1] in ends, tuple(one.logprobs)) for one in written]

    def close(self) -> None:
        """Stop the server and drop its copy of the weights."""
        process, self._process, self._client = self._process, None, None
        if process is not None:
            stop_server(process)
            shutil.rmtree(self._folder, ignore_errors=True)
        self._probe, self._follower = [], Follower()

    # --------------------------------------------------------------------------------------------- the server

    def _start(self) -> None:
        config = VllmModel(
            model=NAME,
            dtype="float32" if self._policy.model.dtype == torch.float32 else "bfloat16",
            max_model_len=self._config.max_model_len,
            startup_timeout_s=self._config.startup_timeout_s,
            # What the policy-gradient needs is the distribution that was drawn from; vLLM's default is the raw one.
            arguments=("--logprobs-mode", "processed_logprobs", "--enable-prefix-caching", *self._config.arguments),
        )
        # Without it the server cannot be told to read its weights again.
        base_url, self._process = start_server(
            config, ResolvedModel(str(self._folder), ""), {"VLLM_SERVER_DEV_MODE": "1"}
        )
        self._client = TokenClient(
            ClientModel(
                model=NAME,
                base_urls=(base_url,),
                concurrency=self._config.concurrency,
                timeout_s=self._config.timeout_s,
            )
        )

    def _reload(self) -> None:
        """Have the server read the folder again and forget what it computed with the weights before."""
        with self._or_its_end() as client:
            client.control(
                "/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(self._folder)}}
            )
            told = client.control("/reset_prefix_cache", {})
        # Older servers say nothing; a new one says no where requests still run.
        if _refuses(told):
            raise ModelError("the vLLM server could not reset its prefix cache: requests of an earlier step still run")

    def _ask(self, requests: Sequence[TokenRequest]) -> list[Continuation]:
        with self._or_its_end() as client:
            answers = client.write(requests)
            found = [answer for answer in answers if isinstance(answer, Continuation)]
            if len(found) < len(answers):
                raise self._lost(requests, answers)
        return found

    def _lost(self, requests: Sequence[TokenRequest], answers: Sequence[Continuation | Lost]) -> TrainingError:
        place, lost = next((i, answer) for i, answer in enumerate(answers) if isinstance(answer, Lost))
        count = sum(isinstance(answer, Lost) for answer in answers)
        text = " ".join(self._policy.tokenizer.decode(requests[place].prompt, skip_special_tokens=True).split())
        return TrainingError(
            f"{count} of {len(answers)} rollouts failed; the first, to the prompt '...{text[-80:]}': {lost.reason}; "
            "see optimise.rollouts.max_model_len and timeout_s"
        )

    @contextlib.contextmanager
    def _or_its_end(self) -> Iterator[TokenClient]:
        """The client; where the server has died meanwhile, that is the error."""
        assert self._client is not None and self._process is not None
        try:
            yield self._client
        except (ModelError, TrainingError):
            check_alive(self._process)
            raise

    # ---------------------------------------------------------------------------------------------- the check

    def _compare(self) -> Parity:
        look = parallel.first(self._look)
        self._probe = self._probe or look.rows
        # The server holds merged weights, so that is what it must have followed; what learns is the unmerged model.
        with self._policy.for_generation():
            now = LogprobPair(torch.tensor(look.read, dtype=torch.float64), self._says(self._probe, 1.0))
        new = LogprobPair(torch.tensor(look.written, dtype=torch.float64), self._says(look.rows, PROBE_TEMPERATURE))
        parity = Parity(max(now.gap, new.gap), self._follower.look(now))
        check(parity, self._config.parity_tolerance, look.log)
        return parity

    def _look(self) -> ServerSample:
        """What the server writes now, as it writes rollouts, and what it says of the text that it wrote first."""
        turns = [(Message(role="user", content=PROBE_TEXT + question),) for question in PROBE_QUESTIONS]
        count = AGAIN_TOKENS if self._probe else PROBE_TOKENS
        prompts = [
            encode_prompt(self._policy.tokenizer, turn, self._config.max_model_len - PROBE_TOKENS - 1) for turn in turns
        ]
        written = self._ask(
            [TokenRequest(ids, count, PROBE_TEMPERATURE, 1.0, place, ()) for place, ids in enumerate(prompts)]
        )
        rows = [Row(tuple(ids), tuple(one.tokens)) for ids, one in zip(prompts, written, strict=True)]
        known = self._probe or rows
        with self._or_its_end() as client:
            answers = client.read([row.prompt + row.response for row in known])
        read: list[float] = []
        for row, answer in zip(known, answers, strict=True):
            if isinstance(answer, Lost):
                raise TrainingError(f"the vLLM server does not say what it thinks of a text: {answer.reason}")
            read += answer[-len(row.response) :]
        assert self._process is not None
        return ServerSample(rows, [value for one in written for value in one.logprobs], read, str(self._process.log))

    def _says(self, rows: Sequence[Row], temperature: float) -> Tensor:
        """The policy's log-probability of every response token, row after row."""
        logprobs_BT = self._policy.without_gradients(rows, temperature, PROBE_BATCH).logprobs_BT
        return logprobs_BT[response_mask(rows, logprobs_BT.device)].cpu().double()


def _refuses(told: bytes) -> bool:
    """Whether a command's answer says that it was not done; one that is not JSON says nothing."""
    try:
        answer = json.loads(told)
    except (ValueError, RecursionError):
        return False
    return isinstance(answer, dict) and answer.get("success") is False


# ------------------------------------------------------------------------------------------------- its weights


def write_weights(policy: PolicyModel, folder: Path, *, own_head: bool) -> None:
    """Write what the policy is now, in Hugging Face format with the adapter merged in; the folder holds all of it or
    what it held before. To be called by all processes. TrainingError where it cannot be written.

    With `own_head` an output head that is tied to the embedding is written as a matrix of its own: vLLM on a CPU packs
    the head into a copy when it starts, and a reload (0.32) renews a head that is in the file but no tied one.
    """
    with policy.for_generation():
        state = {_plain(name): tensor for name, tensor in policy.model.state_dict().items() if ".lora_" not in name}
        parallel.first(lambda: _replace(policy, state, folder, own_head))


def _plain(name: str) -> str:
    """The name without what an adapter put into it."""
    return name.replace(".base_layer.", ".")


def _replace(policy: PolicyModel, state: dict[str, Any], folder: Path, own_head: bool) -> None:
    model, new = policy.model, folder.with_name(f"{folder.name}.writing")
    untie = own_head and bool(model.config.get_text_config().tie_word_embeddings)
    if untie:
        output = model.get_output_embeddings()
        head = next(f"{_plain(name)}.weight" for name, module in model.named_modules() if module is output)
        state = state | {head: state[head].clone()}
    shutil.rmtree(new, ignore_errors=True)
    try:
        with writing(folder):
            model.save_pretrained(new, state_dict=state)
            if untie:
                _say_untied(new / "config.json")
            policy.tokenizer.save_pretrained(new)
            shutil.rmtree(folder, ignore_errors=True)
            new.rename(folder)
    except OSError as error:
        raise TrainingError(f"cannot write the policy's weights for the server to {folder}: {error.strerror}") from None


def _say_untied(config: Path) -> None:
    settings = json.loads(config.read_text(encoding="utf-8"))
    for section in (settings, settings.get("text_config", {})):
        if "tie_word_embeddings" in section or section is settings:
            section["tie_word_embeddings"] = False
    config.write_text(json.dumps(settings, indent=2), encoding="utf-8")
