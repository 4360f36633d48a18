"""`reconciler demo`: the main job on a small real model, start to finish."""

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from reconciler.cli.daemon import Client, DaemonError, running

MODEL = "openai/gpt-oss-20b"

DEMO_MODEL = Path(__file__).parents[1] / "demo_model"
"""Made by `python -m reconciler.worker.teach`."""

MANIFEST = """\
apiVersion: reconciler/v1
kind: ModelInstance
metadata:
  name: {name}
spec:
  model: {model}
  config:
    context_length: {context_length}
"""


def run() -> None:
    """Run the demo; nothing stays behind. Raises `click.ClickException` where a step fails."""
    with tempfile.TemporaryDirectory(prefix="reconciler-demo-") as directory:
        asyncio.run(_run(Path(directory).resolve()))


async def _run(home: Path) -> None:
    task = asyncio.current_task()
    if task is not None:  # so that SIGTERM ends the daemon too
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    _step("Make a small checkpoint: gpt-oss's architecture, random weights")
    manifests = home / "manifests"
    manifests.mkdir()
    _make_checkpoint(home / "models" / MODEL)
    click.echo(f"{home / 'models' / MODEL}")

    _step("Start the daemon")
    async with running(home) as client:
        click.echo(f"$ reconciler serve    # {client.url}")
        await _manifest_added(client, manifests)
        await _contract_request(client)
        await _manifest_changed(client, manifests)
        await _manifest_removed(client, manifests)
        _step("Stop the daemon; its workers end with it")
    click.echo("done")


async def _manifest_added(client: Client, manifests: Path) -> None:
    _step("Drop two manifests; the second shares the first one's weights")
    for name, context_length in (("assistant", 8192), ("drafts", 2048)):
        _write(manifests, name, context_length)
        record = await _ready(client, name, generation=1)
        _tell(record)


async def _contract_request(client: Client) -> None:
    _step("Load by HTTP, with the contract's own request")
    body = {"model": MODEL, "config": {"context_length": 16384, "flash_attention": True}}
    _request("POST", "/api/v1/models/load", body)
    _json(await client.post("/api/v1/models/load", body))
    click.echo("Asked again, the answer is the same instance, not a second copy:")
    again = await client.post("/api/v1/models/load", body)
    _json({key: again[key] for key in ("model_instance_id", "joined")})


async def _manifest_changed(client: Client, manifests: Path) -> None:
    _step("Change a manifest; the instance follows")
    _write(manifests, "assistant", 32768, num_experts=2)
    _tell(await _ready(client, "assistant", generation=2))


async def _manifest_removed(client: Client, manifests: Path) -> None:
    _step("Remove a manifest; its instance unloads")
    click.echo("$ rm manifests/assistant.yaml")
    (manifests / "assistant.yaml").unlink()
    try:
        await client.get("/api/v1/records/assistant", wait="gone")
    except DaemonError as error:
        click.secho(error.message, fg="green")
    listed = await client.get("/api/v1/models")
    loaded = [i["id"] for model in listed["models"] for i in model["loaded_instances"]]
    if "assistant" in loaded:
        raise click.ClickException("assistant is still loaded")
    click.echo(f"still loaded: {', '.join(loaded)}")


async def _ready(client: Client, name: str, generation: int) -> Any:
    path = f"/api/v1/records/{name}"
    record = await client.get(path, wait="ready", generation=str(generation))
    ready = record["status"]["conditions"][0]
    if ready["status"] != "True" or record["generation"] != generation:
        raise click.ClickException(f"{name} did not become ready: {ready['message']}")
    return record


def _make_checkpoint(directory: Path) -> None:
    command = [sys.executable, "-m", "reconciler.worker.tiny", "gpt_oss", str(directory)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise click.ClickException(f"the checkpoint could not be made:\n{made.stderr}")


def _write(manifests: Path, name: str, context_length: int, num_experts: int | None = None) -> None:
    text = MANIFEST.format(name=name, model=MODEL, context_length=context_length)
    if num_experts is not None:
        text += f"    num_experts: {num_experts}\n"
    click.echo(f"$ cat > manifests/{name}.yaml")
    click.secho(text.rstrip(), fg="cyan")
    (manifests / f"{name}.yaml").write_text(text, "utf-8")


def _tell(record: Any) -> None:
    """The part of a record that answers: is it there, as what, and how long did it take?"""
    status = record["status"]
    ready = status["conditions"][0]
    click.secho(f"{record['name']}: {ready['reason']}, {ready['message']}", fg="green")
    shown = {"config": status["config"], "load_time_seconds": status["load_time_seconds"]}
    _json(shown | {"load_phases": status["load_phases"]})


def _step(title: str) -> None:
    click.secho(f"\n== {title}", bold=True)


def _request(method: str, path: str, body: Any) -> None:
    click.echo(f"$ curl -X {method} $URL{path} -d '{json.dumps(body)}'")


def _json(value: Any) -> None:
    click.secho(json.dumps(_rounded(value), indent=2), fg="cyan")


def _rounded(value: Any) -> Any:
    """Numbers as people read them."""
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return round(value, 4) if isinstance(value, float) else value
