"""Models under all of their names, and models that cannot be loaded."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import Daemon, Home, conditions


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Daemon]:
    """A daemon with two more model directories, `more` and `damaged`."""
    home = Home(tmp_path_factory.mktemp("home"), models)
    more, damaged = str(home.root / "more"), str(home.root / "damaged")
    with Daemon(home, "--models", more, "--models", damaged) as daemon:
        yield daemon


def test_a_manifest_pins_a_revision_and_the_status_has_the_loaded_one(places: Daemon) -> None:
    hub = places.home
    repository = hub.hub_cache / "models--openai--commits"
    for commit, model in (("aaa111", "tiny/llama"), ("bbb222", "tiny/qwen3")):
        shutil.copytree(hub.models / model, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("bbb222", "ascii")
    text = (
        "apiVersion: reconciler/v1\nkind: ModelInstance\nmetadata: {name: NAME}\n"
        "spec: {model: openai/commits, revision: REVISION}\n"
    )
    pinned = hub.manifests / "pinned.yaml"
    pinned.write_text(text.replace("NAME", "pinned").replace("REVISION", "aaa111"), "utf-8")
    main = text.replace("NAME", "main").replace(", revision: REVISION", "")
    (hub.manifests / "main.yaml").write_text(main, "utf-8")
    first, second = places.ready("pinned"), places.ready("main")
    assert first["spec"] == {"model": "openai/commits", "config": {}, "revision": "aaa111"}
    assert [r["status"]["revision"] for r in (first, second)] == ["aaa111", "bbb222"]
    assert first["status"]["checkpoint"].endswith("snapshots/aaa111")
    pinned.write_text(text.replace("NAME", "pinned").replace("REVISION", "main"), "utf-8")
    moved = places.ready("pinned", 2)
    assert moved["status"]["revision"] == "bbb222"
    assert moved["status"]["worker_pid"] == second["status"]["worker_pid"]


def test_lm_studios_names_and_folders_work(places: Daemon) -> None:
    home = places.home
    downloads = home.root / "downloads"
    shutil.copytree(home.models / "tiny/llama", downloads / "mlx-community/Tiny-4bit")
    virtual = home.lm_studio / "hub/models/openai/tiny"
    virtual.mkdir(parents=True)
    settings = {"downloadsFolder": str(downloads)}
    (home.lm_studio / "settings.json").write_text(json.dumps(settings), "utf-8")
    sources = "[{type: huggingface, user: mlx-community, repo: Tiny-4bit}]"
    text = f"model: openai/tiny\nbase: [{{key: mlx-community/tiny-4bit, sources: {sources}}}]\n"
    (virtual / "model.yaml").write_text(text, "utf-8")
    answer = places.load({"model": "openai/tiny"})
    assert answer["model_instance_id"] == "openai/tiny"
    record = places.get("/api/v1/records/openai/tiny")
    assert record["spec"]["model"] == "openai/tiny"
    assert record["status"]["checkpoint"].endswith("mlx-community/Tiny-4bit")
    joined = places.load({"model": "mlx-community/tiny-4bit"})
    assert (joined["joined"], joined["instance_id"]) == (True, "openai/tiny")


def test_a_bare_name_is_accepted_and_an_ambiguous_one_lists_candidates(
    places: Daemon,
) -> None:
    home = places.home
    for publisher in ("mine", "theirs"):
        shutil.copytree(home.models / "tiny/llama", home.root / f"more/{publisher}/llama")
    assert places.load({"model": "gpt-oss-20b"})["instance_id"] == "gpt-oss-20b"
    assert places.load({"model": "openai/gpt-oss-20b"})["joined"] is True
    status, answer = places.request("POST", "/api/v1/models/load", {"model": "llama"})
    assert (status, answer["error"]["code"]) == (400, "ambiguous_model")
    assert "mine/llama or theirs/llama or tiny/llama" in answer["error"]["message"]


def damaged(home: Home, name: str) -> Path:
    path = home.root / "damaged" / name
    shutil.copytree(home.models / "tiny/llama", path)
    return path


def test_checkpoints_that_mlx_cannot_load_are_refused_without_a_worker(places: Daemon) -> None:
    home, logged = places.home, len(places.log())
    (damaged(home, "x/gguf") / "model.safetensors").rename(home.root / "damaged/x/gguf/m.gguf")
    pickle = damaged(home, "x/pickle") / "model.safetensors"
    pickle.rename(pickle.with_name("pytorch_model.bin"))
    truncated = damaged(home, "x/truncated") / "model.safetensors"
    truncated.write_bytes(truncated.read_bytes()[:-1])
    (damaged(home, "x/config") / "config.json").write_text("{", "utf-8")
    unknown = damaged(home, "x/unknown") / "config.json"
    unknown.write_text('{"model_type": "no_such"}', "utf-8")
    code = damaged(home, "x/code") / "config.json"
    code.write_text(json.dumps(json.loads(code.read_bytes()) | {"model_file": "m.py"}), "utf-8")
    words = {
        "gguf": "GGUF",
        "pickle": "pickle",
        "truncated": "truncated",
        "config": "config.json",
        "unknown": "no architecture no_such",
        "code": "own code",
    }
    home.write("bad.yaml", name="bad", model="x/gguf")
    for name, word in words.items():
        status, answer = places.request("POST", "/api/v1/models/load", {"model": f"x/{name}"})
        assert (status, answer["error"]["code"]) == (400, "invalid_checkpoint"), answer
        assert word in answer["error"]["message"]
    places.until(lambda: places.request("GET", "/api/v1/records/bad")[0] == 200)
    record = places.eventually("bad", lambda r: conditions(r)["Stalled"] == "True")
    assert record["status"]["conditions"][0]["reason"] == "InvalidCheckpoint"
    rows = {m["key"]: m for m in places.get("/api/v1/models")["models"]}
    assert "GGUF" in rows["x/gguf"]["error"]
    assert rows["x/gguf"]["format"] is None
    assert "action started" not in places.log()[logged:]
    records = places.get("/api/v1/records")["records"]
    assert [r for r in records if r["spec"]["model"].startswith("x/")] == [record]


def test_a_model_is_listed_as_lm_studios_clients_expect(shared: Daemon) -> None:
    rows = {m["key"]: m for m in shared.get("/api/v1/models")["models"]}
    row = rows["tiny/llama-4bit"]
    assert row | {"size_bytes": 0, "loaded_instances": []} == {
        "type": "llm",
        "publisher": "tiny",
        "key": "tiny/llama-4bit",
        "display_name": "llama-4bit",
        "architecture": "llama",
        "quantization": {"name": "4bit", "bits_per_weight": 4},
        "size_bytes": 0,
        "params_string": row["params_string"],
        "loaded_instances": [],
        "max_context_length": 32768,
        "format": "mlx",
        "capabilities": {"vision": False, "trained_for_tool_use": False},
        "description": None,
    }
    assert row["params_string"][-1] in "KM"
    assert row["size_bytes"] > 0


@pytest.mark.long
def test_an_update_that_unloaded_first_is_rolled_back_on_real_mlx(home: Home) -> None:
    broken = damaged(home, "x/broken") / "config.json"
    broken.write_text(json.dumps(json.loads(broken.read_bytes()) | {"intermediate_size": 7}))
    text = (
        "apiVersion: reconciler/v1\nkind: ModelInstance\nmetadata: {name: a}\n"
        "spec: {model: MODEL, update_strategy: unload-first, config: {context_length: 100}}\n"
    )
    path = home.manifests / "a.yaml"
    path.write_text(text.replace("MODEL", "tiny/llama"), "utf-8")
    with Daemon(home, "--models", str(home.root / "damaged")) as daemon:
        first = daemon.ready("a")
        path.write_text(text.replace("MODEL", "x/broken"), "utf-8")
        record = daemon.eventually(
            "a", lambda r: r["status"]["conditions"][0]["reason"] == "RolledBack"
        )
        assert conditions(record) == {"Ready": "False", "Progressing": "False", "Stalled": "True"}
        assert record["status"]["config"] == first["status"]["config"]
        assert record["status"]["worker_pid"] != first["status"]["worker_pid"]
        assert (record["generation"], record["status"]["observed_generation"]) == (2, 1)
        assert "shape" in record["status"]["conditions"][0]["message"]
        path.write_text(text.replace("MODEL", "tiny/qwen3"), "utf-8")
        daemon.ready("a", 3)
