"""`run`: load if needed, then chat."""

import asyncio
import contextlib
import sys
from typing import Any

import click

from reconciler.cli.client import Client, asks
from reconciler.cli.progress import loaded
from reconciler.cli.settings import body, settings


@click.command(
    epilog="\b\nExamples:\n"
    '  reconciler run openai/gpt-oss-20b "What is a reconcile loop?"\n'
    '  git diff | reconciler run openai/gpt-oss-20b "Write a commit message."'
)
@click.argument("model")
@click.argument("prompt", required=False)
@click.option("--name", help="Name of the instance.  [default: the model's identifier]")
@click.option("--system", help="A system message to begin with.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="Of sampling.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Of each answer.")
@settings
@asks
async def run(
    client: Client,
    *,
    model: str,
    prompt: str | None,
    name: str | None,
    system: str | None,
    temperature: float | None,
    max_tokens: int | None,
    **asked: Any,
) -> None:
    """Load MODEL if it is not, and answer PROMPT; without PROMPT, chat until Ctrl-D.

    What is piped in is put before PROMPT.
    """
    answer = await loaded(client, body(model, name, asked))
    talk = _Talk(client, answer["model_instance_id"], system, temperature, max_tokens)
    piped = "" if sys.stdin.isatty() else sys.stdin.read().strip()
    question = "\n\n".join(part for part in (piped, prompt) if part)
    if question:
        await talk.ask(question)
        return
    click.echo("Ask, and end with Ctrl-D.", err=True)
    with contextlib.suppress(EOFError):
        while True:
            question = (await asyncio.to_thread(input, ">>> ")).strip()
            if question:
                await talk.ask(question)
    click.echo()


class _Talk:
    """A chat: what was said, and how it goes on."""

    def __init__(
        self,
        client: Client,
        instance: str,
        system: str | None,
        temperature: float | None,
        max_tokens: int | None,
    ) -> None:
        self._client, self._instance = client, instance
        self._messages = [{"role": "system", "content": system}] if system else []
        sent = {"temperature": temperature, "max_tokens": max_tokens}
        self._options = {key: value for key, value in sent.items() if value is not None}

    async def ask(self, question: str) -> None:
        """Print the answer as it comes; thoughts are dimmed."""
        self._messages.append({"role": "user", "content": question})
        answer, thinking = "", False
        pieces = self._client.chat(self._instance, self._messages, **self._options)
        async for delta in pieces:
            if delta.get("reasoning_content"):
                thinking = True
                click.secho(delta["reasoning_content"], dim=True, nl=False)
            if delta.get("content"):
                if thinking and not answer:
                    click.echo("\n")
                answer += delta["content"]
                click.echo(delta["content"], nl=False)
        click.echo()
        self._messages.append({"role": "assistant", "content": answer})
