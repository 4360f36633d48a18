"""The thread that owns MLX: other threads submit jobs to it and await the results."""

import queue
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from reconciler.worker.heartbeat import Heartbeat

T = TypeVar("T")


class MlxThread:
    """Runs jobs sequentially on the thread that calls `run`."""

    def __init__(
        self, step: Callable[[], bool] = lambda: False, heartbeat: Heartbeat | None = None
    ) -> None:
        """`step`: does a small part of the background work, and returns True if there is more;
        `heartbeat`: counts the finished jobs.
        """
        self._step = step
        self._heartbeat = heartbeat or Heartbeat()
        self._working = False
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any], bool]] = (
            queue.SimpleQueue()
        )

    @property
    def busy(self) -> bool:
        """True if there is work. Thread-safe."""
        return self._working or not self._jobs.empty()

    def submit(self, job: Callable[[], T], *, after_step: bool = False) -> "Future[T]":
        """Enqueue `job`; the future receives its result or exception.

        `after_step`: a step is run before it, so that many such jobs do not delay the steps.
        """
        future: Future[T] = Future()
        self._jobs.put((job, future, after_step))
        return future

    def run(self) -> None:
        """Run jobs forever, and steps as long as there is background work; jobs have priority."""
        more = False
        while True:
            self._working = more
            try:
                job, future, after_step = self._jobs.get(block=not more)
            except queue.Empty:
                more = self._step()
                continue
            self._working = more = True
            if after_step:
                self._step()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                with self._heartbeat.beating():
                    result = job()
            except SystemExit:
                # Some of mlx-lm's architectures exit if a package that they need is missing.
                words = "mlx-lm tried to exit the process: a package that it needs is missing"
                future.set_exception(ImportError(words))
            except Exception as error:  # noqa: BLE001  goes to the future; the thread continues
                future.set_exception(error)
            else:
                future.set_result(result)
