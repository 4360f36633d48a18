"""Models downloaded from a hub by the real daemon."""

import itertools
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import ollama
import psutil
import pytest
from click.testing import CliRunner

from reconciler.cli import main
from tests import adapters, embedders
from tests.hub import Hub
from tests.support import Daemon, Home, conditions

_serial = itertools.count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    """A hub for the daemons and fetching processes of these tests."""
    with pytest.MonkeyPatch.context() as patch, Hub() as hub:
        for variable in ("HF_TOKEN", "HF_HUB_OFFLINE"):
            patch.delenv(variable, raising=False)
        patch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def name() -> str:
    """A model on the hub that is not in any cache yet."""
    return f"maker/small-{next(_serial)}"


@pytest.fixture
def hub(server: Hub, name: str, models: Path) -> Iterator[Hub]:
    """The hub with only that model."""
    more = {"model_dot_py": b"raise SystemExit", "x_dot_bin": b"pickle"}
    server.add(name, models / "tiny/llama", **more)
    yield server
    server.reset()


@pytest.fixture(scope="module")
def pointed(
    server: Hub, tmp_path_factory: pytest.TempPathFactory, models: Path
) -> Iterator[Daemon]:
    """A daemon that uses the hub."""
    assert server.url
    with Daemon(Home(tmp_path_factory.mktemp("home"), models)) as running:
        yield running


@pytest.fixture
def daemon(pointed: Daemon) -> Iterator[Daemon]:
    """The daemon, with no download in progress before or after."""
    yield pointed
    for process in fetchers(pointed):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    pointed.until(lambda: fetchers(pointed) == [])


def download(daemon: Daemon, model: str, **more: str) -> tuple[int, Any]:
    return daemon.request("POST", "/api/v1/models/download", {"model": model} | more)


def ended(daemon: Daemon, job: str) -> Any:
    """A download once it has ended; polled, as LM Studio's clients do."""
    state: Any = None

    def over() -> bool:
        nonlocal state
        state = daemon.get(f"/api/v1/models/download/status/{job}")
        return bool(state["status"] != "downloading")

    daemon.until(over)
    return state


def fetchers(daemon: Daemon) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(daemon.process.pid).children():
        with suppress(psutil.NoSuchProcess):  # it has just ended
            if "reconciler.models.fetch" in process.cmdline():
                found.append(process)
    return found


def test_a_downloaded_model_can_be_loaded_by_its_name(daemon: Daemon, hub: Hub, name: str) -> None:
    status, job = download(daemon, name)
    assert status == 200, job
    state = ended(daemon, job["job_id"])
    assert (state["status"], state["error"]) == ("completed", None)
    assert state["downloaded_bytes"] == state["total_size_bytes"] > 0
    assert daemon.load({"model": name})["model_instance_id"] == name
    record = daemon.get(f"/api/v1/records/{name}")
    assert record["status"]["revision"] == hub.repositories[name].commit
    fetched = hub.fetched()
    assert len(fetched) == len(set(fetched))
    assert {"model.py", "x.bin"}.isdisjoint(fetched)
    assert download(daemon, name) == (200, {"status": "already_downloaded"})
    assert hub.fetched() == fetched


def test_a_revision_is_pinned_and_can_be_loaded(daemon: Daemon, hub: Hub, name: str) -> None:
    _, job = download(daemon, name, revision="v1")
    assert ended(daemon, job["job_id"])["status"] == "completed"
    daemon.home.write("pinned.yaml", name="pinned", model=name)
    text = (daemon.home.manifests / "pinned.yaml").read_text("utf-8")
    for revision in ("v1", hub.repositories[name].commit):
        (daemon.home.manifests / "pinned.yaml").write_text(
            f"{text}  revision: {revision}\n", "utf-8"
        )
        daemon.ready("pinned")


def test_an_embedding_model_is_downloaded_with_its_modules(
    daemon: Daemon, hub: Hub, tmp_path: Path
) -> None:
    made = embedders.make("qwen3", tmp_path / "made", modules=("Dense", "Normalize"))
    files = hub.add("maker/embedding", made).files
    for file in ("1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"):
        files[file] = (made / file).read_bytes()
    others = ("onnx/model.onnx", "openvino/config.json", "1_Pooling/code.py")
    files.update(dict.fromkeys(others, b"{}"))
    _, job = download(daemon, "maker/embedding")
    assert ended(daemon, job["job_id"])["error"] is None
    assert set(others).isdisjoint(hub.fetched())
    assert daemon.load({"model": "maker/embedding"})["type"] == "embedding"
    asked = {"model": "maker/embedding", "input": "a record"}
    status, answer = daemon.request("POST", "/v1/embeddings", asked)
    assert (status, len(answer["data"][0]["embedding"])) == (200, 32)


def test_a_failed_download_reports_its_reason(
    daemon: Daemon, hub: Hub, models: Path, name: str
) -> None:
    hub.add("maker/gated", models / "tiny/llama").gated = True
    files = hub.add("maker/gguf", models / "tiny/llama").files
    files["model.gguf"] = files.pop("model.safetensors")
    asked: list[tuple[dict[str, str], int, str]] = [
        ({"model": "maker/none"}, 404, "model_not_found"),
        ({"model": name, "revision": "v9"}, 404, "revision_not_found"),
        ({"model": "maker/gated"}, 403, "model_gated"),
        ({"model": "maker/gguf"}, 400, "invalid_checkpoint"),
        ({"model": "../../etc"}, 400, "invalid_value"),
        ({"model": name, "revision": "../x"}, 400, "invalid_value"),
        ({"model": name, "revision": "v1/../../x"}, 400, "invalid_value"),
        ({"model": name, "branch": "x"}, 400, "unrecognized_keys"),
    ]
    for body, status, code in asked:
        got, answer = daemon.request("POST", "/api/v1/models/download", body)
        assert (got, answer["error"]["code"]) == (status, code), answer
    assert hub.fetched() == []
    assert daemon.request("GET", "/api/v1/models/download/status/job_x")[0] == 404


def test_a_manifest_cannot_name_a_revision_outside_the_cache(
    daemon: Daemon, hub: Hub, name: str
) -> None:
    path = daemon.home.write("out.yaml", name="out", model=name)
    path.write_text(path.read_text("utf-8") + "  revision: ../../x\n  download: if-missing\n")
    daemon.until(lambda: "revision" in json.dumps(daemon.get("/api/v1/sources")))
    assert daemon.request("GET", "/api/v1/records/out")[0] == 404
    spec = {"model": name, "revision": "../../x", "download": "if-missing"}
    body = {"apply": [{"name": "o", "spec": spec}]}
    status, answer = daemon.request("POST", "/api/v1/plan", body)
    assert (status, answer["error"]["code"]) == (400, "invalid_value")
    assert hub.asked == []


def test_a_file_whose_hash_differs_from_the_hubs_is_discarded(
    daemon: Daemon, hub: Hub, name: str
) -> None:
    repository = hub.repositories[name]
    repository.lies["model.safetensors"] = "0" * 64
    _, job = download(daemon, name)
    state = ended(daemon, job["job_id"])
    assert (state["status"], state["error"]["code"]) == ("failed", "hash_mismatch")
    assert "model.safetensors" in state["error"]["message"]
    assert daemon.request("POST", "/api/v1/models/load", {"model": name})[0] == 404
    repository.lies.clear()
    _, job = download(daemon, name)
    assert ended(daemon, job["job_id"])["status"] == "completed"


def test_two_requests_for_one_model_share_a_download(daemon: Daemon, hub: Hub, name: str) -> None:
    hub.stop_after = 1000
    first, second = download(daemon, name)[1], download(daemon, name)[1]
    assert first["job_id"] == second["job_id"]
    assert first["status"] == "downloading"
    assert len(fetchers(daemon)) == 1


@pytest.mark.parametrize("whole_daemon", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_killed_download_resumes_where_it_stopped(
    home: Home, hub: Hub, whole_daemon: bool, name: str
) -> None:
    # huggingface_hub passes on 10 MiB at a time.
    hub.repositories[name].files["notes.txt"] = b"x" * 15_000_000
    hub.stop_after = 12_000_000
    with Daemon(home) as daemon:
        _, job = download(daemon, name)
        assert hub.stopped.wait(60)
        (fetcher,) = fetchers(daemon)
        part = next(home.hub_cache.rglob("*.incomplete"))
        daemon.until(lambda: part.stat().st_size > 0)
        if whole_daemon:
            daemon.kill()
            fetcher.wait(60)
            daemon.start()
        else:
            fetcher.kill()
            assert ended(daemon, job["job_id"])["status"] == "failed"
        there = part.stat().st_size
        hub.stop_after = None
        hub.asked.clear()
        _, job = download(daemon, name)
        state = ended(daemon, job["job_id"])
        assert (state["status"], state["downloaded_bytes"]) == (
            "completed",
            state["total_size_bytes"],
        )
        ranges = [h["range"] for _, h in hub.asked if "range" in h]
        assert ranges == [f"bytes={there}-"]
        assert daemon.load({"model": name})
        assert list(home.hub_cache.rglob("*.incomplete")) == []


def test_a_manifest_may_request_the_download_of_its_model(
    daemon: Daemon, hub: Hub, name: str
) -> None:
    hub.stop_after = 1000
    daemon.home.write("declared.yaml", name="declared", model=name)
    path = daemon.home.manifests / "declared.yaml"
    never = path.read_text("utf-8")
    path.write_text(never + "  download: if-missing\n", "utf-8")
    assert hub.stopped.wait(60)
    record = daemon.eventually("declared", lambda r: conditions(r)["Progressing"] == "True")
    daemon.eventually("declared", lambda r: r["status"]["conditions"][0]["reason"] == "Downloading")
    assert record["spec"]["download"] == "if-missing"
    hub.stop_after = None
    fetchers(daemon)[0].kill()
    # A failure is reported and retried.
    daemon.eventually(
        "declared", lambda r: r["status"]["conditions"][0]["reason"] == "DownloadFailed"
    )
    status, job = download(daemon, name)
    assert status == 200
    assert ended(daemon, job["job_id"])["status"] == "completed"
    daemon.ready("declared")
    path.write_text(never, "utf-8")
    daemon.ready("declared", 2)


def test_a_put_may_request_the_download_of_its_model(daemon: Daemon, hub: Hub, name: str) -> None:
    spec = {"model": name, "download": "if-missing"}
    status, record = daemon.request("PUT", "/api/v1/records/put?wait=ready", {"spec": spec})
    assert (status, record["status"]["config"] is not None) == (200, True), record
    spec["model"] = "maker/none"
    status, answer = daemon.request("PUT", "/api/v1/records/never?wait=ready", {"spec": spec})
    assert (status, answer["error"]["code"]) == (404, "model_not_found")
    assert daemon.request("GET", "/api/v1/records/never")[0] == 404
    assert set(hub.fetched())


def test_a_draft_model_and_an_adapter_are_downloaded_like_a_model(
    daemon: Daemon, hub: Hub, models: Path, name: str, tmp_path: Path
) -> None:
    adapter = f"{name}-adapter"
    hub.add(adapter, adapters.make(models / "tiny/llama", tmp_path / "adapter", seed=1))
    parts = {"model": "tiny/llama", "draft_model": name, "adapter": adapter}
    named = {"declare": [{"name": "parts", "spec": parts}]}
    spec = parts | {"download": "if-missing"}
    planned = {"declare": [{"name": "parts", "spec": spec}]}

    def action_of(body: dict[str, Any]) -> dict[str, Any]:
        actions = daemon.request("POST", "/api/v1/plan", body)[1]["actions"]
        (found,) = (one for one in actions if one["name"] == "parts")  # others may be due too
        return dict(found)

    action = action_of(named)
    assert (action["action"], action["problem"]["code"]) == ("Hold", "adapter_not_found")
    action = action_of(planned)
    assert (action["action"], action["reason"], action["problem"]) == ("Wait", "Downloading", None)
    assert action["message"] == f"adapter {adapter} is not on disk; it is downloaded first"
    path = "/api/v1/records/parts?wait=ready"
    assert daemon.request("PUT", path, {"spec": parts})[0] == 404
    assert hub.asked == []
    status, record = daemon.request("PUT", path, {"spec": spec})
    assert status == 200, record
    assert "models--" in record["status"]["draft_model"]
    assert "models--" in record["status"]["adapter"]
    for key in ("draft_model", "adapter"):
        wrong = {"spec": spec | {key: "maker/none"}}
        status, answer = daemon.request("PUT", "/api/v1/records/never?wait=ready", wrong)
        assert (status, answer["error"]["code"]) == (404, f"{key}_not_found"), answer
        assert answer["error"]["param"] == key
        assert answer["error"]["message"].startswith(f"{key.replace('_', ' ')} maker/none: the hub")
        assert daemon.request("GET", "/api/v1/records/never")[0] == 404


def test_the_end_of_a_pull_is_no_failure_of_a_later_record(
    daemon: Daemon, hub: Hub, name: str
) -> None:
    hub.stop_after = 1000
    _, job = download(daemon, name)
    assert hub.stopped.wait(60)
    daemon.request("DELETE", f"/api/v1/models/download/{job['job_id']}")
    hub.stop_after = None
    spec = {"model": name, "download": "if-missing"}
    for record in ("after-cancel", "after-removal"):
        path = f"/api/v1/records/{record}"
        status, answer = daemon.request("PUT", f"{path}?wait=ready", {"spec": spec})
        assert status == 200, answer
        daemon.unload(record)
        assert daemon.request("DELETE", f"/api/v1/checkpoints/{name}")[0] == 200
    assert set(hub.fetched())


def test_pull_downloads_a_model_and_reports_progress(daemon: Daemon, hub: Hub, name: str) -> None:
    def pull(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["pull", "--url", daemon.url, *words])
        return result.exit_code, result.output

    code, output = pull(name, "--revision", "v1")
    assert (code, output.startswith(f"{name} is downloaded: ")) == (0, True)
    assert pull(name, "--revision", "v1") == (0, f"{name} is already downloaded\n")
    assert pull("maker/none")[0] == 4
    hub.repositories[name].lies["model.safetensors"] = "0" * 64
    hub.repositories[name].commit = "1" * 40
    code, output = pull(name)
    assert (code, "does not match the hub" in output) == (1, True)


def test_downloads_are_listed_watched_and_cancelled(daemon: Daemon, hub: Hub, name: str) -> None:
    def downloads(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["downloads", *words, "--url", daemon.url])
        return result.exit_code, result.output

    hub.stop_after = 1000
    _, job = download(daemon, name)
    assert hub.stopped.wait(60)
    code, listed = downloads("list", "-o", "json")
    assert code == 0
    assert [d["status"] for d in json.loads(listed) if d["model"] == name] == ["downloading"]
    assert downloads("cancel", name) == (0, f"the download of {name} is cancelled\n")
    cancelled = daemon.get(f"/api/v1/models/download/status/{job['job_id']}")
    assert cancelled["status"] == "failed"
    assert "was cancelled; the next download resumes this one" in cancelled["error"]["message"]
    assert fetchers(daemon) == []
    code, refused = downloads("cancel", job["job_id"])
    assert (code, "has already ended: failed" in refused) == (1, True)
    assert downloads("watch", name)[0] == 1
    hub.stop_after = None
    download(daemon, name)
    code, watched = downloads("watch", name)
    assert (code, watched.startswith(f"{name} is downloaded: ")) == (0, True)
    code, missing = downloads("watch", name.upper())
    assert (code, f"did you mean '{name}'?" in missing) == (4, True)


def test_ollamas_client_pulls_a_model_and_receives_its_progress(
    daemon: Daemon, hub: Hub, name: str
) -> None:
    with ollama.Client(daemon.url) as client:
        lines = list(client.pull(f"hf.co/{name}:latest", stream=True))
        assert [line.status for line in (lines[0], lines[-1])] == ["pulling manifest", "success"]
        sizes = [line for line in lines if line.total]
        assert sizes[-1].completed == sizes[-1].total
        assert {(line.digest or "")[:7] for line in sizes} == {"sha256:"}
        fetched = hub.fetched()
        assert fetched
        assert client.pull(name).status == "success"  # it is there already
        assert hub.fetched() == fetched
        assert client.generate(name, "").done_reason == "load"
        assert f"{name}:latest" in {model.model for model in client.list().models}
        assert client.pull(f"{name}:v1").status == "success"  # a revision


def test_ollamas_client_receives_the_reason_of_a_failed_pull(
    daemon: Daemon, hub: Hub, name: str
) -> None:
    assert hub.url
    with ollama.Client(daemon.url) as client:
        for stream in (True, False):
            with pytest.raises(ollama.ResponseError, match="maker/none") as caught:
                list(client.pull("maker/none", stream=stream))
        assert caught.value.status_code == 404
        with pytest.raises(ollama.ResponseError, match="v9"):
            client.pull(f"{name}:v9")
        with pytest.raises(ollama.ResponseError, match="insecure") as caught:
            client.pull(name, insecure=True)
        assert caught.value.status_code == 400
