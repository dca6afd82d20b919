"""What a server counts, for Prometheus; each app has its own registry."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class RequestMetrics:
    """Counters of one server.

    Args:
        under_way: returns how many requests wait for, or are in, the model.
    """

    def __init__(self, under_way: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter("camlucida_requests", "Requests answered.", ("path", "status"), registry=self.registry)
        self.seconds = Histogram(
            "camlucida_explain_seconds", "From a request's last byte to its answer.", buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.batches = Histogram(
            "camlucida_batch_pictures", "Pictures in each batch.", buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self.registry,
        )  # fmt: skip
        Gauge("camlucida_under_way", "Requests that wait for, or are in, the model.",
              registry=self.registry).set_function(under_way)  # fmt: skip

    def count_answer(self, path: str, status: int) -> None:
        """Count a request."""
        self._requests.labels(path, str(status)).inc()

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)
