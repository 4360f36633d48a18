"""Run a real model in this process to answer constrained requests."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from reconciler.core.dialects import Dialect
from reconciler.core.protocol import LoadWeights, OpenSession
from reconciler.core.records import EffectiveSettings
from reconciler.models.checkpoint import read_facts
from reconciler.worker.completions import Completion
from reconciler.worker.likelihood import Likelihood
from reconciler.worker.model import Model
from reconciler.worker.thread import MlxThread

NAME = "1"


@dataclass
class Answer:
    """A complete answer."""

    content: str = ""
    reasoning: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None
    tokens: int = 0
    cached_tokens: int = 0
    likelihoods: list[Likelihood] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def json(self) -> Any:
        """The message content, parsed as JSON."""
        return json.loads(self.content)

    @property
    def call(self) -> tuple[str, Any]:
        """The name and the arguments of the only tool call."""
        ((function),) = [call["function"] for call in self.calls]
        return function["name"], json.loads(function["arguments"])


class Served:
    """A model and its MLX thread."""

    def __init__(self, model: Model, mlx: MlxThread) -> None:
        self.model, self.mlx = model, mlx

    async def ask(self, *, chat: bool = True, **keys: Any) -> Answer:
        """Answer a request; a chat request gets a default message if it has none."""
        default = {"messages": [{"role": "user", "content": "Hello"}]} if chat else {"prompt": "Hi"}
        body = {"max_tokens": 200, "temperature": 0} | default | keys
        dialect = Dialect.CHAT if chat else Dialect.TEXT
        one = Completion(self.model, self.mlx, NAME, msgspec.json.encode(body), dialect=dialect)
        await one.start()
        answer = Answer(warnings=one.warnings)
        async for piece in one.pieces():
            answer.content += piece.delta.content
            answer.reasoning += piece.delta.reasoning
            answer.calls += piece.delta.calls
            answer.finish_reason, answer.tokens = piece.finish_reason, piece.tokens
            answer.likelihoods += piece.likelihoods
        answer.cached_tokens = one.cached_tokens
        return answer

    async def ask_all(self, *bodies: dict[str, Any]) -> list[Answer]:
        """Answer several requests concurrently."""
        return await asyncio.gather(*(self.ask(**body) for body in bodies))


@contextmanager
def served(path: Path, *, context_length: int = 4096) -> Iterator[Served]:
    """Load the checkpoint at `path` and open a session."""
    model = Model()
    mlx = MlxThread(model.step)
    thread = threading.Thread(target=mlx.run, daemon=True)
    thread.start()
    facts = read_facts(path)
    config = EffectiveSettings(context_length, 64, False, facts.experts_per_token, False)
    mlx.submit(lambda: model.load(LoadWeights(str(path)), lambda _: None)).result()
    mlx.submit(lambda: model.open(NAME, OpenSession(config, facts.experts_key))).result()
    try:
        yield Served(model, mlx)
    finally:
        mlx.submit(lambda: model.close(NAME)).result()
