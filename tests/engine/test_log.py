"""The kept output of a worker is bounded."""

from reconciler.engine.log import KEPT, LONGEST, Log


async def test_the_last_lines_are_kept_and_long_ones_truncated() -> None:
    log = Log(1)
    for number in range(KEPT + 10):
        log.write(f"{number} {'x' * LONGEST}")
    log.end()
    kept = [line async for line in log.follow(wait=False) if line is not None]
    assert [line.line.split()[0] for line in kept] == [str(n) for n in range(10, KEPT + 10)]
    assert {len(line.line) for line in kept} == {LONGEST}


async def test_a_log_is_resumed_after_a_line_and_reports_lost_ones() -> None:
    log = Log(1)
    log.write("first")
    log.write("second")
    first, second = [line async for line in log.follow(wait=False) if line is not None]
    assert [line async for line in log.follow(first.id, wait=False)] == [second]
    assert [line async for line in log.follow(second.id, wait=False)] == []
    assert [line async for line in log.follow("other-1", wait=False)] == [None, first, second]
    for number in range(KEPT):
        log.write(f"{number}")
    resumed = [line async for line in log.follow(first.id, wait=False)]
    assert (resumed[0], len(resumed)) == (None, 1 + KEPT)
