"""How fast pairs are judged and written, and how much memory that takes, as their number grows; no model is asked.

    python benchmarks/shards.py --pairs 20000
    python benchmarks/shards.py --pairs 1000000 --seconds 600
    python benchmarks/shards.py --pairs 20000 --ray 2

A scripted judge answers at once, so what is measured is rlaif's own work: with 20 principles and both orders 40
requests per pair, of about 1.5 kB each. With `--cached` they go through a reply cache. Each line is one shard or
several; the last one is the whole. The rate must not fall and the memory must not rise; pairs per CPU second, of this
process, say little of what else the machine does.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from itertools import chain
from pathlib import Path

from rlaif.config.feedback import LabelSection
from rlaif.config.models import RayModel, ScriptedModel
from rlaif.constitution import Constitution
from rlaif.feedback.judge import judge_shards
from rlaif.jsonl import RowWriter
from rlaif.models.cache import CachedModel
from rlaif.models.engine import ChatRequest, Engine
from rlaif.models.open import open_model
from rlaif.records import Message, Pair, Prompt
from rlaif.stages.labels import Again


def rules(number: int) -> Constitution:
    """A constitution of so many principles."""
    principles = [{"id": f"p{n}", "compare": f"Which response is better by rule {n}?"} for n in range(number)]
    about = {"schema": "rlaif/constitution/v1", "id": "rules", "version": "1.0.0", "title": "Rules"}
    return Constitution.model_validate(about | {"principles": principles})


def judge(request: ChatRequest) -> dict[str, float]:
    """For the first response, more or less."""
    likely = -0.3 - (len(request.messages[-1].content) % 7) / 10
    return {"A": likely, "B": -1.9}


def pairs(number: int) -> Iterator[Pair]:
    """Two pairs per prompt, texts of 400 characters, made as they are wanted."""
    for place in range(number):
        prompt = Prompt.of((Message(role="user", content=f"Question {place // 2}: what should I do about it?"),))
        a, b = (f"Answer {place} {side}. " + "One should think of it and then decide. " * 10 for side in "ab")
        yield Pair.of(prompt, a, b)


def peak() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--pairs", type=int, default=20_000)
    options.add_argument("--seconds", type=float, default=float("inf"), help="stop after the shard that is due then")
    options.add_argument(
        "--every", type=float, default=0.0, help="seconds between lines, at least; 0: one for each shard"
    )
    options.add_argument("--principles", type=int, default=20)
    options.add_argument("--cached", action="store_true")
    options.add_argument("--ray", type=int, metavar="WORKERS", help="ask through a Ray cluster's workers")
    given = options.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        script = ScriptedModel(model="benchmarks.shards:judge")
        model: Engine = open_model(RayModel(engine=script, workers=given.ray) if given.ray else script)
        if given.cached:
            model = CachedModel(model, Path(folder) / "replies.sqlite")
        stream = Again(lambda: pairs(given.pairs))
        results = judge_shards(lambda _: nullcontext(model), stream, rules(given.principles), LabelSection(), 0)
        began, last, spent = time.perf_counter(), time.perf_counter(), time.process_time()
        done, before, cpu = 0, 0, spent
        print(f"before: {peak():.0f} MB")
        with closing(RowWriter(Path(folder) / "judgments.jsonl")) as file, closing(results):
            for result in chain(results, [None]):
                if result is not None:
                    file.write(result.judgments)
                    done += len(result.judgments)
                now = time.perf_counter()
                if done > before and (result is None or now - last >= given.every):
                    own = time.process_time()
                    rate, per_cpu = ((done - before) / max(used, 1e-9) for used in (now - last, own - cpu))
                    speed = f"{rate:5.0f} pairs/s  {per_cpu:5.0f} pairs per CPU second"
                    print(f"{now - began:6.0f} s  {done:8d} pairs  {speed}  peak {peak():5.0f} MB", flush=True)
                    last, before, cpu = now, done, own
                if now - began > given.seconds:
                    break
            file.finish()
        seconds, own = time.perf_counter() - began, time.process_time() - spent
        model.close()
    requests = 2 * given.principles * done
    print(
        f"{done} pairs in {seconds:.0f} s: {done / seconds:.0f} pairs/s, {requests / seconds:.0f} requests/s, "
        f"{done / own:.0f} pairs per CPU second; peak {peak():.0f} MB; a million pairs at this rate: "
        f"{1e6 * seconds / done / 3600:.1f} h"
    )


if __name__ == "__main__":
    main()
