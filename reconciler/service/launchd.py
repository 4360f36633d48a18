"""macOS: an agent of a user's session, or a daemon of the system.

For keys, see launchd.plist(5); for commands, launchctl(1).
"""

import plistlib
import re
import time
from collections.abc import Callable
from pathlib import Path

from reconciler.host.run import Run
from reconciler.service.job import Job, ServiceError, State, must, restored_on_error, write

LABEL = "reconciler.daemon"

THROTTLE_SECONDS = 10
"""Minimum interval between starts; launchd's default, set explicitly."""

OPEN_FILES = 4096
"""launchd's default is 256 open files per process; each client and worker uses some."""

STOP_SECONDS = 60
"""Time before launchd kills a stopping service; 20 by default. Requests have 30 to finish."""

ATTEMPTS = 10
PAUSE_SECONDS = 0.5
"""Delay between attempts: `bootout` takes effect later, and prevents a new start until then."""


class Launchd:
    """The service on macOS."""

    def __init__(
        self,
        run: Run,
        home: Path,
        uid: int,
        *,
        system: bool,
        sleep: Callable[[float], None] = time.sleep,
        root: Path = Path("/"),
    ) -> None:
        self._run, self._sleep, self._system = run, sleep, system
        self._domain = "system" if system else f"gui/{uid}"
        folder = root / "Library/LaunchDaemons" if system else home / "Library/LaunchAgents"
        self.file = folder / f"{LABEL}.plist"

    def text(self, job: Job) -> str:
        """Render the property list."""
        keys = {
            "Label": LABEL,
            "ProgramArguments": list(job.command),
            "WorkingDirectory": str(job.directory),
            "EnvironmentVariables": dict(job.environment),
            "RunAtLoad": True,
            # Do not restart after a deliberate stop.
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": THROTTLE_SECONDS,
            "ExitTimeOut": STOP_SECONDS,
            # All other types throttle CPU and disk, which would delay responses.
            "ProcessType": "Interactive",
            "SoftResourceLimits": {"NumberOfFiles": OPEN_FILES},
            # The daemon rotates its own log; these files receive the output before and after it.
            "StandardOutPath": str(job.logs / "launchd.log"),
            "StandardErrorPath": str(job.logs / "launchd.log"),
        }
        if job.user is not None:
            keys["UserName"] = job.user
        return plistlib.dumps(keys, sort_keys=False).decode()

    def install(self, job: Job) -> bool:
        """Install and start the service; True if anything changed. Raises `ServiceError`."""
        job.logs.mkdir(parents=True, exist_ok=True)
        with restored_on_error(self.file):
            changed = write(self.file, self.text(job))
            if not changed and self.state().running:
                return False
            self._bootstrap()
        return True

    def _bootstrap(self) -> None:
        self._run(("launchctl", "bootout", self._target))
        must(self._run, "launchctl", "enable", self._target)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                must(self._run, "launchctl", "bootstrap", self._domain, str(self.file))
            except ServiceError:
                if attempt == ATTEMPTS:
                    raise
                self._sleep(PAUSE_SECONDS)
            else:
                break

    def uninstall(self) -> bool:
        """Stop and remove the service; True if it was installed."""
        there = self.file.exists()
        self._run(("launchctl", "bootout", self._target))
        self.file.unlink(missing_ok=True)
        return there

    def state(self) -> State:
        """Query launchd for the state of the service."""
        kind = "launchd daemon" if self._system else "launchd agent"
        output = self._run(("launchctl", "print", self._target))
        text = output.text if output.code == 0 else ""
        pid = re.search(r"^\s*pid = (\d+)$", text, re.MULTILINE)
        last = re.search(r"^\s*last exit code = (.+)$", text, re.MULTILINE)
        return State(
            kind,
            self.file,
            self.file.exists(),
            int(pid[1]) if pid else None,
            last[1] if last else None,
        )

    @property
    def _target(self) -> str:
        return f"{self._domain}/{LABEL}"
