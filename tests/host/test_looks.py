"""File access that may hang."""

import asyncio
import subprocess
import sys
import threading

import pytest

from reconciler.host import looks

HANGS = """\
import asyncio, threading
from reconciler.host import looks

async def main():
    for _ in range(3):
        try:
            await looks.look(threading.Event().wait, seconds=0.01)
        except TimeoutError as error:
            print(error)
    asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)
    print(await looks.look(lambda: "others go on", seconds=60))

looks.run(main())
"""


def test_a_hung_call_is_abandoned_and_does_not_delay_the_exit() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=60, check=False
    )
    expected = ["no answer within 0.01 s"] * 3 + ["others go on"]
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, expected, "")


async def test_results_and_errors_are_those_of_the_function() -> None:
    assert await looks.look(divmod, 7, 2, seconds=60) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await looks.look(divmod, 7, 0, seconds=60)


def test_more_calls_than_cores_run_in_parallel() -> None:
    meeting = threading.Barrier(100)

    async def meet() -> None:
        await asyncio.gather(*(looks.look(meeting.wait, seconds=60) for _ in range(100)))

    looks.run(meet())
