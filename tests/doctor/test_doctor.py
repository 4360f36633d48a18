"""Findings of doctor about a machine; facts of a Mac are passed in."""

import errno
import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.errors import Problem, Reason
from reconciler.core.facts import Checkpoint, Machine, Wired
from reconciler.core.manifest import Diagnostic, SourceLocation
from reconciler.core.records import LoadSpec
from reconciler.core.snapshot import Declared, ManifestFile, Snapshot
from reconciler.doctor import facts, findings
from reconciler.doctor.findings import Finding, Platform, Port
from reconciler.host.run import Output
from reconciler.models.catalog import CatalogEntry
from reconciler.service.job import State
from tests.support import Daemon, Home, environment

SYSCTL = {
    "iogpu.wired_limit_mb": "0",
    "machdep.cpu.brand_string": "Apple M4 Max",
    "sysctl.proc_translated": "0",
}

ROUTE = """\
   route to: default
destination: default
    gateway: 192.168.1.1
  interface: en0
"""


def mac(command: Sequence[str]) -> Output:
    """Output of a Mac's programs."""
    if command[0] == "sysctl":
        return Output(0, SYSCTL[command[-1]] + "\n")
    return Output(0, ROUTE) if command[0] == "route" else Output(127, "")


def levels(found: Sequence[Finding]) -> list[str]:
    return [finding.level for finding in found]


def test_platforms_other_than_a_mac_are_for_development_or_problems() -> None:
    right = findings.platform(Platform("Darwin", "arm64", "15.5", "Apple M4"))
    assert (right.level, right.message) == ("ok", "Darwin 15.5, Apple M4")
    assert findings.platform(Platform("Linux", "x86_64", "6")).level == "warning"
    assert findings.platform(Platform("Darwin", "x86_64", "15")).level == "problem"
    rosetta = findings.platform(Platform("Darwin", "x86_64", "15", translated=True))
    assert (rosetta.level, "Rosetta" in rosetta.message) == ("problem", True)
    assert rosetta.fix


def test_a_macs_facts_are_read_from_its_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    monkeypatch.setattr("platform.mac_ver", lambda: ("15.5", ("", "", ""), "arm64"))
    found = facts.platform(mac)
    assert found == Platform("Darwin", "arm64", "15.5", "Apple M4 Max", wired_limit_mb=0)
    assert facts.platform(lambda _: Output(1, "unknown oid")).wired_limit_mb is None
    assert facts.router(mac) == "192.168.1.1"
    assert facts.router(lambda _: Output(1, "not in table")) is None


def test_mlx_without_metal_is_a_problem_on_a_mac() -> None:
    gpu = Machine("gpu", "Apple M4", 10**10, "0.32")
    assert (
        findings.mlx(gpu, "Darwin").message == "mlx 0.32 on the gpu (Apple M4), 10.0 GB for models"
    )
    assert findings.mlx(Machine("cpu", "c", 10**10, "0.32"), "Darwin").level == "problem"
    assert findings.mlx(Machine("cpu", "c", 10**10, "0.32"), "Linux").level == "ok"
    missing = Problem(Reason.WORKER_DIED, "No module named 'mlx'", permanent=False)
    for system in ("Darwin", "Linux"):
        found = findings.mlx(missing, system)
        assert (found.level, "[cpu]" in (found.fix or "")) == ("problem", system == "Linux")


def test_the_wired_limit_is_reported_only_on_a_mac() -> None:
    assert findings.wired_limit(Platform("Linux", "x86_64", "6")) is None
    default = findings.wired_limit(Platform("Darwin", "arm64", "15", wired_limit_mb=0))
    raised = findings.wired_limit(Platform("Darwin", "arm64", "15", wired_limit_mb=49152))
    assert default is not None
    assert raised is not None
    assert (default.message, raised.message.split(",")[0]) == ("macOS decides", "49152 MB")


def test_the_policy_of_wired_memory_is_reported_with_its_error() -> None:
    def of(wired: Wired) -> tuple[str, str]:
        found = findings.wired_memory(Machine("gpu", "Apple M4", 10**10, "0.32", wired=wired))
        assert found is not None
        return found.level, found.message

    assert of(Wired()) == ("ok", "off: all of a model can be paged out")
    recommended = of(Wired("recommended", 48 * 10**9))
    assert recommended == ("ok", "recommended: up to 48.0 GB in each worker")
    refused = of(Wired("900GB", problem="too much"))
    assert refused == ("warning", "900GB is not in force: too much")
    missing = Problem(Reason.WORKER_DIED, "No module named 'mlx'", permanent=False)
    assert findings.wired_memory(missing) is None


def test_the_first_few_models_that_cannot_load_are_named() -> None:
    good = CatalogEntry("p/good", Checkpoint("/m", "f", "llama", 1))
    bad = [
        CatalogEntry(f"p/{n}", Problem(Reason.INVALID_CHECKPOINT, "it is GGUF")) for n in range(5)
    ]
    assert levels(findings.models([])) == ["warning"]
    assert levels(findings.models([good])) == ["ok"]
    found = findings.models([good, *bad])
    assert levels(found) == ["ok", "warning", "warning", "warning", "warning"]
    assert (found[1].message, found[-1].message) == ("p/0: it is GGUF", "2 more cannot be loaded")


def test_manifests_are_counted_and_errors_have_a_position(tmp_path: Path) -> None:
    def of(snapshot: Snapshot) -> list[Finding]:
        return findings.manifests(snapshot, tmp_path)

    assert levels(of(Snapshot("s", unreadable="not there"))) == ["warning"]
    right = ManifestFile("a.yaml", (Declared("a", LoadSpec("m"), 1),))
    wrong = ManifestFile("b.yaml", flaws=(Diagnostic("no such key", SourceLocation(3, 5)),))
    found = of(Snapshot("s", (right, wrong)))
    assert levels(found) == ["ok", "problem"]
    assert found[1].message == "b.yaml:3:5: no such key"
    assert found[1].fix == f"reconciler validate {tmp_path}/b.yaml"
    twice = of(Snapshot("s", (right, right)))
    assert levels(twice) == ["ok", "problem"]
    assert twice[1].message == "'a' is declared more than once: a.yaml:1, a.yaml:1"
    many = of(Snapshot("s", (wrong,) * 5))
    assert many[-1].message == "2 more files are invalid"


def test_the_state_directory_must_be_writable_and_private_with_free_space(tmp_path: Path) -> None:
    def found(*, writable: bool = True, free: int = 10**11, **more: Any) -> list[str]:
        return levels(findings.state(tmp_path, writable=writable, free=free, **more))

    assert found() == ["ok"]
    assert found(free=10**6) == ["warning"]
    assert found(writable=False) == ["problem"]
    assert found(broken=[tmp_path / "damaged"]) == ["ok", "warning"]
    assert found(mode=0o755) == ["ok", "warning"]
    assert found(mode=0o700) == ["ok"]
    assert facts.writable(tmp_path / "not" / "yet")
    assert facts.free_space(tmp_path / "not" / "yet") > 0


def test_allowed_origins_and_hosts_are_reported() -> None:
    token = Path("token")
    assert findings.access((), (), None) is None
    open_to_all, useless, fine = (
        findings.access(("*",), (), None),
        findings.access((), (".local",), token),
        findings.access(("https://chat.example",), (".local",), None),
    )
    assert open_to_all is not None
    assert useless is not None
    assert fine is not None
    assert (open_to_all.level, useless.level, fine.level) == ("problem", "warning", "ok")
    assert "web pages of https://chat.example, the host name .local" in fine.message
    assert findings.access(("*",), (), token) is not None


def test_a_token_file_must_be_private(tmp_path: Path) -> None:
    path = tmp_path / "token"
    assert findings.token(None, facts.mode(None)) is None
    seen = []
    for mode in (None, 0o644, 0o600):
        if mode is not None:
            path.touch()
            path.chmod(mode)
        finding = findings.token(path, facts.mode(path))
        assert finding is not None
        seen.append(finding.level)
    assert seen == ["problem", "warning", "ok"]


def test_a_port_is_free_ours_or_taken() -> None:
    assert findings.port(Port("h:1")).level == "ok"
    assert findings.port(Port("h:1", daemon="0.1", taken=True)).level == "ok"
    ill = findings.port(Port("h:1", daemon="0.1", taken=True, problem="the disk is full"))
    assert (ill.level, "the disk is full" in ill.message) == ("problem", True)
    assert "LM Studio" in findings.port(Port("h:1", taken=True)).message


def test_an_installed_service_must_be_running(tmp_path: Path) -> None:
    absent = State("agent", tmp_path / "x.plist")
    assert findings.service([absent]).level == "ok"
    assert findings.service([absent, State("daemon", tmp_path, True, 7)]).level == "ok"
    stopped = State("launchd daemon", tmp_path / "LaunchDaemons" / "x.plist", installed=True)
    found = findings.service([absent, stopped])
    assert (found.level, found.fix) == ("problem", "reconciler service install --system")


def test_local_network_privacy_is_distinguished_from_other_errors() -> None:
    assert findings.local_network(None).level == "ok"
    for number in (65, errno.EHOSTUNREACH):
        assert "local-network privacy" in findings.local_network(number).message
    assert "errno 50" in findings.local_network(50).message
    assert facts.reach("127.0.0.1") is None
    assert facts.reach("no address") is not None


def test_git_and_the_hub_are_checked() -> None:
    assert findings.git("git version 2").level == "ok"
    assert findings.git(None).fix == "xcode-select --install"
    assert findings.hub("h", None, offline=False).level == "ok"
    assert findings.hub("h", "refused", offline=False).level == "problem"
    assert findings.hub("h", None, offline=True).level == "ok"


def doctor(home: Home, *options: str, **environ: str) -> tuple[int, dict[str, Any]]:
    """Run doctor as a process on the directories of a home."""
    command = [sys.executable, "-m", "reconciler", "doctor", "-o", "json", "--online", "--"]
    isolated = {"HOME": str(home.root), "XDG_CONFIG_HOME": str(home.root), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, *home.arguments(), *options],
        capture_output=True,
        text=True,
        check=False,
        env=environment(**isolated | environ),
    )
    return done.returncode, {f["what"]: f for f in json.loads(done.stdout)}


def test_a_healthy_machine_with_a_running_daemon_has_no_problems(shared: Daemon) -> None:
    shared.home.write("a.yaml", name="a", model="tiny/llama")
    code, found = doctor(shared.home, "--port", shared.url.rpartition(":")[2])
    assert (code, found["port"]["message"].startswith("reconciler ")) == (0, True), found
    assert found["mlx"]["level"] == "ok"
    assert found["manifests"]["message"].startswith("1 declared")
    assert found["hub"]["message"].startswith("HF_HUB_OFFLINE")
    assert found["wired memory"]["message"].startswith("off")


@pytest.fixture(scope="module")
def sick(tmp_path_factory: pytest.TempPathFactory, models: Path) -> tuple[int, dict[str, Any]]:
    """Findings for an invalid manifest, a port in use, and memory that cannot be wired."""
    home = Home(tmp_path_factory.mktemp("home"), models)
    (home.manifests / "bad.yaml").write_text("apiVersion: [", "utf-8")
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0)
        port = str(other.getsockname()[1])
        return doctor(home, "--port", port, "--wired-limit", "24GiB")


@pytest.mark.skipif(sys.platform == "darwin", reason="there it can be wired")
def test_memory_that_cannot_be_wired_is_reported(sick: tuple[int, dict[str, Any]]) -> None:
    found = sick[1]["wired memory"]
    assert found["level"] == "warning"
    assert "MLX has no Metal here" in found["message"]


def test_problems_are_reported_and_set_the_exit_code(sick: tuple[int, dict[str, Any]]) -> None:
    code, found = sick
    assert code == 1
    assert found["manifests"]["level"] == "problem"
    assert found["port"]["level"] == "problem"
