"""Service definitions and commands to the service manager; launchd is simulated."""

import plistlib
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from reconciler.cli import main
from reconciler.host.run import Output
from reconciler.service.job import Job, ServiceError, State, kept
from reconciler.service.launchd import ATTEMPTS, LABEL, Launchd
from reconciler.service.systemd import Systemd

AWKWARD = 'a "b" $HOME %h \\ c'

PRINTED = """\
gui/501/reconciler.daemon = {
	active count = 1
	path = /Users/me/Library/LaunchAgents/reconciler.daemon.plist
	state = running
	program = /opt/reconciler/bin/python
	runs = 1
	pid = 4242
	last exit code = (never exited)
}
"""


def job(directory: Path, user: str | None = None) -> Job:
    command = ("/usr/bin/env", "python3", "-m", "reconciler", AWKWARD)
    environment = {"PATH": "/bin", "RECONCILER_MODELS": AWKWARD}
    return Job(command, directory, directory / "logs", environment, user)


class System:
    """Simulated system programs, with answers by subcommand."""

    def __init__(self, **answers: Output | list[Output]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, command: Sequence[str]) -> Output:
        self.asked.append(tuple(command))
        words = [word for word in command[1:] if not word.startswith("-")]
        answer = self.answers.get(words[0].replace("-", "_"), Output(0, ""))
        if isinstance(answer, list):
            return answer.pop(0) if len(answer) > 1 else answer[0]
        return answer

    def verbs(self) -> list[str]:
        return [next(w for w in c[1:] if not w.startswith("-")) for c in self.asked]


def launchd(home: Path, run: System, *, system: bool = False) -> Launchd:
    return Launchd(run, home, 501, system=system, sleep=lambda _: None, root=home / "root")


def test_a_property_list_has_the_command(tmp_path: Path) -> None:
    wanted = job(tmp_path, "me")
    keys = plistlib.loads(launchd(tmp_path, System(), system=True).text(wanted).encode())
    assert keys["Label"] == LABEL
    assert keys["ProgramArguments"] == list(wanted.command)
    assert keys["EnvironmentVariables"] == wanted.environment
    assert (keys["UserName"], keys["WorkingDirectory"]) == ("me", str(tmp_path))
    assert keys["KeepAlive"] == {"SuccessfulExit": False}
    assert keys["RunAtLoad"] is True
    agent = plistlib.loads(launchd(tmp_path, System()).text(job(tmp_path)).encode())
    assert "UserName" not in agent


@pytest.mark.parametrize("system", [True, False])
def test_an_installation_restarts_the_launchd_job(tmp_path: Path, system: bool) -> None:
    run = System(print=Output(113, "Could not find service"))
    service = launchd(tmp_path, run, system=system)
    assert service.install(job(tmp_path))
    domain = "system" if system else "gui/501"
    assert run.asked == [
        ("launchctl", "bootout", f"{domain}/{LABEL}"),
        ("launchctl", "enable", f"{domain}/{LABEL}"),
        ("launchctl", "bootstrap", domain, str(service.file)),
    ]
    folder = "root/Library/LaunchDaemons" if system else "Library/LaunchAgents"
    assert service.file.parent == tmp_path / folder
    assert service.state() == State(
        "launchd daemon" if system else "launchd agent", service.file, installed=True
    )


def test_an_unchanged_running_service_is_left_alone(tmp_path: Path) -> None:
    run = System(print=Output(0, PRINTED))
    service = launchd(tmp_path, run)
    assert service.install(job(tmp_path))
    run.asked.clear()
    assert not service.install(job(tmp_path))
    assert run.verbs() == ["print"]
    assert service.state().pid == 4242
    assert service.state().last_exit == "(never exited)"
    assert service.install(Job(("/bin/other",), tmp_path, tmp_path))


def test_a_start_that_comes_too_soon_is_retried(tmp_path: Path) -> None:
    busy = Output(5, "Bootstrap failed: 5: Input/output error")
    run = System(bootstrap=[busy, busy, Output(0, "")])
    assert launchd(tmp_path, run).install(job(tmp_path))
    assert run.verbs().count("bootstrap") == 3
    run = System(bootstrap=busy)
    with pytest.raises(ServiceError, match="Input/output error"):
        launchd(tmp_path, run).install(Job(("/bin/other",), tmp_path, tmp_path))
    assert run.verbs().count("bootstrap") == ATTEMPTS


def test_uninstalling_stops_and_removes_the_service_and_is_idempotent(tmp_path: Path) -> None:
    for service in (launchd(tmp_path, System()), Systemd(System(), tmp_path, system=False)):
        assert not service.uninstall()
        service.install(job(tmp_path))
        assert service.uninstall()
        assert not service.file.exists()
        assert not service.state().installed


@pytest.mark.parametrize("system", [True, False])
def test_a_unit_is_valid_to_systemd(tmp_path: Path, system: bool) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd-analyze on this machine")
    unit = tmp_path / "reconciler.service"
    user = "root" if system else None
    unit.write_text(Systemd(System(), tmp_path, system=system).text(job(tmp_path, user)), "utf-8")
    # Verify both as system units: a user's needs a session. Paths in it are not resolved.
    command = [analyze, "verify", "--recursive-errors=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_unit_quotes_special_characters_of_systemd(tmp_path: Path) -> None:
    text = Systemd(System(), tmp_path, system=False).text(job(tmp_path))
    assert r'"a \"b\" $$HOME %%h \\ c"' in text
    assert r'Environment="RECONCILER_MODELS=a \"b\" $HOME %%h \\ c"' in text


def test_an_installation_restarts_the_systemd_unit(tmp_path: Path) -> None:
    run = System(show=Output(0, "MainPID=77\nExecMainStatus=0\n"))
    service = Systemd(run, tmp_path, system=False)
    assert service.install(job(tmp_path))
    assert run.verbs() == ["daemon-reload", "enable", "restart"]
    assert all(command[:2] == ("systemctl", "--user") for command in run.asked)
    assert service.state() == State("systemd user unit", service.file, True, 77)
    run.asked.clear()
    assert not service.install(job(tmp_path))
    assert run.verbs() == ["show"]
    stopped = Systemd(
        System(show=Output(0, "MainPID=0\nExecMainStatus=1\n")), tmp_path, system=True
    )
    assert (stopped.state().running, stopped.state().last_exit) == (False, "1")


@pytest.mark.parametrize("there", [True, False])
def test_a_failed_installation_leaves_the_unit_as_it_was(tmp_path: Path, there: bool) -> None:
    run = System(restart=Output(1, "Failed to restart"), show=Output(0, "MainPID=0"))
    service = Systemd(run, tmp_path, system=False)
    if there:
        service.file.parent.mkdir(parents=True)
        service.file.write_text("before", "utf-8")
    with pytest.raises(ServiceError, match="Failed to restart"):
        service.install(job(tmp_path))
    assert service.file.exists() is there
    assert not there or service.file.read_text("utf-8") == "before"
    assert ("disable" in run.verbs()) is not there
    assert run.verbs()[-1] == "daemon-reload"


@pytest.mark.parametrize("there", [True, False])
def test_a_failed_installation_leaves_the_property_list_as_it_was(
    tmp_path: Path, there: bool
) -> None:
    run = System(print=Output(113, ""), bootstrap=Output(5, "Input/output error"))
    service = launchd(tmp_path, run)
    if there:
        service.file.parent.mkdir(parents=True)
        service.file.write_text("before", "utf-8")
    with pytest.raises(ServiceError, match="Input/output error"):
        service.install(job(tmp_path))
    assert service.file.exists() is there
    assert not there or service.file.read_text("utf-8") == "before"


def test_only_variables_of_the_service_are_kept_and_no_secrets() -> None:
    environ = {
        "PATH": "/bin",
        "HF_HOME": "/m",
        "HF_TOKEN": "s",
        "RECONCILER_PORT": "9",
        "EDITOR": "e",
    }
    assert kept(environ) == {"PATH": "/bin", "HF_HOME": "/m", "RECONCILER_PORT": "9"}


def test_the_command_prints_the_file_and_refuses_options_that_serve_would_refuse(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    run = CliRunner().invoke
    printed = run(main, ["service", "install", "--print", "--", "--port", "99"])
    assert (printed.exit_code, "99" in printed.output) == (0, True)
    wrong = run(main, ["service", "install", "--", "--port", "many"])
    assert (wrong.exit_code, "'many' is not a valid integer" in wrong.output) == (64, True)
    status = run(main, ["service", "status"])
    assert (status.exit_code, "not installed" in status.output) == (4, True)
    gone = run(main, ["service", "uninstall"])
    assert (gone.exit_code, "does not exist" in gone.output) == (0, True)
    assert list(tmp_path.iterdir()) == []


def test_a_system_service_requires_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 501)
    for command in ("install", "uninstall"):
        refused = CliRunner().invoke(main, ["service", command, "--system"])
        assert refused.exit_code == 1
        assert "requires root; run: sudo " in refused.output


def test_options_that_serve_would_refuse_are_not_installed() -> None:
    for options, words in (
        (("--allow-origin", "*"), "--token-file"),
        (("--allow-origin", "http://a.example/"), "write http://a.example"),
        (("--allow-host", "*.com"), "list the hosts"),
    ):
        done = CliRunner().invoke(main, ["service", "install", "--print", "--", *options])
        assert done.exit_code != 0
        assert words in done.output
