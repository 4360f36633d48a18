"""A chat with an instance: messages, parameters, and streamed answers."""

import time
from dataclasses import dataclass, field
from typing import Any

import click

from reconciler.cli.client import Client
from reconciler.cli.printing import for_stdout

MEASURABLE_SECONDS = 0.1
"""Minimum time from the first token to the last; shorter answers have no meaningful rate."""


@dataclass
class Measured:
    """The speed of one answer."""

    usage: dict[str, Any] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    first: float | None = None
    """Time of the first token. All times are monotonic seconds."""
    last: float | None = None

    def note_token(self) -> None:
        """Record the arrival of a token."""
        self.last = time.monotonic()
        self.first = self.first or self.last

    def __str__(self) -> str:
        """Summary in one line, of the values that the server reported."""
        parts = []
        if self.first is not None and self.last is not None:
            parts.append(f"first token after {self.first - self.began:.2f} s")
            tokens, seconds = self.usage.get("completion_tokens", 0), self.last - self.first
            if tokens > 1 and seconds >= MEASURABLE_SECONDS:
                parts.append(f"{(tokens - 1) / seconds:.1f} tokens/s")
        if self.usage:
            cached = (self.usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
            parts.append(f"{self.usage['prompt_tokens']} prompt tokens, {cached} of them cached")
            parts.append(f"{self.usage['completion_tokens']} completion tokens")
        return "; ".join(parts)


class Talk:
    """A chat: messages, and parameters of its requests (including `system`)."""

    def __init__(self, client: Client, instance: str, *, verbose: bool = False) -> None:
        self.client, self.instance, self.verbose = client, instance, verbose
        self.messages: list[dict[str, str]] = []
        self.parameters: dict[str, Any] = {}

    def request(self) -> tuple[list[dict[str, str]], dict[str, Any]]:
        """Messages to send, and the other keys of the request."""
        system = self.parameters.get("system")
        first = [{"role": "system", "content": system}] if system else []
        options = {k: v for k, v in self.parameters.items() if k != "system"}
        return first + self.messages, options

    async def ask(self, question: str) -> None:
        """Stream the answer to the terminal; reasoning is dimmed.

        A partial answer is added to the messages; a question without an answer is removed.
        """
        self.messages.append({"role": "user", "content": question})
        answer = ""
        try:
            async for text in self._printed():
                answer += text
        finally:
            if answer:
                self.messages.append({"role": "assistant", "content": answer})
            else:
                self.messages.pop()

    async def _printed(self) -> Any:
        """Print the answer, and yield each piece of its content."""
        messages, options = self.request()
        options["stream_options"] = {"include_usage": True}
        measured, thinking, finish = Measured(), False, None
        async for chunk in self.client.chunks(self.instance, messages, **options):
            measured.usage = chunk.get("usage") or measured.usage
            for choice in chunk["choices"]:
                finish = choice.get("finish_reason") or finish
                reasoning = choice["delta"].get("reasoning_content")
                content = choice["delta"].get("content")
                if reasoning or content:
                    measured.note_token()
                if reasoning:
                    thinking = True
                    click.secho(for_stdout(reasoning), dim=True, nl=False)
                if content:
                    if thinking:
                        click.echo("\n")
                        thinking = False
                    click.echo(for_stdout(content), nl=False)
                    yield content
        click.echo()
        if finish == "length":
            click.echo("note: the answer was cut off at its limit of tokens", err=True)
        if self.verbose:
            click.echo(str(measured), err=True)
