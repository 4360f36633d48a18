"""The body of a completion request, as OpenAI's clients and those of local servers send it.

Bytes -> a dictionary -> one name for each key, defaults filled in -> `Body`, checked. What is done
with a key stands in `core.request_keys`; what is neither acted on nor refused is named in the
body's warnings, which the answer shows.
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
"""Upper bound of numbers of tokens."""

TokenId = Annotated[int, msgspec.Meta(ge=0, le=MOST)]

WARNINGS = 16
"""Most warnings of one answer."""

MOST_CHOICES = 8
"""Answers to one prompt."""

MOST_PROMPTS = 64
"""Prompts of one request, and answers to all of them together."""

INSTEAD = {"functions": "tools", "function_call": "tool_choice"}
"""Keys that are refused -> the ones that took their place in OpenAI's API."""

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
    """What a stream has besides the text."""

    include_usage: bool | None = False
    include_progress: bool | None = False
    include_obfuscation: bool | None = None
    """Harmless: there is none."""


class Body(Sampling):
    """Both kinds of request, under the names of `core.request_keys`."""

    model: str | None = None
    messages: Annotated[list[Message], msgspec.Meta(min_length=1)] | None = None
    prompt: str | list[int | str | list[int]] | None = None
    suffix: str | None = None
    echo: bool | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=0, le=MOST)] | None = None
    """0: the prompt alone is wanted."""
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
    """Tokens after which reasoning is to end."""
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    add_special_tokens: bool | None = None
    ttl: float | None = None
    system_prompt: str | None = None
    """A default's, for a chat in which no system turn is sent."""
    sent_tools: list[dict[str, Any]] = msgspec.field(default_factory=list)
    """The tools as they came."""
    sent_variables: list[str] = msgspec.field(default_factory=list)
    """Names in `chat_template_kwargs` that a default did not add, and whose value asks for
    something."""
    constraint: Constraint | None = None
    """What the answer has to be."""
    chat: bool = True
    """True if the messages make the prompt."""
    dialect_data: dict[str, Any] = msgspec.field(default_factory=dict)
    """What the answer repeats of the request, or depends on, in its dialect."""
    reminders: list[int] = msgspec.field(default_factory=list)
    """Indices of system messages that belong where they stand."""
    deferred_tools: list[dict[str, Any]] = msgspec.field(default_factory=list)
    """Tools that the messages tell of, besides those that the chat template is given."""
    names: dict[str, str] = msgspec.field(default_factory=dict)
    """Keys as the client knows them, where its dialect has other names."""
    warnings: list[str] = msgspec.field(default_factory=list)
    """What was sent and has no effect."""

    @property
    def stops(self) -> list[str]:
        """The texts at which the completion ends."""
        return self.stop or []

    @property
    def limit(self) -> int | None:
        """Most tokens of the completion."""
        return self.max_tokens

    @property
    def alternatives(self) -> int | None:
        """How many of the likeliest tokens are named at each place; None: no log-probabilities."""
        if self.logprobs is None or self.logprobs is False:
            return None
        return max(0, self.top_logprobs or 0) if self.logprobs is True else self.logprobs

    @property
    def continues(self) -> bool:
        """True if the answer goes on where the last message ends."""
        return bool(self.continue_final_message or (self.messages and self.messages[-1].continued))


_PREPARED = msgspec.json.Decoder(Body)
"""Has msgspec prepare the type now: two threads that do so at its first use crash the process."""


def parse(
    data: bytes, defaults: Mapping[str, Any] = NO_DEFAULTS, *, chat: bool | None = None
) -> Body:
    """The request. Raises `RequestError` naming what does not fit.

    `defaults` are values, under the keys' own names, for keys that the request does not send; its
    `system_prompt` is for chats without a system turn. With `chat` keys of the other route are
    reported.
    """
    return of_keys(decoded(data), defaults, chat=chat)


def of_keys(
    sent: dict[str, Any], defaults: Mapping[str, Any] = NO_DEFAULTS, *, chat: bool | None = None
) -> Body:
    """The request of a body that is decoded; as `parse`."""
    _refuse(sent)
    unknown = chain(_unknown(sent, chat), _unknown_inside(sent))
    warnings = list(islice(unknown, WARNINGS))  # what an unknown key resembles takes a millisecond
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
            f"{key}: has no effect, as a grammar says where the answer ends"
            for key in ("min_tokens", "ignore_eos")
            if getattr(body, key)
        ]
    return body


def decoded(data: bytes) -> dict[str, Any]:
    """The body as a dictionary. Raises `RequestError`."""
    try:
        sent = request_json.decode(data, object)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {error}", "invalid_json") from None
    if not isinstance(sent, dict):
        raise RequestError("the body is not a JSON object", "invalid_value")
    return sent


def _refuse(sent: dict[str, Any]) -> None:
    """Raise `RequestError` for a key that cannot be honoured, unless it asks for nothing."""
    for key in REFUSED:
        if key.name in sent and not key.is_neutral(sent[key.name]):
            instead = INSTEAD.get(key.name)
            advice = f"use {instead} instead" if instead else "leave it out"
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
    """Keys of messages and of `stream_options` that are not known, each named once."""
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
    """What is acted on, under one name for each key, with the name that was sent for it."""
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
            f"{name}: {given[0]} was sent too and goes before it"
            for name in given[1:]
            if sent[name] != sent[given[0]]
        ]
    for name, value in asked.items():
        if isinstance(value, float) and value.is_integer():
            asked[name] = int(value)  # some clients have no integers
    _neutral(asked)
    reasoning.fold(asked, names)
    return asked, names


def _neutral(asked: dict[str, Any]) -> None:
    """Values that ask for nothing become None, so that no default takes their place."""
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
    """Defaults for keys that were not sent."""
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
            least = asked.get("min_tokens")  # a default gives way to what is asked for
            asked[key] = max(value, least) if isinstance(least, int) else value
        else:
            asked.setdefault(key, value)


def _check(body: Body, names: dict[str, str]) -> None:
    """Raise `RequestError` for what the types do not say."""
    for index, tool in enumerate(body.tools or []):
        if tool.type != "function" or tool.function is None:
            words = f"tools[{index}]: only tools of type 'function' are supported, with a function"
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
            words = "continue_final_message: the last message is not the assistant's"
            raise RequestError(words, "invalid_value", "continue_final_message")
        if body.continue_final_message and body.add_generation_prompt:
            words = "continue_final_message and add_generation_prompt exclude each other"
            raise RequestError(words, "invalid_value", "continue_final_message")


def _check_choices(body: Body) -> None:
    """Raise `RequestError` for answers, or parts of one, that cannot be had."""
    number = body.n or 1
    if body.best_of not in (None, number):
        words = f"best_of must be {number}, as n is: answers are not chosen among"
        raise unsupported("best_of", words)
    for key in ("echo", "suffix") if body.chat else ():
        if getattr(body, key):
            raise unsupported(key, f"{key} is for /v1/completions; leave it out")
    if body.echo and body.suffix:
        words = "echo and suffix exclude each other: the answer stands between prompt and suffix"
        raise RequestError(words, "invalid_value", "echo")


def _check_variables(variables: dict[str, Any]) -> None:
    """Raise `RequestError` for what is no variable of a chat template."""
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
    """The error for a name that a chat template cannot be given."""
    words = f"chat_template_kwargs.{name[:80]} is no variable of a chat template; leave it out"
    return RequestError(words, "invalid_value", "chat_template_kwargs")


def tools_as_sent(body: Body) -> list[dict[str, Any]]:
    """The tools without what is null: templates write out the keys that are there."""
    return [
        tool | {"function": {k: v for k, v in tool["function"].items() if v is not None}}
        for tool in body.sent_tools
    ]
