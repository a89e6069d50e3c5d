"""Which model, and how it is reached."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from rlaif.config.base import Count, Positive, Section

_BASE_URL = re.compile(
    r"https?://(?:[^\s@/?#;'\"\\:\[\]]+|\[[0-9a-f:.]+\])(?::\d+)?(?:/(?:(?<=/)@|[^\s@?#;'\"\\])*)?|[^\s@?#;'\"\\]*",
    re.IGNORECASE,
)
"""What can hold no secret: a whole URL, or what is none but has no sign that sets a password apart."""
_NAMES_A_SECRET = re.compile(
    r".*(?:secret|password|passwd|pwd|passphrase|credentials?|authorization)|(?:key|token|bearer|sig|signature)"
    r"|.*(?:api|access|auth|secret|private|subscription|bearer)[_-]?(?:key|token)s?",
    re.IGNORECASE,
)
_OURS = {"model", "messages", "prompt", "input", "n", "best_of", "stream", "stream_options", "temperature", "top_p"}
_OURS |= {"seed", "max_tokens", "max_completion_tokens", "logprobs", "top_logprobs", "logprob_token_ids"}
_OURS |= {"return_tokens_as_token_ids"}
"""The fields of a request that say what is asked: rlaif writes them, or needs them to be as they are."""

Dtype = Literal["auto", "bfloat16", "float32"]
"""The number format of weights. auto: bf16 on GPUs and CPUs that multiply it in hardware, float32 elsewhere. A run goes
on in the format in which it began."""


class LocalModel(Section):
    """A transformers model in this process."""

    backend: Literal["local"] = "local"
    model: str
    """`smollm2-135m` (embedded), a folder, or a name on the Hugging Face hub."""
    revision: str | None = None
    dtype: Dtype = "auto"
    batch_size: Count = 32
    """Sequences generated or read at once."""
    thinking: bool = False
    """Whether a model that can may think before it writes a text. Its reasoning is set apart and counts as cost; a
    choice among labels is made without."""


class VllmModel(Section):
    """A vLLM server that rlaif starts and stops."""

    backend: Literal["vllm"] = "vllm"
    model: str
    revision: str | None = None
    dtype: Dtype = "auto"
    max_model_len: Count = 4096
    concurrency: Count = 128
    """Requests in flight at once."""
    timeout_s: Positive = 120.0
    startup_timeout_s: Positive = 900.0
    thinking: bool = False
    """See `local`."""
    arguments: tuple[str, ...] = ()
    """Passed to vLLM as they are, e.g. `["--tensor-parallel-size", "2"]`."""


class ClientModel(Section):
    """An OpenAI-compatible server that already runs, or several that share the load."""

    backend: Literal["client"] = "client"
    model: str
    revision: str | None = None
    """Recorded as provenance; the server is not asked to load it."""
    base_urls: tuple[str, ...] = Field(min_length=1)
    """Each ends in /v1, e.g. `["http://127.0.0.1:8000/v1"]`."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key."""
    thinking: bool | None = None
    """`false` and `true` are said to the chat template (vLLM, SGLang, llama.cpp; OpenAI's servers refuse the word):
    whether the model may think before it writes a text. Reasoning is set apart in any case, and counts as cost."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Added to every request, e.g. `{reasoning_effort: low}`; no field that says what is asked, and no key."""
    concurrency: Count = 128
    timeout_s: Positive = 120.0
    max_tries: Count = 5

    # Neither says what was given: it may be a key.

    @field_validator("base_urls")
    @classmethod
    def _no_query(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        if any("?" in url or "#" in url for url in urls):
            raise ValueError(
                "a base URL has no query and no fragment; name the variable that holds a key (api_key_env)"
            )
        if not all(map(_BASE_URL.fullmatch, urls)):
            raise ValueError(
                "a base URL is http(s)://host[:port]/path and nothing else: no user, password, blank or quote"
            )
        return urls

    @field_validator("extra_body")
    @classmethod
    def _only_adds(cls, body: dict[str, Any]) -> dict[str, Any]:
        if ours := sorted(_OURS & body.keys()):
            raise ValueError(f"`{ours[0]}` is said by rlaif in every request and cannot be added")
        if secrets := [key for key, _ in _texts_by_key(body) if _NAMES_A_SECRET.fullmatch(key)]:
            raise ValueError(
                f"`{secrets[0]}` looks like a secret, and recipes are copied into run folders; name the environment "
                "variable that holds the key (api_key_env)"
            )
        return body

    @field_validator("api_key_env")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        if name is not None and re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name) is None:
            raise ValueError("the name of an environment variable, not the key that it holds")
        return name


def _texts_by_key(value: Any) -> Iterator[tuple[str, str]]:
    """Every text in a mapping, at any depth, with its key."""
    if isinstance(value, dict):
        for key, inside in value.items():
            texts = inside if isinstance(inside, list | tuple) else [inside]
            yield from ((str(key), text) for text in texts if isinstance(text, str))
            yield from _texts_by_key(inside)
    elif isinstance(value, list | tuple):
        yield from (pair for inside in value for pair in _texts_by_key(inside))


class ScriptedModel(Section):
    """A Python function `request -> Reply | str`, for dry runs and tests."""

    backend: Literal["scripted"] = "scripted"
    model: str
    """`package.module:function`."""
    revision: str | None = None


class RayModel(Section):
    """Any of the others, opened once by each worker of a Ray cluster (extra `ray`): the one at `$RAY_ADDRESS`, or one
    that is started on this machine. What is written does not say that there was one."""

    backend: Literal["ray"] = "ray"
    engine: LocalModel | VllmModel | ClientModel | ScriptedModel = Field(discriminator="backend")
    workers: Count
    gpus: float | None = Field(default=None, ge=0)
    """Of each worker; none: one where the engine is `vllm` or `local` and the cluster has any, else 0."""
    window: Count = 256
    """Requests that a worker is given at a time; it has two such windows at once."""

    @property
    def model(self) -> str:
        """The engine's."""
        return self.engine.model

    @property
    def revision(self) -> str | None:
        """The engine's."""
        return self.engine.revision


class RayPolicy(RayModel):
    """As `RayModel`, of an engine whose weights can be trained."""

    engine: LocalModel | VllmModel = Field(discriminator="backend")

    @property
    def dtype(self) -> Dtype:
        """The engine's."""
        return self.engine.dtype


PolicyModel = Annotated[LocalModel | VllmModel | RayPolicy, Field(discriminator="backend")]
JudgeModel = Annotated[LocalModel | VllmModel | ClientModel | ScriptedModel | RayModel, Field(discriminator="backend")]


def engine_of(model: JudgeModel) -> LocalModel | VllmModel | ClientModel | ScriptedModel:
    """The model itself, or the one that workers open: what is true of replies is true of this."""
    return model.engine if isinstance(model, RayModel) else model


def with_weights(model: PolicyModel, folder: str) -> PolicyModel:
    """The same model with the weights in this folder."""
    if isinstance(model, RayPolicy):
        return model.model_copy(update={"engine": with_weights(model.engine, folder)})
    return model.model_copy(update={"model": folder, "revision": None})
