"""Measures several servers in turns, in an order that changes, and discards the first turn."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import aiohttp

from benchmarks.measure import Result, summary
from benchmarks.peers.client import FailedError
from benchmarks.peers.install import SkippedError

MEASURE_SECONDS = 180.0
"""Time for one measurement of one server."""

OURS = "reconciler"

T = TypeVar("T")

Figures = dict[str, float]
"""Values by the name of what was measured."""


@dataclass
class Measured:
    """Figures of each turn by server; a server that failed has a reason instead."""

    turns: dict[str, list[Figures]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, figures: Figures) -> None:
        """Add a turn of a server."""
        self.turns.setdefault(name, []).append(figures)

    def fail(self, name: str, reason: str) -> None:
        """Leave a server out: with turns missing, others cannot be compared with it."""
        self.turns.pop(name, None)
        self.failed[name] = reason

    def results(self, what: str, figure: str, unit: str, titles: Mapping[str, str]) -> list[Result]:
        """Ratios of reconciler to every other server that was measured; there is none to 0."""
        ours = self.turns.get(OURS, [])
        return [
            summary(
                what,
                titles[name],
                [(a[figure], b[figure]) for a, b in zip(ours, turns, strict=True)],
                unit=unit,
            )
            for name, turns in self.turns.items()
            if name != OURS and ours and all(turn[figure] for turn in turns)
        ]


async def in_turns(
    servers: Mapping[str, T],
    measure: Callable[[T], Awaitable[Figures]],
    turns: int,
    discarded: int = 1,
) -> Measured:
    """Measure each server `turns` times, after turns that are discarded.

    A server that fails, or takes too long, is left out from then on; the others go on.
    """
    measured = Measured()
    names = list(servers)
    for turn in range(-discarded, turns):
        shift = turn % max(len(names), 1)
        order = names[shift:] + names[:shift]
        for name in order if turn % 2 else reversed(order):
            if name in measured.failed:
                continue
            try:
                async with asyncio.timeout(MEASURE_SECONDS):
                    figures = await measure(servers[name])
            except TimeoutError:
                measured.fail(name, f"not measured within {MEASURE_SECONDS:.0f} s")
            except (SkippedError, FailedError, aiohttp.ClientError) as error:
                measured.fail(name, str(error) or type(error).__name__)
            else:
                if turn >= 0:
                    measured.add(name, figures)
    return measured
