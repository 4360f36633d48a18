"""Memory accounting: holders, and what is left.

A worker's process and weights are counted once per checkpoint, plus the memory with which each of
its instances was admitted. If a worker was measured to use more, the measured size counts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from reconciler.core.records import Instance
from reconciler.core.sizes import parse_size


@dataclass(frozen=True)
class Budget:
    """Memory that models may use: all that a machine offers, a share of it, or a size in bytes."""

    share: float = 1.0
    size: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `70%` or a size such as `24GiB`. Raises ValueError with a message for users."""
        if not text.strip().endswith("%"):
            size = parse_size(text)
            if not size:
                raise ValueError("the budget is 0; use a size or a share greater than 0")
            return cls(size=size)
        try:
            percent = float(text.strip()[:-1])
        except ValueError:
            percent = 0.0
        if not 0 < percent <= 100:
            raise ValueError(f"'{text}' is not a valid share; use more than 0% and at most 100%")
        return cls(percent / 100)

    def of(self, offered: int) -> int:
        """The budget in bytes on a machine that offers `offered` bytes."""
        return self.size if self.size is not None else int(offered * self.share)


@dataclass(frozen=True)
class MemoryPolicy:
    """Policy for the use of memory."""

    budget: Budget = field(default_factory=Budget)
    evict_idle: bool = False
    """Unload idle instances for records of a higher priority."""


@dataclass
class Ledger:
    """Bytes by holder: shared ones by checkpoint, an instance's own by its name."""

    budget: int
    shared: dict[str, int] = field(default_factory=dict)
    own: dict[str, tuple[str, int]] = field(default_factory=dict)
    live: Mapping[str, int] = field(default_factory=dict)
    """Measured total of the worker that holds a checkpoint, by checkpoint."""
    leased: Mapping[str, int] = field(default_factory=dict)
    """Bytes leased to the instances of a checkpoint beyond their own, by checkpoint."""

    @classmethod
    def of(
        cls, budget: int, instances: Iterable[Instance], live: Mapping[str, int] | None = None
    ) -> Self:
        """The ledger of the loaded instances."""
        ledger = cls(budget, live=live or {})
        for i in instances:
            ledger.hold(i.name, i.checkpoint, i.shared_bytes, i.session_bytes)
        return ledger

    def hold(self, name: str, checkpoint: str, shared: int, own: int) -> None:
        """Add what `name` holds, replacing what it held before."""
        self.release(name)
        self.shared[checkpoint] = shared
        self.own[name] = (checkpoint, own)

    def release(self, name: str) -> None:
        """Release what `name` holds, and its shared bytes if no other instance shares them."""
        checkpoint, size = self.own.pop(name, ("", 0))
        if checkpoint in self.live:  # the measured size includes it
            self.live = {**self.live, checkpoint: max(0, self.live[checkpoint] - size)}
        if checkpoint and all(c != checkpoint for c, _ in self.own.values()):
            self.shared.pop(checkpoint, None)

    def without(self, *names: str) -> "Ledger":
        """A copy in which `names` hold nothing."""
        copy = Ledger(self.budget, dict(self.shared), dict(self.own), self.live, self.leased)
        for name in names:
            copy.release(name)
        return copy

    def of_checkpoint(self, checkpoint: str) -> int:
        """Bytes that one worker holds: as admitted, or as measured if that is more."""
        own = sum(size for path, size in self.own.values() if path == checkpoint)
        admitted = self.shared[checkpoint] + own + self.leased.get(checkpoint, 0)
        return max(admitted, self.live.get(checkpoint, 0))

    @property
    def used(self) -> int:
        """Bytes held in total."""
        return sum(self.of_checkpoint(checkpoint) for checkpoint in self.shared)

    def missing(self, checkpoint: str, shared: int, own: int) -> int:
        """Bytes short for one more instance; 0 or less if it fits."""
        needed = own + (0 if checkpoint in self.shared else shared)
        return self.used + needed - self.budget

    def holders(self) -> Mapping[str, int]:
        """Bytes by instance name; shared bytes are listed with the first that shares them."""
        counted: set[str] = set()
        result = {}
        for name, (checkpoint, size) in self.own.items():
            result[name] = size
            if checkpoint not in counted:
                counted.add(checkpoint)
                others = sum(s for n, (c, s) in self.own.items() if c == checkpoint and n != name)
                result[name] = self.of_checkpoint(checkpoint) - others
        return result


def readable_bytes(size: int) -> str:
    """A size for messages: `1.5 GB`, `20.0 MB`, `512 B`, in powers of 1000."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"
