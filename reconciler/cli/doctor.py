"""`doctor`: check this machine, and report problems and their fixes."""

import asyncio
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp
import click

from reconciler.cli import log
from reconciler.cli.git_options import labelled
from reconciler.cli.serve import serve
from reconciler.cli.service import services
from reconciler.core.errors import LoadError, Problem
from reconciler.core.facts import Machine
from reconciler.doctor import facts, findings
from reconciler.doctor.findings import Finding, Port
from reconciler.engine.process import WorkerProcess
from reconciler.host import looks
from reconciler.host.node import facts as node_facts
from reconciler.host.node import labels
from reconciler.host.run import run_program
from reconciler.models.catalog import Catalog
from reconciler.models.places import Directory, HubCache, LMStudio, ModelRoot
from reconciler.sources.directory import DirectorySource

ASK_SECONDS = 5.0
"""Timeout of each network request."""

MARKS = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "problem": ("PROBLEM", "red")}


@click.command(epilog="\b\nExamples:\n  reconciler doctor\n  reconciler doctor -- --port 8080")
@click.option("--online", is_flag=True, help="Also check whether the Hugging Face hub answers.")
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    help="Output format.",
)
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[-- SERVE-OPTION]...")
def doctor(*, online: bool, form: str, options: tuple[str, ...]) -> None:
    """Check this machine for `serve`; exit code 1 if there is a problem."""
    with serve.make_context("serve", list(options)) as context, log.errors_only():
        found = looks.run(_examine(context.params, online=online))
    if form == "json":
        click.echo(json.dumps([asdict(finding) for finding in found], indent=2))
    else:
        for finding in found:
            _print_finding(finding)
    if any(finding.level == "problem" for finding in found):
        sys.exit(1)


def _print_finding(finding: Finding) -> None:
    word, colour = MARKS[finding.level]
    click.echo(f"{click.style(f'{word:8}', fg=colour)} {finding.what}: {finding.message}")
    if finding.fix is not None:
        click.echo(f"{'':8} fix: {finding.fix}")


async def _examine(options: dict[str, Any], *, online: bool) -> list[Finding]:
    """Run all checks; the most basic ones first."""
    platform = facts.platform(run_program)
    manifests, state = options["manifests"], options["state"]
    places: list[ModelRoot] = [
        *map(Directory, options["models"]),
        LMStudio(options["lm_studio"]),
        HubCache(options["hub_cache"]),
    ]
    token_file = options["token_file"]
    machine = await _machine(options["wired_limit"])
    found = [
        findings.platform(platform),
        findings.mlx(machine, platform.system),
        findings.wired_limit(platform),
        findings.wired_memory(machine),
        *findings.models(Catalog(places).listed()),
        *findings.manifests(
            await DirectorySource(manifests).scan(),
            manifests,
            labels(node_facts(run_program), labelled(options["labels"])),
        ),
        *findings.state(
            state,
            writable=facts.writable(state),
            free=facts.free_space(state),
            broken=facts.broken(state),
            mode=facts.mode(state),
        ),
        findings.token(token_file, facts.mode(token_file)),
        findings.access(options["allow_origins"], options["allow_hosts"], token_file),
        findings.port(await _port(options["host"], options["port"])),
        findings.service([service.state() for service in services()]),
        findings.git(facts.first_line(run_program, ("git", "--version"))),
    ]
    if platform.system == "Darwin" and (router := facts.router(run_program)) is not None:
        found.append(findings.local_network(facts.reach(router)))
    if online:
        found.append(await _hub())
    return [finding for finding in found if finding is not None]


async def _machine(wired_limit: str) -> Machine | Problem:
    """Facts about MLX, from a worker process."""
    # A short path: macOS limits a socket's path to 104 bytes.
    with tempfile.TemporaryDirectory(prefix="rd-", dir="/tmp") as directory:
        worker = await WorkerProcess.start(Path(directory), wired_limit)
        try:
            return (await worker.ready()).machine
        except LoadError as error:
            return error.problem
        finally:
            await worker.end()


async def _port(host: str, port: int) -> Port:
    address = f"{host}:{port}"
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), ASK_SECONDS)
    except (OSError, TimeoutError):
        return Port(address)
    writer.close()
    try:
        health = await _ask(f"http://{address}/health", fails=False)
        problem = health.get("message") if health["status"] == "degraded" else None
        return Port(address, daemon=str(health["version"]), taken=True, problem=problem)
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError):
        return Port(address, taken=True)


async def _hub() -> Finding:
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "ON", "YES")
    error = None
    if not offline:
        try:
            await _ask(f"{address}/api/models?limit=1")
        except (aiohttp.ClientError, TimeoutError, ValueError) as reason:
            error = str(reason) or type(reason).__name__
    return findings.hub(address, error, offline=offline)


async def _ask(url: str, *, fails: bool = True) -> Any:
    """GET a JSON document; an error status raises `aiohttp.ClientError` if `fails`."""
    timeout = aiohttp.ClientTimeout(total=ASK_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as reply:
        if fails:
            reply.raise_for_status()
        return await reply.json()
