"""Counters and histograms that are updated while the daemon runs, exposed by `/metrics`."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Histogram

from reconciler.core.records import LoadReport

LOAD_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
PASS_SECONDS = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1)


class Metrics:
    """Counters and histograms of one daemon."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self._loads = Histogram(
            "reconciler_load_seconds",
            "Duration of each phase of a load, and of the whole load.",
            ["action", "phase"],
            buckets=LOAD_SECONDS,
            registry=registry,
        )
        self._passes = Histogram(
            "reconciler_reconcile_seconds",
            "Duration of a pass of the reconcile loop.",
            buckets=PASS_SECONDS,
            registry=registry,
        )
        self._actions = Counter(
            "reconciler_actions",
            "Completed actions.",
            ["action", "outcome"],
            registry=registry,
        )
        self._restarts = Counter(
            "reconciler_restarts",
            "Instances whose worker exited or was ended because it hung.",
            ["reason"],
            registry=registry,
        )
        self._requests = Counter(
            "reconciler_requests",
            "Completion requests that a worker answered.",
            ["instance", "status"],
            registry=registry,
        )
        self._asked: dict[str, set[str]] = {}
        """HTTP statuses reported per instance."""

    @contextmanager
    def a_pass(self) -> Iterator[None]:
        """Time a pass of the reconciler."""
        with self._passes.time():
            yield

    def action_ended(self, action: str, *, failed: bool) -> None:
        """Count an ended action."""
        self._actions.labels(action, "failed" if failed else "succeeded").inc()

    def loaded(self, action: str, report: LoadReport) -> None:
        """Record the duration of a load."""
        self._loads.labels(action, "all").observe(report.load_time_seconds)
        for name, phase in report.phases.items():
            self._loads.labels(action, name).observe(phase.duration)

    def worker_died(self, reason: str) -> None:
        """Count a worker that exited unexpectedly."""
        self._restarts.labels(reason).inc()

    def answered(self, instance: str, status: int) -> None:
        """Count a request that a worker started to answer."""
        self._asked.setdefault(instance, set()).add(str(status))
        self._requests.labels(instance, str(status)).inc()

    def retain_only(self, instances: Collection[str]) -> None:
        """Drop the series of all other instances, so that they do not accumulate."""
        for gone in [name for name in self._asked if name not in instances]:
            for status in self._asked.pop(gone):
                self._requests.remove(gone, status)
