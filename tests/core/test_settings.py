"""Requested settings + facts -> settings in force."""

from dataclasses import replace

import pytest

from reconciler.core.embedder import Embedder
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.facts import Checkpoint, Machine, Shapes
from reconciler.core.records import EffectiveSettings, RequestedSettings
from reconciler.core.settings import DEFAULT_CONTEXT_COUNTED, UNNAMED_CONTEXT, Resolved, resolve

GPU = Machine("gpu", "M", 1_000_000, "0")
CPU = replace(GPU, device="cpu")
DENSE = Checkpoint("/m", "r", "llama", 100_000, max_context=32768, kv_bytes_per_token=10)
MOE = replace(DENSE, experts_total=8, experts_per_token=2, experts_key=("num_experts_per_tok",))


def in_force(
    asked: RequestedSettings, checkpoint: Checkpoint = DENSE, machine: Machine = GPU
) -> EffectiveSettings:
    return resolve(asked, checkpoint, machine).config


def warned(resolved: Resolved) -> dict[str, object]:
    assert all(w.reason for w in resolved.warnings)
    return {w.key: w.asked for w in resolved.warnings}


def refused(asked: RequestedSettings, checkpoint: Checkpoint = DENSE) -> Problem:
    with pytest.raises(LoadError) as raised:
        resolve(asked, checkpoint, GPU)
    return raised.value.problem


def test_the_defaults() -> None:
    assert in_force(RequestedSettings(), MOE) == EffectiveSettings(32768, 512, True, 2, True)
    assert resolve(RequestedSettings(), MOE, GPU).warnings == ()


def test_possible_requested_settings_are_in_force() -> None:
    asked = RequestedSettings(context_length=5, eval_batch_size=7, num_experts=3)
    config = in_force(asked, MOE)
    assert (config.context_length, config.eval_batch_size, config.num_experts) == (5, 7, 3)


def test_a_checkpoint_that_states_no_maximum_gets_a_modest_context() -> None:
    nameless = replace(DENSE, max_context=None)
    assert in_force(RequestedSettings(), nameless).context_length == UNNAMED_CONTEXT
    assert in_force(RequestedSettings(context_length=60_000), nameless).context_length == 60_000


def test_a_default_context_is_capped_to_what_fits_the_model_alone() -> None:
    small = replace(GPU, memory_budget=DENSE.weights_bytes + 10 * 500)
    resolved = resolve(RequestedSettings(), DENSE, small)
    assert resolved.config.context_length == 500
    assert warned(resolved) == {"context_length": 32768}


def test_a_requested_context_is_reserved_in_full_and_a_default_one_in_part() -> None:
    assert resolve(RequestedSettings(context_length=20_000), DENSE, GPU).need.kv == 200_000
    assert resolve(RequestedSettings(), DENSE, GPU).need.kv == DEFAULT_CONTEXT_COUNTED * 10


def test_a_draft_model_counts_with_its_weights_and_its_cache() -> None:
    draft = replace(DENSE, path="/d", weights_bytes=1_000, kv_bytes_per_token=2)
    drafted = replace(DENSE, draft=draft)
    asked = RequestedSettings(context_length=20_000)
    resolved = resolve(asked, drafted, GPU)
    assert resolved.need.draft == 1_000 + 20_000 * 2
    assert resolved.need.own == resolve(asked, DENSE, GPU).need.own + resolved.need.draft
    assert (resolved.counted, resolve(asked, DENSE, GPU).need.draft) == (20_000, 0)
    default = resolve(RequestedSettings(), drafted, GPU)
    assert default.need.draft == 1_000 + DEFAULT_CONTEXT_COUNTED * 2


def test_a_draft_model_too_large_for_the_machine_is_rejected() -> None:
    large = replace(DENSE, draft=replace(DENSE, path="/d", weights_bytes=950_000))
    assert refused(RequestedSettings(), large).reason is Reason.INSUFFICIENT_MEMORY
    assert "draft model" in refused(RequestedSettings(), large).message


def test_num_experts_0_means_the_models_default() -> None:
    assert in_force(RequestedSettings(num_experts=0), MOE).num_experts == 2


def test_a_dense_model_reports_no_experts_and_warns() -> None:
    resolved = resolve(RequestedSettings(num_experts=2), DENSE, GPU)
    assert resolved.config.num_experts == 0
    assert warned(resolved) == {"num_experts": 2}


@pytest.mark.parametrize("machine", [GPU, CPU])
@pytest.mark.parametrize(("requested", "expected"), [(None, True), (True, True), (False, False)])
def test_flash_attention_is_as_requested_and_on_by_default(
    requested: bool | None, machine: Machine, *, expected: bool
) -> None:
    resolved = resolve(RequestedSettings(flash_attention=requested), DENSE, machine)
    assert resolved.config.flash_attention is expected
    assert warned(resolved) == {}


@pytest.mark.parametrize(
    ("requested", "machine", "expected", "warns"),
    [
        (None, GPU, True, False),
        (True, GPU, True, False),
        (False, GPU, False, False),
        (None, CPU, False, False),
        (False, CPU, False, False),
        (True, CPU, False, True),
    ],
)
def test_the_kv_cache_is_on_the_gpu_unless_there_is_none_or_it_is_disabled(
    requested: bool | None, machine: Machine, *, expected: bool, warns: bool
) -> None:
    resolved = resolve(RequestedSettings(offload_kv_cache_to_gpu=requested), DENSE, machine)
    assert resolved.config.offload_kv_cache_to_gpu is expected
    assert warned(resolved) == ({"offload_kv_cache_to_gpu": True} if warns else {})


SHAPED = replace(DENSE, shapes=Shapes(1024, score_bytes=2, largest_layer=64))
EIGHT = RequestedSettings(kv_cache_bits=8)


def test_a_quantised_kv_cache_reserves_less_and_leaves_room_for_more_tokens() -> None:
    machine = replace(GPU, memory_budget=100_000_000)
    plain = resolve(RequestedSettings(context_length=8192), SHAPED, machine)
    for bits, share in ((8, 0.53125), (4, 0.28125)):
        asked = RequestedSettings(context_length=8192, kv_cache_bits=bits)
        resolved = resolve(asked, SHAPED, machine)
        assert (resolved.config.kv_cache_bits, resolved.warnings) == (bits, ())
        assert resolved.need.kv == plain.need.kv * share
    small = replace(GPU, memory_budget=10_000_000)
    longest = in_force(RequestedSettings(), SHAPED, small).context_length
    assert in_force(EIGHT, SHAPED, small).context_length > 1.5 * longest


def test_a_model_whose_kv_cache_cannot_be_quantised_is_refused_with_the_reason() -> None:
    unfit = replace(SHAPED, shapes=Shapes(1, unquantizable_kv="this model keeps a window"))
    problem = refused(EIGHT, unfit)
    assert problem.message == "kv_cache_bits 8: this model keeps a window"
    assert (problem.reason, problem.param) == (Reason.IMPOSSIBLE_SETTING, "kv_cache_bits")
    assert problem.permanent
    assert in_force(RequestedSettings(), unfit).kv_cache_bits is None


def test_a_model_of_unknown_shapes_is_refused_until_they_are_known() -> None:
    assert not refused(EIGHT, DENSE).permanent


@pytest.mark.parametrize(
    "checkpoint",
    [
        replace(SHAPED, shapes=Shapes(0, fixed=100)),
        replace(DENSE, embedder=Embedder(("mean",), 8)),
    ],
)
def test_a_model_without_a_kv_cache_warns_that_none_is_quantised(checkpoint: Checkpoint) -> None:
    resolved = resolve(EIGHT, checkpoint, GPU)
    assert resolved.config.kv_cache_bits is None
    assert warned(resolved) == {"kv_cache_bits": 8}


@pytest.mark.parametrize(
    ("asked", "reason", "param", "limit"),
    [
        (
            RequestedSettings(context_length=32769),
            Reason.IMPOSSIBLE_SETTING,
            "context_length",
            "32768",
        ),
        (RequestedSettings(num_experts=9), Reason.IMPOSSIBLE_SETTING, "num_experts", "8 experts"),
    ],
)
def test_an_impossible_setting_is_rejected_with_the_limit(
    asked: RequestedSettings, reason: Reason, param: str, limit: str
) -> None:
    problem = refused(asked, MOE)
    assert (problem.reason, problem.param, problem.permanent) == (reason, param, True)
    assert limit in problem.message


@pytest.mark.parametrize(
    ("least", "most", "requested", "words"),
    [(1, 3, 4, "groups that hold 3"), (2, 2, 1, "always chooses 2"), (2, 2, 3, "always")],
)
def test_experts_that_a_router_cannot_choose_are_refused_with_the_reason(
    least: int, most: int, requested: int, words: str
) -> None:
    special = replace(MOE, experts_least=least, experts_most=most)
    problem = refused(RequestedSettings(num_experts=requested), special)
    assert (problem.reason, problem.param) == (Reason.IMPOSSIBLE_SETTING, "num_experts")
    assert words in problem.message


def test_a_model_too_large_for_the_machine_is_rejected() -> None:
    big = replace(DENSE, weights_bytes=2_000_000)
    assert refused(RequestedSettings(), big).reason is Reason.INSUFFICIENT_MEMORY
    deep = replace(DENSE, kv_bytes_per_token=1000)
    problem = refused(RequestedSettings(context_length=901), deep)
    assert (problem.reason, problem.param) == (Reason.INSUFFICIENT_MEMORY, "context_length")
    assert "900 tokens" in problem.message
