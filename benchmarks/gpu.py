"""Every training method on a GPU: right against the CPU, and how fast against plain transformers. One command:

    python benchmarks/gpu.py --size 0.5b          # or 1.5b; at most twenty minutes
    python benchmarks/gpu.py --size tiny --device cpu

No hub, no vLLM, no data: weights are random, the tokenizer and the texts are made in code (gpu_work.py). For each
method, through adapters and with all weights:

1. the first update on a few short rows in a process without a GPU, in float32, then on the GPU in float32 and in bf16,
   of the same weights and rows (on-policy methods take the CPU's rollouts): losses, scores, entropies and gradients'
   norms must agree within TOLERANCE and LOOSER;
2. several updates of real size through rlaif's own loops (gpu_rlaif.py) and in plain transformers (gpu_plain.py):
   tokens/s, peak memory, and MFU. The first update warms up and is not timed.

Tokens are those of an update's rows, prompts and responses, as often as they occur. MFU is the multiplications that
the work needs, over the card's dense bf16 rate: for each token that passes through a model 2 per weight to read, 2 to
write (generation), 6 to train all weights and 4 to train adapters (frozen weights get no gradients); the output layer
counts at response tokens alone, attention not at all. rlaif passes a prompt that rows share once, and needs less.
Peak memory is torch's figure on a GPU; on a CPU that of the whole process so far.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a bare checkout: rlaif need not be installed

import torch
from transformers.utils import logging as transformers_logging

from benchmarks import gpu_plain, gpu_rlaif
from benchmarks.gpu_measure import Budget, Console, free, operations, peak_gb, peak_rate
from benchmarks.gpu_work import CASES, METHODS, SIZES, Case, Shape, make_models
from rlaif.models.local.machine import resolve
from rlaif.models.local.packing import Row

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.02}
"""Relative, and absolute: a loss may begin at 0."""
LOOSER = {"float32": 1e-2, "bfloat16": 0.3}
"""Relative, of what learning makes of small differences between scores, which bf16 rounds: RLOO's gradient in bf16
was 12 % from float32's where the responses to a prompt differed by 0.02."""
LOOSE = ("gradient_norm", "value_loss")
COMPARED = ("loss", "policy_loss", "value_loss", "kl_loss", "gradient_norm", "score", "entropy", "ref_perplexity")
REFERENCE_SHARE = 0.35
"""Of the time, for the CPU."""
CONSOLE = Console()


def attempt(what: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` finds; a failure is a finding too, and the others go on."""
    free()
    CONSOLE.doing = what
    try:
        return work()
    except Exception as error:  # whatever driver, kernel or library raise
        reason = next(iter(str(error).splitlines()), "")[:200]
        CONSOLE.say(f"{what}: {type(error).__name__}: {reason}")
        return {"error": f"{what}: {type(error).__name__}: {reason}"}


# -------------------------------------------------------------------------------------------------- the parts


def wanted(methods: Sequence[str] | None) -> list[Case]:
    return [case for case in CASES if methods is None or case.method in methods]


def reference(folder: Path, size: str, methods: Sequence[str] | None, out: Path) -> None:
    """In a process without a GPU: the first update of every case in float32, a line of JSON each."""
    for case in wanted(methods):
        CONSOLE.doing = f"{case}: on the CPU"
        done = gpu_rlaif.learn(case, SIZES[size].checked, folder, "float32")
        with out.open("a") as file:
            file.write(json.dumps({"case": str(case), "row": done.clock.rows[0], "written": done.written}) + "\n")
        CONSOLE.say(f"{case}: CPU's first update done")


def references(folder: Path, args: Any, seconds: float) -> dict[str, dict[str, Any]]:
    """What that process found in time, by case."""
    out = folder / "reference.jsonl"
    command = [sys.executable, __file__, "--size", args.size, "--reference", str(folder)]
    if args.methods:
        command += ["--methods", *args.methods]
    try:
        subprocess.run(command, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, timeout=seconds, check=True)
    except subprocess.TimeoutExpired:
        CONSOLE.say("the CPU had no time for the rest: those are not checked")
    except subprocess.CalledProcessError as error:
        CONSOLE.say(f"the process on the CPU failed ({error.returncode}): what it had not reached is not checked")
    lines = out.read_text().splitlines() if out.exists() else []
    return {found["case"]: found for found in map(json.loads, lines)}


def check(case: Case, shape: Shape, folder: Path, dtype: str, expected: dict[str, Any]) -> dict[str, Any]:
    """The first update here, held against the CPU's."""
    row = gpu_rlaif.learn(case, shape, folder, dtype, expected["written"]).clock.rows[0]
    wrong = {
        name: [row[name], expected["row"][name]]
        for name in COMPARED
        if name in row and not near(name, row[name], expected["row"][name], dtype)
    }
    if wrong:
        CONSOLE.say(f"{case}: the first update in {dtype} and on the CPU: {wrong}")
    shown = "gradient_norm" if case.on_policy else "loss"
    return {"shown": row[shown], "on_cpu": expected["row"][shown], "agrees": not wrong, "wrong": wrong, "row": row}


def near(name: str, found: float, expected: float, dtype: str) -> bool:
    """Whether two sides say the same of this figure, as well as the format can tell."""
    if name in LOOSE:
        return math.isclose(found, expected, rel_tol=LOOSER[dtype])
    return math.isclose(found, expected, rel_tol=TOLERANCE[dtype], abs_tol=TOLERANCE[dtype])


def measure(case: Case, shape: Shape, folder: Path, dtype: str, side: str, rows: list[Row]) -> dict[str, Any]:
    """Updates of real size by one side."""
    steps = shape._replace(steps=shape.steps + 1)
    if side == "rlaif":
        done = gpu_rlaif.learn(case, steps, folder, dtype)
        rows[:] = done.rows
        seconds = done.clock.seconds
    else:
        seconds = gpu_plain.learn(case, steps, folder, dtype, rows)
    tokens = sum(len(row.prompt) + len(row.response) for row in rows)
    return {"tokens_per_s": tokens / seconds, "seconds": seconds, "peak_gb": peak_gb()}


def run_case(case: Case, args: Any, folder: Path, found: dict[str, Any] | None, budget: Budget) -> dict[str, Any]:
    """One row of the table."""
    size = SIZES[args.size]
    result: dict[str, Any] = {"method": case.method, "learns": "LoRA" if case.lora else "all weights"}
    if found:
        for dtype in TOLERANCE:
            with budget.spend("check"):
                work = partial(check, case, size.checked, folder, dtype, found)
                result[f"check_{dtype}"] = attempt(f"{case}: first update in {dtype}", work)
    rows: list[Row] = []
    for side in ("rlaif", "plain"):
        if rows or side == "rlaif":
            work = partial(measure, case, size.measured, folder, args.dtype, side, rows)
            result[side] = attempt(f"{case}: {side}", work)
        if "seconds" in result.get(side, {}):
            needed = operations(case, rows, args.weights, shared=side == "rlaif")
            result[side]["mfu"] = needed / result[side]["seconds"] / args.peak
    return result


def run_writing(args: Any, folder: Path) -> dict[str, Any]:
    shape = SIZES[args.size].measured
    result: dict[str, Any] = {"method": "generate", "learns": "nothing"}

    def work(write: Callable[[Path, Shape, str], gpu_rlaif.Writing]) -> dict[str, Any]:
        return {**write(folder, shape, args.dtype)._asdict(), "peak_gb": peak_gb()}

    for side, write in (("rlaif", gpu_rlaif.write), ("plain", gpu_plain.write)):
        found = attempt(f"generate: {side}", partial(work, write))
        if "seconds" in found:
            passed = found["tokens"] + sum(map(len, gpu_rlaif.encoded(shape)))
            needed = 2 * (args.weights[0] * passed + args.weights[1] * found["tokens"])
            found |= {"tokens_per_s": found["tokens"] / found["seconds"], "mfu": needed / found["seconds"] / args.peak}
        result[side] = found
    return result


# -------------------------------------------------------------------------------------------------- the table

HEADER = [
    "method",
    "learns",
    "tokens/s",
    "plain",
    "ratio",
    "GB",
    "plain",
    "MFU",
    "plain",
    "loss",
    "on the CPU",
    "agree",
]


def table(results: Sequence[dict[str, Any]], dtype: str) -> str:
    """Markdown, a line for each case; `-` where nothing was measured."""
    note = "\n\n\\* of the first update; of methods that write, whose loss begins at 0, the gradient's norm."
    lines = [HEADER, ["---"] * len(HEADER)]
    for row in results:
        ours, plain, checked = (row.get(key, {}) for key in ("rlaif", "plain", f"check_{dtype}"))
        checks = [row[key] for key in row if key.startswith("check_")]
        agree = ("yes" if all(each.get("agrees") for each in checks) else "NO") if checks else "-"
        speeds = [side.get("tokens_per_s") for side in (ours, plain)]
        ratio = speeds[0] / speeds[1] if all(speeds) else None
        cells = [row["method"], row["learns"], *(_cell(speed, ".0f") for speed in speeds), _cell(ratio, ".2f")]
        cells += [_cell(side.get("peak_gb"), ".2f") for side in (ours, plain)]
        cells += [_cell(side.get("mfu"), ".1%") for side in (ours, plain)]
        cells += [*(_cell(checked.get(key), ".4f") for key in ("shown", "on_cpu")), agree]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + note


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def bad(result: dict[str, Any]) -> bool:
    """Whether something failed in it, or disagrees."""
    parts = [part for part in result.values() if isinstance(part, dict)]
    return any("error" in part or part.get("agrees") is False for part in parts)


# --------------------------------------------------------------------------------------------------- the whole


def run(args: Any, folder: Path) -> list[dict[str, Any]]:
    """All rows that there is time for."""
    budget, results = Budget(args.minutes), []
    CONSOLE.doing = "making a model of random weights"
    args.peak, source = peak_rate(args.device, args.dtype)
    total = make_models(SIZES[args.size], folder)
    output = SIZES[args.size].config["hidden_size"] * SIZES[args.size].config["vocab_size"]
    args.weights = (total - output, output)
    CONSOLE.say(f"{total / 1e6:.1f} million weights, {args.dtype}; {args.peak / 1e12:.3g} TFLOP/s ({source})")
    CONSOLE.doing = "the first updates on the CPU"
    known = references(folder, args, REFERENCE_SHARE * budget.left())
    for case in wanted(args.methods):
        if not budget.allows("case"):
            CONSOLE.say(f"{case}: skipped, the {args.minutes:g} minutes are nearly up")
            continue
        with budget.spend("case"):
            results.append(run_case(case, args, folder, known.get(str(case)), budget))
        CONSOLE.say(f"{case}: done")
    if args.methods and "generate" not in args.methods:
        return results
    if budget.allows("case"):
        results.append(run_writing(args, folder))
    else:
        CONSOLE.say(f"generate: skipped, the {args.minutes:g} minutes are nearly up")
    return results


def arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="0.5b")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--dtype", choices=["auto", "bfloat16", "float32"], default="auto", help="of what is measured")
    parser.add_argument("--minutes", type=float, default=20.0, help="what does not fit is skipped, with a line")
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, "generate"], help="only these")
    parser.add_argument("--out", type=Path, help="write everything that was found as JSON")
    parser.add_argument("--reference", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    CONSOLE.watch()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    gc.freeze()  # what imports made stays: to search it after each method takes longer than a small one does
    if args.size == "tiny":
        torch.set_num_threads(1)  # two would mostly wait for each other
    if args.reference:
        reference(args.reference, args.size, args.methods, args.reference / "reference.jsonl")
        return
    if args.device == "cpu" and torch.cuda.is_available():  # hide it from all that would find it
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU; on a CPU: python benchmarks/gpu.py --device cpu --size tiny")
    args.dtype = resolve(args.dtype)
    with tempfile.TemporaryDirectory() as folder:
        results = run(args, Path(folder))
    print(table(results, args.dtype))
    if args.out:
        name = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
        about = {"device": name, "torch": torch.__version__, "size": args.size, "dtype": args.dtype, "peak": args.peak}
        args.out.write_text(json.dumps({**about, "rows": results}, indent=1) + "\n")
    if any(map(bad, results)):
        raise SystemExit("something failed or disagrees: see above")


if __name__ == "__main__":
    main()
