"""The daemon's log: the one form of its lines, whoever writes them.

Libraries log too: aiohttp what it takes for its own errors, asyncio an exception that nobody
awaited, Python what no code caught. Their words can repeat a request with its headers. A line of
theirs has where it was written, the type of the error and its frames, and no words; it is in the
form that `--log-format` asks for; and one place writes at most one in a minute, with how many were
left out.
"""

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import structlog

from reconciler.api.frames import frames
from reconciler.core.ratelimit import RateLimit

LOG_BYTES = 10_000_000
LOG_FILES = 5
"""Of `--log-file`: the one that is written, and older ones."""

REPEAT_SECONDS = 60.0

OWN = "reconciler"

WARNINGS = "py.warnings"
"""The logger of Python's warnings. They name a line of code, and no value."""

UNCAUGHT = "python"
"""The logger of what no code caught."""


def configure(level: str, form: str, file: Path | None) -> None:
    """Log to `file`, or stderr if there is none. `form` is text or json. Raises OSError."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(
            file, maxBytes=LOG_BYTES, backupCount=LOG_FILES - 1, encoding="utf-8"
        )
    processors = chain(form, colours=file is None and sys.stderr.isatty())
    handler.setFormatter(Lines(processors))
    handler.addFilter(Repeats(RateLimit(REPEAT_SECONDS, time.monotonic)))
    logging.raiseExceptions = False  # a full disk must not make a traceback of each line
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger(OWN).setLevel(level.upper())
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, *processors],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    sys.unraisablehook = _unraisable
    threading.excepthook = _of_thread


@contextmanager
def errors_only() -> Iterator[None]:
    """Within it, log errors alone, on stderr: for a command whose stdout is its answer."""
    before = structlog.get_config()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger("error"),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        yield
    finally:
        structlog.configure(**before)


def chain(form: str, *, colours: bool) -> list[structlog.typing.Processor]:
    """What makes a line of what is logged."""
    common: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if form == "json":
        json = structlog.processors.JSONRenderer()
        return [*common, structlog.processors.format_exc_info, json]
    # The default one shows the values of variables: tokens and prompts among them.
    plain = structlog.dev.plain_traceback
    return [*common, structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain)]


class Repeats(logging.Filter):
    """Lets a line of a library through once in a while."""

    def __init__(self, limit: RateLimit) -> None:
        super().__init__()
        self._limit = limit

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is written; it is noted in it how many were not."""
        if _is_own(record):
            return True
        kind = type(record.exc_info[1]).__name__ if record.exc_info else None
        left_out = self._limit.passes((record.name, record.pathname, record.lineno, kind))
        record.left_out = left_out
        return left_out is not None


class Lines(logging.Formatter):
    """Our own lines as they are, and those of libraries in the same form without their words."""

    def __init__(self, processors: list[structlog.typing.Processor]) -> None:
        super().__init__()
        self._processors = processors

    def format(self, record: logging.LogRecord) -> str:
        """One line, or several where there are frames in a text log."""
        if _is_own(record):
            return record.getMessage()
        line: Any = {
            "event": "a library reports an error",
            "logger": record.name,
            "at": f"{record.module}:{record.lineno}",
        }
        if record.name == WARNINGS:
            line = {"event": "a library warns", "warning": record.getMessage().splitlines()[0]}
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            line |= {"error": type(error).__name__, "trace": frames(error)}
        if left_out := getattr(record, "left_out", 0):
            line["left_out"] = left_out
        for processor in self._processors:
            line = processor(None, record.levelname.lower(), line)
        return str(line)


def _is_own(record: logging.LogRecord) -> bool:
    return record.name == OWN or record.name.startswith(f"{OWN}.")


def of_loop(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what the event loop could tell nobody; `context` has more, and values in it."""
    error = context.get("exception")
    info = (type(error), error, error.__traceback__) if isinstance(error, Exception) else None
    logging.getLogger("asyncio").error("the event loop reports an error", exc_info=info)


def _unraisable(found: "sys.UnraisableHookArgs") -> None:
    logging.getLogger(UNCAUGHT).error("", exc_info=found.exc_value)


def _of_thread(found: "threading.ExceptHookArgs") -> None:
    if found.exc_type is not SystemExit:
        logging.getLogger(UNCAUGHT).error("", exc_info=found.exc_value)
