"""HTTP requests -> records: joined, updated, created, or refused.

Desired state changes only here and in `absorb`, and only on behalf of its owner.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from reconciler.core.defaults import DEFAULTS, Defaults
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.facts import Checkpoint
from reconciler.core.near import hint
from reconciler.core.records import (
    HTTP,
    SETTINGS,
    EffectiveSettings,
    LoadRequest,
    LoadSpec,
    Record,
    RequestedSettings,
    SettingWarning,
)


@dataclass(frozen=True)
class View:
    """A record with the facts that a decision about a request needs."""

    record: Record
    checkpoint: Checkpoint | None
    """Resolved checkpoint; None: not resolved, or not found."""
    config: EffectiveSettings | None
    """Settings in force, if it is loaded."""
    ready: bool


@dataclass(frozen=True)
class Join:
    """An existing record serves the request."""

    name: str


@dataclass(frozen=True)
class Put:
    """The request creates or updates a record."""

    record: Record
    warnings: tuple[SettingWarning, ...] = ()
    """Changes that an update makes for other clients of the record."""


def decide(
    views: Sequence[View], request: LoadRequest, checkpoint: Checkpoint, at: datetime
) -> Join | Put:
    """Decide how an HTTP load request changes the records.

    Raises `LoadError` `ManagedByManifest` if it would have to change a record of a manifest.
    """
    agreeing = [
        v
        for v in views
        if request.instance_id in (None, v.record.name)
        and not v.record.spec.suspend
        and _same_model(v, request, checkpoint)
        and agrees(v, request)
    ]
    if agreeing:
        return Join(min(agreeing, key=lambda v: _preference(v, request)).record.name)
    name = request.name
    current = next((v.record for v in views if v.record.name == name), None)
    if current is None:
        spec = LoadSpec(
            request.model,
            request.config,
            request.defaults,
            request.adapter,
            idle_ttl_seconds=request.idle_ttl_seconds,
            aliases=request.aliases or (),
            warm=bool(request.warm),
            prompt_lookup=request.prompt_lookup is not False,
            draft_model=request.draft_model,
        )
        return Put(Record(name, HTTP, spec, at, provisional=True))
    if current.owner != HTTP:
        words = "suspends it" if current.spec.suspend else "requests other settings"
        message = (
            f"'{name}' is managed by {current.place}, which {words}; "
            "change the manifest, or send another instance_id"
        )
        raise LoadError(Problem(Reason.MANAGED_BY_MANIFEST, message, param="instance_id"))
    record = current.with_spec(_merged(current.spec, request))
    return Put(record, _changes(current, record))


def declare(current: Record | None, name: str, spec: LoadSpec, at: datetime) -> Record:
    """The record that results from a spec of its owner, as if a source's file declared it."""
    if current is None or current.owner == HTTP:
        return put(current, name, spec, at)
    return current.with_spec(spec)


def put(current: Record | None, name: str, spec: LoadSpec, at: datetime) -> Record:
    """The record that results from a spec sent over HTTP; `current` is the existing one, if any.

    Raises `LoadError` `ManagedByManifest`.
    """
    if current is None:
        return Record(name, HTTP, spec, at, provisional=not spec.suspend)
    if current.owner != HTTP:
        message = f"'{name}' is managed by {current.place}; change it there"
        raise LoadError(Problem(Reason.MANAGED_BY_MANIFEST, message, param="name"))
    return current.with_spec(spec)


def removable(records: Mapping[str, Record], name: str) -> Record:
    """The HTTP record of that name, which the caller may remove.

    Raises `LoadError` if there is no such record, or a manifest owns it.
    """
    record = records.get(name)
    if record is None:
        message = f"no instance is named '{name}'{hint(name, records)}"
        raise LoadError(Problem(Reason.UNKNOWN_INSTANCE, message, param="instance_id"))
    if record.owner != HTTP:
        message = f"'{name}' is managed by {record.place}; set `suspend: true` there"
        raise LoadError(Problem(Reason.MANAGED_BY_MANIFEST, message, param="instance_id"))
    return record


def _changes(before: Record, after: Record) -> tuple[SettingWarning, ...]:
    """Settings that an update changes, as warnings for the response."""
    old, new = _asked(before.spec), _asked(after.spec)
    return tuple(
        SettingWarning(
            key,
            _scalar(new[key]),
            f"changed from {'the default' if old[key] is None else _scalar(json.dumps(old[key]))} "
            f"for all clients of '{after.name}'",
        )
        for key in old
        if old[key] != new[key]
    )


def _asked(spec: LoadSpec) -> dict[str, Any]:
    """Everything that a load request can set, by key; None: not set."""
    config = {key: getattr(spec.config, key) for key in SETTINGS}
    defaults = {f"defaults.{key}": getattr(spec.defaults, key) for key in DEFAULTS}
    own = {key: getattr(spec, key) for key in ("adapter", "prompt_lookup", "draft_model")}
    return config | defaults | own


def _scalar(value: Any) -> Any:
    """A value in the form allowed in a warning: no objects, and no long texts."""
    shown = json.dumps(value) if isinstance(value, dict) else value
    return shown[:SHOWN] + "..." if isinstance(shown, str) and len(shown) > SHOWN else shown


SHOWN = 200
"""Maximum length of a value in a warning, in characters."""


def agrees(view: View, request: LoadRequest) -> bool:
    """True if the record has every key sent, either as requested or as in force."""
    asked = view.record.spec.config
    for key in SETTINGS:
        requested = getattr(asked, key)
        sent = getattr(request.config, key)
        if key in request.resets:
            if requested is not None:
                return False
        elif sent is None or sent == requested:
            continue
        elif key == "num_experts" and sent == 0:  # 0 means the model's own, as does no value
            if requested is not None:
                return False
        elif view.config is None or sent != getattr(view.config, key):
            return False
    if not _agree_on_defaults(view, request):
        return False
    if request.aliases not in (None, view.record.spec.aliases):
        return False
    if request.warm not in (None, view.record.spec.warm):
        return False
    spec = view.record.spec
    if _drafting(spec, request) != (spec.prompt_lookup, spec.draft_model):
        return False
    ttl = request.idle_ttl_seconds
    return ttl is None or ttl == view.record.spec.idle_ttl_seconds


def _agree_on_defaults(view: View, request: LoadRequest) -> bool:
    """True if every default sent equals the record's, or the model's if the record has none."""
    own = view.record.spec.defaults
    published = Defaults()
    if view.checkpoint is not None:
        published = view.checkpoint.generation.defaults
    for key in DEFAULTS:
        asked, sent = getattr(own, key), getattr(request.defaults, key)
        if f"defaults.{key}" in request.resets:
            if asked is not None:
                return False
        elif sent not in (None, getattr(published, key) if asked is None else asked):
            return False
    return True


def _same_model(view: View, request: LoadRequest, checkpoint: Checkpoint) -> bool:
    """True if the record has the requested weights, and the requested adapter or none.

    A request that names an instance and no adapter matches any adapter.
    """
    found, record = view.checkpoint, view.record
    same = record.spec.model == request.model if found is None else found.path == checkpoint.path
    sent = request.adapter is not None or "adapter" in request.resets
    if request.instance_id is not None and not sent:
        return same
    if found is not None and found.adapter is not None and checkpoint.adapter is not None:
        return same and found.adapter.path == checkpoint.adapter.path
    return same and record.spec.adapter == request.adapter


def _preference(view: View, request: LoadRequest) -> tuple[bool, bool, float, str]:
    """Sort key: the record named after the model, then ready ones, then the oldest."""
    record = view.record
    age = record.created_at.timestamp()
    return (record.name != request.model, not view.ready, age, record.name)


def _drafting(spec: LoadSpec, request: LoadRequest) -> tuple[bool, str | None]:
    """`prompt_lookup` and `draft_model` of a spec after a request."""
    lookup, draft = spec.prompt_lookup, spec.draft_model
    if request.prompt_lookup is not None or "prompt_lookup" in request.resets:
        lookup = request.prompt_lookup is not False
    if request.draft_model is not None or "draft_model" in request.resets:
        draft = request.draft_model
    return lookup, draft


def _merged(spec: LoadSpec, request: LoadRequest) -> LoadSpec:
    """The spec with the keys sent in place of its own, and without those reset.

    Without an `instance_id`, a request without an adapter means the model without one.
    """

    def merged(own: dict[str, Any], sent: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        values = own | sent
        return {k: v for k, v in values.items() if prefix + k not in request.resets}

    ttl = request.idle_ttl_seconds
    lookup, draft = _drafting(spec, request)
    adapter = request.adapter
    if adapter is None and request.instance_id is not None and "adapter" not in request.resets:
        adapter = spec.adapter
    return replace(
        spec,
        model=request.model,
        config=RequestedSettings(**merged(spec.config.sent(), request.config.sent())),
        defaults=Defaults(**merged(spec.defaults.sent(), request.defaults.sent(), "defaults.")),
        adapter=adapter,
        idle_ttl_seconds=spec.idle_ttl_seconds if ttl is None else ttl,
        aliases=spec.aliases if request.aliases is None else request.aliases,
        warm=spec.warm if request.warm is None else request.warm,
        prompt_lookup=lookup,
        draft_model=draft,
    )
