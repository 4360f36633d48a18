"""The table: one row for each measurement, one column for each server."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.measure import Result
from benchmarks.peers.turns import Measured


@dataclass(frozen=True)
class Row:
    """One figure of a measurement."""

    what: str
    figure: str
    unit: str
    measured: Measured

    def results(self, titles: Mapping[str, str]) -> list[Result]:
        """Ratios of reconciler to the others."""
        return self.measured.results(self.what, self.figure, self.unit, titles)

    def values(self) -> list[str]:
        """Median of each measured server."""
        return [
            f"{name} {_short(median(turn[self.figure] for turn in turns))}"
            for name, turns in self.measured.turns.items()
        ]

    def cells(self, titles: Mapping[str, str]) -> list[str]:
        """Value of each server, with the ratio of reconciler's to it."""
        ratios = {result.against: result for result in self.results(titles)}
        cells = []
        for name, title in titles.items():
            turns = self.measured.turns.get(name)
            if not turns:
                cells.append("-")
                continue
            cell = _short(median(turn[self.figure] for turn in turns))
            if result := ratios.get(title):
                spread = f" ({result.low:.2f} to {result.high:.2f})" if result.turns > 1 else ""
                cell += f": **{result.ratio:.2f}**{spread}"
            cells.append(cell)
        return cells


def _short(value: float) -> str:
    """Three digits, and all of those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(rows: Sequence[Row], titles: Mapping[str, str], skipped: Mapping[str, str]) -> str:
    """Markdown table of the rows, with the reasons of empty cells below."""
    head = ["measurement", *titles.values()]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += [f"| {row.what}, {row.unit} | {' | '.join(row.cells(titles))} |" for row in rows]
    reasons = [f"- {name}: {reason}" for name, reason in skipped.items()]
    for row in rows:
        for name, reason in row.measured.failed.items():
            line = f"- {titles[name]}, {row.what}: {reason}"
            if line not in reasons:
                reasons.append(line)
    return "\n".join([*lines, "", *reasons]) if reasons else "\n".join(lines)
