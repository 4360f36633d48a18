"""Renders chat templates: Jinja as transformers sets it up, in a sandbox with limits.

Differences from `transformers`, none of which changes a prompt that it renders:

- templates may modify the lists that they create (`append`), as Kimi K2's does;
- a special token that the tokenizer does not have is an empty string;
- `tojson` accepts iterators, as DeepSeek R1's requires, and there is a filter `from_json`;
- the result of one operation and the time of a rendering are limited: a hostile template only
  fails its own requests.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

from reconciler.worker.chat import bounded
from reconciler.worker.chat.sandbox import TemplateError, compiled, undefined

SECONDS = 10.0
"""Time limit of one rendering [s]; a long conversation takes a few milliseconds."""

UNDEFINED = object()
"""Value of `tools` to leave the variable undefined; transformers always sets it, often to None."""

_CONTINUE = "CONTINUE_FINAL_MESSAGE_TAG "
"""Marks the end of a turn to continue, as in transformers."""

_SPECIAL = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), "")
"""Default special tokens, for templates that append one that the tokenizer does not have."""

_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Keys from which templates read the reasoning of a turn; the first one is the standard."""


def of_source(tokenizer: Any, source: str) -> Callable[..., str]:
    """Return a function that renders turns with a Jinja template and the special tokens."""
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
    """True if mlx-lm or the tokenizer's own class renders prompts in Python."""
    if getattr(tokenizer, "renders_by_jinja", False):
        return False
    if getattr(tokenizer, "_chat_template", None) is not None:
        return True
    own = getattr(type(getattr(tokenizer, "_tokenizer", tokenizer)), "apply_chat_template", None)
    return getattr(own, "__module__", "") != "transformers.tokenization_utils_base"


def of_tokenizer(tokenizer: Any) -> Callable[..., str]:
    """Return a function that renders turns with code of mlx-lm or transformers."""

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
    """Copy the turns without keys that are None, and with reasoning under all of its keys."""
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
    """Cut a text at the mark; templates may have trimmed the text before it."""
    at = text.rfind(_CONTINUE.strip())
    if at < 0:
        raise TemplateError("it modifies the last message, which therefore cannot be continued")
    return text[:at] if text.startswith(_CONTINUE, at) else text[:at].rstrip()
