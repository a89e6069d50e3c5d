"""What labelling many pairs takes on a cluster, computed from what the driver needs per pair and a GPU per token.

    python benchmarks/scale.py --pairs 10000000 --principles 4 --tokens 600 --tokens-per-second 20000

The driver's figure is measured: `benchmarks/shards.py --principles 4 --ray 1` says pairs per CPU second.
What a GPU does per second is an assumption: take your engine's. One driver feeds the workers, so the larger of two
times counts:

    requests = pairs * principles * 2 orders
    GPUs:   requests * tokens / (tokens per second * GPUs)
    driver: pairs / driver's pairs per second
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

DRIVER = 10_000
"""Pairs per CPU second of the driver, through Ray."""


def hours(
    pairs: int, principles: int, tokens: float, per_second: float, gpus: int, driver: float
) -> tuple[float, float]:
    """Of the GPUs, and of the driver."""
    requests = pairs * principles * 2
    return requests * tokens / (per_second * gpus) / 3600, pairs / driver / 3600


def rows(pairs: int, principles: int, tokens: float, per_second: float, driver: float = DRIVER) -> Iterator[str]:
    """The table, a line for each size of cluster."""
    yield "| GPUs | GPUs' time | driver's time | label stage | workers busy |"
    yield "|---|---|---|---|---|"
    for gpus in (8, 64, 512):
        work, feed = hours(pairs, principles, tokens, per_second, gpus, driver)
        yield f"| {gpus} | {work:.2f} h | {feed:.2f} h | {max(work, feed):.2f} h | {min(1, work / feed):.0%} |"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--pairs", type=int, default=10_000_000)
    options.add_argument("--principles", type=int, default=4)
    options.add_argument("--tokens", type=float, default=600, help="per request, after what the prefix cache has")
    options.add_argument("--tokens-per-second", type=float, default=20_000, help="that one GPU reads")
    options.add_argument("--driver", type=float, default=DRIVER, help="pairs per second of the driver")
    given = options.parse_args()
    print(*rows(given.pairs, given.principles, given.tokens, given.tokens_per_second, given.driver), sep="\n")


if __name__ == "__main__":
    main()
