"""Spoilt files for everything that reads one: whatever is wrong, the answer is our own error, and it comes soon.

Valid files are spoilt at random, in one or a few places each, from a seed that every failure prints. One seed, longer:
`RLAIF_FUZZ_SEED=7 RLAIF_FUZZ_TRIES=500 pytest -n0 tests/test_fuzz.py -m "not slow"`.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlaif.annotate.desk import read_questions
from rlaif.annotate.route import conflicts_of, read_routing, route
from rlaif.audits import requirement
from rlaif.config import dump_recipe, load, load_recipe
from rlaif.config.feedback import PromptsSection
from rlaif.config.sources import FileSource
from rlaif.constitution import lint, load_constitution
from rlaif.errors import RlaifError
from rlaif.evaluation.artefacts import EVALUATION
from rlaif.evaluation.compare import compare_runs
from rlaif.evaluation.report import write_report
from rlaif.evaluation.tables import terminal
from rlaif.feedback.calibration import fitted
from rlaif.feedback.export import FORMATS, export_preferences
from rlaif.feedback.human import read_human, read_labels
from rlaif.feedback.prompts import read_prompts
from rlaif.formats import HumanFile
from rlaif.forms import SAMPLE
from rlaif.iterate import _row
from rlaif.jsonl import read_json, read_rows
from rlaif.records import Message, Preference, Prompt
from rlaif.resources import available, resolve
from rlaif.run_folder import Run
from rlaif.study.config import ArmRun, arm_runs, load_study
from rlaif.study.contest import samples_of
from rlaif.study.figures import scored_labels
from rlaif.templates import load_template
from tests.annotated import pairs
from tests.fake_run import inputs, write_run
from tests.test_human_properties import FORM, FORMS, GOLDEN
from tests.tiers import seeds

SEED = int(os.environ.get("RLAIF_FUZZ_SEED", "0"))
TRIES = int(os.environ.get("RLAIF_FUZZ_TRIES", "6"))
SOON_S = 20.0
"""Of computing. What hangs is ended after three times as long by the clock."""

Rng = random.Random
Spoil = Callable[[Path, Rng], None]
Read = Callable[[Path], object]


# ------------------------------------------------------------------------------------------------ what goes wrong

STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 0.5, 10**30, 2**63, 1e308, math.nan, math.inf, -math.inf),
    *("", " ", "yes", "017", "1:30", "2024-01-01", "x" * 3000, "../..", "/dev/zero", "{{ x }}", "(a+)+$"),
    *("\x00", "\ud83d", "\u2028", [], [[]], {}, {"": None}, {"kind": "no"}, [None], ["a", "a"], {"value": {}}),
)
DEEP = "so deep"
"""Becomes a nest of lists where the values are written."""


def strange(rng: Rng) -> Any:
    return DEEP if rng.random() < 0.05 else copy.deepcopy(rng.choice(STRANGE))


def with_nests(text: str, rng: Rng) -> str:
    depth = rng.choice([3, 300, 3000])
    return text.replace(f'"{DEEP}"', DEEP).replace(DEEP, "[" * depth + "]" * depth)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a tree."""
    found = []
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        found += [(value, key), *places(inner)]
    return found


def spoil_value(value: Any, rng: Rng) -> Any:
    """Drop, rename, repeat or replace something in it."""
    found = places(value)
    if not found or rng.random() < 0.03:
        return strange(rng)
    container, key = rng.choice(found)
    what = rng.randrange(6)
    if what == 0:
        del container[key]
    elif what == 1 and isinstance(container, dict):
        container[f"{key}{rng.choice(['x', ' ', 'S'])}"] = container.pop(key)
    elif what == 2:
        other, place = rng.choice(found)
        container[key] = json.loads(json.dumps(other[place]))
    elif what == 3 and isinstance(container, list):
        container.append(container[key])
    else:
        container[key] = strange(rng)
    return value


PIECES = ["{", "[", '"', "*a", "&a ", "!!x ", "- ", ": ", "<<: ", "\t", ","]


def spoil_bytes(data: bytes, rng: Rng) -> bytes:
    """Cut, insert, repeat, or write it in another encoding."""
    place = rng.randrange(len(data) + 1)
    pieces = [b"\xff", b"\x00", b"\xed\xa0\xbd", b"\n", b"\r", *(word.encode() for word in PIECES)]
    return rng.choice(
        [
            data[:place],
            data[place:],
            data[:place] + rng.choice(pieces) + data[place:],
            data[:place] + rng.choice(pieces) * 2000 + data[place:],
            b"\xef\xbb\xbf" + data,
            data.replace(b"\n", b"\r\n"),
            data.decode(errors="replace").encode("utf-16"),
            data + data,
            b"",
            b"\n",
        ]
    )


def spoil_file(path: Path, rng: Rng) -> None:
    """Something else in the file's place."""
    path.unlink()
    what = rng.randrange(6)
    if what == 0:
        path.mkdir()
    elif what == 1:
        os.mkfifo(path)
    elif what == 2:
        path.symlink_to("/dev/zero")
    elif what == 3:
        path.symlink_to(path.parent / "nothing")
    elif what == 4:
        path.symlink_to(path)


def spoiler(load: Callable[[str], Any], dump: Callable[[Any], str]) -> Spoil:
    """One that knows how to read and write the values of a file."""

    def spoil(path: Path, rng: Rng) -> None:
        data = path.read_bytes()
        kind = rng.random()
        if kind < 0.08:
            spoil_file(path, rng)
        elif kind < 0.3:
            path.write_bytes(spoil_bytes(data, rng))
        else:
            value = load(data.decode())
            for _ in range(rng.choice([1, 1, 2, 5])):
                value = spoil_value(value, rng)
            path.write_bytes(with_nests(dump(value), rng).encode(errors="surrogatepass"))

    return spoil


def dump_yaml(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def dump_lines(rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows) if isinstance(rows, list) else json.dumps(rows)


def dump_words(words: Any) -> str:
    return " ".join(map(str, words)) if isinstance(words, list) else str(words)


in_yaml = spoiler(yaml.safe_load, dump_yaml)
in_json = spoiler(json.loads, json.dumps)
in_lines = spoiler(lambda text: [json.loads(line) for line in text.split("\n") if line.strip()], dump_lines)
in_text = spoiler(lambda text: text.split(" "), dump_words)


# ------------------------------------------------------------------------------------------------------ the trial


@contextlib.contextmanager
def alarm() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 3 * SOON_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def attempt(read: Read, path: Path, what: str) -> None:
    """Read it: a result, or one of our errors with something to say, or what the system refused, by name."""
    began = time.process_time()
    try:
        with alarm():
            read(path)
    except RlaifError as error:
        assert str(error).strip(), what
    except OSError as error:
        assert error.filename, f"{what}: {error!r}"
    except BaseException as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}\n{shown(path)}") from error
    taken = time.process_time() - began
    assert taken < SOON_S, f"{what}: {taken:.0f} s\n{shown(path)}"


def shown(path: Path) -> str:
    return ascii(path.read_bytes()[:3000]) if path.is_file() else f"{path}: {os.lstat(path).st_mode:o}"


def fuzz(
    name: str, seed: int, make: Callable[[Path], Path], spoil: Spoil, read: Read, folder: Path, tries: int = TRIES
) -> None:
    """So many spoilt copies of what `make` makes, each in a folder of its own, read."""
    for number in range(tries):
        rng = random.Random(f"{SEED + seed} {name} {number}")
        own = folder / f"{name.replace('/', '-')}-{number}"
        own.mkdir()
        path = make(own)
        spoil(path, rng)
        attempt(read, path, f"RLAIF_FUZZ_SEED={SEED + seed}, {name}, try {number}, {path}")


def copy_of(source: Path) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / source.name
        path.write_bytes(source.read_bytes())
        return path

    return make


# -------------------------------------------------------------------------------------------- files that people write


@seeds(4)
@pytest.mark.parametrize("name", available("constitutions"))
def test_constitutions(name: str, seed: int, tmp_path: Path) -> None:
    make = copy_of(resolve("constitutions", name))
    fuzz(name, seed, make, in_yaml, lambda p: lint(load_constitution(str(p))), tmp_path)


@seeds(4)
@pytest.mark.parametrize("name", available("recipes"))
def test_recipes(name: str, seed: int, tmp_path: Path) -> None:
    fuzz(name, seed, copy_of(resolve("recipes", name)), in_yaml, lambda p: load_recipe(str(p)), tmp_path)


@seeds(4)
def test_overrides(seed: int, tmp_path: Path) -> None:
    keys = ["judge", "optimise.kl", "optimise.steps", "prompts.sources.0", "label.mode.kind", "preferences.labels"]
    for number in range(2 * TRIES):
        rng = random.Random(f"{SEED + seed} override {number}")
        written = json.dumps(strange(rng)), dump_yaml(strange(rng)), "*a", "&a [*a]", "a: b: c", "\udcff"
        override = f"{rng.choice([*keys, 'x.y', ''])}={with_nests(rng.choice(written), rng)}"
        what = f"RLAIF_FUZZ_SEED={SEED + seed}: {override[:200]!r}"
        attempt(lambda _, o=override: load_recipe("quickstart", [o]), tmp_path, what)


STUDY = """\
schema: rlaif/study/v1
name: s
recipe: quickstart
overrides: [optimise.steps=2]
arms:
  rlaif: {}
  rlhf: {human_data: [{kind: file, path: a.jsonl, form: {kind: ratings}}]}
  mine: {kind: custom, overrides: [optimise.kind=sft, optimise.data.kind=chosen]}
seeds: [0, 1]
human_data: [{kind: file, path: a.jsonl}]
prices: {gpu_hour: 1.0}
"""


@seeds(4)
def test_studies(seed: int, tmp_path: Path) -> None:
    def make(folder: Path) -> Path:
        (folder / "study.yaml").write_text(STUDY)
        return folder / "study.yaml"

    fuzz("study", seed, make, in_yaml, lambda p: list(arm_runs(load_study(p), p.parent)), tmp_path)


@seeds(4)
@pytest.mark.parametrize("name", available("prompts/judge"))
def test_templates(name: str, seed: int, tmp_path: Path) -> None:
    fuzz(name, seed, copy_of(resolve("prompts/judge", name)), in_text, lambda p: load_template(str(p)), tmp_path)


PROMPT_ROWS = [
    {"prompt": "Why is the sky blue?", "tags": ["x"]},
    {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]},
    {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello"},
]


@seeds(4)
def test_prompts(seed: int, tmp_path: Path) -> None:
    def make(folder: Path) -> Path:
        (folder / "prompts.jsonl").write_text(dump_lines(PROMPT_ROWS))
        return folder / "prompts.jsonl"

    def read(path: Path) -> object:
        return read_prompts(PromptsSection(sources=(FileSource(path=str(path)),), heldout=1))

    fuzz("prompts", seed, make, in_lines, read, tmp_path)


@seeds(4)
@pytest.mark.parametrize("name", FORMS)
def test_every_human_form(name: str, seed: int, tmp_path: Path) -> None:
    spoil = in_lines if name.endswith("l") else in_json if name.endswith("json") else in_text
    form = FORM.validate_python(FORMS[name])

    def read(path: Path) -> object:
        return read_human([HumanFile(path=str(path), form=form)], Run(path.parent))

    fuzz(name, seed, copy_of(GOLDEN / name), spoil, read, tmp_path)


def test_the_trial_sees_a_fault_and_a_file_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="seed 3: ZeroDivisionError"):
        attempt(lambda _: 1 / 0, tmp_path, "seed 3")
    monkeypatch.setattr("tests.test_fuzz.SOON_S", 0.01)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(AssertionError, match="it hangs"):
        attempt(lambda path: path.read_bytes(), tmp_path / "pipe", "seed 3")


# ------------------------------------------------------------------------------------------------------ run folders


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with something in every file that a command reads."""
    folder = write_run(tmp_path_factory.mktemp("whole") / "run", inputs(prompts=4))
    run = Run(folder)
    run.recipe.write_text(dump_recipe(load_recipe("quickstart")))
    given_inputs = inputs(prompts=4)
    run.judgments.write_text("".join(j.model_dump_json() + "\n" for j in given_inputs.judgments))
    prompt = Prompt.of((Message(role="user", content="Hi"),))
    turns = [(Message(role="assistant", content=text),) for text in ("Hello.", "No.")]
    row = Preference(
        prompt=prompt.messages,
        chosen=turns[0],
        rejected=turns[1],
        p_chosen=0.9,
        source="ai",
        weight=1,
        split="train",
        prompt_id=prompt.id,
        pair_id="p",
    )
    rows = [row.model_copy(update={"pair_id": f"p{number}"}) for number in range(3)]
    run.preferences.write_text("".join(each.model_dump_json() + "\n" for each in rows))
    first = "".join(run.judgments.read_text().splitlines(keepends=True)[:2])
    run.annotations.write_text(first.replace('"source":"ai"', '"source":"human"'))
    run.routing.write_text(json.dumps({"by": "random", "budget": 3, "seed": 0, "picked": ["a"], "facts": {"x": 1.5}}))
    run.route.write_text("".join(p.model_dump_json() + "\n" for p in pairs(2)))
    audit = {"schema": load.AUDIT_SCHEMA, "audited": {"judge": {"model": "x"}}, "agreement": {"value": 0.9, "low": 0.8}}
    audit["calibration"] = {"isotonic": {"x": [0.5, 0.9], "y": [0.5, 0.8]}}
    (folder / "audit.json").write_text(json.dumps(audit))
    scored = {"arm": "a", "seed": 0, "model": "m", "pair_id": "p", "prompt_id": "q", "p_human": 1.0, "margin": 0.5}
    (folder / "accuracy.jsonl").write_text(dump_lines([scored] * 3))
    return folder


def reads_of(run: Run) -> dict[str, list[Callable[[], object]]]:
    """By file, what reads it."""
    folder, out = run.folder, run.folder / "out"

    def report() -> object:
        return write_report(folder, out / "page.html")

    def compared() -> object:
        return compare_runs([folder, folder.parent / "other"], out / "two.html")

    def held_lock() -> object:
        with run.lock():
            return run.scope(), run.earlier()

    def logged() -> object:
        run.log({"stage": "optimise", "step": 99})
        return run.rewind_metrics("optimise", 50), run.read_metrics("reward")

    def told() -> object:
        return terminal(read_json(run.evaluation, EVALUATION)), _row(1, run)

    def audited() -> object:
        audit = load.read_audit(folder / "audit.json")
        requirement.differences(audit["audited"], {"judge": {"model": "x"}})
        return requirement.check_gate(audit, {"accuracy.low": 0.5}), fitted(audit.get("calibration") or {}, "isotonic")

    def samples() -> object:
        hello = (Message(role="user", content="Hi"),)
        ids = list(dict.fromkeys(row["prompt_id"] for row in read_rows(run.samples, SAMPLE)))[:4]
        held = {one: Prompt(id=one, messages=hello) for one in ids}
        return samples_of(ArmRun("a", 0, load_recipe("quickstart"), run), held)

    def routed() -> object:
        return read_routing(run), route(folder, 2)

    return {
        "manifest.json": [report, run.read_manifest, held_lock, lambda: run.is_done("sample", "ab")],
        "evaluation.json": [report, compared, told],
        "metrics.jsonl": [report, logged],
        "evaluation_samples.jsonl": [report, compared, samples],
        "failures.jsonl": [report],
        "preferences.jsonl": [
            report,
            *(lambda to=to: export_preferences(folder, to, out / "x.jsonl") for to in FORMATS),
        ],
        "recipe.yaml": [report, held_lock, lambda: read_questions(run, None, None, True)],
        "judgments.jsonl": [routed, lambda: conflicts_of(run)],
        "annotations.jsonl": [routed, lambda: read_labels(folder)],
        "routing.json": [routed],
        "route.jsonl": [lambda: read_questions(run, None, None, False)],
        "audit.json": [audited],
        "accuracy.jsonl": [lambda: list(scored_labels(folder))],
    }


SPOILT = tuple(reads_of(Run(Path("x"))))


@pytest.mark.usefixtures("blank_plots")
@seeds(4)
@pytest.mark.parametrize("name", SPOILT)
def test_run_folders(name: str, seed: int, whole: Path, tmp_path: Path) -> None:
    def copied(folder: Path) -> Path:
        for part in ("run", "other"):
            (folder / part).mkdir()
            for file in whole.iterdir():
                (folder / part / file.name).write_bytes(file.read_bytes())
        return folder / "run" / name

    def read(path: Path) -> None:
        for number, one in enumerate(reads_of(Run(path.parent))[path.name]):
            attempt(lambda _, one=one: one(), path, f"RLAIF_FUZZ_SEED={SEED + seed}: {path}, reader {number}")

    for one in reads_of(Run(copied(tmp_path).parent))[name]:
        one()  # whole, it can be read
    spoil = in_yaml if name.endswith("yaml") else in_json if name.endswith("json") else in_lines
    fuzz(name, seed, copied, spoil, read, tmp_path, (TRIES + 1) // 2)
