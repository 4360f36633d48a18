"""Types of request bodies of Anthropic's Messages API, from its reference and SDK.

They cover the outer keys. `blocks` and `tools` parse the many kinds of content and tools. Source:
the types of the `anthropic` package.
"""

from typing import Annotated, Any, Literal

import msgspec

from reconciler.worker.request import MOST, Stop

Role = Literal["user", "assistant", "system"]


class Message(msgspec.Struct):
    """A message. A message with the role `system` may be at any position."""

    role: Role
    content: str | list[dict[str, Any]] | None


class Thinking(msgspec.Struct):
    """Settings of reasoning."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Annotated[int, msgspec.Meta(ge=1, le=MOST)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class ToolChoice(msgspec.Struct):
    """Constraint on calling tools."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class OutputFormat(msgspec.Struct):
    """Format of the answer's text."""

    type: Literal["json_schema"]
    schema: dict[str, Any] | bool


class OutputConfig(msgspec.Struct):
    """Settings of the answer."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class Asked(msgspec.Struct):
    """The keys with an effect, except further sampling parameters."""

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
"""Keys that do not change the answer and that clients send with every request. (Routing uses
`ttl`.)"""
