"""Estimated memory of a load, compared with the measured peak of its worker."""

from pathlib import Path
from typing import Any

import psutil
import pytest

from reconciler.worker import overrides
from tests import tiny
from tests.support import Daemon

UNDER, OVER = 0.05, 0.15
"""Largest errors of an estimate, as shares of the measured peak."""


def peak(pid: int) -> int:
    """Peak memory of a process and its children in bytes, summed over their individual peaks."""
    family = [pid, *(child.pid for child in psutil.Process(pid).children())]
    status = [Path(f"/proc/{one}/status").read_text("ascii").splitlines() for one in family]
    peaks = [line.split()[1] for lines in status for line in lines if line.startswith("VmHWM")]
    assert len(peaks) == len(family) > 1
    return sum(map(int, peaks)) * 1024


def miss(daemon: Daemon, model: str, context: int, **config: Any) -> str:
    """Report of an estimate that misses the peak of a request that fills the context, else ""."""
    daemon.unload(model)
    wanted = {"model": model, "context_length": context, **config}
    status, estimated = daemon.request("POST", "/api/v1/models/estimate", wanted)
    assert status == 200, estimated
    assert estimated["shapes_seen"]
    assert estimated["weights_bytes"], "it must not be loaded"
    daemon.load(wanted)
    pid = daemon.get(f"/api/v1/records/{model}")["status"]["worker_pid"]
    body = {"model": model, "prompt": [7 + i % 300 for i in range(context - 8)], "max_tokens": 8}
    status, answer = daemon.request("POST", "/v1/completions", body)
    assert status == 200, answer
    keys = ("process_bytes", "weights_bytes", "kv_cache_bytes", "prefill_bytes", "draft_bytes")
    estimate, measured = sum(estimated[key] for key in keys), peak(pid)
    daemon.unload(model)
    if (1 - UNDER) * measured <= estimate <= (1 + OVER) * measured:
        return ""
    return f"{estimate} estimated, {measured} measured: {estimate / measured:.3f}"


@pytest.mark.skipif(overrides.on_gpu(), reason="the kernel does not report a GPU's memory")
def test_an_estimate_is_close_to_the_measured_peak(shared: Daemon) -> None:
    assert miss(shared, "openai/gpt-oss-20b", 2048) == ""


@pytest.mark.skipif(overrides.on_gpu(), reason="the kernel does not report a GPU's memory")
@pytest.mark.long
def test_an_estimate_includes_a_draft_model(shared: Daemon) -> None:
    """The draft model reads the prompt while the answer is generated."""
    config = tiny.CONFIGS["llama"] | {"hidden_size": 512, "intermediate_size": 1536}
    tiny.write(tiny._BASE | config, shared.home.models / "draft/large")
    assert miss(shared, "tiny/qwen3_moe", 4000, draft_model="draft/large") == ""
