"""Reasoning controls: map the keys that clients send to variables of chat templates.

Clients use several keys: `reasoning_effort` (OpenAI), `enable_thinking` (Qwen's template),
`reasoning: {effort, enabled}` (Responses, OpenRouter), `thinking: {type}` (Anthropic, DeepSeek,
Z.ai), `think` (Ollama). Templates use several variables: `enable_thinking`, `thinking`,
`reasoning_effort`, `thinking_budget`. The token budget, `thinking_budget`, is also enforced by
`reasoning_budget`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from reconciler.worker.errors import unsupported

if TYPE_CHECKING:
    from reconciler.worker.request import Body

SWITCHES = ("reasoning_effort", "enable_thinking", "reasoning")
"""Keys that control reasoning; if one of them is sent, defaults for the others are ignored."""

_KNOWN = {"effort", "enabled", "max_tokens", "summary", "generate_summary"}
"""Keys of `reasoning`. Summary keys are ignored: they are for models with hidden reasoning."""

_ON = ("on", "enabled", "true")
_OFF = ("off", "disabled", "false")
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_NEAREST = {"minimal": "low", "xhigh": "high", "max": "high"}
"""Efforts that few models support -> the nearest one that most models support."""

UNBOUNDED = -1
"""Value of `thinking_budget` for no limit."""

_OWN = ("auto", "adaptive")
"""Values that select the model's default, as if nothing had been sent."""


def fold(asked: dict[str, Any], names: dict[str, str]) -> None:
    """Convert all keys to `reasoning_effort`, `enable_thinking` and `thinking_budget`.

    `names`: the name that was sent for each key. Raises `RequestError`.
    """
    reasoning = asked.pop("reasoning", None)
    if isinstance(reasoning, dict):
        _object(reasoning, asked, names)
    elif reasoning is not None and "enable_thinking" not in asked:
        asked["enable_thinking"], names["enable_thinking"] = reasoning, "reasoning"
    if "enable_thinking" in asked:
        thinking = asked["enable_thinking"]
        if isinstance(thinking, dict):
            thinking = _type(thinking, asked, names)
        if isinstance(thinking, str):
            thinking = _word(thinking, asked)
        asked["enable_thinking"] = thinking
    if asked.get("thinking_budget") == UNBOUNDED:
        del asked["thinking_budget"]
    elif asked.get("thinking_budget") == 0 and "enable_thinking" not in asked:
        asked["enable_thinking"], names["enable_thinking"] = False, names["thinking_budget"]


def _object(reasoning: dict[str, Any], asked: dict[str, Any], names: dict[str, str]) -> None:
    for key, value in reasoning.items():
        if key not in _KNOWN and value not in (None, False):
            raise unsupported("reasoning", f"reasoning.{key} is not supported; remove it")
    for key, name in (
        ("effort", "reasoning_effort"),
        ("enabled", "enable_thinking"),
        ("max_tokens", "thinking_budget"),
    ):
        if reasoning.get(key) is not None and name not in asked:
            asked[name], names[name] = reasoning[key], f"reasoning.{key}"


def _type(thinking: dict[str, Any], asked: dict[str, Any], names: dict[str, str]) -> Any:
    kind, budget = thinking.get("type"), thinking.get("budget_tokens")
    if budget is not None and kind not in _OFF and "thinking_budget" not in asked:
        asked["thinking_budget"] = budget
        names["thinking_budget"] = f"{names['enable_thinking']}.budget_tokens"
    return kind


def _word(word: str, asked: dict[str, Any]) -> Any:
    """Value of `enable_thinking` for a word; the word itself if it is unknown."""
    if word in (*_ON, *_OFF):
        return word in _ON
    if word in _EFFORTS:
        asked.setdefault("reasoning_effort", word)
    return None if word in (*_EFFORTS, *_OWN) else word


def variables(
    body: "Body", tokenizer: Any, uses: Callable[[str], bool], source: str = ""
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Variables for a template, and warnings about keys that have no effect on this model.

    `uses`: True for the variables that the template reads; `source`: its text, "" if it is code.
    """
    effort, thinks = body.reasoning_effort, body.enable_thinking
    budget = {"thinking_budget": body.thinking_budget} if body.thinking_budget else {}
    if not uses("thinking_budget"):
        budget = {}
    if effort is None and thinks is None:
        return budget, ()
    effort, replaced = _known(effort, source)
    if thinks is None:
        thinks = effort != "none"
    found: dict[str, Any] = {"enable_thinking": thinks, "thinking": thinks, **budget}
    if effort is not None:
        found["reasoning_effort"] = effort
    if not thinks and uses("thinking_budget"):
        found["thinking_budget"] = 0
    switches = ["enable_thinking", "thinking", "thinking_budget"]
    switches += ["reasoning_effort"] if effort is not None else []
    if any(uses(name) for name in switches):
        return found, replaced if uses("reasoning_effort") else ()
    key = "reasoning_effort" if effort is not None else "enable_thinking"
    if tokenizer.has_thinking:
        return found, (f"{key}: the model's chat template has no such switch; ignored",)
    return found, (f"{key}: this model does not reason; ignored",) if thinks else ()


def _known(effort: str | None, source: str) -> tuple[str | None, tuple[str, ...]]:
    """Effort to pass to a template, and a warning if it differs from the requested one.

    Clients have more efforts than models, most of which were trained with low, medium and high. A
    template supports another effort if its source compares with it.
    """
    near = _NEAREST.get(effort or "")
    if near is None or not source or f"'{effort}'" in source or f'"{effort}"' in source:
        return effort, ()
    return near, (f"reasoning_effort: this model does not support {effort}; {near} is used",)
