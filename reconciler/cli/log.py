"""The daemon's log: one format for its own lines and those of libraries.

Libraries log too: aiohttp its internal errors, asyncio exceptions that were never retrieved, Python
uncaught exceptions. Their messages can contain a request with its headers, so they are dropped. A
library's line has the place in the code, the type of the error and its stack frames, in the format
of `--log-format`. Each place logs at most one line a minute, with the number of suppressed lines.
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
"""Number of files of `--log-file`: the current one and older ones."""

REPEAT_SECONDS = 60.0

OWN = "reconciler"

WARNINGS = "py.warnings"
"""The logger of Python's warnings. They contain a line of code, and no values."""

UNCAUGHT = "python"
"""The logger of uncaught exceptions."""


def configure(level: str, form: str, file: Path | None) -> None:
    """Log to `file`, or to stderr if it is None. `form` is text or json. Raises OSError."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(
            file, maxBytes=LOG_BYTES, backupCount=LOG_FILES - 1, encoding="utf-8"
        )
    processors = chain(form, colours=file is None and sys.stderr.isatty())
    handler.setFormatter(Lines(processors))
    handler.addFilter(Repeats(RateLimit(REPEAT_SECONDS, time.monotonic)))
    logging.raiseExceptions = False  # on a full disk, each line would print a traceback
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
    """Log only errors, on stderr, within the context: for commands that print to stdout."""
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
    """Processors that turn an event into a line."""
    common: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if form == "json":
        json = structlog.processors.JSONRenderer()
        return [*common, structlog.processors.format_exc_info, json]
    # The default formatter shows values of variables, such as tokens and prompts.
    plain = structlog.dev.plain_traceback
    return [*common, structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain)]


class Repeats(logging.Filter):
    """Limit the rate of libraries' lines."""

    def __init__(self, limit: RateLimit) -> None:
        super().__init__()
        self._limit = limit

    def filter(self, record: logging.LogRecord) -> bool:
        """True if the record is written; sets `left_out`, the number of suppressed ones."""
        if _is_own(record):
            return True
        kind = type(record.exc_info[1]).__name__ if record.exc_info else None
        left_out = self._limit.passes((record.name, record.pathname, record.lineno, kind))
        record.left_out = left_out
        return left_out is not None


class Lines(logging.Formatter):
    """Format the daemon's lines unchanged, and those of libraries without their messages."""

    def __init__(self, processors: list[structlog.typing.Processor]) -> None:
        super().__init__()
        self._processors = processors

    def format(self, record: logging.LogRecord) -> str:
        """Format a record: one line, or several if a text log has stack frames."""
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
    """Log an error of the event loop, without the values in `context`."""
    error = context.get("exception")
    info = (type(error), error, error.__traceback__) if isinstance(error, Exception) else None
    logging.getLogger("asyncio").error("the event loop reports an error", exc_info=info)


def _unraisable(found: "sys.UnraisableHookArgs") -> None:
    logging.getLogger(UNCAUGHT).error("", exc_info=found.exc_value)


def _of_thread(found: "threading.ExceptHookArgs") -> None:
    if found.exc_type is not SystemExit:
        logging.getLogger(UNCAUGHT).error("", exc_info=found.exc_value)
