"""Translate requests of Ollama's `/api/chat` and `/api/generate` into completions.

Source of the keys: Ollama's API reference and `api/types.go`.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import msgspec

from reconciler.core.ollama import keep_alive_seconds
from reconciler.worker.dialects.checking import checked, unknown
from reconciler.worker.dialects.ollama.messages import Message, turns
from reconciler.worker.dialects.translated import Translated
from reconciler.worker.errors import RequestError, unsupported

LEVELS = ("low", "medium", "high", "max")
"""Levels of `think`."""

OPTIONS = {
    "num_predict": "max_tokens",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "seed": "seed",
    "stop": "stop",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
"""Supported keys of `options`, with the corresponding keys of a completion."""

_PENALTIES = {
    "repeat_penalty": "repetition_context_size",
    "presence_penalty": "presence_context_size",
    "frequency_penalty": "frequency_context_size",
}
"""Penalties that apply to the last `repeat_last_n` tokens."""

REFUSED_OPTIONS: dict[str, tuple[float, ...]] = {
    "typical_p": (0, 1),
    "tfs_z": (0, 1),
    "mirostat": (0,),
}
"""Options of unsupported samplers, with the values that disable them."""

HARMLESS_OPTIONS = frozenset(
    (
        # Load settings, which the record determines.
        *("num_batch", "num_gpu", "main_gpu", "num_thread", "use_mmap", "use_mlock", "numa"),
        *("low_vram", "f16_kv", "logits_all", "vocab_only", "embedding_only", "draft_num_predict"),
        # Options of the rejected samplers, and of context shifting, which is not supported.
        *("mirostat_tau", "mirostat_eta", "penalize_newline", "num_keep"),
    )
)
"""Options without an effect that many clients always send."""


class _Common(msgspec.Struct):
    model: str
    stream: bool | None = None
    format: Any = None
    keep_alive: float | str | None = None
    options: dict[str, Any] | None = None
    think: bool | str | None = None
    truncate: bool | None = None
    shift: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    debug_render_only: bool | None = msgspec.field(name="_debug_render_only", default=None)


class Chat(_Common):
    """The body of `/api/chat`."""

    messages: list[Message] | None = None
    tools: list[dict[str, Any]] | None = None


class Generate(_Common):
    """The body of `/api/generate`."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool | None = None
    images: list[Any] | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None


def read_chat(sent: dict[str, Any]) -> Translated:
    """Translate a chat. Raises `RequestError`."""
    asked = checked(sent, Chat)
    messages, warnings = turns(asked.messages or [], sent.get("messages"))
    made, names, more = _common(sent, asked, Chat)
    made["messages"] = messages
    if asked.tools:
        made["tools"] = [tool | {"type": tool.get("type") or "function"} for tool in asked.tools]
    last = messages[-1] if messages else {}
    if last.get("role") == "assistant" and last["content"] and "response_format" not in made:
        made["continue_final_message"] = "tool_calls" not in last or None
    return Translated(made, echo=_echo(asked), warnings=[*more, *warnings], names=names)


def read_generate(sent: dict[str, Any]) -> Translated:
    """Translate a text completion, or a chat of one turn. Raises `RequestError`."""
    asked = checked(sent, Generate)
    for key in ("template", "context", "images", "width", "height", "steps"):
        if getattr(asked, key):
            raise unsupported(key, f"{key} is not supported; leave it out")
    if asked.raw and asked.system:
        words = "raw: a raw prompt cannot have a system text; leave one of them out"
        raise RequestError(words, "invalid_value", "raw")
    made, names, warnings = _common(sent, asked, Generate)
    text = _text(asked, made)
    plain = Translated(text, False, _echo(asked), warnings, names)  # noqa: FBT003
    if asked.raw or asked.suffix:
        return plain
    if asked.system:
        words = "system: has no effect on a model without a chat template"
        plain = replace(plain, warnings=[words, *warnings])
    system = [{"role": "system", "content": asked.system}] if asked.system else []
    messages = [*system, {"role": "user", "content": asked.prompt or ""}]
    return Translated(
        made | {"messages": messages},
        echo=_echo(asked),
        warnings=warnings,
        names=names | {"messages": "prompt"},
        untemplated=plain,
    )


def _text(asked: Generate, made: dict[str, Any]) -> dict[str, Any]:
    """Convert the chat `made` to a text completion."""
    left_out = ("think", "top_logprobs")
    text = {key: value for key, value in made.items() if key not in left_out}
    text["prompt"] = asked.prompt or ""
    if asked.suffix:
        text["suffix"] = asked.suffix
    if asked.logprobs:
        text["logprobs"] = asked.top_logprobs or 0
    return text


def _echo(asked: _Common) -> dict[str, Any]:
    echo: dict[str, Any] = {"model": asked.model}
    context = (asked.options or {}).get("num_ctx")
    if isinstance(context, int | float) and context > 0:
        echo["num_ctx"] = context
    return echo


def _common(
    sent: Mapping[str, Any], asked: _Common, kind: type[_Common]
) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """Translate the keys common to both routes; return a body, the keys' names and warnings."""
    if asked.debug_render_only:
        words = "_debug_render_only is not supported; leave it out"
        raise unsupported("_debug_render_only", words)
    try:
        keep_alive_seconds(asked.keep_alive)
    except ValueError as error:
        raise RequestError(str(error), "invalid_value", "keep_alive") from None
    made, names = _options(asked.options or {})
    made |= {"model": asked.model, "stream": asked.stream is not False}
    made |= _format(asked.format)
    names |= {"response_format": "format", "response_format.json_schema.schema": "format"}
    if asked.think is not None:
        made["think"] = _think(asked.think)
    if asked.logprobs:
        made |= {"logprobs": True, "top_logprobs": asked.top_logprobs or 0}
    known = {field.encode_name for field in msgspec.structs.fields(kind)}
    warnings = [*islice(unknown(sent, known), 16), *_unused(asked)]
    return made, names, warnings


def _unused(asked: _Common) -> list[str]:
    warnings = [
        f"{key}: has no effect; a prompt longer than the context is rejected"
        for key in ("truncate", "shift")
        if getattr(asked, key)
    ]
    known = {*OPTIONS, *REFUSED_OPTIONS, *HARMLESS_OPTIONS, "num_ctx", "repeat_last_n"}
    return [*warnings, *islice(unknown(asked.options or {}, known, "options."), 16)]


def _options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Translate `options`; return keys and their client names. Raises `RequestError`."""
    for key, neutral in REFUSED_OPTIONS.items():
        value = options.get(key)
        if value is not None and value not in neutral:
            words = f"options.{key} is not supported; leave it out"
            raise unsupported(f"options.{key}", words)
    made, names = {}, {}
    for option, key in OPTIONS.items():
        if options.get(option) is not None:
            made[key], names[key] = options[option], f"options.{option}"
    if made.get("max_tokens") in (0, -1, -2):
        made["max_tokens"] = -1
    window = options.get("repeat_last_n")
    if window is None:
        return made, names
    for option, key in _PENALTIES.items():
        if window == 0:  # disables all penalties
            made[OPTIONS[option]] = 1 if option == "repeat_penalty" else 0
        else:
            made[key], names[key] = window, "options.repeat_last_n"
    return made, names


def _format(sent: Any) -> dict[str, Any]:
    if sent is None or sent == "":
        return {}
    if sent == "json":
        return {"response_format": {"type": "json_object"}}
    if isinstance(sent, dict):
        return {"response_format": {"type": "json_schema", "json_schema": {"schema": sent}}}
    words = 'format: it must be "json" or a JSON schema, which is an object'
    raise RequestError(words, "invalid_value", "format")


def _think(sent: Any) -> Any:
    if isinstance(sent, bool) or sent in LEVELS:
        return sent
    words = f"think: {str(sent)[:40]!r} is unknown; it must be true, false, {', '.join(LEVELS)}"
    raise RequestError(words, "invalid_value", "think")
