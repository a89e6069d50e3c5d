"""What the road of docs/strong-judge.md takes: tokens counted from the recipe, time and cost computed, not measured.

    python benchmarks/road.py --data gold.jsonl
    python benchmarks/road.py --data gold.jsonl label.aggregation.kind=sample prompts.limit=8000

Every question of the recipe's mode, constitution and templates is rendered for pairs with the prompts of `--data`
(labelled pairs in any form that an audit reads) and responses as long as `--response-tokens`, and counted with the
embedded model's tokenizer. Tokens that a prefix cache of 16-token blocks holds already are sent, not read. Seconds are
tokens over published throughput (`GPUS`, each with its source), in proportion to the model's parameters; training is
6 x parameters x tokens over an assumed share of the GPU's peak.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from benchmarks.recorder import Recorder
from rlaif.audits.gold import read_gold
from rlaif.config import Recipe, load_recipe
from rlaif.config.feedback import LabelSection
from rlaif.config.judging import CompareMode
from rlaif.config.optimise import Ppo
from rlaif.constitution import Constitution, load_constitution
from rlaif.feedback.judge import judge_by_mode
from rlaif.models.embedded import EMBEDDED
from rlaif.models.engine import ChatRequest
from rlaif.models.local.load import load_tokenizer
from rlaif.models.local.tokens import encode_prompt, encode_response
from rlaif.records import Pair, Prompt

JUDGE, STUDENT = 8.2, 0.6
"""Billions of parameters: Qwen3-8B, Qwen3-0.6B."""
SHARE_OF_PEAK = 0.3
"""Of the peak of the GPU that training reaches: assumed."""
START = 120.0
"""Seconds until a vLLM server is ready: assumed."""
PROBES = 10
"""Questions that an audit's probes ask again of each of `--probe-pairs`."""
BLOCK = 16
"""Tokens of a block of vLLM's prefix cache on a GPU."""


class Gpu(NamedTuple):
    """What was published of it. Tokens per second are those of a model of JUDGE billion parameters in bf16."""

    name: str
    policy: float
    """Billions of parameters of the policy that is trained on it."""
    reads: float
    writes: float
    peak: float
    """Dense bf16 TFLOPS, from NVIDIA's data sheets."""
    price: tuple[float, float]
    """USD per hour, lowest and highest on-demand price of one in SilyBench's list (RunPod, Lambda, Nebius, Google
    Cloud; github.com/tgarg01/silybench-data, derived/csv/gpu_prices.csv, checked 2026-09-25)."""
    source: str


GPUS = (
    Gpu(
        "RTX 4090, 24 GB", 0.5, 3039 * 7.2 / JUDGE, 1190 * 7.2 / JUDGE, 165, (0.34, 0.74),
        "Mistral-7B-Instruct-v0.3, 256 tokens in and 128 out, 48 in flight: 11.87 requests/s, 1,190 tokens/s out "
        "(mushfiqrahman.dev, undated, read 2026-11); both at once there, so each alone is faster; scaled by 7.2 / 8.2",
    ),
    Gpu(
        "L40S, 48 GB", 1.5, 5683 * 14.8 / JUDGE, 1887 * 14.8 / JUDGE * 864 / 2039, 362, (0.79, 1.55),
        "none found; assumed: reads as the A100 (its bf16 peak is higher), writes by bandwidth (864 of 2,039 GB/s)",
    ),
    Gpu(
        "A100, 80 GB", 1.5, 5683 * 14.8 / JUDGE, 1887 * 14.8 / JUDGE, 312, (1.39, 2.79),
        "Qwen3-14B, vLLM 0.11: 2,000 tokens in and 100 out, 5,967 tokens/s in all; ShareGPT, 1,887 tokens/s out "
        "(docs.gpustack.ai, performance lab, qwen3-14b/a100, late 2025); scaled by 14.8 / 8.2",
    ),
    Gpu(
        "H100, 80 GB", 1.5, 3018 * 1024 / 128, 13322, 989, (2.69, 10.98),
        "Qwen3-8B bf16, vLLM 0.30: 1,024 in and 128 out, 3,018 tokens/s out; 128 in and 1,024 out, 13,322 tokens/s out "
        "(github.com/tgarg01/silybench-data, run 20260924T125045Z, 2026-09-24)",
    ),
)  # fmt: skip


class Count(NamedTuple):
    """Tokens of one pair's questions, on average."""

    sent: float
    read: float
    """Without what the prefix cache holds."""


class Step(NamedTuple):
    """One row of the table. The policy's size is the GPU's: `Gpu.policy`."""

    name: str
    by: float = 0.0
    """Billions of parameters of the model that reads and writes; 0: the policy."""
    sent: float = 0.0
    read: float = 0.0
    written: float = 0.0
    trained: float = 0.0
    """Tokens forward and backward, of `by`; a forward pass alone is a third."""
    starts: int = 0

    def seconds(self, gpu: Gpu) -> float:
        size = self.by or gpu.policy
        served = (self.read / gpu.reads + self.written / gpu.writes) * size / JUDGE
        return served + 6e9 * size * self.trained / (SHARE_OF_PEAK * gpu.peak * 1e12) + self.starts * START


class Counter:
    """Counts in tokens of the embedded model."""

    def __init__(self) -> None:
        self._tokenizer = load_tokenizer(EMBEDDED)

    def text(self, text: str) -> int:
        return len(encode_response(self._tokenizer, text))

    def prompt(self, prompt: Prompt) -> int:
        return len(encode_prompt(self._tokenizer, prompt.messages))

    def questions(self, pairs: Sequence[Pair], constitution: Constitution, section: LabelSection) -> Count:
        """What judging these pairs asks, for each of them."""
        recorder = Recorder()
        judge_by_mode(lambda _: nullcontext(recorder), pairs, constitution, section, seed=0)
        rows = [self._row(request) for request in recorder.asked]
        return Count(sum(map(len, rows)) / len(pairs), read_tokens(rows) / len(pairs))

    def _row(self, request: ChatRequest) -> list[int]:
        answer = encode_response(self._tokenizer, request.answer) if request.answer is not None else []
        return [*encode_prompt(self._tokenizer, request.messages), *answer]


def read_tokens(rows: Iterable[Sequence[int]], block: int = BLOCK) -> int:
    """Tokens that a server with an unbounded prefix cache computes: all but whole blocks that began an earlier row."""
    seen: set[tuple[int, ...]] = set()
    computed = 0
    for row in rows:
        known = 0
        for end in range(block, len(row), block):  # the last token is computed in any case
            if (start := tuple(row[:end])) in seen and known == end - block:
                known = end
            seen.add(start)
        computed += len(row) - known
    return computed


def pairs_of(prompts: Sequence[Prompt], words: Sequence[str], tokens: int, counter: Counter, each: int) -> list[Pair]:
    """So many pairs of each prompt, of responses of about so many tokens, no two the same."""
    draw = random.Random(0)
    per_word = counter.text(" ".join(words)) / len(words)

    def response() -> str:
        start = draw.randrange(len(words))
        return " ".join([*words[start:], *words][: round(tokens / per_word)])

    return [Pair.of(prompt, response(), response()) for prompt in prompts for _ in range(each)]


def steps_of(recipe: Recipe, data: Path, tokens: int, gold: int, probes: int) -> list[Step]:
    counter, constitution, section = Counter(), load_constitution(recipe.constitution), recipe.label
    labels = [judgment.pair for judgment in read_gold([data], limit=24).judgments]
    prompts = [Prompt(id=pair.prompt_id, messages=pair.prompt, tags=pair.tags) for pair in labels]
    each = section.pairs_per_prompt or 1
    some = pairs_of(prompts, " ".join(pair.a for pair in labels).split(), tokens, counter, each)
    of_gold = counter.questions(labels, constitution, section)
    of_pair = counter.questions(some, constitution, section)
    compare = section.model_copy(update={"mode": CompareMode()})
    small, small_gold = (counter.questions(rows, constitution, compare) for rows in (some, labels))
    asked = fmean(map(counter.prompt, prompts))
    print(f"{data}: a prompt has {asked:.0f} tokens; responses are taken to have {tokens}")
    print(f"judging a pair sends {of_pair.sent:,.0f} tokens, of which {of_pair.read:,.0f} are read; compare alone "
          f"{small.sent:,.0f} and {small.read:,.0f}")  # fmt: skip

    limits = [source.limit or 0 for source in recipe.prompts.sources]
    number = min(sum(limits) - recipe.prompts.heldout, recipe.prompts.limit or 10**9)
    pairs, whole = number * each, asked + tokens
    ppo = recipe.optimise
    assert isinstance(ppo, Ppo), "the road is counted with optimise.kind=ppo"
    rollouts, passes = ppo.steps * ppo.rollouts_per_step, 4 / 3 + ppo.epochs
    judged = recipe.evaluate.prompts or recipe.prompts.heldout
    training = recipe.judge_training
    held = pairs * training.heldout_share
    principles = sum(principle.compare is not None for principle in constitution.principles)
    learned = (pairs - held) * training.epochs * small.sent / principles
    forward = held * (training.epochs + 1) * small.sent + 2 * gold * small_gold.sent
    audited = gold + PROBES * probes

    def rest(by: float, count: Count) -> list[Step]:
        responses = number * recipe.sample.responses_per_prompt
        return [
            Step("policy writes responses", 0, number * asked, number * asked, responses * tokens, starts=1),
            Step("judge labels pairs", by, pairs * count.sent, pairs * count.read, pairs, starts=1),
            Step("reward model", trained=pairs * 2 * whole * recipe.reward.epochs),
            # Four forward passes of each rollout (policy, reference, reward model, critic), then the updates.
            Step("PPO", 0, rollouts * asked, rollouts * asked, rollouts * tokens,
                 rollouts * whole * passes, starts=1),
            Step("evaluation: both policies write", 0, 2 * judged * asked, 2 * judged * asked, 2 * judged * tokens,
                 starts=2),
            Step("evaluation: the judge", by, judged * count.sent, judged * count.read, judged, starts=1),
        ]  # fmt: skip

    first, second = rest(JUDGE, of_pair), rest(STUDENT, small)
    return [
        Step("audits on people's labels", JUDGE, audited * of_gold.sent, audited * of_gold.read, audited, starts=1),
        *first[:2],
        Step("small judge: training, audit", STUDENT, trained=learned + forward / 3),
        *first[2:],
        Step("small judge: its own audit", STUDENT, audited * small_gold.sent, audited * small_gold.read, starts=1),
        second[1]._replace(name="second run: small judge labels"),
        *(step._replace(name=f"second run: {step.name}") for step in second[2:]),
    ]


def table(steps: Sequence[Step]) -> list[str]:
    """Markdown."""
    millions = [
        [f"{value / 1e6:,.1f}" if value else "" for value in (s.sent, s.read, s.written, s.trained)] for s in steps
    ]
    hours = [[step.seconds(gpu) / 3600 for gpu in GPUS] for step in steps]
    sums = [sum(column) for column in zip(*hours, strict=True)]
    costs = [f"{total * gpu.price[0]:.0f} to {total * gpu.price[1]:.0f}" for total, gpu in zip(sums, GPUS, strict=True)]
    head = ["step", "sent, M tokens", "read", "written", "trained on", *(f"{gpu.name}: h" for gpu in GPUS)]
    rows = [
        head,
        ["---"] * len(head),
        *([s.name, *m, *(f"{h:.1f}" for h in hs)] for s, m, hs in zip(steps, millions, hours, strict=True)),
        ["**all, hours**", "", "", "", "", *(f"**{total:.0f}**" for total in sums)],
        ["**all, USD**", "", "", "", "", *costs],
    ]
    return [f"| {' | '.join(row)} |" for row in rows]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("overrides", nargs="*", help="key=value, as for rlaif run")
    options.add_argument("--recipe", default="strong-judge")
    options.add_argument("--data", type=Path, required=True, help="labelled pairs: prompts to count")
    options.add_argument("--response-tokens", type=int, default=200, help="of a policy's response; assumed")
    options.add_argument("--gold", type=int, default=500, help="people's labels in the audits")
    options.add_argument("--probe-pairs", type=int, default=20)
    given = options.parse_args()
    recipe = load_recipe(given.recipe, given.overrides)
    print("\n".join(table(steps_of(recipe, given.data, given.response_tokens, given.gold, given.probe_pairs))))
    print("\nComputed from these, not measured:")
    for gpu in GPUS:
        print(f"- {gpu.name} (policy of {gpu.policy} B): reads {gpu.reads:,.0f} and writes {gpu.writes:,.0f} tokens/s "
              f"at {JUDGE} B; {gpu.price[0]} to {gpu.price[1]} USD per hour. {gpu.source}.")  # fmt: skip


if __name__ == "__main__":
    main()
