"""Detection of hung workers, on a simulated clock."""

from collections.abc import Iterable

import pytest

from reconciler.core.liveness import LOOKS, ProbeState, hung, look, probe_due
from reconciler.core.protocol import Pulse

INTERVAL = 32.0
LOOK = INTERVAL / LOOKS
BUSY = Pulse(5, busy=True)
IDLE = Pulse(5, busy=False)


class Watcher:
    """Checks a worker on its own clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.seen = ProbeState(0.0)
        self.pulse: Pulse | None = None

    def look(self, pulse: Pulse | None, after: float = LOOK) -> str | None:
        self.now += after
        self.pulse = pulse
        self.seen = look(self.seen, pulse, self.now, INTERVAL)
        return hung(self.seen, pulse, INTERVAL)

    def until_hung(self, pulses: Iterable[Pulse | None]) -> float:
        """Seconds until it is detected as hung."""
        begin = self.now
        for pulse in pulses:
            if self.look(pulse) is not None:
                return self.now - begin
        raise AssertionError("it is never found")


@pytest.fixture
def watcher() -> Watcher:
    """A watcher that has seen an idle worker."""
    watcher = Watcher()
    assert watcher.look(IDLE) is None
    return watcher


def test_a_worker_that_does_not_answer_is_hung_after_an_interval(watcher: Watcher) -> None:
    assert watcher.until_hung([None] * 100) == INTERVAL
    assert hung(watcher.seen, None, INTERVAL) == "it has not answered for 32 s"


def test_a_busy_worker_without_progress_is_hung_after_an_interval(watcher: Watcher) -> None:
    assert watcher.until_hung([BUSY] * 100) == INTERVAL
    words = hung(watcher.seen, BUSY, INTERVAL)
    assert words == "it is busy and has made no progress for 32 s"


def test_a_step_may_take_longer_by_its_allowance(watcher: Watcher) -> None:
    assert watcher.until_hung([Pulse(5, busy=True, allowance=3 * LOOK)] * 100) == (
        INTERVAL + 3 * LOOK
    )


def test_the_allowance_of_a_step_does_not_extend_silence(watcher: Watcher) -> None:
    watcher.look(Pulse(6, busy=True, allowance=1e6))
    assert watcher.until_hung([None] * 100) == INTERVAL


def test_a_long_prefill_with_progress_is_not_a_hang(watcher: Watcher) -> None:
    looks = int(5 * 3600 / LOOK)
    assert {watcher.look(Pulse(n // 3, busy=True)) for n in range(looks)} == {None}


def test_an_idle_worker_is_not_hung_and_is_probed_in_time_to_detect_a_hang(
    watcher: Watcher,
) -> None:
    begin = watcher.now
    while not probe_due(watcher.seen, INTERVAL):
        assert watcher.look(IDLE) is None
    # It hung right after the last probe, so this one hangs too.
    watcher.until_hung([BUSY] * 100)
    assert watcher.now - begin <= 2 * INTERVAL


def test_a_worker_that_did_something_needs_no_probe(watcher: Watcher) -> None:
    for steps in range(6, 100):
        watcher.look(Pulse(steps, busy=False))
        assert not probe_due(watcher.seen, INTERVAL)
    for _ in range(100):
        watcher.look(IDLE)
    assert probe_due(watcher.seen, INTERVAL)


def test_one_answer_ends_silence_and_one_step_ends_a_stall(watcher: Watcher) -> None:
    for silence in (None, BUSY):
        for _ in range(10):
            for _ in range(LOOKS - 1):
                assert watcher.look(silence) is None
            assert watcher.look(IDLE) is None
        assert (watcher.seen.silent, watcher.seen.stalled) == (0, 0)


@pytest.mark.parametrize("pulse", [None, BUSY])
@pytest.mark.parametrize("gap", [LOOK * 2, INTERVAL, INTERVAL + 1, 3600.0, 1e7])
def test_a_clock_jump_is_not_a_hang(watcher: Watcher, pulse: Pulse | None, gap: float) -> None:
    """The machine slept, or the daemon was stopped: a late check counts as one."""
    for _ in range(20):
        assert watcher.look(pulse, after=gap) is None
        assert watcher.look(Pulse(watcher.seen.steps + 1, busy=True)) is None


@pytest.mark.parametrize("pulse", [None, BUSY])
def test_after_a_gap_a_fresh_interval_begins(watcher: Watcher, pulse: Pulse | None) -> None:
    for _ in range(LOOKS - 1):
        assert watcher.look(pulse) is None
    assert watcher.look(pulse, after=3600.0) is None
    assert watcher.until_hung([pulse] * 100) == INTERVAL


def test_probes_that_are_always_late_still_find_a_hang(watcher: Watcher) -> None:
    found = [watcher.look(None, after=3 * LOOK) for _ in range(LOOKS)]
    assert found[-1] is not None
