"""JSON Schema validation of requests and documents, with messages for users.

The published schemas are the only definition of accepted input; this module loads them once and
turns each error of jsonschema into one sentence.
"""

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any, Literal, get_args

from jsonschema import Draft202012Validator, ValidationError
from referencing import Registry, Resource

from reconciler.core import bounds, selector
from reconciler.core.defaults import Defaults
from reconciler.core.manifest import Path, dotted
from reconciler.core.records import SETTINGS, LoadRequest, LoadSpec, RequestedSettings
from reconciler.core.template_variables import MAX_DEPTH

SchemaName = Literal[
    "action",
    "condition",
    "config",
    "defaults",
    "download",
    "download-request",
    "error",
    "estimate",
    "event",
    "generation",
    "health",
    "hub-model",
    "instance",
    "inventory",
    "load-request",
    "load-response",
    "log-line",
    "manifest",
    "memory",
    "model",
    "model-details",
    "model-removal",
    "node",
    "plan",
    "plan-request",
    "record",
    "settings",
    "source",
    "spec",
    "status",
    "unload-request",
    "unload-response",
    "warning",
    "record-request",
]

NAMES: tuple[SchemaName, ...] = get_args(SchemaName)

MAX_MISTAKES = 100
"""Maximum number of violations reported for one value."""

SHOWN = 200
"""Maximum length of a user's key or value in a message, in characters."""


@dataclass(frozen=True)
class Violation:
    """One violation of a schema by a value. `code` follows LM Studio's."""

    message: str
    path: Path
    code: Literal["unrecognized_keys", "missing_required_parameter", "invalid_value"]

    @property
    def param(self) -> str:
        """The key at fault, dotted."""
        return _shown(dotted(self.path))


@cache
def schema(name: SchemaName) -> dict[str, Any]:
    """A published schema, parsed."""
    text = (files("reconciler") / "schemas" / f"{name}.schema.json").read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


@cache
def _validator(name: SchemaName) -> Draft202012Validator:
    return Draft202012Validator(schema(name), registry=registry())


@cache
def registry() -> Registry[Any]:
    """The published schemas, by the file names that they use to refer to each other."""
    resources = [(f"{name}.schema.json", Resource.from_contents(schema(name))) for name in NAMES]
    return Registry().with_resources(resources)


def check(name: SchemaName, value: Any) -> tuple[Violation, ...]:
    """Violations in `value`, in the order of their paths, at most 100; empty if it is valid.

    If anything is longer than the schema allows, only that is reported, and no item is checked.
    """
    resolver = registry().resolver(f"{name}.schema.json")
    excess = list(itertools.islice(bounds.exceeded(schema(name), value, resolver), MAX_MISTAKES))
    if excess:
        return tuple(mistake for error in excess for mistake in _mistakes(error))
    errors = list(itertools.islice(_validator(name).iter_errors(value), MAX_MISTAKES))
    errors.sort(key=lambda e: [str(p) for p in e.path])
    # jsonschema reports each missing key without naming it, so all are listed for each report.
    found = itertools.chain.from_iterable(map(_mistakes, errors))
    every = itertools.chain(found, _not_json(value))
    return tuple(dict.fromkeys(itertools.islice(every, MAX_MISTAKES)))


def check_name(name: str) -> tuple[Violation, ...]:
    """Violations that make `name` invalid as a record's name; empty if it is valid."""
    metadata = check("manifest", {"metadata": {"name": name}})
    return tuple(replace(m, path=("name",)) for m in metadata if m.path == ("metadata", "name"))


def contradictions(body: dict[str, Any]) -> tuple[Violation, ...]:
    """Settings for which a valid load request has two different values, nested and flat."""
    nested = body.get("config", {})
    return tuple(
        Violation(
            f"{key} is {json.dumps(body[key])} and config.{key} is {json.dumps(nested[key])}; "
            "send one of them",
            (key,),
            "invalid_value",
        )
        for key in SETTINGS
        if key in body and key in nested and body[key] != nested[key]
    )


def _not_json(value: Any) -> Iterator[Violation]:
    """Values that pass a schema but cannot be stored: YAML has NaN, Python's JSON has integers of
    any size, and both may be nested deeper than their later readers allow.
    """
    todo: list[tuple[Path, Any]] = [((), value)]
    while todo:
        path, one = todo.pop()
        words = ""
        if isinstance(one, float) and not math.isfinite(one):
            words = "must be a finite number"
        elif isinstance(one, int) and not -(2**63) <= one < 2**64:
            words = "must be an integer of at most 64 bits"
        elif isinstance(one, dict | list):
            if len(path) >= MAX_DEPTH:
                words = f"must not be nested deeper than {MAX_DEPTH} levels"
            else:
                inner = one.items() if isinstance(one, dict) else enumerate(one)
                todo += [((*path, key), item) for key, item in inner]
        if words:
            where = _shown(dotted(path)) or "the body"
            yield Violation(f"{where} {words}", path, "invalid_value")


def load_request(body: dict[str, Any]) -> LoadRequest:
    """Convert a valid body to a request; settings may be nested, flat, or both."""
    sent = body.get("config", {}) | {key: body[key] for key in SETTINGS if key in body}
    defaults = body.get("defaults", {})
    named = sent | {f"defaults.{key}": value for key, value in defaults.items()}
    named |= {key: body[key] for key in ("adapter", "prompt_lookup", "draft_model") if key in body}
    return LoadRequest(
        model=body["model"],
        config=_asked(sent),
        resets=frozenset(key for key, value in named.items() if value is None),
        instance_id=body.get("instance_id"),
        idle_ttl_seconds=_whole(body.get("idle_ttl_seconds")),
        defaults=read_defaults(defaults),
        adapter=body.get("adapter"),
        aliases=tuple(body["aliases"]) if "aliases" in body else None,
        warm=body.get("warm"),
        prompt_lookup=body.get("prompt_lookup"),
        draft_model=body.get("draft_model"),
    )


def load_spec(spec: dict[str, Any]) -> LoadSpec:
    """Convert the `spec` of a valid manifest."""
    return LoadSpec(
        model=spec["model"],
        config=_asked(spec.get("config", {})),
        defaults=read_defaults(spec.get("defaults", {})),
        adapter=spec.get("adapter"),
        revision=spec.get("revision"),
        suspend=spec.get("suspend", False),
        priority=int(spec.get("priority", 0)),
        update_strategy=spec.get("update_strategy", "auto"),
        idle_ttl_seconds=_whole(spec.get("idle_ttl_seconds")),
        download=spec.get("download", "never"),
        node_selector=selector.selector(spec.get("node_selector", ())),
        aliases=tuple(spec.get("aliases", ())),
        warm=spec.get("warm", False),
        prompt_lookup=spec.get("prompt_lookup", True),
        draft_model=spec.get("draft_model"),
    )


def spec_json(spec: LoadSpec) -> dict[str, Any]:
    """A spec in the form of a manifest."""
    document: dict[str, Any] = {"model": spec.model, "config": spec.config.sent()}
    if sent := spec.defaults.sent():
        document["defaults"] = sent
    usual = LoadSpec(spec.model)
    for key in OTHERS:
        if getattr(spec, key) != getattr(usual, key):
            document[key] = getattr(spec, key)
    if spec.node_selector:
        document["node_selector"] = selector.selector_json(spec.node_selector)
    if spec.aliases:
        document["aliases"] = list(spec.aliases)
    return document


OTHERS = (
    "adapter",
    "prompt_lookup",
    "draft_model",
    "revision",
    "suspend",
    "priority",
    "update_strategy",
    "idle_ttl_seconds",
    "download",
    "warm",
)
"""Keys of a spec besides model, config and defaults; omitted if they equal their defaults."""


def _asked(config: dict[str, Any]) -> RequestedSettings:
    return RequestedSettings(**{key: _whole(value) for key, value in config.items()})


def read_defaults(defaults: dict[str, Any]) -> Defaults:
    """Convert a valid object to defaults."""
    values = {
        key: _whole(value) if key in _WHOLE_DEFAULTS else _real(value)
        for key, value in defaults.items()
    }
    return Defaults(**values)


_WHOLE_DEFAULTS = ("top_k", "max_tokens", "seed")


def _real(value: Any) -> Any:
    """An integer as a float; anything else unchanged."""
    return float(value) if isinstance(value, int) else value


def _whole(value: Any) -> Any:
    """A float as an integer: JSON Schema accepts 16384.0, as does the contract's "number"."""
    return int(value) if isinstance(value, float) else value


def _mistakes(error: ValidationError) -> Iterator[Violation]:
    path: Path = tuple(error.path)
    value: Any = error.instance
    wanted: Any = error.validator_value
    if error.validator == "additionalProperties" and isinstance(error.schema, dict):
        known = error.schema.get("properties", {})
        for key in value:
            if key not in known:
                hint = f"; known keys: {', '.join(known)}"
                shown = _shown(dotted((*path, key)))
                message = f"Unrecognized key(s) in object: '{shown}'{hint}"
                yield Violation(message, (*path, key), "unrecognized_keys")
    elif error.validator == "required":
        for key in wanted:
            if key not in value:
                message = f"missing required key '{_shown(dotted((*path, key)))}'"
                yield Violation(message, (*path, key), "missing_required_parameter")
    else:
        where = _shown(dotted(path)) or "the body"
        yield Violation(f"{where} {_expected(error)}", path, "invalid_value")


def _shown(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def _expected(error: ValidationError) -> str:
    wanted: Any = error.validator_value
    got = json.dumps(error.instance, default=str)
    got = got if len(got) <= 60 else got[:57] + "..."
    match error.validator:
        case "type":
            types = [wanted] if isinstance(wanted, str) else list(wanted)
            return f"must be {' or '.join(types)}, got {got}"
        case "not" if "const" not in wanted and isinstance(error.schema, dict):
            return f"must not have the key {got}: {error.schema['description']}"
        case "not":
            return f"must not be {wanted.get('const')}"
        case "pattern":
            if "@" in wanted:
                return f"must be a letter or digit, then up to 199 of A-Za-z0-9._/@:-, got {got}"
            return f"must match {wanted}, got {got}"
        case "enum":
            choices = ("null" if choice is None else str(choice) for choice in wanted)
            return f"must be one of {', '.join(choices)}, got {got}"
        case "minItems" | "maxItems":
            bound = "at least" if error.validator == "minItems" else "at most"
            return f"must have {bound} {wanted} item{'' if wanted == 1 else 's'}"
        case str(validator) if validator in _BOUNDS:
            return _BOUNDS[validator].format(wanted=wanted, got=got)
        case _:
            return f"is not valid: {error.message}"


_BOUNDS = {
    "minimum": "must be at least {wanted}, got {got}",
    "maximum": "must be at most {wanted}, got {got}",
    "exclusiveMaximum": "must be less than {wanted}, got {got}",
    "const": "must be '{wanted}', got {got}",
    "minLength": "must not be empty",
    "maxLength": "must be at most {wanted} characters long",
    "maxProperties": "must have at most {wanted} keys",
}
"""Messages about violated bounds, by the keyword of the schema."""
