"""A session: settings over shared weights, with a batch generator of its own.

An instance, as the daemon calls it, is a session here.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator

from reconciler.core.records import Config
from reconciler.worker import experts


class ContextLengthExceededError(ValueError):
    """Prompt and completion would not fit in the session's context length."""


class Session:
    """One set of settings in force. Used on the MLX thread only."""

    def __init__(self, model: Any, config: Config) -> None:
        self.config = config
        self._generator = BatchGenerator(
            model, prefill_step_size=config.eval_batch_size, max_tokens=1
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

    def observe(self) -> Config:
        """Generate one token and report the settings that were in force while doing so."""
        with experts.observed() as seen:
            self._complete([0], 1)
        if len(seen) > 1:
            raise ValueError(f"layers use different numbers of experts: {sorted(seen)}")
        on_gpu = mx.default_device().type == mx.DeviceType.gpu
        return Config(
            context_length=self.config.context_length,
            eval_batch_size=self._generator.prefill_step_size,
            flash_attention=on_gpu,  # MLX's kernel is fused on a GPU only, and untouched here
            num_experts=seen.pop() if seen else 0,
            offload_kv_cache_to_gpu=on_gpu,  # the cache lives where MLX's default device is
        )

    def close(self) -> None:
        """Let go of the generator."""
        self._generator.close()
