"""Requests -> records, as the design requires."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from reconciler.core.defaults import Defaults
from reconciler.core.desired import Join, Put, View, agrees, decide
from reconciler.core.errors import LoadError, Reason
from reconciler.core.facts import Adapter, Checkpoint, GenerationConfig
from reconciler.core.records import (
    HTTP,
    EffectiveSettings,
    LoadRequest,
    LoadSpec,
    Record,
    RequestedSettings,
)

AT = datetime(2026, 1, 1, tzinfo=UTC)
HERE = "directory:/m"
SPEC = LoadSpec("p/m", RequestedSettings(context_length=10))


NO_OPINION = RequestedSettings()
CHECKPOINT = Checkpoint("/models/p/m", "r", "llama", 100)
ELSEWHERE = Checkpoint("/models/p/other", "r", "llama", 100)
CONFIG = EffectiveSettings(
    4096, 512, flash_attention=True, num_experts=4, offload_kv_cache_to_gpu=True
)


def view(
    name: str,
    asked: RequestedSettings = NO_OPINION,
    *,
    owner: str = HTTP,
    config: EffectiveSettings | None = CONFIG,
    age: int = 0,
    checkpoint: Checkpoint | None = CHECKPOINT,
) -> View:
    created = AT - timedelta(seconds=age)
    record = Record(name, owner, LoadSpec("p/m", asked), created, file="f.yaml", line=7)
    return View(record, checkpoint, config, ready=config is not None)


def ask(instance_id: str | None = None, *resets: str, **sent: int) -> LoadRequest:
    config = RequestedSettings(**sent)  # type: ignore[arg-type]
    return LoadRequest("p/m", config, frozenset(resets), instance_id)


def verdict(request: LoadRequest, *views: View) -> Join | Put:
    return decide(views, request, CHECKPOINT, AT)


def test_a_first_request_creates_a_provisional_record() -> None:
    spec = LoadSpec("p/m", RequestedSettings(context_length=5))
    expected = Record("p/m", HTTP, spec, AT, provisional=True)
    assert verdict(ask(context_length=5)) == Put(expected)


@pytest.mark.parametrize(
    ("asked", "request_", "expected"),
    [
        (RequestedSettings(), ask(), True),
        (RequestedSettings(context_length=5), ask(), True),  # an omitted key is not compared
        (RequestedSettings(context_length=5), ask(context_length=5), True),
        (RequestedSettings(context_length=5), ask(context_length=6), False),
        (RequestedSettings(), ask(context_length=4096), True),  # it is in force
        (RequestedSettings(), ask(None, "context_length"), True),
        (RequestedSettings(context_length=5), ask(None, "context_length"), False),
        (RequestedSettings(), ask(num_experts=0), True),  # 0 means the model's own
        (RequestedSettings(num_experts=2), ask(num_experts=0), False),
        (RequestedSettings(num_experts=0), ask(num_experts=0), True),
        (RequestedSettings(), ask(num_experts=4), True),
    ],
)
def test_a_request_agrees_if_the_keys_that_it_sends_do(
    asked: RequestedSettings, request_: LoadRequest, *, expected: bool
) -> None:
    assert agrees(view("a", asked), request_) is expected


def test_a_record_has_no_effective_settings_before_it_is_loaded() -> None:
    loading = view("a", config=None)
    assert agrees(loading, ask()) is True
    assert agrees(loading, ask(context_length=4096)) is False


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        ([view("a"), view("p/m", config=None)], "p/m"),  # named as the model
        ([view("a", config=None, age=9), view("b")], "b"),  # ready
        ([view("a"), view("b", age=9)], "b"),  # oldest
        ([view("b"), view("a")], "a"),  # by name, so that it is always the same
        ([view("m", owner=HERE)], "m"),  # regardless of its owner
    ],
)
def test_a_request_joins_the_expected_record(views: list[View], expected: str) -> None:
    assert verdict(ask(), *views) == Join(expected)


def test_models_are_compared_as_resolved() -> None:
    assert verdict(ask(), view("alias")) == Join("alias")
    assert isinstance(verdict(ask(), view("same string", checkpoint=ELSEWHERE)), Put)
    assert verdict(ask(), view("not resolved yet", checkpoint=None)) == Join("not resolved yet")


def test_a_request_updates_the_http_record_named_as_the_model_by_merging() -> None:
    mine = view("p/m", RequestedSettings(context_length=5, eval_batch_size=64, num_experts=2))
    decision = verdict(ask(None, "num_experts", context_length=6), mine)
    expected = LoadSpec("p/m", RequestedSettings(context_length=6, eval_batch_size=64))
    assert isinstance(decision, Put)
    assert (decision.record.spec, decision.record.generation) == (expected, 2)


def test_with_an_instance_id_only_that_record_counts() -> None:
    agreeing, named = view("a"), view("b", RequestedSettings(context_length=5))
    decision = verdict(ask("b", context_length=6), agreeing, named)
    assert isinstance(decision, Put)
    assert decision.record.name == "b"
    assert verdict(ask("b", context_length=5), agreeing, named) == Join("b")
    created = verdict(ask("c"), agreeing, named)
    assert isinstance(created, Put)
    assert (created.record.name, created.record.provisional) == ("c", True)


def test_a_change_to_a_manifests_record_is_rejected_with_file_and_line() -> None:
    theirs = view("p/m", RequestedSettings(context_length=5), owner=HERE)
    with pytest.raises(LoadError, match=r"f\.yaml:7") as raised:
        verdict(ask(context_length=6), theirs)
    assert raised.value.problem.reason is Reason.MANAGED_BY_MANIFEST


def test_a_suspended_record_is_not_joined() -> None:
    suspended = view("p/m", owner=HERE)
    record = replace(suspended.record, spec=replace(suspended.record.spec, suspend=True))
    for request in (ask(), ask("p/m")):
        with pytest.raises(LoadError, match=r"f\.yaml:7, which suspends it"):
            verdict(request, replace(suspended, record=record))
    assert verdict(ask(), replace(suspended, record=record), view("other")) == Join("other")


class TestDefaults:
    """Defaults of requests: compared and merged key by key, like settings."""

    WARM = Defaults(temperature=0.7)
    PUBLISHED = replace(CHECKPOINT, generation=GenerationConfig(Defaults(temperature=0.6)))

    @staticmethod
    def view(defaults: Defaults, checkpoint: Checkpoint = CHECKPOINT) -> View:
        known = view("p/m", checkpoint=checkpoint)
        spec = replace(known.record.spec, defaults=defaults)
        return replace(known, record=replace(known.record, spec=spec))

    @pytest.mark.parametrize(
        ("defaults", "sent", "resets", "expected"),
        [
            (WARM, Defaults(), (), True),  # an omitted key is not compared
            (WARM, Defaults(temperature=0.7), (), True),
            (WARM, Defaults(temperature=0.6), (), False),
            (Defaults(), Defaults(temperature=0.6), (), True),  # it is in force
            (Defaults(), Defaults(temperature=0.7), (), False),
            (Defaults(), Defaults(top_k=5), (), False),
            (Defaults(temperature=0.0), Defaults(temperature=0.6), (), False),
            (WARM, Defaults(), ("defaults.temperature",), False),
            (Defaults(), Defaults(), ("defaults.temperature",), True),
        ],
    )
    def test_a_request_agrees_if_the_defaults_that_it_sends_do(
        self, defaults: Defaults, sent: Defaults, resets: tuple[str, ...], *, expected: bool
    ) -> None:
        request = replace(ask(None, *resets), defaults=sent)
        assert agrees(self.view(defaults, self.PUBLISHED), request) is expected

    def test_sent_defaults_are_merged_and_the_answer_lists_changes(self) -> None:
        mine = self.view(Defaults(temperature=0.7, top_k=5, seed=1))
        request = replace(ask(None, "defaults.seed"), defaults=Defaults(temperature=0.9))
        decision = verdict(request, mine)
        assert isinstance(decision, Put)
        assert decision.record.spec.defaults == Defaults(temperature=0.9, top_k=5)
        assert decision.record.generation == 2
        assert {w.key: w.asked for w in decision.warnings} == {
            "defaults.temperature": 0.9,
            "defaults.seed": None,
        }

    def test_a_change_of_defaults_alone_is_another_instance(self) -> None:
        assert not SPEC.loads_like(replace(SPEC, defaults=self.WARM))


class TestAdapters:
    """An adapter is part of the request, compared as resolved."""

    SQL = replace(CHECKPOINT, adapter=Adapter("/adapters/sql", "f", 1))

    @classmethod
    def view(cls, name: str, adapter: str | None = "p/sql") -> View:
        known = view(name, checkpoint=cls.SQL if adapter else CHECKPOINT)
        spec = replace(known.record.spec, adapter=adapter)
        return replace(known, record=replace(known.record, spec=spec))

    def test_a_request_for_the_model_does_not_join_an_adapter(self) -> None:
        assert isinstance(verdict(ask(), self.view("tuned")), Put)
        assert verdict(ask(), self.view("tuned"), self.view("plain", None)) == Join("plain")
        changed = verdict(ask(), self.view("p/m"))
        assert isinstance(changed, Put)
        assert changed.record.spec.adapter is None

    def test_a_request_for_an_adapter_joins_the_one_it_resolves_to(self) -> None:
        request = replace(ask(), adapter="/link/to/sql")
        views = (self.view("plain", None), self.view("tuned"))
        assert decide(views, request, self.SQL, AT) == Join("tuned")
        other = replace(CHECKPOINT, adapter=Adapter("/adapters/other", "f", 1))
        decision = decide(views, request, other, AT)
        assert isinstance(decision, Put)
        assert (decision.record.name, decision.record.spec.adapter) == ("p/m:sql", "/link/to/sql")

    def test_a_request_for_an_instance_without_an_adapter_matches_any(self) -> None:
        tuned = self.view("tuned")
        assert verdict(ask("tuned"), tuned) == Join("tuned")
        changed = verdict(ask("tuned", context_length=5), tuned)
        assert isinstance(changed, Put)
        assert changed.record.spec.adapter == "p/sql"
        plain = verdict(ask("tuned", "adapter"), tuned)
        assert isinstance(plain, Put)
        assert plain.record.spec.adapter is None
        assert [w.key for w in plain.warnings] == ["adapter"]

    def test_another_adapter_is_another_instance(self) -> None:
        assert not SPEC.loads_like(replace(SPEC, adapter="p/sql"))


class TestDrafting:
    """Drafts change only the speed: a request that names none matches any."""

    @staticmethod
    def view(name: str, **spec: Any) -> View:
        known = view(name)
        return replace(known, record=replace(known.record, spec=replace(SPEC, **spec)))

    def test_a_request_without_the_keys_joins(self) -> None:
        assert verdict(ask(), self.view("a", draft_model="p/d", prompt_lookup=False)) == Join("a")

    def test_the_keys_sent_must_agree(self) -> None:
        drafting = self.view("p/m", draft_model="p/d", prompt_lookup=False)
        assert verdict(replace(ask(), draft_model="p/d"), drafting) == Join("p/m")
        assert verdict(replace(ask(), prompt_lookup=False), drafting) == Join("p/m")
        for request, draft, lookup in (
            (replace(ask(), draft_model="p/e"), "p/e", False),
            (replace(ask(), prompt_lookup=True), "p/d", True),
            (replace(ask(), resets=frozenset({"draft_model"})), None, False),
            (replace(ask(), resets=frozenset({"prompt_lookup"})), "p/d", True),
        ):
            changed = verdict(request, drafting)
            assert isinstance(changed, Put)
            spec = changed.record.spec
            assert (spec.draft_model, spec.prompt_lookup) == (draft, lookup)
            assert len(changed.warnings) == 1

    def test_other_drafts_are_another_instance(self) -> None:
        assert not SPEC.loads_like(replace(SPEC, draft_model="p/d"))
        assert not SPEC.loads_like(replace(SPEC, prompt_lookup=False))
