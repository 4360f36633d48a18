"""A command in a terminal: a real process on a pseudo-terminal."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support import environment

ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|[=>])")

SECONDS = 20

CONTROLLING = """\
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Code that makes the pseudo-terminal the controlling terminal, so that Ctrl-C sends a signal."""


class Terminal:
    """`reconciler WORDS...` with 80 columns; `screen` is its output without escapes."""

    def __init__(self, home: Path, *words: str, columns: int = 80) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        # No terminal answers a query for the cursor's position.
        environ = environment(HOME=str(home), TERM="xterm", PROMPT_TOOLKIT_NO_CPR="1")
        environ.pop("COLUMNS", None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", CONTROLLING, "-m", "reconciler", *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environ,
            start_new_session=True,
        )
        os.close(slave)
        self.screen = ""
        self._seen = 0

    def press(self, keys: str) -> None:
        """Press these keys."""
        os.write(self._master, keys.encode())

    def expect(self, text: str) -> None:
        """Read until `text` appears after the text expected before."""
        while (found := self.screen.find(text, self._seen)) < 0:
            assert self._read(), f"{text!r} is not in {self.screen[self._seen :]!r}"
        self._seen = found + len(text)

    def end(self) -> int:
        """Read to the end, and return the exit code."""
        while self._read():
            pass
        return self.process.wait(SECONDS)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], SECONDS)
        assert ready, self.screen
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux: the other side was closed
            data = b""
        self.screen = ESCAPES.sub("", self.screen + data.decode(errors="replace"))
        return bool(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)
