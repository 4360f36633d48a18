"""Rendering of chat templates: Jinja as transformers sets it up, in a sandbox with bounds.

Differences from `transformers`, which leave every prompt that it renders as it is:

- templates may change the lists that they make (`append`), as Kimi K2's does;
- `tojson` takes iterators, as DeepSeek R1's needs, and there is a filter `from_json`;
- products and powers are bounded, and so is the time of a rendering: a hostile template fails its
  own requests.
"""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import partial
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import SandboxedEnvironment

from reconciler.worker.chat import bounded

SECONDS = 10.0
"""That one rendering may take; a long conversation takes some milliseconds."""

MAX_PRODUCT = 10_000_000
"""Length of a repeated text or list, and size of a number, that `*` may give."""

_CONTINUE = "CONTINUE_FINAL_MESSAGE_TAG "
"""Marks the end of a turn that is to be continued: transformers' way."""

_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Keys under which templates look for the reasoning of a turn; the first one is the standard."""


class TemplateError(ValueError):
    """A chat template that fails on a conversation."""


class _Generation(Extension):
    """`{% generation %}`: marks the assistant's text for training, and renders it."""

    tags = {"generation"}  # noqa: RUF012  jinja2's own interface

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


class _Environment(SandboxedEnvironment):
    """Jinja's sandbox, with bounds on what one operator can make."""

    intercepted_binops = frozenset(("*", "**"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise TemplateError("powers are not supported in chat templates")
        if _length(left) * _length(right) > MAX_PRODUCT:
            raise TemplateError(f"a product is larger than {MAX_PRODUCT}")
        return super().call_binop(context, operator, left, right)


def _length(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") else abs(int(value))


class _Namespace(jinja2.utils.Namespace):
    """A namespace without private names."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise TemplateError(f"a namespace has no {name}")
        super().__setitem__(name, value)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, **more: Any) -> str:  # noqa: FBT001, FBT002
    return json.dumps(value, ensure_ascii=ensure_ascii, default=_plain, **more)


def _plain(value: Any) -> Any:
    if isinstance(value, jinja2.Undefined):
        raise TemplateError(f"{value._undefined_name} is undefined")  # noqa: SLF001
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Iterator):
        return list(value)
    raise TypeError(f"{type(value).__name__} is no JSON")


def compiled(source: str) -> jinja2.Template:
    """A chat template ready to be rendered. Raises jinja2's errors."""
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.filters["from_json"] = json.loads
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)  # noqa: DTZ005
    environment.globals["namespace"] = _Namespace
    return environment.from_string(source)


def of_source(tokenizer: Any, source: str) -> Callable[..., str]:
    """The function that renders turns by a Jinja template, with a tokenizer's special tokens."""
    special = dict(getattr(tokenizer, "special_tokens_map", {}))
    thinking = {"enable_thinking": bool(getattr(tokenizer, "has_thinking", False))}
    found: list[jinja2.Template] = []

    def render(
        turns: list[dict[str, Any]],
        *,
        tools: Any = None,
        continue_final_message: bool = False,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        if not found:
            found.append(compiled(source))
        messages = _messages(turns)
        if continue_final_message:
            _mark_end(messages)
        given = special | thinking | copy.deepcopy(variables)
        given |= {"messages": messages, "tools": copy.deepcopy(tools), "documents": None}
        given |= {"add_generation_prompt": add_generation_prompt and not continue_final_message}
        text = found[0].render(given)
        return _open_ended(text) if continue_final_message else text

    return partial(_bounded, render)


def is_code(tokenizer: Any) -> bool:
    """True if mlx-lm or the tokenizer's own class fills in the template, in Python."""
    if getattr(tokenizer, "_chat_template", None) is not None:
        return True
    own = getattr(type(getattr(tokenizer, "_tokenizer", tokenizer)), "apply_chat_template", None)
    return getattr(own, "__module__", "") != "transformers.tokenization_utils_base"


def of_tokenizer(tokenizer: Any) -> Callable[..., str]:
    """The function that renders turns by code that comes with mlx-lm or transformers."""

    def render(
        turns: list[dict[str, Any]],
        *,
        continue_final_message: bool = False,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        if continue_final_message:
            variables["continue_final_message"] = True
        ends = {"add_generation_prompt": add_generation_prompt and not continue_final_message}
        messages = copy.deepcopy(turns)
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **ends, **variables))

    return partial(_bounded, render)


def _bounded(render: Callable[..., str], *turns: Any, **variables: Any) -> str:
    job = partial(render, *turns, **variables)
    return bounded.call(job, SECONDS, "the model's chat template")


def _messages(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Copies of the turns without empty keys, with reasoning under all of its names."""
    messages = []
    for turn in copy.deepcopy(turns):
        message = {key: value for key, value in turn.items() if value is not None}
        reasoning = next((message[key] for key in _REASONING if key in message), None)
        if reasoning is not None:
            message = {"thinking": reasoning, **message, "reasoning_content": reasoning}
        messages.append(message)
    return messages


def _mark_end(messages: list[dict[str, Any]]) -> None:
    content = messages[-1]["content"]
    if isinstance(content, list):
        content[-1]["text"] += _CONTINUE
    else:
        messages[-1]["content"] = content + _CONTINUE


def _open_ended(text: str) -> str:
    """The text up to the mark; templates may have trimmed what stands before it."""
    at = text.rfind(_CONTINUE.strip())
    if at < 0:
        raise TemplateError("it changes the last message, so that it cannot be continued")
    return text[:at] if text.startswith(_CONTINUE, at) else text[:at].rstrip()
