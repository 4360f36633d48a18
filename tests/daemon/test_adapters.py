"""LoRA adapters over one model, with a real daemon and real MLX."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlx_lm import stream_generate
from mlx_lm.utils import load as load_with_mlx_lm

from tests import adapters
from tests.hub import Hub
from tests.support import Daemon, Home, conditions

PROMPT = [5, 6, 7, 8, 9]
BASE = "tiny/llama"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Daemon]:
    """A daemon with the tiny checkpoints, some adapters and a hub that has one more."""
    home = Home(tmp_path_factory.mktemp("home"), models)
    own = home.root / "adapters"
    adapters.make(models / BASE, own / "me/one", seed=1)
    adapters.make(models / BASE, own / "me/two", seed=2, layers=1)
    adapters.make(models / "tiny/qwen3_moe", own / "me/strange", seed=3)
    published = adapters.make(models / BASE, home.root / "published", seed=4)
    with Hub() as hub, pytest.MonkeyPatch.context() as patch:
        hub.add("team/tuned", published, x_dot_bin=b"pickle")
        for variable in ("HF_TOKEN", "HF_HUB_OFFLINE"):
            patch.delenv(variable, raising=False)
        patch.setenv("HF_ENDPOINT", hub.url)
        with Daemon(home, "--models", str(own)) as running:
            yield running


def directory(daemon: Daemon, name: str) -> Path:
    return daemon.home.root / "adapters" / name


def complete(daemon: Daemon, model: str) -> str:
    body = {"model": model, "prompt": PROMPT, "temperature": 0, "max_tokens": 10}
    status, answer = daemon.request("POST", "/v1/completions", body)
    assert status == 200, answer
    return str(answer["choices"][0]["text"])


def expected(daemon: Daemon, adapter: str | None) -> str:
    path = str(directory(daemon, adapter)) if adapter is not None else None
    network, tokenizer = load_with_mlx_lm(str(daemon.home.models / BASE), adapter_path=path)
    tokens = [r.token for r in stream_generate(network, tokenizer, PROMPT, max_tokens=10)]
    return str(tokenizer.decode([t for t in tokens if t not in tokenizer.eos_token_ids]))


def refused(daemon: Daemon, **body: Any) -> tuple[int, str, str]:
    status, answer = daemon.request("POST", "/api/v1/models/load", body)
    return status, answer["error"]["code"], answer["error"]["message"]


def test_two_adapters_and_the_model_share_one_worker_and_answer_correctly(daemon: Daemon) -> None:
    daemon.load({"model": BASE, "instance_id": "plain"})
    one = daemon.load({"model": BASE, "adapter": "me/one"})
    path = str(directory(daemon, "me/two"))
    daemon.load({"model": BASE, "adapter": path, "instance_id": "second"})
    assert (one["model_instance_id"], one["joined"]) == (f"{BASE}:one", False)
    texts = {name: complete(daemon, name) for name in ("plain", f"{BASE}:one", "second")}
    assert texts == {
        "plain": expected(daemon, None),
        f"{BASE}:one": expected(daemon, "me/one"),
        "second": expected(daemon, "me/two"),
    }
    assert len(set(texts.values())) == 3
    records = [daemon.get(f"/api/v1/records/{name}") for name in texts]
    assert len({r["status"]["worker_pid"] for r in records}) == 1
    found = [r["status"]["adapter"] for r in records]
    assert found == [None, *(str(directory(daemon, f"me/{n}").resolve()) for n in ("one", "two"))]
    assert [r["status"]["loaded_by"] for r in records[1:]] == ["Attach", "Attach"]
    again = daemon.load({"model": BASE, "adapter": str(directory(daemon, "me/one"))})
    assert (again["model_instance_id"], again["joined"]) == (f"{BASE}:one", True)


def test_a_request_for_the_model_is_not_answered_with_an_adapter(daemon: Daemon) -> None:
    body = {"model": "tiny/qwen3_moe", "adapter": "me/strange", "instance_id": "odd"}
    daemon.load(body)
    asked = {"model": "tiny/qwen3_moe", "prompt": PROMPT, "max_tokens": 1}
    status, answer = daemon.request("POST", "/v1/completions", asked)
    assert (status, answer["error"]["code"]) == (404, "model_not_loaded")
    plain = daemon.load({"model": "tiny/qwen3_moe"})
    assert (plain["model_instance_id"], plain["joined"]) == ("tiny/qwen3_moe", False)


def test_an_adapter_is_added_and_removed_without_reading_weights(daemon: Daemon) -> None:
    adapters.make(daemon.home.models / BASE, directory(daemon, "me/own"), seed=7)
    body = {"model": BASE, "instance_id": "changing"}
    daemon.load(body)
    before = daemon.get("/api/v1/records/changing")["status"]
    changed = daemon.load(body | {"adapter": "me/own"})
    assert [w["key"] for w in changed["warnings"]] == ["adapter"]
    assert complete(daemon, "changing") == expected(daemon, "me/own")
    after = daemon.get("/api/v1/records/changing")["status"]
    assert (after["loaded_by"], after["worker_pid"]) == ("Reconfigure", before["worker_pid"])
    assert after["memory_bytes"] > before["memory_bytes"]
    narrow = daemon.load(body | {"context_length": 60})  # the adapter is left out, so it stays
    assert narrow["config"]["context_length"] == 60
    assert complete(daemon, "changing") == expected(daemon, "me/own")
    daemon.load(body | {"context_length": None})
    daemon.load(body | {"adapter": None})
    assert complete(daemon, "changing") == expected(daemon, None)
    assert daemon.get("/api/v1/records/changing")["spec"] == {"model": BASE, "config": {}}


def test_an_adapter_on_the_hub_is_downloaded_and_used(daemon: Daemon) -> None:
    body = {"model": BASE, "adapter": "team/tuned"}
    assert refused(daemon, **body)[:2] == (404, "adapter_not_found")
    status, job = daemon.request("POST", "/api/v1/models/download", {"model": "team/tuned"})
    assert status == 200, job
    path = f"/api/v1/models/download/status/{job['job_id']}"
    daemon.until(lambda: daemon.get(path)["status"] == "completed")
    daemon.load(body)
    assert complete(daemon, f"{BASE}:tuned") == expected(daemon, "../published")


def test_an_estimate_includes_the_adapter(daemon: Daemon) -> None:
    _, plain = daemon.request("POST", "/api/v1/models/estimate", {"model": BASE})
    body = {"model": BASE, "adapter": "me/one"}
    _, tuned = daemon.request("POST", "/api/v1/models/estimate", body)
    size = directory(daemon, "me/one").joinpath("adapters.safetensors").stat().st_size
    assert tuned["adapter_bytes"] == pytest.approx(size, abs=4096)
    assert plain["adapter_bytes"] == 0


def test_an_invalid_adapter_is_refused_and_leaves_no_record(daemon: Daemon) -> None:
    names = {r["name"] for r in daemon.get("/api/v1/records")["records"]}
    broken = adapters.make(daemon.home.models / BASE, directory(daemon, "me/broken"), seed=1)
    (broken / "adapters.safetensors").write_bytes(b"nonsense" * 9)
    assert refused(daemon, model=BASE, adapter="me/none")[:2] == (404, "adapter_not_found")
    status, code, message = refused(daemon, model=BASE, adapter="me/broken")
    assert (status, code) == (400, "invalid_adapter")
    assert str(broken / "adapters.safetensors") in message
    status, code, message = refused(daemon, model=BASE, adapter="me/strange")
    assert (status, code) == (500, "model_load_failed")
    assert "adapters.safetensors does not fit this model" in message
    status, code, message = refused(daemon, model="me/one")
    assert (status, code) == (400, "invalid_checkpoint")
    assert "is a LoRA adapter for" in message
    assert refused(daemon, model=BASE, adapter="/no/such")[:2] == (400, "invalid_adapter")
    status, code, message = refused(daemon, model=BASE, adapter="/a path")
    assert (status, code) == (400, "missing_required_parameter")
    assert "send instance_id" in message
    assert {r["name"] for r in daemon.get("/api/v1/records")["records"]} == names
    shutil.rmtree(broken)


def test_an_adapter_on_disk_is_listed_as_an_adapter(daemon: Daemon) -> None:
    rows = {m["key"]: m for m in daemon.get("/api/v1/models")["models"]}
    assert "is a LoRA adapter for" in rows["me/one"]["error"]
    assert rows["me/one"]["format"] is None


def test_a_manifest_declares_an_adapter_and_reports_a_missing_one(daemon: Daemon) -> None:
    later = directory(daemon, "me/later")
    path = daemon.home.write("a.yaml", name="tuned", model=BASE)
    path.write_text(path.read_text("utf-8") + f"  adapter: {later}\n", "utf-8")
    daemon.until(lambda: daemon.request("GET", "/api/v1/records/tuned")[0] == 200)
    record = daemon.eventually("tuned", lambda r: conditions(r)["Stalled"] == "True")
    reason = {c["type"]: c for c in record["status"]["conditions"]}["Stalled"]
    assert reason["reason"] == "InvalidAdapter"
    assert str(later) in reason["message"]
    adapters.make(daemon.home.models / BASE, later, seed=5)
    status, cleared = daemon.request("POST", "/api/v1/records/tuned/clear")
    assert status == 200, cleared
    daemon.ready("tuned")
    assert complete(daemon, "tuned") == expected(daemon, "me/later")
    config = later / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_bytes())), "utf-8")
    daemon.request("POST", "/api/v1/records/tuned/clear")
    record = daemon.eventually("tuned", lambda r: r["status"]["warnings"] != [])
    (warning,) = record["status"]["warnings"]
    assert warning["key"] == "model"
    assert "is on disk" in warning["reason"]
