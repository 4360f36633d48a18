"""`search`: models on a hub, with the real daemon and its process that queries the hub."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from reconciler.api.hub import fits
from reconciler.cli import main
from reconciler.models.search import weights_bytes
from tests.hub import Hub, Repository
from tests.support import Daemon, Home


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with pytest.MonkeyPatch.context() as patch, Hub() as running:
        for variable in ("HF_TOKEN", "HF_HUB_OFFLINE"):
            patch.delenv(variable, raising=False)
        patch.setenv("HF_ENDPOINT", running.url)
        running.repositories |= {
            "maker/small-4bit": Repository({}, parameters={"U32": 1000, "BF16": 500}, downloads=5),
            "maker/huge": Repository({}, parameters={"BF16": 10**15}, downloads=50, gated=True),
            "tiny/llama": Repository({}, downloads=1),
            "maker/other-format": Repository({}, tags=("gguf",)),
        }
        yield running


@pytest.fixture(scope="module")
def daemon(hub: Hub, tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Daemon]:
    assert hub.url
    with Daemon(Home(tmp_path_factory.mktemp("home"), models)) as running:
        running.until(lambda: running.get("/api/v1/node")["memory"] is not None)
        yield running


def invoke(daemon: Daemon, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["search", *arguments], env={"RECONCILER_URL": daemon.url})


def rows(daemon: Daemon, words: str, more: str = "") -> dict[str, Any]:
    answer = daemon.get(f"/api/v1/hub/models?search={words}{more}")
    return {row["model"]: row for row in answer["models"]}


def test_models_are_found_with_their_size_and_whether_they_fit(daemon: Daemon) -> None:
    found = rows(daemon, "maker")
    assert list(found) == ["maker/huge", "maker/small-4bit"]
    small, huge = found["maker/small-4bit"], found["maker/huge"]
    assert (small["size_bytes"], small["fits"], small["gated"]) == (5000, True, False)
    assert (huge["fits"], huge["gated"], huge["on_disk"]) == (False, True, False)


def test_a_model_on_disk_and_one_of_unknown_size_are_marked(daemon: Daemon) -> None:
    row = rows(daemon, "llama")["tiny/llama"]
    assert (row["size_bytes"], row["fits"], row["on_disk"]) == (None, None, True)


def test_models_without_the_tag_are_found_on_request_and_the_limit_holds(daemon: Daemon) -> None:
    assert "maker/other-format" in rows(daemon, "maker", "&library=any")
    assert list(rows(daemon, "maker", "&limit=1")) == ["maker/huge"]


def test_the_command_prints_a_table_and_names(daemon: Daemon) -> None:
    result = invoke(daemon, "maker")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    assert lines[1][:3] == ["maker/huge", "2000000.0", "GB"]
    assert lines[2][:6] == ["maker/small-4bit", "5.0", "kB", "yes", "no", "5"]
    assert invoke(daemon, "maker", "-o", "name").output.split() == [
        "maker/huge",
        "maker/small-4bit",
    ]
    assert rows(daemon, "--help") == {}
    nothing = invoke(daemon, "no such thing")
    assert (nothing.exit_code, nothing.output) == (0, "the hub has no such model\n")


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("", "search"),
        ("?search=", "search"),
        ("?search=a&limit=0", "limit"),
        ("?search=a&limit=101", "limit"),
        ("?search=a&library=gguf", "library"),
    ],
)
def test_an_invalid_search_is_refused(daemon: Daemon, query: str, param: str) -> None:
    status, answer = daemon.request("GET", f"/api/v1/hub/models{query}")
    assert (status, answer["error"]["param"]) == (400, param)


def test_an_unreachable_hub_is_an_error(
    tmp_path: Path, models: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hub.url
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with Daemon(Home(tmp_path, models)) as offline:
        status, answer = offline.request("GET", "/api/v1/hub/models?search=a")
    assert (status, answer["error"]["code"]) == (503, "offline")


@pytest.mark.parametrize(
    ("parameters", "size"),
    [({"U32": 10, "BF16": 3}, 46), ({"F4": 3}, 1), ({}, None), ({"BF16": 1, "X9": 1}, None)],
)
def test_the_size_of_weights_is_computed_from_the_parameters(
    parameters: dict[str, int], size: int | None
) -> None:
    assert weights_bytes(parameters) == size


@pytest.mark.parametrize(
    ("size", "budget", "answer"),
    [(90, 100, True), (91, 100, False), (None, 100, None), (1, None, None)],
)
def test_fit_is_decided_by_size_and_budget(
    size: int | None, budget: int | None, answer: bool | None
) -> None:
    assert fits(size, budget) is answer
