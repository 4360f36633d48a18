"""Requested settings + checkpoint facts + machine facts -> settings in force, or an error.

Settings are decided only here. The worker applies them, and the settings that it observes are
compared with the decision.
"""

from dataclasses import dataclass, replace

from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.facts import Checkpoint, Machine
from reconciler.core.footprint import (
    Need,
    adapter_bytes,
    batch_bytes,
    draft_bytes,
    kv_bytes,
    most_tokens,
    process_bytes,
    reading_config,
    working_bytes,
)
from reconciler.core.memory import readable_bytes
from reconciler.core.records import EffectiveSettings, RequestedSettings, SettingWarning

DEFAULT_EVAL_BATCH_SIZE = 512
"""Prompt tokens per prefill step; the default of the load contract."""

DEFAULT_CONTEXT_COUNTED = 8192
"""Tokens of KV cache reserved for an instance whose context length was not requested."""

EMBEDDING_CONTEXT_COUNTED = 2048
"""The same for an embedding model: most texts are much shorter, and at most one text that is longer
than a step is read at a time."""

UNNAMED_CONTEXT = 4096
"""Context length of a checkpoint that states no maximum, in tokens."""

_NO_GPU = "MLX has no GPU on this machine"


@dataclass(frozen=True)
class Resolved:
    """Settings in force, warnings about unmet requests, and the memory to reserve."""

    config: EffectiveSettings
    warnings: tuple[SettingWarning, ...]
    need: Need
    counted: int = 0
    """Tokens of KV cache in `need`."""


def resolve(asked: RequestedSettings, checkpoint: Checkpoint, machine: Machine) -> Resolved:
    """Decide all settings.

    Raises `LoadError`: `ImpossibleSetting` with the key and its limit, or `InsufficientMemory` if
    this machine can never hold the model.
    """
    warnings: list[SettingWarning] = []
    config = EffectiveSettings(
        context_length=0,
        eval_batch_size=asked.eval_batch_size or DEFAULT_EVAL_BATCH_SIZE,
        flash_attention=asked.flash_attention is not False,
        num_experts=_num_experts(asked, checkpoint, warnings),
        offload_kv_cache_to_gpu=_offload(asked, machine, warnings),
        kv_cache_bits=_kv_cache_bits(asked, checkpoint, warnings),
    )
    context = _context_length(asked, checkpoint, machine, config, warnings)
    shapes, config = checkpoint.footprint, replace(config, context_length=context)
    counted = _counted(asked, checkpoint, config)
    reading = reading_config(config, checkpoint.embedder)
    need = Need(
        process_bytes(checkpoint, machine),
        checkpoint.weights_bytes,
        kv_bytes(shapes, counted, config.kv_cache_bits),
        working_bytes(shapes, reading, counted),
        adapter_bytes(checkpoint),
        draft_bytes(checkpoint, config, counted),
    )
    return Resolved(config, tuple(warnings), need, counted)


def _counted(asked: RequestedSettings, checkpoint: Checkpoint, config: EffectiveSettings) -> int:
    """Number of tokens to reserve memory for."""
    if asked.context_length is not None:
        return config.context_length
    embedder = checkpoint.embedder
    if embedder is None:
        return min(config.context_length, DEFAULT_CONTEXT_COUNTED)
    step = reading_config(config, embedder).eval_batch_size
    return min(config.context_length, max(EMBEDDING_CONTEXT_COUNTED, step))


def _context_length(
    asked: RequestedSettings,
    checkpoint: Checkpoint,
    machine: Machine,
    config: EffectiveSettings,
    warnings: list[SettingWarning],
) -> int:
    shapes, requested = checkpoint.footprint, asked.context_length
    longest = checkpoint.max_context or UNNAMED_CONTEXT
    own = longest
    if checkpoint.embedder is not None:
        own = min(longest, checkpoint.embedder.max_tokens or longest)
        config = replace(config, context_length=longest)
        config = reading_config(config, checkpoint.embedder)
    process = process_bytes(checkpoint, machine)
    adapter = adapter_bytes(checkpoint)
    # The draft model's cache is counted for as many tokens as an instance with that context has.
    draft = draft_bytes(checkpoint, config, min(requested or DEFAULT_CONTEXT_COUNTED, longest))
    room = machine.memory_budget - process - checkpoint.weights_bytes - adapter - draft
    alone = most_tokens(shapes, config, room, max(longest, requested or 0))
    if alone < 1:
        token = batch_bytes(shapes, config, 1, 1)
        total = checkpoint.weights_bytes + process + adapter + draft + token
        raise LoadError(
            Problem(
                Reason.INSUFFICIENT_MEMORY,
                f"the weights take {readable_bytes(checkpoint.weights_bytes)}, with process"
                f"{', draft model' if draft else ''} and first token {readable_bytes(total)}, "
                "which exceeds this machine's memory budget of "
                f"{readable_bytes(machine.memory_budget)}",
                param="model",
            )
        )
    if requested is None:
        if own > alone:
            reason = f"the model's own {own} would not fit in memory; capped to {alone}"
            warnings.append(SettingWarning("context_length", own, reason))
        return min(own, alone)
    if checkpoint.max_context and requested > longest:
        message = f"context_length {requested} exceeds the model's maximum of {longest} tokens"
        raise LoadError(Problem(Reason.IMPOSSIBLE_SETTING, message, param="context_length"))
    if requested > alone:
        needed = readable_bytes(batch_bytes(shapes, config, 1, requested))
        message = (
            f"context_length {requested} needs {needed} for KV cache and prefill; "
            f"beside the weights this machine has room for {alone} tokens"
        )
        raise LoadError(Problem(Reason.INSUFFICIENT_MEMORY, message, param="context_length"))
    return requested


def _num_experts(
    asked: RequestedSettings, checkpoint: Checkpoint, warnings: list[SettingWarning]
) -> int:
    requested = asked.num_experts
    if not requested:
        return checkpoint.experts_per_token
    if not checkpoint.experts_total:
        reason = "a dense model has no experts to choose from"
        warnings.append(SettingWarning("num_experts", requested, reason))
        return 0
    least, most = checkpoint.experts_least, checkpoint.experts_most or checkpoint.experts_total
    if least <= requested <= most:
        return requested
    if requested > checkpoint.experts_total:
        message = f"num_experts {requested} exceeds the model's {checkpoint.experts_total} experts"
    elif least == most:
        message = (
            f"num_experts {requested}: the router of {checkpoint.model_type} always chooses {most}"
        )
    else:
        message = (
            f"num_experts {requested}: this model's router chooses from groups that hold {most}"
        )
    raise LoadError(Problem(Reason.IMPOSSIBLE_SETTING, message, param="num_experts"))


def _offload(asked: RequestedSettings, machine: Machine, warnings: list[SettingWarning]) -> bool:
    """True if KV cache and attention run on the GPU: there is one, and the request allows it."""
    requested = asked.offload_kv_cache_to_gpu
    if requested and not machine.has_gpu:
        warnings.append(SettingWarning("offload_kv_cache_to_gpu", requested, _NO_GPU))
    return machine.has_gpu and requested is not False


def _kv_cache_bits(
    asked: RequestedSettings, checkpoint: Checkpoint, warnings: list[SettingWarning]
) -> int | None:
    """Bits per value of the KV cache; None: not quantised."""
    requested, shapes = asked.kv_cache_bits, checkpoint.shapes
    if requested is None:
        return None
    if checkpoint.embedder is not None or (shapes and not shapes.growing and not shapes.windows):
        reason = "this model keeps no KV cache that could be quantized"
        warnings.append(SettingWarning("kv_cache_bits", requested, reason))
        return None
    if shapes is None:
        reason, permanent = "the model could not be built, so its KV cache is unknown", False
    elif shapes.unquantizable_kv:
        reason, permanent = shapes.unquantizable_kv, True
    else:
        return requested
    message = f"kv_cache_bits {requested}: {reason}"
    problem = Problem(Reason.IMPOSSIBLE_SETTING, message, permanent, param="kv_cache_bits")
    raise LoadError(problem)
