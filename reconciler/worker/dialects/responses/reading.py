"""Translate requests of the Responses API into chats.

Keys specific to Responses are translated here. All others keep their meaning in a chat, so that
clients can also send sampling parameters and the keys of local servers.
"""

from typing import Annotated, Any

import msgspec

from reconciler.worker.dialects.responses.checking import converted, unknown
from reconciler.worker.dialects.responses.items import Conversation
from reconciler.worker.dialects.responses.tools import Tools, read_choice, read_tools
from reconciler.worker.dialects.translated import Translated
from reconciler.worker.errors import RequestError, unsupported

NAMES = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "response_format.json_schema": "text.format",
}
"""Client's names of the keys of a chat."""

STORED = {
    "previous_response_id": "send the whole conversation in input",
    "conversation": "send the whole conversation in input",
    "background": "leave it out and wait for the answer, or set stream",
    "prompt": "send the prompt itself, in instructions and input",
}
"""Keys that need stored state, each with an alternative for the client."""

HARMLESS = (
    *("client_metadata", "max_tool_calls", "access_programs", "background_options", "image"),
    *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "safety_identifier"),
    *("service_tier", "user", "store"),
)
"""Keys that do not change the text of an answer."""

INCLUDED = "message.output_text.logprobs"

_INCLUDABLE = (
    *(INCLUDED, "reasoning.encrypted_content"),
    *("web_search_call.results", "web_search_call.action.sources", "file_search_call.results"),
    *("code_interpreter_call.outputs", "computer_call_output.output.image_url"),
    *("message.input_image.image_url",),
)

_OWN = (
    *("input", "instructions", "tools", "tool_choice", "text", "reasoning", "include", "metadata"),
    *("truncation", "context_management", "top_logprobs", "logprobs", "stream_options"),
    *("messages", "n"),
    *(*STORED, *HARMLESS),
)
"""Keys handled here; all others are passed on."""

_Value = Annotated[str, msgspec.Meta(max_length=512)]
Metadata = Annotated[
    dict[Annotated[str, msgspec.Meta(max_length=64)], _Value], msgspec.Meta(max_length=16)
]
"""Metadata, with OpenAI's limits."""

_REPEATED = ("prompt_cache_key", "safety_identifier", "user")


def read(sent: dict[str, Any]) -> Translated:
    """Translate a request. Raises `RequestError`."""
    for key, instead in STORED.items():
        if sent.get(key):
            words = f"{key} is not supported: nothing is stored; {instead}"
            raise unsupported(key, words)
    if sent.get("n") not in (None, 1):
        raise unsupported("n", "n is not supported; a response is one answer")
    warnings: list[str] = []
    chat = {key: value for key, value in sent.items() if key not in _OWN}
    conversation = _conversation(sent)
    chat["messages"] = conversation.end()
    tools = read_tools(sent.get("tools"))
    choice, offered = read_choice(sent.get("tool_choice"), tools)
    if offered.functions:
        chat["tools"] = offered.functions
    if choice is not None:
        chat["tool_choice"] = choice
    form = _text(sent.get("text"), chat, warnings)
    reasoning = _reasoning(sent.get("reasoning"), chat, warnings)
    _logprobs(sent, chat, warnings)
    _options(sent, warnings)
    echo = _echo(sent, tools, form, reasoning)
    warnings = [*conversation.warnings, *tools.warnings, *warnings]
    # Keys sent under a chat's name keep that name.
    names = {own: name for own, name in NAMES.items() if own.partition(".")[0] not in sent}
    return Translated(
        chat,
        echo=echo,
        warnings=warnings,
        names=names | offered.names,
        reminders=_reminders(chat["messages"]),
    )


def _reminders(messages: list[dict[str, Any]]) -> list[int]:
    """Indices of system and developer messages after the first message of another role.

    They keep their positions: moved to the front, a new one would change the beginning of an
    agent's long prompt.
    """
    system = [message["role"] in ("system", "developer") for message in messages]
    begin = next((i for i, first in enumerate(system) if not first), len(system))
    return [i for i, one in enumerate(system) if one and i > begin]


def _conversation(sent: dict[str, Any]) -> Conversation:
    conversation = Conversation()
    instructions = sent.get("instructions")
    if isinstance(instructions, str):
        if instructions:
            conversation.messages.append({"role": "system", "content": instructions})
    elif instructions is not None:
        raise RequestError("instructions: Expected `str`", "invalid_value", "instructions")
    items = sent.get("input")
    if isinstance(items, str):
        conversation.messages.append({"role": "user", "content": items})
    elif isinstance(items, list):
        for index, item in enumerate(items):
            conversation.add(item, f"input[{index}]")
    elif items is None:
        hint = "; messages is a key of /v1/chat/completions" if "messages" in sent else ""
        words = f"input is missing, a string or a list of items{hint}"
        raise RequestError(words, "missing_required_parameter", "input")
    else:
        words = "input: Expected a string or a list of items"
        raise RequestError(words, "invalid_value", "input")
    if "messages" in sent:
        conversation.warnings.append("messages: has no effect on this route; use input")
    return conversation


def _text(sent: Any, chat: dict[str, Any], warnings: list[str]) -> Any:
    """Translate `text`; return the format as sent."""
    if sent is None:
        return None
    text = converted(sent, dict[str, Any], "text")
    warnings += unknown(text, ("format", "verbosity"), "text")
    if text.get("verbosity") not in (None, "medium"):
        warnings.append("text.verbosity: has no effect")
    if text.get("format") is None:
        return None
    form = converted(text["format"], dict[str, Any], "text.format")
    if "type" not in form:
        words = "text.format.type is missing"
        raise RequestError(words, "missing_required_parameter", "text.format.type")
    if form["type"] == "json_schema":
        name = form.get("name")
        if not isinstance(name, str) or not name:
            words = "text.format.name is missing"
            raise RequestError(words, "missing_required_parameter", "text.format.name")
        schema = {key: value for key, value in form.items() if key != "type"}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    else:
        chat["response_format"] = form
    return form


def _reasoning(sent: Any, chat: dict[str, Any], warnings: list[str]) -> dict[str, Any]:
    """Translate `reasoning`; return the part that the response echoes."""
    if sent is None:
        return {"effort": None, "summary": None}
    reasoning = converted(sent, dict[str, Any], "reasoning")
    known = ("effort", "summary", "generate_summary", "enabled", "context", "mode")
    warnings += unknown(reasoning, known, "reasoning")
    for key, without in (("context", "auto"), ("mode", "standard")):
        if reasoning.get(key) not in (None, without):
            warnings.append(f"reasoning.{key}: has no effect")
    asked = {key: reasoning[key] for key in ("effort", "enabled") if reasoning.get(key) is not None}
    if asked:
        chat["reasoning"] = asked
    summary = reasoning.get("summary") or reasoning.get("generate_summary")
    if summary not in (None, "auto", "concise", "detailed", "none"):
        words = "reasoning.summary must be auto, concise or detailed"
        raise RequestError(words, "invalid_value", "reasoning.summary")
    effort = reasoning.get("effort")
    return {
        "effort": effort if isinstance(effort, str) else None,
        "summary": None if summary == "none" else summary,
    }


def _logprobs(sent: dict[str, Any], chat: dict[str, Any], warnings: list[str]) -> None:
    included = sent.get("include")
    names = [] if included is None else converted(included, list[str], "include")
    warnings += [f"include: {n[:80]!r} has no effect" for n in names if n not in _INCLUDABLE]
    number = sent.get("top_logprobs")
    if number or INCLUDED in names or sent.get("logprobs"):
        chat["logprobs"] = True
        chat["top_logprobs"] = number


def _options(sent: dict[str, Any], warnings: list[str]) -> None:
    """Warn about keys whose non-default values have no effect."""
    if sent.get("truncation") not in (None, "disabled"):
        warnings.append("truncation: a prompt that is too long is rejected, not truncated")
    if sent.get("context_management"):
        warnings.append("context_management: has no effect")
    if sent.get("store"):
        warnings.append("store: nothing is stored")
    options = sent.get("stream_options")
    if isinstance(options, dict):
        if options.get("include_progress"):
            warnings.append("stream_options.include_progress: has no effect on this route")
        known = ("include_obfuscation", "include_usage", "include_progress")
        warnings += unknown(options, known, "stream_options")
    elif options is not None:
        raise RequestError("stream_options: Expected `object`", "invalid_value", "stream_options")


def _echo(
    sent: dict[str, Any], tools: Tools, form: Any, reasoning: dict[str, Any]
) -> dict[str, Any]:
    """Fields that the response echoes, and `custom`, the names of the custom tools.

    Large values are encoded as JSON: they may contain integers too large for MessagePack, and need
    not be decoded again.
    """
    metadata = sent.get("metadata")
    return {
        "instructions": sent.get("instructions"),
        "metadata": {} if metadata is None else converted(metadata, Metadata, "metadata"),
        "reasoning": reasoning,
        "format": msgspec.json.encode({"type": "text"} if form is None else form),
        "tools": msgspec.json.encode(tools.used),
        "tool_choice": msgspec.json.encode(sent.get("tool_choice") or "auto"),
        "custom": tools.custom,
        **{key: value for key in _REPEATED if isinstance(value := sent.get(key), str)},
    }
