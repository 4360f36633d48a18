"""Parts of loading a checkpoint: its weights, and its tokenizer in parallel."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from reconciler.core.protocol import WeightsRead
from reconciler.core.records import Phase
from reconciler.worker import tokenizers
from reconciler.worker.heartbeat import Heartbeat
from reconciler.worker.output import OutputFormat, of_tokenizer
from reconciler.worker.preprocessing.pool import Preprocessor
from reconciler.worker.vocabulary import vocabulary_kept

STEPS = 50
"""Number of progress reports while weights are read; fewer if single arrays are larger."""


def read_weights(
    model: Any, heartbeat: Heartbeat, on_progress: Callable[[WeightsRead], None]
) -> None:
    """Read the weights of a lazy model in about `STEPS` chunks. MLX thread only.

    The heartbeat beats after each chunk. Propagates MLX's exceptions.
    """
    arrays = [array for _, array in tree_flatten(model.parameters())]
    total = sum(array.nbytes for array in arrays)
    done, step = 0, 0
    batch: list[Any] = []
    on_progress(WeightsRead(0, total))
    for array in arrays:
        batch.append(array)
        step += array.nbytes
        if step >= total / STEPS or array is arrays[-1]:
            mx.eval(batch)
            heartbeat.beat()
            done += step
            on_progress(WeightsRead(done, total))
            batch, step = [], 0


class TokenizerThread(threading.Thread):
    """Loads the tokenizer in parallel with the weights."""

    def __init__(self, path: Path, begin: float, preprocessor: Preprocessor) -> None:
        super().__init__(name="tokenizer")
        self.path, self.begin, self.preprocessor = path, begin, preprocessor
        self.result: Any = None
        self.output_format = OutputFormat()
        self.error: Exception | None = None
        self.phase = Phase(0.0, 0.0)

    def run(self) -> None:
        start = time.monotonic()
        try:
            with vocabulary_kept():
                self.result = tokenizers.load(self.path, self.preprocessor)
                self.output_format = of_tokenizer(self.result, self.preprocessor.renderer)
        except Exception as error:  # noqa: BLE001  raised again on the MLX thread
            self.error = error
        self.phase = Phase(start - self.begin, time.monotonic() - start)
