"""Facts -> findings: fine, or what is wrong and the command that fixes it."""

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
"""Bytes: less than a small model."""

IN_A_CLONE = "in a clone of reconciler: uv tool install --reinstall -c constraints.txt"
"""Beginning of the command that reinstalls it."""

SHOWN = 3
"""Things of one kind that are named one by one."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    level: Level
    message: str
    fix: str | None = None
    """The command that fixes it."""


@dataclass(frozen=True)
class Platform:
    """What the operating system says of itself."""

    system: str
    """`Darwin` or `Linux`, as uname has it."""
    machine: str
    version: str
    chip: str = ""
    translated: bool = False
    """Whether this process runs under Rosetta."""
    wired_limit_mb: int | None = None
    """macOS' `iogpu.wired_limit_mb`; 0: macOS decides."""


@dataclass(frozen=True)
class Port:
    """Who has the daemon's port: nobody, a daemon of this version, or somebody else."""

    address: str
    daemon: str | None = None
    taken: bool = False
    problem: str | None = None
    """Why the daemon is degraded, by its own words."""


def platform(facts: Platform) -> Finding:
    """Whether MLX has Metal here."""
    text = f"{facts.system} {facts.version}, {facts.chip or facts.machine}"
    if facts.system != "Darwin":
        return Finding("platform", "warning", f"{text}: for development; models belong on a Mac")
    if facts.translated:
        return Finding(
            "platform",
            "problem",
            f"{text}: this Python is an Intel one under Rosetta, for which there is no Metal",
            f"{IN_A_CLONE} --python cpython-3.12-macos-aarch64 .",
        )
    if facts.machine != "arm64":
        return Finding("platform", "problem", f"{text}: MLX needs Apple Silicon")
    return Finding("platform", "ok", text)


def mlx(found: Machine | Problem, system: str) -> Finding:
    """Whether a worker process starts, and on what it computes."""
    if isinstance(found, Problem):
        package = "'.[cpu]'" if system == "Linux" else "."
        fix = f"{IN_A_CLONE} {package}"
        return Finding("mlx", "problem", f"no worker can be started: {found.message}", fix)
    budget = readable_bytes(found.memory_budget)
    text = (
        f"mlx {found.mlx_version} on the {found.device} ({found.device_name}), {budget} for models"
    )
    if system == "Darwin" and not found.has_gpu:
        return Finding("mlx", "problem", f"{text}: Metal is not there")
    return Finding("mlx", "ok", text)


def wired_limit(facts: Platform) -> Finding | None:
    """How much memory the GPU may hold on to."""
    if facts.wired_limit_mb is None:
        return None
    if facts.wired_limit_mb == 0:
        return Finding("wired limit", "ok", "macOS decides")
    message = f"{facts.wired_limit_mb} MB, set by hand; it is gone at the next boot"
    return Finding("wired limit", "ok", message)


def wired_memory(found: Machine | Problem) -> Finding | None:
    """What of a worker's memory cannot be paged out, as `serve --wired-limit` says."""
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
    """What can be loaded."""
    bad = [model for model in listed if isinstance(model.facts, Problem)]
    good = len(listed) - len(bad)
    findings = [Finding("models", "ok", f"{good} can be loaded")]
    if not good:
        fix = "reconciler pull mlx-community/Qwen3-0.6B-4bit"
        findings = [Finding("models", "warning", "none can be loaded yet", fix)]
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
    """Whether what is declared can be followed on a node with these labels."""
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
    """Whether the daemon can keep what it knows, and which databases of it were damaged."""
    if not writable:
        fix = f"sudo chown -R $(whoami) {directory}"
        return [Finding("state", "problem", f"{directory} cannot be written", fix)]
    text = f"{directory}, {readable_bytes(free)} free"
    found = [Finding("state", "ok" if free >= LITTLE_SPACE else "warning", text)]
    if mode is not None and mode & 0o077:
        words = f"others may look into {directory}"
        found.append(Finding("state", "warning", words, f"chmod 700 {directory}"))
    for path in broken:
        words = f"a damaged database was set aside as {path}; what could not be read of it is lost"
        found.append(Finding("state", "warning", words, f"rm {path}*"))
    return found


def token(path: Path | None, mode: int | None) -> Finding | None:
    """Whether others can read the token; `mode` is None where there is no such file."""
    if path is None:
        return None
    if mode is None:
        fix = f"umask 077 && openssl rand -hex 32 > {path}"
        return Finding("token", "problem", f"{path} cannot be read", fix)
    if mode & 0o077:
        return Finding("token", "warning", f"others can read {path}", f"chmod 600 {path}")
    return Finding("token", "ok", f"{path}")


def access(origins: Sequence[str], hosts: Sequence[str], token: Path | None) -> Finding | None:
    """What pages and names may use the daemon."""
    if "*" in origins and token is None:
        fix = "reconciler serve --token-file FILE --allow-origin '*'"
        return Finding("access", "problem", "all web pages are allowed, and there is no token", fix)
    if hosts and token is not None:
        message = "--allow-host has no effect: with a token every name is served"
        return Finding("access", "warning", message)
    allowed = [
        *(f"pages of {origin}" for origin in origins),
        *(f"the name {host}" for host in hosts),
    ]
    return Finding("access", "ok", f"allowed: {', '.join(allowed)}") if allowed else None


def port(found: Port) -> Finding:
    """Whether the daemon answers, or could."""
    if found.problem is not None:
        text = f"reconciler {found.daemon} answers on {found.address} and can load nothing"
        return Finding("port", "problem", f"{text}: {found.problem}")
    if found.daemon is not None:
        return Finding("port", "ok", f"reconciler {found.daemon} answers on {found.address}")
    if not found.taken:
        return Finding("port", "ok", f"{found.address} is free; no daemon runs there")
    message = f"something else answers on {found.address}; LM Studio uses 1234 too"
    return Finding("port", "problem", message, "reconciler serve --port 1235")


def service(states: Sequence[State]) -> Finding:
    """Whether the daemon is started by the system."""
    installed = [one for one in states if one.installed]
    if not installed:
        return Finding("service", "ok", "not installed; `reconciler service install` does it")
    one = installed[0]
    if one.running:
        return Finding("service", "ok", f"{one.kind}, process {one.pid}")
    message = f"{one.kind} {one.file} is installed and does not run"
    system = " --system" if one.file.parent.name in ("LaunchDaemons", "system") else ""
    return Finding("service", "problem", message, f"reconciler service install{system}")


def local_network(error: int | None) -> Finding:
    """Whether macOS lets this process reach the network that it is in.

    `error` is what a datagram to the router ended with; EHOSTUNREACH (65 on macOS) is how
    local-network privacy refuses.
    """
    if error is None:
        return Finding("local network", "ok", "can be reached from here")
    if error in (errno.EHOSTUNREACH, 65):
        message = "macOS' local-network privacy keeps this process from other machines"
        fix = "sudo reconciler service install --system"
        return Finding("local network", "warning", message, fix)
    return Finding("local network", "warning", f"the router cannot be reached: errno {error}")


def git(version: str | None) -> Finding:
    """Whether there is git."""
    if version is None:
        message = "not there; it is needed to follow a repository"
        return Finding("git", "warning", message, "xcode-select --install")
    return Finding("git", "ok", version)


def hub(address: str, error: str | None, *, offline: bool) -> Finding:
    """Whether models can be downloaded."""
    if offline:
        return Finding("hub", "ok", "HF_HUB_OFFLINE is set: nothing is downloaded")
    if error is not None:
        return Finding("hub", "problem", f"{address} cannot be reached: {error}")
    return Finding("hub", "ok", f"{address} answers")
