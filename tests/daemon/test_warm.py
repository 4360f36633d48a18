"""Records whose files stay in the page cache while they are unloaded."""

import sys
import time

import pytest

from tests.page_cache import cached, drop
from tests.support import MANIFEST, Daemon, copied

LLAMA = "tiny/llama"


def test_a_change_of_warm_in_a_manifest_reloads_nothing(shared: Daemon) -> None:
    text = MANIFEST.format(name="cold", model=LLAMA, config="{context_length: 64}")
    file = shared.home.manifests / "cold.yaml"
    file.write_text(text, "utf-8")
    shared.until(lambda: shared.request("GET", "/api/v1/records/cold")[0] == 200)
    before = shared.ready("cold")
    file.write_text(f"{text}  warm: true\n", "utf-8")
    after = shared.ready("cold", 2)
    assert after["spec"] == before["spec"] | {"warm": True}
    assert after["status"]["loaded_at"] == before["status"]["loaded_at"]


def test_a_load_request_sets_warm_and_keeps_it_if_it_leaves_it_out(shared: Daemon) -> None:
    body = {"model": LLAMA, "instance_id": "ad-hoc", "context_length": 64}
    shared.load(body | {"warm": True})
    spec = shared.get("/api/v1/records/ad-hoc")["spec"]
    assert spec["warm"] is True
    assert shared.load(body)["joined"]
    assert shared.get("/api/v1/records/ad-hoc")["spec"] == spec
    shared.load(body | {"warm": False})
    assert "warm" not in shared.get("/api/v1/records/ad-hoc")["spec"]


def test_warm_is_true_or_false(shared: Daemon) -> None:
    body = {"model": LLAMA, "warm": "yes"}
    status, answer = shared.request("POST", "/api/v1/models/load", body)
    assert (status, answer["error"]["param"]) == (400, "warm")


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="mincore reports what is cached on Linux only")
def test_the_files_of_an_idle_record_return_to_the_page_cache(shared: Daemon) -> None:
    """Takes up to a minute, the interval between two looks."""
    file = copied(shared, "own/llama") / "model.safetensors"
    shared.load({"model": "own/llama", "idle_ttl_seconds": 1, "warm": True})
    shared.eventually("own%2Fllama", lambda r: "Idle" in str(r["status"]["conditions"]))
    drop(file)
    if cached(file):
        pytest.skip("this file system keeps its files in memory")
    end = time.monotonic() + 120
    while cached(file) < 1:
        assert time.monotonic() < end
        time.sleep(0.5)
    assert shared.loaded().isdisjoint({"own/llama"})
