"""Real architectures, loaded by real MLX."""

from typing import Any

import pytest

from tests.conftest import CHECKPOINTS
from tests.support import Daemon, conditions

QUICK = ("openai/gpt-oss-20b",)


def models() -> list[Any]:
    """Architectures to load; those that other tests load through the daemon are marked `long`."""
    return [pytest.param(m, marks=() if m in QUICK else pytest.mark.long) for m in CHECKPOINTS]


@pytest.mark.parametrize("model", models())
def test_every_architecture_loads(shared: Daemon, model: str) -> None:
    shared.unload(model)
    answer = shared.load({"model": model, "config": {"context_length": 1000}})
    assert answer["config"]["context_length"] == 1000
    record = shared.get(f"/api/v1/records/{model}")
    assert conditions(record) == {"Ready": "True", "Progressing": "False", "Stalled": "False"}
    status = record["status"]
    assert status["memory_bytes"] > 0
    assert {"worker", "weights", "tokenizer", "warm_up"} == set(status["load_phases"])
    assert shared.unload(model) == (200, {"instance_id": model})
