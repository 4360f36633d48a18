"""Eviction of idle instances for records of higher rank."""

from dataclasses import replace

import pytest

from reconciler.core.backoff import Retry
from reconciler.core.errors import Problem, Reason
from reconciler.core.facts import Checkpoint, Machine
from reconciler.core.memory import Budget, Ledger
from reconciler.core.plan import Action, Facts, Kind, held_memory, plan
from reconciler.core.records import (
    HTTP,
    EffectiveSettings,
    Instance,
    LoadSpec,
    ModelRef,
    Record,
    RequestedSettings,
)
from reconciler.core.settings import resolve
from tests.controller.fakes import EPOCH

MACHINE = Machine("cpu", "small", 100, "0")
CONFIG = EffectiveSettings(
    10, 512, flash_attention=True, num_experts=0, offload_kv_cache_to_gpu=False
)


def record(name: str, priority: int = 0, owner: str = "dir:m", context: int = 10) -> Record:
    """A record with its own model, of 30 bytes plus 1 per token."""
    spec = LoadSpec(name, RequestedSettings(context_length=context), priority=priority)
    return Record(name, owner, spec, EPOCH)


def instance(of: Record) -> Instance:
    return Instance(of.name, of.spec, f"/{of.name}", CONFIG, 30, 10)


LOW, LOWER, AD_HOC = record("low"), record("lower", -1), record("ad-hoc", 5, HTTP)
HIGH = record("high", 1, context=30)


def actions(*records: Record, loaded: tuple[Record, ...] = (), **facts: object) -> list[Action]:
    found = {
        ModelRef(r.spec.model): Checkpoint(
            f"/{r.name}", "r", "llama", 30, max_context=50, kv_bytes_per_token=1
        )
        for r in records
    }
    known = Facts(checkpoints=found, evicts=True)
    known = replace(known, **facts)  # type: ignore[arg-type]
    return list(plan(records, [instance(r) for r in loaded], known, MACHINE, now=0.0))


def kinds(planned: list[Action]) -> list[tuple[str, str]]:
    return [(a.name, a.kind.value) for a in planned]


def test_an_idle_instance_of_lower_priority_is_evicted_and_the_record_waits() -> None:
    unload, wait = actions(HIGH, LOW, LOWER, loaded=(LOW, LOWER))
    assert (unload.name, unload.kind) == ("low", Kind.UNLOAD)
    assert "high of higher priority needs the memory" in unload.message
    assert (wait.name, wait.reason, wait.problem) == ("high", Reason.WAITING_FOR_MEMORY, None)
    assert "waiting for the memory of low" in wait.message


def test_the_least_recently_used_are_evicted_and_only_as_many_as_needed() -> None:
    used = {"low": 1.0, "lower": 2.0}
    assert kinds(actions(HIGH, LOW, LOWER, loaded=(LOW, LOWER), used_at=used))[0][0] == "low"
    used = {"low": 2.0, "lower": 1.0}
    assert kinds(actions(HIGH, LOW, LOWER, loaded=(LOW, LOWER), used_at=used))[0][0] == "lower"
    large = record("high", 1, context=50)
    planned = kinds(actions(large, LOW, LOWER, loaded=(LOW, LOWER)))
    assert planned == [("low", "Unload"), ("lower", "Unload"), ("high", "Wait")]


def test_an_instance_with_an_active_request_is_never_evicted() -> None:
    loaded = (LOW, LOWER)
    planned = kinds(actions(HIGH, *loaded, loaded=loaded, busy=frozenset({"low"})))
    assert planned == [("lower", "Unload"), ("high", "Wait")]
    (wait,) = actions(HIGH, *loaded, loaded=loaded, busy=frozenset({"low", "lower"}))
    assert wait.problem is not None
    assert wait.problem.reason is Reason.INSUFFICIENT_MEMORY


def test_equal_priorities_do_not_evict_each_other_and_manifests_rank_above_http() -> None:
    peer = record("peer", 1, context=40)
    assert kinds(actions(HIGH, peer, LOW, loaded=(HIGH,)))[0] == ("peer", "Wait")
    ad_hoc = replace(AD_HOC, spec=replace(AD_HOC.spec, config=RequestedSettings(context_length=30)))
    (wait,) = actions(ad_hoc, LOW, LOWER, loaded=(LOW, LOWER))
    assert wait.problem is not None


def test_nothing_is_evicted_in_vain() -> None:
    other = record("other", 2)
    huge = record("high", 1, context=50)
    (wait,) = actions(huge, LOWER, other, loaded=(LOWER, other), live={"/other": 60})
    assert wait.problem is not None


def test_nothing_is_evicted_unless_enabled() -> None:
    (wait,) = actions(HIGH, LOW, LOWER, loaded=(LOW, LOWER), evicts=False)
    assert wait.problem is not None
    assert "low 40 B" in wait.message


def test_an_evicted_record_waits_until_the_one_of_higher_priority_is_gone() -> None:
    assert kinds(actions(HIGH, LOW, LOWER, loaded=(LOWER,))) == [("high", "Load"), ("low", "Wait")]
    assert kinds(actions(LOW, LOWER, loaded=(LOWER,))) == [("low", "Load")]


def test_an_unload_in_progress_is_awaited() -> None:
    going = Action(Kind.UNLOAD, "low", "no record wants it")
    (wait,) = actions(HIGH, LOWER, loaded=(LOW, LOWER), running={"low": going}, evicts=False)
    assert (wait.reason, wait.problem) == (Reason.WAITING_FOR_MEMORY, None)
    assert "waiting for the memory of low" in wait.message


def test_the_measured_memory_of_a_worker_counts_if_it_is_higher() -> None:
    small = record("small")
    assert kinds(actions(small, LOW, loaded=(LOW,))) == [("small", "Load")]
    (wait,) = actions(small, LOW, loaded=(LOW,), live={"/low": 70}, evicts=False)
    assert wait.problem is not None
    assert "low 70 B" in wait.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [("70%", 700), ("100%", 1000), ("0.5 %", 5), ("400MB", 400_000_000), ("24GiB", 24 * 2**30)],
)
def test_a_budget_is_a_size_or_a_share(text: str, expected: int) -> None:
    assert Budget.parse(text).of(1000) == expected


@pytest.mark.parametrize("text", ["0%", "101%", "nan%", "x%", "0MB", "24", "", "-1GB"])
def test_an_invalid_budget_is_refused_with_a_message(text: str) -> None:
    with pytest.raises(ValueError, match=r"use|the budget is 0"):
        Budget.parse(text)


def test_a_ledger_without_some_holders_keeps_memory_shared_with_others() -> None:
    ledger = Ledger(100)
    ledger.hold("a", "/m", 30, 5)
    ledger.hold("b", "/m", 30, 5)
    assert ledger.without("a").used == 35


def test_no_redundant_instance_is_evicted() -> None:
    small, big = record("small"), record("big")
    loaded = [replace(instance(small), session_bytes=1, weights_bytes=1), instance(big)]
    facts = Facts(
        checkpoints={ModelRef("high"): Checkpoint("/high", "r", "llama", 65)},
        used_at={"small": 1.0, "big": 2.0},
        evicts=True,
    )
    planned = plan([HIGH, small, big], loaded, facts, MACHINE, now=0.0)
    assert kinds(list(planned)) == [("big", "Unload"), ("high", "Wait")]


def test_a_failed_record_evicts_nothing_again() -> None:
    problem = Problem(Reason.LOAD_FAILED, "hiccup", permanent=False)
    retry = Retry(1, None, problem, failures=1, not_before=-1.0)
    (wait,) = actions(HIGH, LOW, LOWER, loaded=(LOW, LOWER), retries={"high": retry})
    assert wait.problem is not None


def test_free_memory_goes_to_the_first_record_that_waits() -> None:
    going = Action(Kind.UNLOAD, "low", "no record wants it")
    later = record("later", context=5)
    planned = actions(HIGH, LOWER, later, loaded=(LOW, LOWER), running={"low": going}, evicts=False)
    assert [(a.name, a.reason) for a in planned] == [
        ("high", Reason.WAITING_FOR_MEMORY),
        ("later", Reason.WAITING_FOR_MEMORY),
    ]


def test_an_update_waits_for_an_unload_if_that_and_its_own_memory_suffice() -> None:
    before = record("a")
    after = replace(
        before, spec=replace(before.spec, model="b", config=RequestedSettings(context_length=50))
    )
    going = Action(Kind.UNLOAD, "low", "no record wants it")
    found = {
        ModelRef("b"): Checkpoint("/b", "r", "llama", 30, max_context=50, kv_bytes_per_token=1)
    }
    facts = Facts(checkpoints=found, running={"low": going})
    (wait,) = plan([after], [instance(before), instance(LOW)], facts, MACHINE, now=0.0)
    assert (wait.reason, wait.problem) == (Reason.WAITING_FOR_MEMORY, None)


def test_a_replaced_instance_holds_its_memory_until_its_requests_end() -> None:
    small = record("small")
    old = replace(instance(LOW), checkpoint="/old", weights_bytes=50)
    (wait,) = actions(small, LOW, loaded=(LOW,), outgoing=(old,), evicts=False)
    assert (wait.reason, wait.problem) == (Reason.WAITING_FOR_MEMORY, None)
    assert "low (outgoing)" in wait.message


def test_an_instance_already_loaded_is_not_counted_twice() -> None:
    spec = LOW.spec
    found = Checkpoint("/low", "r", "llama", 30, max_context=50, kv_bytes_per_token=1)
    running = Action(
        Kind.RELOAD, "low", "changed", spec, found, resolve(spec.config, found, MACHINE)
    )
    ledger = held_memory([instance(LOW)], Facts(running={"low": running}), MACHINE)
    assert ledger.used == 40
