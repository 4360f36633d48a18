"""`bench`: measure the speed of an instance for one request and for concurrent requests.

Each request has a unique prompt, so that the prompt cache does not distort the result. Each
generates a fixed number of tokens: the end-of-sequence token is ignored.
"""

import asyncio
import statistics
import time
from dataclasses import dataclass
from typing import Any

import click

from reconciler.cli import completing
from reconciler.cli.client import Client, DaemonError, NotInTimeError, asks
from reconciler.cli.duration import Duration
from reconciler.cli.output import Column, output, show

WORDS = "The quick brown fox jumps over the lazy dog. "


@dataclass(frozen=True)
class Timed:
    """Timing of one response. Times are monotonic seconds."""

    begin: float
    first: float
    end: float
    prompt_tokens: int
    completion_tokens: int


ROWS = (
    Column("REQUESTS", lambda r: r["requests"]),
    Column("FIRST TOKEN", lambda r: f"{r['first_token_seconds']:.2f} s"),
    Column("EACH", lambda r: f"{r['tokens_per_second_each']:.1f} tokens/s"),
    Column("TOGETHER", lambda r: f"{r['tokens_per_second_together']:.1f} tokens/s"),
    Column("PROMPT", lambda r: f"{r['prompt_tokens']} tokens"),
    Column("ANSWER", lambda r: f"{r['completion_tokens']} tokens"),
)


def summary(answers: list[Timed]) -> dict[str, Any]:
    """One table row: medians over concurrent responses, and their total rate."""
    wall = max(a.end for a in answers) - min(a.begin for a in answers)
    generated = sum(a.completion_tokens for a in answers)
    rates = [(a.completion_tokens - 1) / max(a.end - a.first, 1e-9) for a in answers]
    return {
        "requests": len(answers),
        "first_token_seconds": statistics.median(a.first - a.begin for a in answers),
        "tokens_per_second_each": statistics.median(rates),
        "tokens_per_second_together": generated / max(wall, 1e-9),
        "prompt_tokens": round(statistics.median(a.prompt_tokens for a in answers)),
        "completion_tokens": round(statistics.median(a.completion_tokens for a in answers)),
    }


@click.command(epilog="\b\nExample:\n  reconciler bench assistant -n 1 -n 16 --tokens 128")
@click.argument("name", shell_complete=completing.names)
@click.option(
    "-n",
    "--requests",
    "counts",
    type=click.IntRange(1, 64),
    multiple=True,
    default=(1, 4, 8),
    help="Concurrent requests; repeatable.",
)
@click.option(
    "--tokens", type=click.IntRange(2, 4096), default=64, help="Tokens to generate per request."
)
@click.option("--words", type=click.IntRange(1, 20_000), default=100, help="Words per prompt.")
@click.option(
    "--timeout", "seconds", type=Duration(least=1), default="5m", help="Deadline for the whole run."
)
@output
@asks
async def bench(
    client: Client,
    *,
    name: str,
    counts: tuple[int, ...],
    tokens: int,
    words: int,
    seconds: float,
    form: str,
) -> None:
    """Measure tokens per second and the time to the first token of the instance NAME.

    FIRST TOKEN is the median time from a request to its first token. EACH is the median rate of a
    response after its first token. TOGETHER is the total rate: the tokens of all responses, divided
    by the time until the last one ended.
    """
    rows = []
    try:
        async with asyncio.timeout(seconds):
            await _ask(client, name, words=1, tokens=2)  # loads an idle instance
            for count in counts:
                asked = (_ask(client, name, words, tokens) for _ in range(count))
                rows.append(summary(list(await asyncio.gather(*asked))))
    except TimeoutError:
        message = f"not done after {seconds:g} s; use fewer --tokens, or a longer --timeout"
        raise NotInTimeError(message) from None
    show(rows, ROWS, form, empty="", name="requests")


async def _ask(client: Client, name: str, words: int, tokens: int) -> Timed:
    """Send one request and time it. Raises `DaemonError`."""
    messages = [{"role": "user", "content": _prompt(words)}]
    more = {"max_tokens": tokens, "ignore_eos": True, "stream_options": {"include_usage": True}}
    begin = time.monotonic()
    first, usage = None, None
    async for chunk in client.chunks(name, messages, **more):
        delta = chunk["choices"][0]["delta"] if chunk["choices"] else {}
        if first is None and any(delta.get(key) for key in ("content", "reasoning_content")):
            first = time.monotonic()
        usage = chunk.get("usage") or usage
    end = time.monotonic()
    if usage is None:
        raise DaemonError(500, f"the response of {name} ended early")
    return Timed(
        begin,
        end if first is None else first,
        end,
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )


def _prompt(words: int) -> str:
    """A prompt of `words` words with a unique beginning."""
    sentence = WORDS.split()
    filled = [sentence[i % len(sentence)] for i in range(words - 1)]
    return " ".join([str(time.monotonic_ns()), *filled])
