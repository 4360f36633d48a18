"""The body of a request to Anthropic's Messages API, as its reference and SDK describe it.

Contents and tools come in many kinds and are looked at one by one in `messages_blocks` and
`messages_tools`; here are the keys around them. Source: the types of the `anthropic` package.
"""

from typing import Annotated, Any, Literal

import msgspec

from reconciler.worker.request import MOST, Stop

Role = Literal["user", "assistant", "system"]


class Message(msgspec.Struct):
    """One message. A role `system` may stand anywhere."""

    role: Role
    content: str | list[dict[str, Any]] | None


class Thinking(msgspec.Struct):
    """Whether the model is to reason."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Annotated[int, msgspec.Meta(ge=1, le=MOST)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class ToolChoice(msgspec.Struct):
    """Whether tools are to be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class OutputFormat(msgspec.Struct):
    """What the text of the answer has to be."""

    type: Literal["json_schema"]
    schema: dict[str, Any] | bool


class OutputConfig(msgspec.Struct):
    """How the answer is to be."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class Asked(msgspec.Struct):
    """The keys that are acted on, besides the further sampling parameters."""

    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    model: str | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=0, le=MOST)] | None = None
    system: str | list[dict[str, Any]] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0, le=MOST)] | None = None
    stop_sequences: Annotated[list[Stop], msgspec.Meta(max_length=16)] | None = None
    stream: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    """The older name of `output_config.format`."""


NO_EFFECT = frozenset(
    {
        *("metadata", "service_tier", "cache_control", "context_management", "betas"),
        *("anthropic_beta", "anthropic_version", "speed", "inference_geo", "diagnostics"),
        *("user_profile_id", "workspace_id", "billing_policy", "ttl"),
    }
)
"""Keys that change nothing about an answer here, and that clients send with every request. (`ttl`
is acted on where a request is routed.)"""
