"""A session: settings over shared weights, with a batch generator of its own.

An instance, as the daemon calls it, is a session here.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

from mlx_lm.generate import BatchGenerator

from reconciler.core.records import Config
from reconciler.worker import experts, force

T = TypeVar("T")


class ContextLengthExceededError(ValueError):
    """Prompt and completion would not fit in the session's context length."""


class Session:
    """One set of settings in force. Used on the MLX thread only."""

    def __init__(self, model: Any, config: Config) -> None:
        self.config = config
        settings = force.Force(config.flash_attention, config.offload_kv_cache_to_gpu)
        self._generator = BatchGenerator(
            force.Bound(model, settings), prefill_step_size=config.eval_batch_size, max_tokens=1
        )

    def generate(self, prompt: Sequence[int], max_tokens: int) -> list[int]:
        """Greedy completion of `prompt` (token ids, at least one) by up to `max_tokens` ids.

        Raises `ContextLengthExceededError` before anything is computed.
        """
        total = len(prompt) + max_tokens
        if total > self.config.context_length:
            raise ContextLengthExceededError(
                f"{len(prompt)} prompt tokens and {max_tokens} more exceed the context length "
                f"of {self.config.context_length}"
            )
        return self._complete(prompt, max_tokens)

    def _complete(self, prompt: Sequence[int], max_tokens: int) -> list[int]:
        (uid,) = self._generator.insert([list(prompt)], max_tokens=[max_tokens])
        tokens: list[int] = []
        try:
            while True:
                for response in self._generator.next_generated():
                    tokens.append(int(response.token))
                    if response.finish_reason is not None:
                        return tokens
        except BaseException:
            self._generator.remove([uid])
            raise

    def observe(self) -> tuple[Config, tuple[str, ...]]:
        """Generate one token: the settings that were in force, and those that nothing used."""
        with experts.observed() as routed, force.observed() as seen:
            self._complete([0], 1)
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
        return config, tuple(key for key, values in used.items() if not values)

    def close(self) -> None:
        """Let go of the generator."""
        self._generator.close()


def _only(what: str, seen: set[T], *, otherwise: T) -> T:
    """The one value that was seen. Raises ValueError where layers differ."""
    if len(seen) > 1:
        raise ValueError(f"layers use different {what}: {sorted(map(str, seen))}")
    return next(iter(seen), otherwise)
