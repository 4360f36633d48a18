"""Translate requests of Anthropic's Messages API into chat completions."""

from typing import Any

import msgspec

from reconciler.worker.dialects.checking import with_integers
from reconciler.worker.dialects.messages import tools
from reconciler.worker.dialects.messages.blocks import Chat
from reconciler.worker.dialects.messages.shapes import NO_EFFECT, Asked, Thinking
from reconciler.worker.dialects.translated import Translated
from reconciler.worker.errors import RequestError
from reconciler.worker.sampling_parameters import Sampling

_SAMPLING = frozenset(Sampling.__struct_fields__)
"""Sampling parameters. Anthropic's API has three; the others are accepted too."""

_INSIDE = {
    "thinking": {"type", "budget_tokens", "display"},
    "output_config": {"effort", "format"},
    "tool_choice": {"type", "name", "disable_parallel_tool_use"},
}
"""Known keys inside of objects; all others are reported as ignored."""


def read(sent: dict[str, Any]) -> Translated:
    """Translate a request for an answer. Raises `RequestError`."""
    asked = _checked(sent)
    if asked.max_tokens is None:
        words = "max_tokens is missing: the maximum number of tokens of the answer"
        raise RequestError(words, "missing_required_parameter", "max_tokens")
    return _translated(sent, asked)


def read_to_count(sent: dict[str, Any]) -> Translated:
    """Translate a request to count its prompt's tokens. Raises `RequestError`."""
    translated = _translated(sent, _checked(sent))
    translated.sent.pop("stream", None)
    return translated


def _checked(sent: dict[str, Any]) -> Asked:
    try:
        return msgspec.convert(with_integers(sent, "thinking"), Asked)
    except msgspec.ValidationError as error:
        words, _, path = str(error).partition(" - at `$")
        param = path.rstrip("`").lstrip(".")
        if "missing required field" in words:
            key = words.split("`")[1]
            param = f"{param}.{key}" if param else key
            words = f"{param} is missing"
            raise RequestError(words, "missing_required_parameter", param) from None
        raise RequestError(f"{param or 'the body'}: {words}", "invalid_value", param) from None


def _translated(sent: dict[str, Any], asked: Asked) -> Translated:
    warnings = [*_without_effect(sent)]
    names = {
        "response_format": "output_config.format",
        "response_format.json_schema": "output_config.format",
        "stop": "stop_sequences",
        "reasoning_effort": "output_config.effort",
        "enable_thinking": "thinking",
        "thinking_budget": "thinking.budget_tokens",
    }
    if asked.output_format is not None:
        names |= {
            "response_format": "output_format",
            "response_format.json_schema": "output_format",
        }
    made: dict[str, Any] = {
        key: value for key, value in sent.items() if key in _SAMPLING and value is not None
    }
    made |= {"model": asked.model, "stream": asked.stream, "max_tokens": asked.max_tokens or 1}
    found = tools.of_request(asked.tools or [], names, warnings)
    if found.offered:
        made["tools"] = found.offered
    messages = Chat(found, warnings).messages(asked.messages, asked.system)
    made["messages"] = messages
    if asked.stop_sequences:
        made["stop"] = asked.stop_sequences
    if asked.tool_choice is not None:
        made |= tools.choice(asked.tool_choice)
    made |= _reasoning(asked) | _format(asked)
    if _continues(messages):
        made["continue_final_message"] = True
    echo = {
        "max_tokens": asked.max_tokens,
        "omits_thinking": asked.thinking is not None and asked.thinking.display == "omitted",
    }
    return Translated(
        made,
        echo=echo,
        warnings=warnings,
        names=names,
        reminders=_reminders(messages),
        deferred_tools=[*found.deferred.values()],
    )


def _without_effect(sent: dict[str, Any]) -> list[str]:
    """Warnings about keys without an effect."""
    known = {*Asked.__struct_fields__, *NO_EFFECT, *_SAMPLING}
    found = [
        f"{key[:80]}: has no effect here; ignored"
        for key, value in sent.items()
        if key not in known and value not in (None, [], {})
    ]
    for key, inside in _INSIDE.items():
        value = sent.get(key)
        if isinstance(value, dict):
            found += [
                f"{key}.{name[:80]}: has no effect here; ignored"
                for name in value
                if name not in inside
            ]
    return found


def _reasoning(asked: Asked) -> dict[str, Any]:
    """Keys that control reasoning. Without `thinking` the model decides."""
    thinking = asked.thinking or Thinking("adaptive")
    if thinking.type == "disabled":
        return {"enable_thinking": False}
    made: dict[str, Any] = {}
    if thinking.type == "enabled":
        made = {"enable_thinking": True, "thinking_budget": thinking.budget_tokens}
    effort = asked.output_config.effort if asked.output_config else None
    return made | ({"reasoning_effort": effort} if effort else {})


def _format(asked: Asked) -> dict[str, Any]:
    """Keys that constrain the format of the answer. Raises `RequestError`."""
    wanted = asked.output_config.format if asked.output_config else None
    if wanted is not None and asked.output_format is not None:
        words = "output_format and output_config.format exclude each other; send the latter"
        raise RequestError(words, "invalid_value", "output_format")
    wanted = wanted or asked.output_format
    if wanted is None:
        return {}
    json_schema = {"name": "answer", "schema": wanted.schema}
    return {"response_format": {"type": "json_schema", "json_schema": json_schema}}


def _reminders(messages: list[dict[str, Any]]) -> list[int]:
    """Indices of system messages after the first message of another role."""
    roles = [message["role"] for message in messages]
    begin = next((i for i, role in enumerate(roles) if role != "system"), len(roles))
    return [i for i, role in enumerate(roles) if role == "system" and i > begin]


def _continues(messages: list[dict[str, Any]]) -> bool:
    """True if the answer continues the last message, which is the assistant's."""
    last = messages[-1] if messages else {}
    return last.get("role") == "assistant" and bool(last["content"]) and "tool_calls" not in last
