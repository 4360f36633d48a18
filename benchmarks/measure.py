"""Measures two ways of doing one thing in turns: medians, and the ratio of each turn.

Other load on the machine slows both sides of a turn alike, so ratios vary less than times. The
order alternates, and the first turn, which warms caches, is discarded.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

Side = Callable[[], Awaitable[float]]
"""Runs one side once and returns its measurement."""


@dataclass(frozen=True)
class Result:
    """Medians of both sides and of their ratio; `low` and `high` are the quartiles of the ratio."""

    what: str
    against: str
    unit: str
    ours: float
    theirs: float
    ratio: float
    low: float
    high: float
    turns: int
    target: str = ""


async def compare(
    what: str,
    ours: Side,
    against: str,
    theirs: Side,
    *,
    turns: int,
    unit: str = "s",
    target: str = "",
) -> Result:
    """Measure both sides `turns` times, after one turn that is discarded."""
    pairs: list[tuple[float, float]] = []
    for turn in range(turns + 1):
        if turn % 2:
            second = await theirs()
            first = await ours()
        else:
            first = await ours()
            second = await theirs()
        if turn:
            pairs.append((first, second))
    return summary(what, against, pairs, unit=unit, target=target)


def summary(
    what: str,
    against: str,
    pairs: list[tuple[float, float]],
    *,
    unit: str = "s",
    target: str = "",
) -> Result:
    """Result of turns that measured both sides."""
    ratios = [a / b for a, b in pairs]
    low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    mine, other = median(a for a, _ in pairs), median(b for _, b in pairs)
    turns = len(pairs)
    return Result(what, against, unit, mine, other, median(ratios), low, high, turns, target)


def table(results: list[Result]) -> str:
    """Format results as a Markdown table."""
    lines = [
        "| what | against | ours | theirs | ratio (quartiles) | target |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.what} | {r.against} | {r.ours:.3g} {r.unit} | {r.theirs:.3g} {r.unit} "
        f"| **{r.ratio:.2f}** ({r.low:.2f} to {r.high:.2f}) | {r.target} |"
        for r in results
    ]
    return "\n".join(lines)


def write(results: list[Result], path: Path) -> None:
    """Write results as JSON."""
    path.write_text(json.dumps([asdict(r) for r in results], indent=2) + "\n", "utf-8")
