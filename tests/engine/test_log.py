"""The kept output of a worker is bounded."""

from reconciler.engine.log import KEPT, LONGEST, Log


async def test_the_last_lines_are_kept_and_long_ones_truncated() -> None:
    log = Log(1)
    for number in range(KEPT + 10):
        log.write(f"{number} {'x' * LONGEST}")
    log.end()
    kept = [line async for line in log.follow(wait=False)]
    assert [line.line.split()[0] for line in kept] == [str(n) for n in range(10, KEPT + 10)]
    assert {len(line.line) for line in kept} == {LONGEST}
