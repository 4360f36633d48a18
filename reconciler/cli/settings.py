"""Options for the load settings and other parameters of a load."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from reconciler.cli.duration import Duration
from reconciler.cli.sizes import Tokens
from reconciler.core.footprint import KV_BITS
from reconciler.core.records import SETTINGS

F = TypeVar("F", bound=Callable[..., Any])


def settings(command: F) -> F:
    """Add the options for each setting, the adapter, drafts and the idle timeout."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def body(model: str, name: str | None, asked: dict[str, Any]) -> dict[str, Any]:
    """Load request from the options."""
    config = {key: asked[key] for key in SETTINGS if asked[key] is not None}
    sent: dict[str, Any] = {"model": model, "config": config}
    if name is not None:
        sent["instance_id"] = name
    for key in ("adapter", "prompt_lookup", "draft_model"):
        if asked.get(key) is not None:
            sent[key] = asked[key]
    if asked.get("idle_ttl") is not None:
        sent["idle_ttl_seconds"] = int(asked["idle_ttl"])
    return sent


_OPTIONS = (
    click.option(
        "--context-length",
        type=Tokens(),
        help="Most tokens of prompt and completion; 16k is 16,384.",
    ),
    click.option(
        "--eval-batch-size", type=Tokens(), help="Prompt tokens per prefill step; 1k is 1,024."
    ),
    click.option("--flash-attention/--no-flash-attention", default=None, help="Fused attention."),
    click.option("--num-experts", type=int, help="Experts active per token."),
    click.option(
        "--offload-kv-cache-to-gpu/--no-offload-kv-cache-to-gpu",
        default=None,
        help="KV cache and attention on the GPU.",
    ),
    click.option(
        "--kv-cache-bits",
        type=click.Choice(KV_BITS),
        help="Bits per value of a quantized KV cache.",
    ),
    click.option("--adapter", help="LoRA adapter: an identifier, or the path of its directory."),
    click.option(
        "--prompt-lookup/--no-prompt-lookup",
        default=None,
        help="Draft tokens by copying from the text, where this is faster.",
    ),
    click.option(
        "--draft-model", help="Smaller model with the same tokenizer, which drafts tokens."
    ),
    click.option(
        "--idle-ttl",
        type=Duration(whole=True),
        help="Unload after this time without a request: 90s, 10m or 1h.",
    ),
)
