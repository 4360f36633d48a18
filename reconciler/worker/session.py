"""A session: settings over shared weights, with a batch generator of its own.

An instance, as the daemon calls it, is a session here. Requests join its batch when they come;
whoever owns the MLX thread calls `step` as long as there is something to do.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from mlx_lm.generate import BatchGenerator

from reconciler.core.records import Config
from reconciler.worker import experts, force

T = TypeVar("T")

Tell = Callable[[int, str | None], None]
"""Hears each token id, with "stop" or "length" at the last one."""

Fail = Callable[[Exception], None]

BATCH_SIZE = 32
"""Requests that generate together; more wait for a place. mlx-lm's default."""

MAX_WAITING = 128
"""Requests that wait for a place in the batch."""

PREFILL_BATCH_SIZE = 8
"""Prompts that are read together. mlx-lm's default."""


class ContextLengthExceededError(ValueError):
    """Prompt and completion would not fit in the session's context length."""


class OverloadedError(RuntimeError):
    """As many requests wait as may."""


class Session:
    """One set of settings in force. Used on the MLX thread only."""

    def __init__(self, model: Any, config: Config, eos: Sequence[int] = ()) -> None:
        self.config = config
        self.seconds = 0.0
        """Time that its steps took: sessions share the thread by it."""
        settings = force.Force(config.flash_attention, config.offload_kv_cache_to_gpu)
        self._model = force.Bound(model, settings)
        self._eos = [(token,) for token in eos]
        self._batch_size = BATCH_SIZE
        self._generator = self._new_generator()
        self._running: dict[int, tuple[Tell, Fail]] = {}

    def _new_generator(self) -> BatchGenerator:
        return BatchGenerator(
            self._model,
            prefill_step_size=self.config.eval_batch_size,
            stop_tokens=self._eos or None,
            completion_batch_size=self._batch_size,
            prefill_batch_size=min(self._batch_size, PREFILL_BATCH_SIZE),
        )

    @property
    def busy(self) -> bool:
        """Whether a request is running."""
        return bool(self._running)

    def start(
        self,
        prompt: Sequence[int],
        max_tokens: int,
        tell: Tell,
        fail: Fail,
        sampler: Callable[[Any], Any] | None = None,
        processors: Sequence[Any] = (),
    ) -> int:
        """Begin a completion of `prompt` by up to `max_tokens` tokens; its id.

        Raises `ContextLengthExceededError` or `OverloadedError` before anything is computed.
        """
        if len(self._running) >= self._batch_size + MAX_WAITING:
            raise OverloadedError(
                f"{self._batch_size} requests are being answered and {MAX_WAITING} wait"
            )
        if len(prompt) + max_tokens > self.config.context_length:
            raise ContextLengthExceededError(
                f"{len(prompt)} prompt tokens and {max_tokens} more exceed the context length "
                f"of {self.config.context_length}"
            )
        return self._insert(prompt, max_tokens, tell, fail, sampler, processors)

    def _insert(
        self,
        prompt: Sequence[int],
        max_tokens: int,
        tell: Tell,
        fail: Fail,
        sampler: Callable[[Any], Any] | None = None,
        processors: Sequence[Any] = (),
    ) -> int:
        (uid,) = self._generator.insert(
            [list(prompt)],
            max_tokens=[max_tokens],
            samplers=[sampler],
            logits_processors=[list(processors)],
        )
        self._running[uid] = (tell, fail)
        return int(uid)

    def cancel(self, uid: int) -> None:
        """Let go of a completion, if it is still running."""
        if self._running.pop(uid, None) is not None:
            self._generator.remove([uid])

    def step(self) -> None:
        """One step of the batch. Where it fails, all of this session's requests do."""
        try:
            _, responses = self._generator.next()
        except Exception as error:  # noqa: BLE001  every request is told
            running, self._running = self._running, {}
            self._generator.close()
            self._generator = self._new_generator()
            for _, fail in running.values():
                fail(error)
            return
        for response in responses:
            tell, _ = self._running.get(response.uid, (None, None))
            if response.finish_reason is not None:
                self._running.pop(response.uid, None)
            if tell is not None:
                tell(int(response.token), response.finish_reason)

    def generate(self, prompt: Sequence[int], max_tokens: int) -> list[int]:
        """Greedy completion, here and now, whatever else is running.

        Raises `ContextLengthExceededError`, or what the model raises.
        """
        tokens: list[int] = []
        errors: list[Exception] = []
        uid = self.start(prompt, max_tokens, lambda token, _: tokens.append(token), errors.append)
        self._finish(uid, errors)
        return tokens

    def _finish(self, uid: int, errors: Sequence[Exception]) -> None:
        """Step until a completion has ended. Raises what ended it."""
        while uid in self._running:
            self.step()
        if errors:
            raise errors[0]

    def observe(self) -> tuple[Config, tuple[str, ...]]:
        """Generate one token: the settings that were in force, and those that nothing used."""
        with experts.observed() as routed, force.observed() as seen:
            errors: list[Exception] = []  # whatever the context length: this is our own token
            self._finish(self._insert([0], 1, _ignore, errors.append), errors)
        used = {"flash_attention": seen.attention, "offload_kv_cache_to_gpu": seen.kv_on_gpu}
        config = Config(
            context_length=self.config.context_length,
            eval_batch_size=self._generator.prefill_step_size,
            # A model with an attention of its own computes it in one piece.
            flash_attention=_only("ways of attention", seen.attention, otherwise=False),
            num_experts=_only("numbers of experts", routed, otherwise=0),
            # What a model keeps in place of a KV cache stays where MLX computes.
            offload_kv_cache_to_gpu=_only("devices", seen.kv_on_gpu, otherwise=force.on_gpu()),
        )
        unused = tuple(key for key, values in used.items() if not values)
        if "flash_attention" in unused:
            self._learn_whether_it_batches()
        return config, unused

    def _learn_whether_it_batches(self) -> None:
        """Some models with an attention of their own cannot take prompts of different lengths
        together (mlx-lm 0.32's gemma2): those answer one request after the other.

        A batch as large as the number of heads can pass by accident, so two sizes are tried.
        """
        errors: list[Exception] = []
        for size in (3, 5):
            for length in range(1, size + 1):
                self._insert([0] * length, 2, _ignore, errors.append)
            while self._running:
                self.step()
        if errors:
            self._batch_size = 1
            self._generator.close()
            self._generator = self._new_generator()

    def close(self) -> None:
        """Let go of the generator; what still runs is told so."""
        running, self._running = self._running, {}
        for _, fail in running.values():
            fail(RuntimeError("the instance was unloaded"))
        self._generator.close()


def _ignore(_token: int, _end: str | None) -> None:
    """Nobody wants to hear it."""


def _only(what: str, seen: set[T], *, otherwise: T) -> T:
    """The one value that was seen. Raises ValueError where layers differ."""
    if len(seen) > 1:
        raise ValueError(f"layers use different {what}: {sorted(map(str, seen))}")
    return next(iter(seen), otherwise)
