"""Opens sessions with the settings of an instance, and checks what the worker observed."""

from collections.abc import Iterable
from dataclasses import replace

from reconciler.core.defaults import Default, for_requests, in_force
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.facts import Checkpoint
from reconciler.core.prompt_store import PromptStore
from reconciler.core.protocol import Draft, OpenSession, SessionOpened
from reconciler.core.records import SETTINGS, LoadSpec, RequestedSettings, SettingWarning
from reconciler.core.settings import Resolved
from reconciler.engine.holders import Holder


async def open_session(
    holder: Holder,
    session: str,
    spec: LoadSpec,
    checkpoint: Checkpoint,
    resolved: Resolved,
    defaults: Iterable[Default],
    prompts: PromptStore | None = None,
) -> SessionOpened:
    """Open a session. Raises `LoadError`: `SettingMismatch` if the worker observed others.

    `prompts`: where its prompts are kept on disk; None: nowhere.
    """
    own = resolved.config.num_experts == checkpoint.experts_per_token
    command = OpenSession(
        resolved.config,
        () if own else checkpoint.experts_key,
        checkpoint.footprint,
        resolved.need.session,
        for_requests(defaults),
        checkpoint.adapter,
        prompts,
        spec.prompt_lookup,
        _draft(checkpoint.draft, resolved),
    )
    opened = await holder.worker.ask("PUT", f"sessions/{session}", command, SessionOpened)
    differing = [
        key for key in SETTINGS if getattr(opened.observed, key) != getattr(resolved.config, key)
    ]
    allowed = set(opened.unused)
    if not (spec.config.num_experts and opened.observed.num_experts):
        allowed.add("num_experts")  # config.json does not always state what a model uses
    if not set(differing) <= allowed:
        message = f"the worker observed {opened.observed}, not {resolved.config}"
        raise LoadError(Problem(Reason.SETTING_MISMATCH, message))
    if holder.gone:
        raise LoadError(holder.worker.died())
    sent = spec.config.sent()
    found = tuple(replace(w, asked=sent.get(w.key, w.asked)) for w in opened.warnings)
    return replace(opened, warnings=found)


def _draft(draft: Checkpoint | None, resolved: Resolved) -> Draft | None:
    """The draft model of a session, with the memory reserved for it."""
    if draft is None:
        return None
    own = resolved.need.draft - draft.weights_bytes
    return Draft(draft.path, draft.fingerprint, draft.weights_bytes, own, resolved.counted)


def warnings(
    spec: LoadSpec, checkpoint: Checkpoint, resolved: Resolved, opened: SessionOpened
) -> tuple[SettingWarning, ...]:
    """Settings of a spec that are not in force, with the reasons."""
    return (
        resolved.warnings
        + checkpoint.generation.warnings
        + _without_effect(spec.config, opened)
        + _defaults_without_effect(spec, checkpoint)
        + opened.warnings
    )


def request_defaults(spec: LoadSpec, checkpoint: Checkpoint) -> tuple[Default, ...]:
    """Defaults for requests; empty for a model that does not generate."""
    if checkpoint.embedder is not None:
        return ()
    return in_force(spec.defaults, checkpoint.generation.defaults)


def _defaults_without_effect(spec: LoadSpec, checkpoint: Checkpoint) -> tuple[SettingWarning, ...]:
    if checkpoint.embedder is None:
        return ()
    reason = "this model creates embeddings and generates no text"
    return tuple(
        SettingWarning(f"defaults.{key}", str(value)[:200], reason)
        for key, value in spec.defaults.sent().items()
    )


def _without_effect(asked: RequestedSettings, opened: SessionOpened) -> tuple[SettingWarning, ...]:
    """Settings that do not apply to the model, as observed by the worker."""
    unused = {key: requested for key, requested in asked.sent().items() if key in opened.unused}
    return tuple(
        SettingWarning(
            key, requested, "this model has no attention or KV cache that this setting could affect"
        )
        for key, requested in unused.items()
        if requested != getattr(opened.observed, key)
    )
