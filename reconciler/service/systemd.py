"""Linux: a unit of a user, or of the system.

For keys, see systemd.service(5) and systemd.exec(5); for quoting, systemd.syntax(7).
"""

from pathlib import Path

from reconciler.host.run import Run
from reconciler.service.job import Job, ServiceError, State, must, restored_on_error, write

UNIT = "reconciler.service"

RESTART_SECONDS = 10

STOP_SECONDS = 60
"""Running requests have 30 s to finish."""


class Systemd:
    """The service on Linux."""

    def __init__(
        self, run: Run, configuration: Path, *, system: bool, root: Path = Path("/")
    ) -> None:
        """`configuration` is the user's XDG_CONFIG_HOME."""
        self._run, self._system = run, system
        self._systemctl = ("systemctl",) if system else ("systemctl", "--user")
        folder = root / "etc/systemd/system" if system else configuration / "systemd/user"
        self.file = folder / UNIT

    def text(self, job: Job) -> str:
        """Render the unit file."""
        lines = [
            "[Unit]",
            "Description=Keeps language models loaded as declared",
            "After=network.target",
            "",
            "[Service]",
            f"ExecStart={' '.join(_quoted(word, command=True) for word in job.command)}",
            f"WorkingDirectory={_percent(str(job.directory))}",
            *(f"Environment={_quoted(f'{k}={v}')}" for k, v in job.environment.items()),
            "Restart=on-failure",
            f"RestartSec={RESTART_SECONDS}",
            f"TimeoutStopSec={STOP_SECONDS}",
        ]
        if job.user is not None:
            lines.append(f"User={job.user}")
        target = "multi-user.target" if self._system else "default.target"
        lines += ["", "[Install]", f"WantedBy={target}", ""]
        return "\n".join(lines)

    def install(self, job: Job) -> bool:
        """Install and start the service; True if anything changed. Raises `ServiceError`."""
        new = not self.file.exists()
        try:
            with restored_on_error(self.file):
                changed = write(self.file, self.text(job))
                if not changed and self.state().running:
                    return False
                self._start(new=new)
        except ServiceError:
            self._run((*self._systemctl, "daemon-reload"))
            raise
        return True

    def _start(self, *, new: bool) -> None:
        must(self._run, *self._systemctl, "daemon-reload")
        try:
            must(self._run, *self._systemctl, "enable", UNIT)
            must(self._run, *self._systemctl, "restart", UNIT)
        except ServiceError:
            if new:
                self._run((*self._systemctl, "disable", "--now", UNIT))
            raise

    def uninstall(self) -> bool:
        """Stop and remove the service; True if it was installed. Raises `ServiceError`."""
        if not self.file.exists():
            return False
        must(self._run, *self._systemctl, "disable", "--now", UNIT)
        self.file.unlink(missing_ok=True)
        must(self._run, *self._systemctl, "daemon-reload")
        return True

    def state(self) -> State:
        """Query systemd for the state of the service."""
        kind = "systemd unit" if self._system else "systemd user unit"
        output = self._run((*self._systemctl, "show", UNIT, "--property=MainPID,ExecMainStatus"))
        values = dict(line.partition("=")[::2] for line in output.text.splitlines())
        pid = int(values.get("MainPID") or 0)
        return State(
            kind,
            self.file,
            self.file.exists(),
            pid or None,
            values.get("ExecMainStatus") if not pid else None,
        )


def _quoted(word: str, *, command: bool = False) -> str:
    """Quote a word for systemd: without specifiers, and in commands without variables."""
    text = _percent(word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n"))
    return f'"{text.replace("$", "$$") if command else text}"'


def _percent(text: str) -> str:
    return text.replace("%", "%%")
