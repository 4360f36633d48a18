"""Test wired memory on a Mac with Metal that is simulated by injected facts."""

import itertools
import platform
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.generate import BatchGenerator, wired_limit
from mlx_lm.utils import load_model

from reconciler.core.facts import Wired
from reconciler.core.protocol import LoadWeights, OpenSession
from reconciler.core.records import EffectiveSettings
from reconciler.worker import backend, wired
from reconciler.worker.model import Model

RECOMMENDED = 48 * 10**9
OWN = import_module("mlx_lm.utils").maybe_set_recommended_wired_limit
CONFIG = EffectiveSettings(
    64, 16, flash_attention=True, num_experts=0, offload_kv_cache_to_gpu=False
)


class Mac:
    """A fake Metal that records every limit that is set."""

    def __init__(self) -> None:
        self.limits: list[int] = []

    def set_wired_limit(self, limit: int) -> int:
        if limit > RECOMMENDED:
            raise ValueError("[metal::set_wired_limit] Setting a wired limit larger than ...")
        self.limits.append(limit)
        return self.limits[-2] if len(self.limits) > 1 else 0


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> Mac:
    found = Mac()
    info = {"device_name": "Apple M4 Max", "max_recommended_working_set_size": RECOMMENDED}
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(mx, "device_info", lambda: info)
    monkeypatch.setattr(mx, "set_wired_limit", found.set_wired_limit)
    monkeypatch.setattr(platform, "mac_ver", lambda: ("15.5", ("", "", ""), "arm64"))
    wired.install()
    return found


@pytest.mark.parametrize(
    ("policy", "limits"),
    [("off", []), ("recommended", [RECOMMENDED]), ("24GB", [24 * 10**9])],
)
def test_the_limit_is_set_once_by_the_policy(mac: Mac, policy: str, limits: list[int]) -> None:
    assert wired.apply(policy) == Wired(policy, sum(limits))
    assert mac.limits == limits


@pytest.mark.parametrize("closed", list(itertools.permutations(range(3))))
def test_generators_closed_in_any_order_do_not_change_the_limit(
    mac: Mac, models: Path, closed: tuple[int, ...]
) -> None:
    model, _ = load_model(models / "tiny/llama")
    wired.apply("24GB")
    generators: list[Any] = [BatchGenerator(model) for _ in closed]
    generators[0].insert([[5, 6, 7]], max_tokens=[2])
    while generators[0].next_generated():
        pass
    for index in closed:
        generators[index].close()
    assert mac.limits == [24 * 10**9]


def test_mlx_lms_own_generation_does_not_change_the_limit(mac: Mac, models: Path) -> None:
    model, _ = load_model(models / "tiny/llama")
    wired.apply("recommended")
    with wired_limit(model), wired_limit(model):
        pass
    assert mac.limits == [RECOMMENDED]


def test_opening_and_closing_sessions_does_not_change_the_limit(mac: Mac, models: Path) -> None:
    wired.apply("recommended")
    model = Model()
    model.load(LoadWeights(str(models / "tiny/llama")), lambda _: None)
    for name in ("a", "b", "a"):
        model.open(name, OpenSession(CONFIG))
    model.session("a").generate([5, 6], 3)
    for name in ("b", "a"):
        model.close(name)
    assert mac.limits == [RECOMMENDED]


def test_without_the_patch_generators_change_each_others_limit(
    mac: Mac, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Show the reason for `install`, and that the tests above would detect its absence."""
    model, _ = load_model(models / "tiny/llama")
    module = import_module("mlx_lm.generate")
    monkeypatch.setattr(module, "maybe_set_recommended_wired_limit", OWN)
    first, second = BatchGenerator(model), BatchGenerator(model)
    first.close()
    second.close()
    assert mac.limits == [RECOMMENDED, RECOMMENDED, 0, RECOMMENDED]


def test_a_limit_above_the_systems_is_reported_and_nothing_is_wired(mac: Mac) -> None:
    refused = wired.apply("1TB")
    assert (refused.policy, refused.limit_bytes) == ("1TB", 0)
    assert refused.problem is not None
    assert "larger than" in refused.problem
    assert "iogpu.wired_limit_mb" in refused.problem
    assert mac.limits == []


def test_an_older_macos_wires_nothing_and_reports_it(
    mac: Mac, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "mac_ver", lambda: ("14.7.1", ("", "", ""), "arm64"))
    assert wired.apply("recommended").problem == "requires macOS 15; this is 14.7.1"
    assert mac.limits == []


def test_without_metal_nothing_is_wired_and_it_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.metal, "is_available", lambda: False)
    for policy in ("recommended", "24GB"):
        found = wired.apply(policy)
        assert (found.policy, found.limit_bytes) == (policy, 0)
        assert "no Metal" in (found.problem or "")
    assert wired.apply("off") == Wired()


def test_the_machine_reports_the_wired_limit(mac: Mac) -> None:
    assert backend.machine(wired.apply("24GB")).wired == Wired("24GB", 24 * 10**9)
    assert len(mac.limits) == 1
