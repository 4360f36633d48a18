"""Format of log lines of the daemon and of libraries."""

import asyncio
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reconciler.cli import log
from reconciler.core.ratelimit import RateLimit

SECRET = "Bearer token-zirconium-4711"

LOUD = """\
import asyncio, gc, logging, sys, threading, warnings
from pathlib import Path
import structlog
from reconciler.cli import log

log.configure("debug", {form!r}, None)
SECRET = {secret!r}

async def forgotten():
    raise ValueError(SECRET)

async def main():
    asyncio.get_running_loop().set_exception_handler(log.of_loop)
    task = asyncio.create_task(forgotten())
    await asyncio.sleep(0)
    del task
    gc.collect()
    asyncio.get_running_loop().call_exception_handler({{"message": SECRET, "socket": SECRET}})
    logging.getLogger("asyncio").warning("Executing " + SECRET)

class Unraisable:
    def __del__(self):
        raise KeyError(SECRET)

def in_a_thread():
    raise OSError(SECRET)

asyncio.run(main())
for name in ("aiohttp.server", "aiohttp.access", "aiohttp.web", "aiohttp.client", "other"):
    for _ in range(3):
        logging.getLogger(name).error("Error handling request from %s", SECRET)
        logging.getLogger(name).error(SECRET)
try:
    raise RuntimeError(SECRET) from ValueError(SECRET)
except RuntimeError:
    logging.getLogger("aiohttp.server").exception("Unhandled exception")
Unraisable()
thread = threading.Thread(target=in_a_thread)
thread.start()
thread.join()
warnings.warn("this goes away", RuntimeWarning)
structlog.get_logger("reconciler.x").info("ours", name="a")
"""


@pytest.mark.parametrize("form", ["json", "text"])
def test_libraries_log_no_messages_and_no_other_format(form: str, tmp_path: Path) -> None:
    program = tmp_path / "loud.py"
    program.write_text(LOUD.format(form=form, secret=SECRET), "utf-8")
    command = [sys.executable, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert SECRET not in done.stderr
    assert "zirconium" not in done.stderr
    for type_ in ("ValueError", "KeyError", "OSError", "RuntimeError"):
        assert type_ in done.stderr
    assert "this goes away" in done.stderr
    assert "in_a_thread" in done.stderr  # the function in which it was raised
    if form == "json":
        lines = [json.loads(line) for line in done.stderr.splitlines()]
        assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)
        assert [line["name"] for line in lines if line["event"] == "ours"] == ["a"]
        assert len([line for line in lines if line.get("logger") == "aiohttp.access"]) == 2


def record(line: int) -> logging.LogRecord:
    return logging.LogRecord("aiohttp.server", logging.ERROR, "x.py", line, SECRET, None, None)


def test_one_place_logs_once_per_period_and_counts_dropped_lines() -> None:
    now = [0.0]
    repeats = log.Repeats(RateLimit(60, lambda: now[0]))
    lines = log.Lines(log.chain("json", colours=False))
    assert [repeats.filter(record(1)) for _ in range(5)] == [True, False, False, False, False]
    assert repeats.filter(record(2))
    now[0] = 61.0
    again = record(1)
    assert repeats.filter(again)
    assert json.loads(lines.format(again))["left_out"] == 4


async def test_errors_of_the_loop_are_logged_without_values(
    caplog: pytest.LogCaptureFixture,
) -> None:
    error = ValueError("the type alone is written")
    log.of_loop(asyncio.get_running_loop(), {"message": SECRET, "exception": error})
    (found,) = caplog.records
    line = json.loads(log.Lines(log.chain("json", colours=False)).format(found))
    assert (line["error"], line["logger"]) == ("ValueError", "asyncio")
    assert "zirconium" not in json.dumps(line)


@pytest.mark.parametrize("form", ["json", "text"])
def test_an_error_of_the_daemon_is_logged_without_values_of_variables(form: str) -> None:
    """If rich is installed, structlog's default prints the variables of each frame."""
    token = "a value of " + "zirconium"

    def fail() -> None:
        kept = token * 2
        raise ValueError(len(kept))

    with pytest.raises(ValueError, match=r"^\d+$") as raised:
        fail()
    error = raised.value
    line: Any = {"event": "failed", "exc_info": (type(error), error, error.__traceback__)}
    for processor in log.chain(form, colours=False):
        line = processor(None, "error", line)
    assert "ValueError" in line
    assert "fail" in line
    assert token not in line
