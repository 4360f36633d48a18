"""`reconciler demo`: load, change and unload a small real model."""

import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import click

from reconciler.cli import TERMINATED
from reconciler.cli.client import Client, DaemonError
from reconciler.cli.daemon import running
from reconciler.demo import DEMO_MODEL
from reconciler.host import looks

MODEL = "reconciler/questions"

QUESTIONS = (
    ("What is the capital of Japan?", "Tokyo"),
    ("How much is 3 + 4?", "7"),
    ("Which day comes after Friday?", "Saturday"),
    ("What is a young cow called?", "calf"),
    ("What is the opposite of early?", "late"),
    ("What colour is a tomato?", "red"),
    ("Tell me the capital of Norway.", "Oslo"),
    ("Tell me what 8 + 9 is.", "17"),
)

MANIFEST = """\
apiVersion: reconciler/v1
kind: ModelInstance
metadata:
  name: {name}
spec:
  model: {model}
  config:
"""


@click.command()
def demo() -> None:
    """Load, change and unload a small real model, in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="reconciler-demo-") as directory:
        try:
            looks.run(_run(Path(directory).resolve()))
        except asyncio.CancelledError:
            sys.exit(TERMINATED)


async def _run(home: Path) -> None:
    task = asyncio.current_task()
    if task is not None:  # so that SIGTERM also ends the daemon
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    _step("A small model trained on simple questions: a mixture of 8 experts, 2 active per token")
    manifests, model = home / "manifests", home / "models" / MODEL
    manifests.mkdir()
    model.parent.mkdir(parents=True)
    model.symlink_to(DEMO_MODEL)
    click.echo(f"{home}/models/{MODEL}")

    _step("Start the daemon")
    async with running(home) as client:
        click.echo(f"$ reconciler serve    # {client.url}")
        await client.post("/api/v1/models/estimate", {"model": MODEL})  # fails without MLX
        await _manifests_added(client, manifests)
        await _asked(client)
        await _compared(client)
        await _contract_request(client)
        await _manifest_changed(client, manifests)
        await _manifest_removed(client, manifests)
        _step("Stop the daemon and its workers")
    click.echo("done")


async def _manifests_added(client: Client, manifests: Path) -> None:
    _step("Add two manifests; the second instance shares the weights of the first")
    _write(manifests, "assistant", context_length=1024)
    _print_record(await _ready(client, "assistant", generation=1))
    _write(manifests, "narrow", num_experts=1)
    _print_record(await _ready(client, "narrow", generation=1))


async def _asked(client: Client) -> None:
    _step("Ask questions; answers are streamed")
    for question, _ in QUESTIONS[:4]:
        click.echo(f"{question} ", nl=False)
        async for piece in _answer(client, "assistant", question):
            click.secho(piece, fg="green", nl=False)
        click.echo()


async def _compared(client: Client) -> None:
    _step("Change a setting: one active expert per token instead of two")
    for name in ("assistant", "narrow"):
        right = 0
        for question, answer in QUESTIONS:
            text = "".join([piece async for piece in _answer(client, name, question)])
            right += answer in text
        click.echo(f"{name}: {right} of {len(QUESTIONS)} answers are right; the last: {text}")


async def _contract_request(client: Client) -> None:
    _step("Load by HTTP")
    body = {"model": MODEL, "config": {"context_length": 2048, "flash_attention": True}}
    _request("POST", "/api/v1/models/load", body)
    _json(await client.post("/api/v1/models/load", body))
    click.echo("The same request again returns the same instance, not a second copy:")
    again = await client.post("/api/v1/models/load", body)
    _json({key: again[key] for key in ("model_instance_id", "joined")})


async def _manifest_changed(client: Client, manifests: Path) -> None:
    _step("Change a manifest; the instance is updated without reading the weights again")
    _write(manifests, "assistant", context_length=16)
    _print_record(await _ready(client, "assistant", generation=2))
    question = "What is the opposite of loud, and what is the capital of Finland?"
    click.echo(f"{question} ", nl=False)
    try:
        async for _ in _answer(client, "assistant", question):
            raise click.ClickException("the context length was not enforced")
    except DaemonError as error:
        click.secho(error.message, fg="green")


async def _manifest_removed(client: Client, manifests: Path) -> None:
    _step("Remove a manifest; its instance is unloaded")
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


async def _answer(client: Client, model: str, question: str) -> AsyncIterator[str]:
    messages = [{"role": "user", "content": question}]
    async for delta in client.chat(model, messages, temperature=0):
        yield delta.get("content", "")


async def _ready(client: Client, name: str, generation: int) -> Any:
    path = f"/api/v1/records/{name}"
    record = await client.get(path, wait="ready", generation=str(generation))
    ready = record["status"]["conditions"][0]
    if ready["status"] != "True" or record["generation"] != generation:
        raise click.ClickException(f"{name} did not become ready: {ready['message']}")
    return record


def _write(manifests: Path, name: str, **config: int) -> None:
    text = MANIFEST.format(name=name, model=MODEL)
    text += "".join(f"    {key}: {value}\n" for key, value in config.items())
    click.echo(f"$ cat > manifests/{name}.yaml")
    click.secho(text.rstrip(), fg="cyan")
    (manifests / f"{name}.yaml").write_text(text, "utf-8")


def _print_record(record: Any) -> None:
    """Print a record's readiness, effective settings and load times."""
    status = record["status"]
    ready = status["conditions"][0]
    click.secho(f"{record['name']}: {ready['reason']}, {ready['message']}", fg="green")
    keys = ("config", "loaded_by", "load_time_seconds", "load_phases")
    _json({key: status[key] for key in keys})


def _step(title: str) -> None:
    click.secho(f"\n== {title}", bold=True)


def _request(method: str, path: str, body: Any) -> None:
    click.echo(f"$ curl -X {method} $URL{path} -d '{json.dumps(body)}'")


def _json(value: Any) -> None:
    click.secho(json.dumps(_rounded(value), indent=2), fg="cyan")


def _rounded(value: Any) -> Any:
    """Round all numbers to four decimals."""
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return round(value, 4) if isinstance(value, float) else value
