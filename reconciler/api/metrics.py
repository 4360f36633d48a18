"""Metrics for Prometheus."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import accumulate

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from reconciler.api.context import CONTROLLER
from reconciler.api.describe import describe
from reconciler.api.encode import whole
from reconciler.api.pieces import each
from reconciler.controller import Controller, RecordView, SourceSync
from reconciler.core.errors import Reason
from reconciler.core.protocol import FIRST_TOKEN_SECONDS, Usage

routes = web.RouteTableDef()

TEXT = {"type": "string"}
STATES = ("Ready", "Progressing", "Stalled", "Resting")


@routes.get("/metrics")
@describe({200: TEXT}, content_type="text/plain")
async def metrics(request: web.Request) -> web.Response:
    """Metrics in Prometheus' text format."""
    controller = request.app[CONTROLLER]
    now = CollectorRegistry()
    tokens = await controller.tokens()
    states = Counter(await each(controller.each_answer(), _state))
    prompts = await controller.prompts_bytes()
    now.register(State(controller, states, tokens, len(asyncio.all_tasks()), prompts))
    body = generate_latest(controller.metrics.registry) + generate_latest(now)
    return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4"})


class State(Collector):
    """Metrics of the state at the time of a scrape."""

    def __init__(
        self,
        controller: Controller,
        states: Mapping[tuple[str, bool], int],
        tokens: Mapping[str, Usage],
        tasks: int = 0,
        prompts: int = 0,
    ) -> None:
        """`states` counts records by state and whether they are queued; `tokens` is the usage by
        instance; `tasks` is the number of tasks on the event loop; `prompts` is the size of the
        prompts on disk [bytes].
        """
        self._prompts = prompts
        self._controller = controller
        self._states = states
        self._tokens = tokens
        self._tasks = tasks

    def collect(self) -> Iterator[Metric]:
        """Yield every gauge, and the counts of workers."""
        yield from self._records()
        yield self._computed()
        yield from self._cached()
        yield from self._speculated()
        yield self._first_tokens()
        yield from self._memory()
        yield from self._sources()
        words = "Tasks of the daemon's event loop; constant while nothing happens."
        yield GaugeMetricFamily("reconciler_tasks", words, value=self._tasks)

    def _records(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "reconciler_records",
            "Records by state; Resting: suspended or idle.",
            labels=["state"],
        )
        for state in STATES:
            count = sum(n for (name, _), n in self._states.items() if name == state)
            family.add_metric([state], count)
        yield family
        words = "Records that wait for another record's load."
        queued = sum(n for (_, queued), n in self._states.items() if queued)
        yield GaugeMetricFamily("reconciler_queue_depth", words, value=queued)

    def _computed(self) -> Metric:
        family = CounterMetricFamily(
            "reconciler_tokens",
            "Tokens of completion requests: prompt tokens, found in a KV cache or computed, and "
            "generated tokens.",
            labels=["instance", "kind"],
        )
        for name, usage in self._tokens.items():
            family.add_metric([name, "prompt"], usage.prompt_tokens)
            family.add_metric([name, "completion"], usage.completion_tokens)
        return family

    def _cached(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "reconciler_cached_tokens",
            "Tokens of prompts that were found in a KV cache and not computed.",
            labels=["instance"],
        )
        for name, usage in self._tokens.items():
            family.add_metric([name], usage.cached_tokens)
        yield family
        family = CounterMetricFamily(
            "reconciler_disk_cached_tokens",
            "Tokens of prompts whose KV cache was read from disk.",
            labels=["instance"],
        )
        for name, usage in self._tokens.items():
            family.add_metric([name], usage.disk_tokens)
        yield family
        words = "Size of the prompts that are kept on disk."
        yield GaugeMetricFamily("reconciler_prompt_cache_bytes", words, value=self._prompts)

    def _speculated(self) -> Iterator[Metric]:
        drafts = CounterMetricFamily(
            "reconciler_draft_tokens",
            "Tokens drafted by speculative decoding, and those of them that were accepted.",
            labels=["instance", "kind"],
        )
        seconds = CounterMetricFamily(
            "reconciler_speculation_seconds",
            "Time of passes that checked drafts, and the time that their tokens would have taken "
            "one by one; the gain is replaced / spent.",
            labels=["instance", "kind"],
        )
        for name, usage in self._tokens.items():
            counts = usage.speculated
            drafts.add_metric([name, "drafted"], counts.drafted)
            drafts.add_metric([name, "accepted"], counts.accepted)
            seconds.add_metric([name, "spent"], counts.seconds)
            seconds.add_metric([name, "replaced"], counts.replaced_seconds)
        yield drafts
        yield seconds

    def _first_tokens(self) -> Metric:
        family = HistogramMetricFamily(
            "reconciler_first_token_seconds",
            "Time from a request to its first generated token, excluding the load of its model.",
            labels=["instance"],
        )
        bounds = [*map(floatToGoString, FIRST_TOKEN_SECONDS), "+Inf"]
        for name, usage in self._tokens.items():
            first = usage.first_tokens
            buckets = list(zip(bounds, map(float, accumulate(first.counts)), strict=True))
            family.add_metric([name], buckets, first.seconds)
        return family

    def _memory(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "reconciler_instance_memory_bytes",
            "Memory of the weights, including shared ones, and of the instance.",
            labels=["instance"],
        )
        for instance in self._controller.instances():
            if instance.report is not None:
                family.add_metric([instance.name], instance.report.memory_bytes)
        yield family
        held = self._controller.memory()
        if held is not None:
            words = "Memory budget of all models."
            yield GaugeMetricFamily("reconciler_memory_budget_bytes", words, value=held.budget)
            words = "Memory held by instances and loads in progress; shared weights count once."
            yield GaugeMetricFamily("reconciler_memory_used_bytes", words, value=held.used)

    def _sources(self) -> Iterator[Metric]:
        errors = GaugeMetricFamily(
            "reconciler_source_errors",
            "Errors that keep a source, or files of it, from being followed.",
            labels=["source"],
        )
        synced = GaugeMetricFamily(
            "reconciler_source_synced_timestamp_seconds",
            "Time of a repository's last response.",
            labels=["source"],
        )
        commits = GaugeMetricFamily(
            "reconciler_source_commit_info",
            "1 for the commit in force.",
            labels=["source", "commit"],
        )
        for feed in self._controller.sources:
            errors.add_metric([whole(feed.name)], _errors(feed))
            commit = feed.view.snapshot.commit if feed.view is not None else None
            if commit is not None and commit.synced_at is not None:
                synced.add_metric([whole(feed.name)], commit.synced_at.timestamp())
            if commit is not None and commit.applied is not None:
                commits.add_metric([whole(feed.name), commit.applied], 1)
        yield from (errors, synced, commits)


def _state(answer: RecordView) -> tuple[str, bool]:
    """State of a record, and True if it is queued."""
    conditions = answer.status.conditions
    true = next((c.type for c in conditions if c.status == "True"), "Resting")
    return true, any(c.reason == Reason.QUEUED for c in conditions)


def _errors(feed: SourceSync) -> int:
    view = feed.view
    if view is None:
        return 0
    flaws = sum(len(file.flaws) for file in view.snapshot.files)
    return flaws + len(view.flagged) + len(view.held) + (view.snapshot.problem is not None)
