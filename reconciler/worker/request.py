"""Parse the body of a completion request, as clients of OpenAI and of local servers send it.

The body is decoded to a dictionary, its aliases are replaced by one name per key, defaults are
added, and the result is converted to `Body` and validated. `core.request_keys` defines the handling
of each key. Keys that are neither handled nor rejected are listed in the body's warnings, which the
response contains.
"""

from collections.abc import Iterator, Mapping
from itertools import chain, islice
from types import MappingProxyType
from typing import Annotated, Any

import msgspec

from reconciler.core import request_json
from reconciler.core.request_keys import ACTS, BY_NAME, NOTHING, REFUSED, Kind, resembles
from reconciler.core.template_variables import MAX_DEPTH, reserved
from reconciler.worker import reasoning
from reconciler.worker.chat import messages as chats
from reconciler.worker.chat.messages import Message
from reconciler.worker.constraints.asked import GUIDED, Constraint, constraint
from reconciler.worker.errors import RequestError, UnavailableError, unsupported
from reconciler.worker.sampling_parameters import Sampling

__all__ = ["Body", "RequestError", "UnavailableError", "parse", "tools_as_sent"]

Stop = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]

MOST = 2**31 - 1
"""Maximum number of tokens."""

TokenId = Annotated[int, msgspec.Meta(ge=0, le=MOST)]

WARNINGS = 16
"""Maximum warnings per response."""

MOST_CHOICES = 8
"""Maximum choices per prompt."""

MOST_PROMPTS = 64
"""Maximum choices per request, over all its prompts."""

INSTEAD = {"functions": "tools", "function_call": "tool_choice"}
"""Rejected keys -> their replacements in OpenAI's API."""

NO_DEFAULTS: Mapping[str, Any] = MappingProxyType({})


_PLAIN = (str, int, float, type(None))


class Function(msgspec.Struct):
    """A tool's function."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct):
    """A tool that the model may call."""

    type: str
    function: Function | None = None


class StreamOptions(msgspec.Struct):
    """Optional contents of a stream."""

    include_usage: bool | None = False
    include_progress: bool | None = False
    include_obfuscation: bool | None = None
    """Accepted without effect: streams are not obfuscated."""


class Body(Sampling):
    """A chat or text completion request, with the key names of `core.request_keys`."""

    model: str | None = None
    messages: Annotated[list[Message], msgspec.Meta(min_length=1)] | None = None
    prompt: str | list[int | str | list[int]] | None = None
    suffix: str | None = None
    echo: bool | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=0, le=MOST)] | None = None
    """0: no token is generated; only the prompt is evaluated."""
    min_tokens: Annotated[int, msgspec.Meta(ge=0, le=MOST)] | None = None
    stop: Annotated[list[Stop], msgspec.Meta(max_length=16)] | None = None
    stop_token_ids: Annotated[list[TokenId], msgspec.Meta(max_length=64)] | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=MOST_CHOICES)] | None = None
    best_of: int | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=-1, le=20)] | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    reasoning_effort: Annotated[str, msgspec.Meta(max_length=50)] | None = None
    enable_thinking: bool | None = None
    thinking_budget: Annotated[int, msgspec.Meta(ge=0, le=MOST)] | None = None
    """Maximum tokens of reasoning."""
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    add_special_tokens: bool | None = None
    ttl: float | None = None
    system_prompt: str | None = None
    """System turn from the defaults, for a chat without one."""
    sent_tools: list[dict[str, Any]] = msgspec.field(default_factory=list)
    """Tools as the client sent them."""
    sent_variables: list[str] = msgspec.field(default_factory=list)
    """Names in `chat_template_kwargs` that the client sent with a true value."""
    constraint: Constraint | None = None
    """Grammar of the completion."""
    chat: bool = True
    """True if the prompt is made from `messages`."""
    dialect_data: dict[str, Any] = msgspec.field(default_factory=dict)
    """Request fields that the dialect's response echoes or depends on."""
    reminders: list[int] = msgspec.field(default_factory=list)
    """Indices of system messages that keep their position in the chat."""
    deferred_tools: list[dict[str, Any]] = msgspec.field(default_factory=list)
    """Tools that the messages describe, in addition to those passed to the chat template."""
    names: dict[str, str] = msgspec.field(default_factory=dict)
    """The client's names of keys, if its dialect uses other names."""
    warnings: list[str] = msgspec.field(default_factory=list)
    """Messages about keys that were sent and have no effect."""

    @property
    def stops(self) -> list[str]:
        """Stop sequences of the completion."""
        return self.stop or []

    @property
    def limit(self) -> int | None:
        """Maximum tokens of the completion."""
        return self.max_tokens

    @property
    def alternatives(self) -> int | None:
        """Number of most likely tokens to report at each position; None: no log-probabilities."""
        if self.logprobs is None or self.logprobs is False:
            return None
        return max(0, self.top_logprobs or 0) if self.logprobs is True else self.logprobs

    @property
    def continues(self) -> bool:
        """True if the completion continues the last message."""
        return bool(self.continue_final_message or (self.messages and self.messages[-1].continued))


_PREPARED = msgspec.json.Decoder(Body)
"""Makes msgspec prepare the type at import: two threads that do so at its first use crash the
process."""


def parse(
    data: bytes, defaults: Mapping[str, Any] = NO_DEFAULTS, *, chat: bool | None = None
) -> Body:
    """Parse a request. Raises `RequestError` with the invalid key.

    `defaults`: values by canonical key name, for keys that the request does not send; its
    `system_prompt` applies to chats without a system turn. If `chat` is not None, keys of the other
    route are reported.
    """
    return of_keys(decoded(data), defaults, chat=chat)


def of_keys(
    sent: dict[str, Any], defaults: Mapping[str, Any] = NO_DEFAULTS, *, chat: bool | None = None
) -> Body:
    """Parse a decoded body. Otherwise the same as `parse`."""
    _refuse(sent)
    unknown = chain(_unknown(sent, chat), _unknown_inside(sent))
    warnings = list(islice(unknown, WARNINGS))  # finding a similar key takes a millisecond
    asked, names = _folded(sent, warnings)
    if asked.get("top_logprobs") not in (None, 0, -1) and not asked.get("logprobs"):
        warnings.append("top_logprobs: has no effect without logprobs")
    variables = asked.get("chat_template_kwargs")
    _fill(asked, defaults)
    asked = {key: value for key, value in asked.items() if value is not None}
    asked["warnings"] = warnings[:WARNINGS]
    if isinstance(variables, dict):
        asked["sent_variables"] = [name for name, value in variables.items() if value]
    tools = asked.get("tools")
    if isinstance(tools, list):
        asked["sent_tools"] = [tool for tool in tools if isinstance(tool, dict)]
    try:
        body = msgspec.convert(asked, Body)
    except msgspec.ValidationError as error:
        words, _, place = str(error).partition(" - at `$")
        param = place.rstrip("`").lstrip(".")
        key = param.partition(".")[0].partition("[")[0]
        param = names.get(key, key) + param.removeprefix(key)
        raise RequestError(f"{param or 'the body'}: {words}", "invalid_value", param) from None
    body.chat = chat is not False
    _check(body, names)
    body.constraint = constraint(body, names)
    if body.constraint is not None:
        body.warnings += [
            f"{key}: has no effect, as the grammar determines where the completion ends"
            for key in ("min_tokens", "ignore_eos")
            if getattr(body, key)
        ]
    return body


def decoded(data: bytes) -> dict[str, Any]:
    """Decode the body. Raises `RequestError`."""
    try:
        sent = request_json.decode(data, object)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {error}", "invalid_json") from None
    if not isinstance(sent, dict):
        raise RequestError("the body is not a JSON object", "invalid_value")
    return sent


def _refuse(sent: dict[str, Any]) -> None:
    """Raise `RequestError` for an unsupported key, unless its value is neutral."""
    for key in REFUSED:
        if key.name in sent and not key.is_neutral(sent[key.name]):
            instead = INSTEAD.get(key.name)
            advice = f"use {instead} instead" if instead else "remove it"
            raise unsupported(key.name, f"{key.name} is not supported; {advice}")


def _unknown(sent: dict[str, Any], chat: bool | None) -> Iterator[str]:  # noqa: FBT001
    routes = {"both", "chat", "text"} if chat is None else {"both", "chat" if chat else "text"}
    for name, value in sent.items():
        key = BY_NAME.get(name)
        if key is None:
            meant = resembles(name)
            hint = f"; did you mean {meant}?" if meant else ""
            yield f"{name[:80]}: unknown key, ignored{hint}"
        elif key.kind is Kind.ACTS and key.route not in routes and not key.is_neutral(value):
            yield f"{name}: has no effect on this route"


def _unknown_inside(sent: dict[str, Any]) -> Iterator[str]:
    """Warnings about unknown keys of messages and of `stream_options`, one per key."""
    seen: set[str] = set()
    options = sent.get("stream_options")
    for name in options if isinstance(options, dict) else ():
        if name not in StreamOptions.__struct_fields__:
            yield f"stream_options.{name[:80]}: unknown key, ignored"
    found = sent.get("messages")
    for index, message in enumerate(found if isinstance(found, list) else []):
        for name in message if isinstance(message, dict) else ():
            if name not in chats.KNOWN_KEYS and name not in seen and message[name] is not None:
                seen.add(name)
                yield f"messages[{index}].{name[:80]}: unknown key, ignored"


def _folded(sent: dict[str, Any], warnings: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Values of the handled keys by canonical name, and the name that was sent for each."""
    asked: dict[str, Any] = {}
    names: dict[str, str] = {}
    for key in ACTS:
        given = [name for name in (key.name, *key.aliases) if sent.get(name) is not None]
        if key.name == "max_tokens" and "max_completion_tokens" in given:
            given.sort(key=lambda name: name != "max_completion_tokens")
        if not given:
            continue
        asked[key.name], names[key.name] = sent[given[0]], given[0]
        warnings += [
            f"{name}: ignored, because {given[0]} was sent too and takes precedence"
            for name in given[1:]
            if sent[name] != sent[given[0]]
        ]
    for name, value in asked.items():
        if isinstance(value, float) and value.is_integer():
            asked[name] = int(value)  # some clients send all numbers as floats
    _neutral(asked)
    reasoning.fold(asked, names)
    return asked, names


def _neutral(asked: dict[str, Any]) -> None:
    """Replace neutral values by None, so that no default replaces them."""
    if asked.get("max_tokens") in (-1, -2):
        asked["max_tokens"] = None
    stop = asked.get("stop")
    if isinstance(stop, str):
        asked["stop"] = [stop] if stop else None
    elif isinstance(stop, list):
        asked["stop"] = [text for text in stop if text != ""] or None
    for key, off in (("seed", -1), ("repetition_penalty", 0)):
        if asked.get(key) == off:
            asked[key] = None
    for key in ("response_format", "structured_outputs", "best_of", "suffix", *GUIDED):
        if asked.get(key) in NOTHING:
            asked[key] = None


def _fill(asked: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    """Add defaults for keys that were not sent."""
    for key, value in defaults.items():
        if key == "chat_template_kwargs":
            own = asked.get(key)
            if own is None or isinstance(own, dict):
                asked[key] = {**value, **(own or {})}
        elif key in reasoning.SWITCHES:
            kwargs = asked.get("chat_template_kwargs")
            sent = {*asked, *(kwargs if isinstance(kwargs, dict) else ())}
            if not sent & {*reasoning.SWITCHES, "thinking"}:
                asked[key] = value
        elif key == "max_tokens" and key not in asked:
            least = asked.get("min_tokens")  # the request's min_tokens overrides a default
            asked[key] = max(value, least) if isinstance(least, int) else value
        else:
            asked.setdefault(key, value)


def _check(body: Body, names: dict[str, str]) -> None:
    """Raise `RequestError` for errors that the types do not cover."""
    for index, tool in enumerate(body.tools or []):
        if tool.type != "function" or tool.function is None:
            words = f"tools[{index}]: must have type 'function' and a function"
            raise RequestError(words, "invalid_value", f"tools[{index}]")
    if body.min_tokens and body.max_tokens and body.min_tokens > body.max_tokens:
        words = f"min_tokens {body.min_tokens} is more than max_tokens {body.max_tokens}"
        raise RequestError(words, "invalid_value", names.get("min_tokens", "min_tokens"))
    _check_variables(body.chat_template_kwargs or {})
    _check_choices(body)
    if body.max_tokens == 0 and not body.echo:
        key = names.get("max_tokens", "max_tokens")
        raise RequestError(f"{key}: Expected `int` >= 1", "invalid_value", key)
    if body.continues:
        if body.messages is None or body.messages[-1].role != "assistant":
            words = "continue_final_message: the last message must have the role assistant"
            raise RequestError(words, "invalid_value", "continue_final_message")
        if body.continue_final_message and body.add_generation_prompt:
            words = "continue_final_message and add_generation_prompt are mutually exclusive"
            raise RequestError(words, "invalid_value", "continue_final_message")


def _check_choices(body: Body) -> None:
    """Raise `RequestError` for unsupported choices, or parts of one."""
    number = body.n or 1
    if body.best_of not in (None, number):
        words = f"best_of must equal n, which is {number}: choices are not ranked"
        raise unsupported("best_of", words)
    for key in ("echo", "suffix") if body.chat else ():
        if getattr(body, key):
            raise unsupported(key, f"{key} is supported by /v1/completions only; remove it")
    if body.echo and body.suffix:
        words = "echo and suffix are mutually exclusive: the completion precedes the suffix"
        raise RequestError(words, "invalid_value", "echo")


def _check_variables(variables: dict[str, Any]) -> None:
    """Raise `RequestError` for names that a chat template reserves, and for deep nesting."""
    for name in variables:
        if reserved(name):
            raise no_variable(name)
    level, depth = [*variables.values()], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            words = f"chat_template_kwargs: nested deeper than {MAX_DEPTH} levels"
            raise RequestError(words, "invalid_value", "chat_template_kwargs")
        nested = (one.values() if isinstance(one, dict) else one for one in level)
        level = [inner for one in nested if not isinstance(one, _PLAIN) for inner in one]


def no_variable(name: str) -> RequestError:
    """Error for a name that cannot be passed to a chat template."""
    words = f"chat_template_kwargs.{name[:80]} is not a variable of a chat template; remove it"
    return RequestError(words, "invalid_value", "chat_template_kwargs")


def tools_as_sent(body: Body) -> list[dict[str, Any]]:
    """Tools without null values: templates print all keys that are present."""
    return [
        tool | {"function": {k: v for k, v in tool["function"].items() if v is not None}}
        for tool in body.sent_tools
    ]
