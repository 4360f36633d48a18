"""Rendering of chat templates: Jinja as transformers sets it up, in a sandbox with bounds.

Differences from `transformers`, which leave every prompt that it renders as it is:

- templates may change the lists that they make (`append`), as Kimi K2's does;
- a special token that the tokenizer does not have is an empty text;
- `tojson` takes iterators, as DeepSeek R1's needs, and there is a filter `from_json`;
- what one operation can make is bounded, and so is the time of a rendering: a hostile template
  fails its own requests.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

from reconciler.worker.chat import bounded
from reconciler.worker.chat.sandbox import TemplateError, compiled, undefined

SECONDS = 10.0
"""That one rendering may take; a long conversation takes some milliseconds."""

UNDEFINED = object()
"""For `tools`: the variable is not there at all; transformers always has it, often as none."""

_CONTINUE = "CONTINUE_FINAL_MESSAGE_TAG "
"""Marks the end of a turn that is to be continued: transformers' way."""

_SPECIAL = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), "")
"""Special tokens that templates add to texts, for a tokenizer that has none of that name."""

_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Keys under which templates look for the reasoning of a turn; the first one is the standard."""


def of_source(tokenizer: Any, source: str) -> Callable[..., str]:
    """The function that renders turns by a Jinja template, with a tokenizer's special tokens."""
    special = _SPECIAL | dict(getattr(tokenizer, "special_tokens_map", {}))
    thinking = {"enable_thinking": bool(getattr(tokenizer, "has_thinking", False))}
    found: list[Any] = []

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
        tools = undefined("tools") if tools is UNDEFINED else copy.deepcopy(tools)
        given |= {"messages": messages, "tools": tools, "documents": None}
        given |= {"add_generation_prompt": add_generation_prompt and not continue_final_message}
        text = found[0].render(given)
        return _open_ended(text) if continue_final_message else text

    return partial(_bounded, render)


def is_code(tokenizer: Any) -> bool:
    """True if mlx-lm or the tokenizer's own class fills in the template, in Python."""
    if getattr(tokenizer, "renders_by_jinja", False):
        return False
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
        if variables.get("tools") is UNDEFINED:
            del variables["tools"]
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
