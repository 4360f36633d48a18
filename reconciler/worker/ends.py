"""Stop tokens: the tokens that end generation.

mlx_lm's `load` stops at the tokenizer's `eos_token` and at config.json's `eos_token_id`, or at
generation_config.json's instead of the latter. Publishers spread stop tokens over all of these, and
over the nested configuration of models with several parts. This module takes the union.

Some checkpoints declare no stop token for the token with which their own chat template ends an
assistant turn. That token is found by rendering turns: it is the special token that closes an
answer or a tool call and occurs inside no turn. If the template closes no turn, as GLM's, it is the
special token that begins the next turn.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reconciler.worker.beginning import common
from reconciler.worker.chat import rendering
from reconciler.worker.chat.probes import Render

NESTED = ("text_config", "llm_config", "language_config")
"""Keys of config.json that hold the language model's configuration in models with several parts."""

OfSource = Callable[[Any, str], Render]
"""A tokenizer and the source of a chat template -> its renderer."""

_ANSWER = "Qzxanswer"
_NAME = "qzxtool"
_TOOL = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": _NAME,
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "string", "description": "a"}},
            "required": ["a"],
        },
    },
}
_USER = {"role": "user", "content": "Qzxquestion"}
_REASONS = dict.fromkeys(("reasoning_content", "reasoning", "thinking"), "Qzxreasons")
"""Reasoning under each name that templates use for it."""
_RESULT = {"role": "tool", "content": "Qzxresult", "name": _NAME, "tool_call_id": "000000000"}


def configured(path: Path) -> set[int]:
    """Stop tokens in the configuration files of the checkpoint in directory `path`."""
    config = json.loads((path / "config.json").read_text("utf-8"))
    parts = [config, *_nested(config), _optional_object(path / "generation_config.json")]
    return {token for part in parts for token in _ids(part.get("eos_token_id"))}


def ends(path: Path, tokenizer: Any, of_source: OfSource = rendering.of_source) -> set[int]:
    """Stop tokens of a checkpoint from all sources; some may be beyond the model's vocabulary.

    `tokenizer`: mlx_lm's wrapper, whose `eos_token_ids` are included.
    """
    known = set(_ids(list(tokenizer.eos_token_ids))) | configured(path)
    return known | templated(tokenizer, of_source)


def templated(tokenizer: Any, of_source: OfSource = rendering.of_source) -> set[int]:
    """Tokens with which the chat template ends an assistant turn; empty without a template."""
    if not tokenizer.has_chat_template:
        return set()
    render, render_with_tools = _renderers(tokenizer, of_source)
    special = _special(tokenizer)
    closing: set[int] = set()
    inside: set[int] = set()
    for alternatives in _turns():
        for turn in alternatives:
            try:
                how = render if turn.plain else render_with_tools
                closes, within = _closing(tokenizer, how, special, turn)
            except TimeoutError:  # each further turn would take as long
                return set()
            except Exception:  # noqa: BLE001, S112  a template may raise anything
                continue
            closing |= closes
            inside |= within
            break
    return closing - inside


@dataclass(frozen=True)
class _Turn:
    """An assistant turn, a turn that may follow it, and further variables of the template."""

    turn: Mapping[str, Any]
    after: Mapping[str, Any]
    more: Mapping[str, Any] = field(default_factory=dict)
    plain: bool = False


def _turns() -> Iterator[tuple[_Turn, ...]]:
    """Kinds of turns, each with alternatives to render if the template rejects the first."""
    for reasons in (_REASONS, {}):
        turn = {"role": "assistant", "content": _ANSWER, **reasons}
        # firefunction requires variables that other templates do not have.
        given = {"functions": "[]", "datetime": "1 January 2026"}
        yield (_Turn(turn, _USER, plain=True), _Turn(turn, _USER, given, plain=True))
    # Llama 3.1 ends a call of a built-in tool with another token.
    for more in ({}, {"builtin_tools": [_NAME]}):
        yield tuple(_Turn(_calls(n), _RESULT, {"tools": [_TOOL], **more}) for n in (2, 1))


def _calls(number: int) -> Mapping[str, Any]:
    """An assistant turn with text and `number` tool calls."""
    call = {"name": _NAME, "arguments": {"a": _ANSWER}}
    calls = [{"id": "000000000", "type": "function", "function": call}] * number
    return {"role": "assistant", "content": "Qzxwords", "tool_calls": calls}


def _renderers(tokenizer: Any, of_source: OfSource) -> tuple[Render, Render]:
    """Renderers of conversations without tools, and with tools."""
    sources = tokenizer.chat_template
    if sources is None or rendering.is_code(tokenizer):
        return (rendering.of_tokenizer(tokenizer),) * 2
    if not isinstance(sources, dict):
        return (of_source(tokenizer, sources),) * 2
    default = sources.get("default") or next(iter(sources.values()))
    named = (default, sources.get("tool_use") or default)
    plain, with_tools = (of_source(tokenizer, source) for source in named)
    return plain, with_tools


def _closing(
    tokenizer: Any, render_turns: Render, special: set[int], case: _Turn
) -> tuple[set[int], set[int]]:
    """Special tokens that close a turn, and those inside it. Propagates template errors."""
    turn, after = case.turn, case.after

    def render(*turns: Mapping[str, Any], begin: bool = False) -> str:
        return render_turns([dict(t) for t in turns], add_generation_prompt=begin, **case.more)

    def tokens(text: str) -> list[int]:
        return [int(token) for token in tokenizer.encode(text.strip(), add_special_tokens=False)]

    before, whole = render(_USER), render(_USER, turn)
    spoken = whole[common(before, whole) :]
    within_text, found, tail = spoken.rpartition(_ANSWER)
    if not found:
        return set(), set()
    within, last = tokens(within_text), tokens(tail)
    _, _, later = render(_USER, turn, after).rpartition(_ANSWER)
    goes_on = later.startswith(tail.rstrip())
    if before == render(_USER, begin=True) and not goes_on:
        # The template begins an assistant turn even without `add_generation_prompt`.
        closes = {token for token in last[:1] if case.plain and token in special}
        return closes, special.intersection(within)
    closes = {last.pop()} if last and last[-1] in special else set()
    following = tokens(later.partition(after["content"])[0])
    if not closes and goes_on:
        begins = tokens(later[len(tail.rstrip()) :])[:1]
        closes = {token for token in begins if token in special}
    elif last and last == following[: len(last)] and not closes & set(following):
        # Phi: eos_token occurs only at the end of the text, another token after each turn.
        closes |= {token for token in last if token in special}
        last = []
    return closes, special.intersection(within + last)


def _special(tokenizer: Any) -> set[int]:
    """Special tokens of a tokenizer, without `bos_token`."""
    added = tokenizer.added_tokens_decoder.items()
    return {int(token) for token, entry in added if entry.special} - {tokenizer.bos_token_id}


def _nested(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [config[key] for key in NESTED if isinstance(config.get(key), dict)]


def _ids(value: object) -> Iterable[int]:
    """Token ids in the value of an `eos_token_id`: a number, a list of numbers, or nothing."""
    values = value if isinstance(value, list) else [value]
    return [v for v in values if isinstance(v, int) and not isinstance(v, bool)]


def _optional_object(path: Path) -> Mapping[str, Any]:
    """Read a JSON object; empty if the file is missing or invalid, which mlx_lm ignores as well."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
