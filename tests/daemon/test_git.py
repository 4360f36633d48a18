"""A real daemon that follows a real repository."""

import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.repositories import Origin
from tests.support import Daemon, Home

MODEL = "tiny/llama"
SUSPENDED = "  suspend: true\n"
"""For records that need not be loaded."""


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    origin = Origin(tmp_path / "origin")
    origin.declare("a", "b", model=MODEL)
    return origin


@pytest.fixture
def node(tmp_path: Path, models: Path, origin: Origin) -> Iterator[Daemon]:
    """A node with the label role=prod that polls so rarely that only `sync` matters."""
    options = ("--git", origin.url, "--git-path", "/fleet/", "--git-interval", "1h")
    home = Home(tmp_path / "node", models)
    with Daemon(home, *options, "--label", "role=prod") as daemon:
        yield daemon


def source(daemon: Daemon) -> Any:
    return daemon.get("/api/v1/sources")["sources"][1]


def ask(daemon: Daemon, what: str) -> Any:
    name = urllib.parse.quote(source(daemon)["name"], safe="")
    status, answer = daemon.request("POST", f"/api/v1/sources/{name}/{what}")
    assert status == 200, answer
    return answer


def test_a_repository_is_followed_next_to_a_directory_unless_suspended(
    node: Daemon, origin: Origin, tmp_path: Path
) -> None:
    node.home.write("mine.yaml", name="mine", model=MODEL)
    for name in ("a", "b", "mine"):
        node.ready(name)
    record = node.get("/api/v1/records/a")
    assert record["owner"] == f"git:file://{tmp_path}/origin//fleet?ref=main"
    assert record["file"] == "fleet/a.yaml"
    first = source(node)["commit"]
    assert first["applied"] == first["attempted"] == origin.git("rev-parse", "HEAD")

    second = origin.declare("b", "c", model=MODEL, context=32)
    assert ask(node, "sync")["commit"]["applied"] == second
    node.ready("c")
    assert node.ready("b", 2)["status"]["config"]["context_length"] == 32
    node.gone("a")

    origin.write("fleet/d.yaml", "a: [")
    bad = origin.commit()
    answer = ask(node, "sync")
    assert (answer["commit"]["applied"], answer["commit"]["attempted"]) == (second, bad)
    assert "fleet/d.yaml:2:1: not valid YAML" in answer["message"]
    assert node.loaded() == {"b", "c", "mine"}

    # A suspended source is not synced. Neither a restart nor the loss of the repository changes
    # what is loaded.
    assert ask(node, "suspend")["suspended"] is True
    third = origin.declare("b", "c", "e", model=MODEL, context=32)
    node.stop()
    origin.root.rename(tmp_path / "gone")
    node.start()
    for name in ("b", "c", "mine"):
        node.ready(name)
    path = f"/api/v1/sources/{urllib.parse.quote(source_name(node), safe='')}/sync"
    status, answer = node.request("POST", path)
    assert (status, answer["error"]["code"]) == (409, "suspended")
    assert ask(node, "resume")["suspended"] is False
    assert "does not appear to be a git repository" in ask(node, "sync")["message"]
    assert source(node)["commit"]["applied"] == second
    (tmp_path / "gone").rename(origin.root)
    assert ask(node, "sync")["commit"]["applied"] == third
    node.ready("e")


def test_two_repositories_each_own_their_records(
    tmp_path: Path, models: Path, origin: Origin
) -> None:
    other = Origin(tmp_path / "other")
    origin.declare("a", "b", model=MODEL, more=SUSPENDED)
    other.declare("b", "c", model=MODEL, more=SUSPENDED)
    options = ("--git", origin.url, "--git", other.url, "--git-path", "fleet")
    with Daemon(Home(tmp_path / "node", models), *options) as node:
        node.until(lambda: len(node.get("/api/v1/records")["records"]) == 3)
        owners = {name: node.get(f"/api/v1/records/{name}")["owner"] for name in "abc"}
        assert "/origin//" in owners["a"]
        assert "/other//" in owners["c"]
        _, *sources = node.get("/api/v1/sources")["sources"]
        (flagged,) = [s for s in sources if s["not_followed"]]
        assert "already declared by fleet/b.yaml:1" in flagged["not_followed"]["b"]


def test_a_node_applies_only_documents_for_it(node: Daemon, origin: Origin) -> None:
    assert node.get("/api/v1/node")["labels"]["role"] == "prod"
    selectors = {"mine": "{role: prod}", "others": "[{key: memory_gb, operator: Lt, values: [0]}]"}
    for name, selector in selectors.items():
        origin.write(
            f"fleet/{name}.yaml",
            f"apiVersion: reconciler/v1\nkind: ModelInstance\nmetadata: {{name: {name}}}\n"
            f"spec: {{model: {MODEL}, node_selector: {selector}}}\n",
        )
    origin.commit()
    answer = ask(node, "sync")
    assert node.ready("mine")["spec"]["node_selector"] == {"role": "prod"}
    assert "memory_gb Lt 0; this node has memory_gb" in answer["not_selected"]["others"]
    body = {"spec": {"model": MODEL, "node_selector": {"role": "test"}}}
    status, refused = node.request("PUT", "/api/v1/records/x", body)
    assert (status, refused["error"]["code"]) == (409, "not_selected")


def test_a_commit_that_would_unload_many_records_waits_for_confirmation(
    node: Daemon, origin: Origin
) -> None:
    origin.declare(*"abcd", model=MODEL)
    ask(node, "sync")
    for name in "abcd":
        node.ready(name)
    held = origin.declare("a", model=MODEL)
    answer = ask(node, "sync")
    assert answer["commit"]["held"] == held
    assert "would unload 3 of 4 loaded records" in answer["message"]
    assert node.loaded() == set("abcd")
    assert ask(node, "confirm")["commit"]["applied"] == held
    for name in "bcd":
        node.gone(name)


def source_name(daemon: Daemon) -> str:
    return str(source(daemon)["name"])
