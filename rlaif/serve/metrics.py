"""What a service counts for Prometheus: requests by outcome, times, batches, what waits, and what a guard decided."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rlaif.errors import RlaifError

if TYPE_CHECKING:
    from fastapi import APIRouter
    from prometheus_client import Counter

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0)


class Meter:
    """The counts of one service. `outcomes` names errors; those that it does not name are `refused`."""

    def __init__(self, outcomes: Mapping[type[Exception], str], waiting: Callable[[], int]) -> None:
        """`waiting` says how many questions wait."""
        from prometheus_client import CollectorRegistry, Gauge, Histogram  # noqa: PLC0415 (an extra)

        self._outcomes = outcomes
        self.registry = CollectorRegistry()
        self._requests = self.counter("rlaif_requests", "Requests by their outcome.", "protocol", "outcome")
        self._seconds = Histogram(
            "rlaif_request_seconds", "From request to reply.", ["protocol"], buckets=BUCKETS, registry=self.registry
        )
        sizes = Histogram(
            "rlaif_batch_size",
            "Questions worked on together.",
            buckets=[4**k for k in range(7)],
            registry=self.registry,
        )
        self.batch: Callable[[int], None] = sizes.observe
        """Is told the size of each batch."""
        gauge = Gauge("rlaif_waiting", "Questions that wait for a worker.", registry=self.registry)
        gauge.set_function(waiting)

    def counter(self, name: str, what: str, *labels: str) -> Counter:
        """One more count."""
        from prometheus_client import Counter  # noqa: PLC0415 (an extra)

        return Counter(name, what, labels, registry=self.registry)

    @contextmanager
    def counted(self, protocol: str) -> Iterator[None]:
        """Count what happens inside, and how long it takes."""
        began, outcome = time.perf_counter(), "gone"
        try:
            yield
            outcome = "answered"
        except RlaifError as error:
            outcome = self._outcomes.get(type(error), "refused")
            raise
        except Exception:
            outcome = "error"
            raise
        finally:
            self._requests.labels(protocol, outcome).inc()
            self._seconds.labels(protocol).observe(time.perf_counter() - began)

    def routes(self) -> APIRouter:
        """Its address."""
        from fastapi import APIRouter  # noqa: PLC0415 (an extra)
        from fastapi.responses import Response  # noqa: PLC0415
        from prometheus_client import generate_latest  # noqa: PLC0415

        router = APIRouter()

        async def metrics() -> Any:
            return Response(generate_latest(self.registry), media_type="text/plain; version=0.0.4")

        router.add_api_route("/metrics", metrics, methods=["GET"])
        return router
