"""Clients with their own API or settings file."""

import json
from pathlib import Path

import pytest

from tests.clients import harness
from tests.clients.acting import Rule, call
from tests.clients.harness import Client, Clients, acted
from tests.support import Daemon

pytestmark = harness.long

LMSTD = Client(
    "lmstd", "PyPI", ("lmstd==0.2.0",), "LM Studio's API: load, chat, a stream, the list, unload"
)
HERMES = Client("Hermes Agent", "PyPI", ("hermes-agent==0.19.0",), "`-z` with a tool round trip")

DONE = "The file is there now, as asked."
WRITTEN = "written by a tool"
COMMAND = f"echo '{WRITTEN}' > note.txt; cat note.txt"


@pytest.fixture(scope="module")
def model(shared: Daemon) -> str:
    rules = [
        Rule(f"'{WRITTEN}' in result", DONE),
        Rule("'terminal' in names", call("terminal", command=COMMAND)),
    ]
    return acted(shared, "others", rules, otherwise="Hello to you.")


def test_lmstd(clients: Clients, shared: Daemon, model: str) -> None:
    shared.unload(model)
    found = clients.installed(LMSTD).program("with_lmstd.py", shared, model)
    assert (found["status"], found["context"]) == ("loaded", 4096)
    assert found["text"] == ["Hello to you."]
    assert found["stream"] == "Hello to you."
    assert (found["events"][0], found["events"][-1]) == ("chat.start", "chat.end")
    assert found["listed"] == [found["unloaded"]]


def test_hermes_agent(clients: Clients, shared: Daemon, model: str, tmp_path: Path) -> None:
    hermes = clients.installed(HERMES)
    shared.load({"model": model, "instance_id": model})
    settings = {"provider": "custom", "base_url": f"{shared.url}/v1", "default": model}
    home = tmp_path / "hermes"
    home.mkdir()
    (home / "config.yaml").write_text(json.dumps({"model": settings}))
    environ = {"HERMES_HOME": str(home), "OPENAI_API_KEY": "none"}
    done = hermes.run(["hermes", "-z", "Write a note."], environ=environ, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert DONE in done.stdout, done.stdout + done.stderr
    assert (tmp_path / "note.txt").read_text() == f"{WRITTEN}\n"
