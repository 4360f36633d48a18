"""Turns facts into findings: OK, or a problem with the command that fixes it."""

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reconciler.core.absorb import NO_LABELS
from reconciler.core.errors import Problem
from reconciler.core.facts import Machine
from reconciler.core.memory import readable_bytes
from reconciler.core.selection import select
from reconciler.core.snapshot import Snapshot
from reconciler.models.catalog import CatalogEntry
from reconciler.service.job import State

Level = Literal["ok", "warning", "problem"]

LITTLE_SPACE = 5_000_000_000
"""Bytes; less than a small model needs."""

IN_A_CLONE = "in a clone of reconciler: uv tool install --reinstall -c constraints.txt"
"""Start of the command that reinstalls the package."""

SHOWN = 3
"""Maximum number of findings of one kind that are listed individually."""


@dataclass(frozen=True)
class Finding:
    """Result of one check."""

    what: str
    level: Level
    message: str
    fix: str | None = None
    """Command that fixes it."""


@dataclass(frozen=True)
class Platform:
    """Platform as reported by the operating system."""

    system: str
    """`Darwin` or `Linux`, as reported by uname."""
    machine: str
    version: str
    chip: str = ""
    translated: bool = False
    """True if this process runs under Rosetta."""
    wired_limit_mb: int | None = None
    """macOS' `iogpu.wired_limit_mb`; 0 if macOS decides."""


@dataclass(frozen=True)
class Port:
    """State of the daemon's port: free, used by a daemon of this version, or by another program."""

    address: str
    daemon: str | None = None
    taken: bool = False
    problem: str | None = None
    """Problem of a degraded daemon, as reported by itself."""


def platform(facts: Platform) -> Finding:
    """Check that MLX has Metal."""
    text = f"{facts.system} {facts.version}, {facts.chip or facts.machine}"
    if facts.system != "Darwin":
        return Finding("platform", "warning", f"{text}: for development only; run models on a Mac")
    if facts.translated:
        return Finding(
            "platform",
            "problem",
            f"{text}: this is an Intel Python under Rosetta, which has no Metal",
            f"{IN_A_CLONE} --python cpython-3.12-macos-aarch64 .",
        )
    if facts.machine != "arm64":
        return Finding("platform", "problem", f"{text}: MLX needs Apple Silicon")
    return Finding("platform", "ok", text)


def mlx(found: Machine | Problem, system: str) -> Finding:
    """Check that a worker process starts, and on which device it computes."""
    if isinstance(found, Problem):
        package = "'.[cpu]'" if system == "Linux" else "."
        fix = f"{IN_A_CLONE} {package}"
        return Finding("mlx", "problem", f"no worker can be started: {found.message}", fix)
    budget = readable_bytes(found.memory_budget)
    text = (
        f"mlx {found.mlx_version} on the {found.device} ({found.device_name}), {budget} for models"
    )
    if system == "Darwin" and not found.has_gpu:
        return Finding("mlx", "problem", f"{text}: Metal is not available")
    return Finding("mlx", "ok", text)


def wired_limit(facts: Platform) -> Finding | None:
    """Report how much memory the GPU may wire."""
    if facts.wired_limit_mb is None:
        return None
    if facts.wired_limit_mb == 0:
        return Finding("wired limit", "ok", "macOS decides")
    message = f"{facts.wired_limit_mb} MB, set manually; it is reset at the next boot"
    return Finding("wired limit", "ok", message)


def wired_memory(found: Machine | Problem) -> Finding | None:
    """Report how much of a worker's memory is wired, as set by `serve --wired-limit`."""
    if isinstance(found, Problem):
        return None
    wired = found.wired
    if wired.problem is not None:
        message = f"{wired.policy} is not in force: {wired.problem}"
        return Finding("wired memory", "warning", message)
    if not wired.limit_bytes:
        return Finding("wired memory", "ok", "off: all of a model can be paged out")
    text = f"{wired.policy}: up to {readable_bytes(wired.limit_bytes)} in each worker"
    return Finding("wired memory", "ok", text)


def models(listed: Sequence[CatalogEntry]) -> list[Finding]:
    """Check the models on disk."""
    bad = [model for model in listed if isinstance(model.facts, Problem)]
    good = len(listed) - len(bad)
    findings = [Finding("models", "ok", f"{good} can be loaded")]
    if not good:
        fix = "reconciler pull mlx-community/Qwen3-0.6B-4bit"
        findings = [Finding("models", "warning", "no model can be loaded yet", fix)]
    for model in bad[:SHOWN]:
        why = model.facts.message if isinstance(model.facts, Problem) else ""
        findings.append(Finding("models", "warning", f"{model.key}: {why}"))
    if len(bad) > SHOWN:
        more = f"{len(bad) - SHOWN} more cannot be loaded"
        findings.append(Finding("models", "warning", more, "reconciler ls -o wide"))
    return findings


def manifests(
    snapshot: Snapshot, directory: Path, labels: Mapping[str, str] = NO_LABELS
) -> list[Finding]:
    """Check the manifests as seen by a node with these labels."""
    if snapshot.unreadable is not None:
        return [Finding("manifests", "warning", snapshot.unreadable, f"mkdir -p {directory}")]
    invalid = [file for file in snapshot.files if not file.valid]
    declared = sum(len(file.declared) for file in snapshot.files)
    findings = [Finding("manifests", "ok", f"{declared} declared in {directory}")]
    for file in invalid[:SHOWN]:
        flaw = file.flaws[0]
        message = f"{file.path}:{flaw.position.line}:{flaw.position.column}: {flaw.message}"
        fix = f"reconciler validate {directory / file.path}"
        findings.append(Finding("manifests", "problem", message, fix))
    if len(invalid) > SHOWN:
        more = f"{len(invalid) - SHOWN} more files are invalid"
        findings.append(Finding("manifests", "problem", more, f"reconciler validate {directory}"))
    twice = select(snapshot, labels).flagged
    for name, why in list(twice.items())[:SHOWN]:
        fix = f"reconciler validate {directory}"
        findings.append(Finding("manifests", "problem", f"'{name}' is {why}", fix))
    return findings


def state(
    directory: Path,
    *,
    writable: bool,
    free: int,
    broken: Sequence[Path] = (),
    mode: int | None = None,
) -> list[Finding]:
    """Check that the state directory is usable and private, and report quarantined databases."""
    if not writable:
        fix = f"sudo chown -R $(whoami) {directory}"
        return [Finding("state", "problem", f"{directory} cannot be written", fix)]
    text = f"{directory}, {readable_bytes(free)} free"
    found = [Finding("state", "ok" if free >= LITTLE_SPACE else "warning", text)]
    if mode is not None and mode & 0o077:
        words = f"{directory} is accessible to other users"
        found.append(Finding("state", "warning", words, f"chmod 700 {directory}"))
    for path in broken:
        words = f"a damaged database was quarantined as {path}; its unreadable data is lost"
        found.append(Finding("state", "warning", words, f"rm {path}*"))
    return found


def token(path: Path | None, mode: int | None) -> Finding | None:
    """Check that the token is readable by its owner only; `mode` is None if the file is missing."""
    if path is None:
        return None
    if mode is None:
        fix = f"umask 077 && openssl rand -hex 32 > {path}"
        return Finding("token", "problem", f"{path} cannot be read", fix)
    if mode & 0o077:
        return Finding(
            "token", "warning", f"{path} is readable by other users", f"chmod 600 {path}"
        )
    return Finding("token", "ok", f"{path}")


def access(origins: Sequence[str], hosts: Sequence[str], token: Path | None) -> Finding | None:
    """Check which web origins and host names may use the daemon."""
    if "*" in origins and token is None:
        fix = "reconciler serve --token-file FILE --allow-origin '*'"
        return Finding("access", "problem", "all web pages are allowed without a token", fix)
    if hosts and token is not None:
        message = "--allow-host has no effect: with a token, every host name is allowed"
        return Finding("access", "warning", message)
    allowed = [
        *(f"web pages of {origin}" for origin in origins),
        *(f"the host name {host}" for host in hosts),
    ]
    return Finding("access", "ok", f"allowed: {', '.join(allowed)}") if allowed else None


def port(found: Port) -> Finding:
    """Check that the daemon answers, or that its port is free."""
    if found.problem is not None:
        text = f"reconciler {found.daemon} answers on {found.address} but cannot load models"
        return Finding("port", "problem", f"{text}: {found.problem}")
    if found.daemon is not None:
        return Finding("port", "ok", f"reconciler {found.daemon} answers on {found.address}")
    if not found.taken:
        return Finding("port", "ok", f"{found.address} is free; no daemon runs there")
    message = f"another program answers on {found.address}; LM Studio also uses 1234"
    return Finding("port", "problem", message, "reconciler serve --port 1235")


def service(states: Sequence[State]) -> Finding:
    """Check that the system starts the daemon."""
    installed = [one for one in states if one.installed]
    if not installed:
        return Finding(
            "service", "ok", "not installed; to install it, run `reconciler service install`"
        )
    one = installed[0]
    if one.running:
        return Finding("service", "ok", f"{one.kind}, process {one.pid}")
    message = f"{one.kind} {one.file} is installed but not running"
    system = " --system" if one.file.parent.name in ("LaunchDaemons", "system") else ""
    return Finding("service", "problem", message, f"reconciler service install{system}")


def local_network(error: int | None) -> Finding:
    """Check that macOS lets this process reach the local network.

    `error` is the errno of a datagram to the router; local network privacy fails it with
    EHOSTUNREACH (65 on macOS).
    """
    if error is None:
        return Finding("local network", "ok", "reachable")
    if error in (errno.EHOSTUNREACH, 65):
        message = "macOS' local-network privacy blocks this process from reaching other machines"
        fix = "sudo reconciler service install --system"
        return Finding("local network", "warning", message, fix)
    return Finding("local network", "warning", f"the router cannot be reached: errno {error}")


def git(version: str | None) -> Finding:
    """Check that git is installed."""
    if version is None:
        message = "not installed; it is needed to follow a repository"
        return Finding("git", "warning", message, "xcode-select --install")
    return Finding("git", "ok", version)


def hub(address: str, error: str | None, *, offline: bool) -> Finding:
    """Check that models can be downloaded."""
    if offline:
        return Finding("hub", "ok", "HF_HUB_OFFLINE is set: downloads are disabled")
    if error is not None:
        return Finding("hub", "problem", f"{address} cannot be reached: {error}")
    return Finding("hub", "ok", f"{address} answers")
