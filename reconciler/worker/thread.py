"""The thread that owns MLX: other threads hand it work and await the result."""

import queue
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from reconciler.worker.heartbeat import Heartbeat

T = TypeVar("T")


class MlxThread:
    """Runs jobs one after the other on the thread that calls `run`."""

    def __init__(
        self, step: Callable[[], bool] = lambda: False, heartbeat: Heartbeat | None = None
    ) -> None:
        """`step` does a little of whatever else there is to do, and says whether there is more.

        `heartbeat` counts the jobs that were done.
        """
        self._step = step
        self._heartbeat = heartbeat or Heartbeat()
        self._working = False
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()

    @property
    def busy(self) -> bool:
        """Whether there is anything to do, for other threads."""
        return self._working or not self._jobs.empty()

    def submit(self, job: Callable[[], T]) -> "Future[T]":
        """Ask for `job` to be run; its result or exception is the future's."""
        future: Future[T] = Future()
        self._jobs.put((job, future))
        return future

    def run(self) -> None:
        """Run jobs for ever, and steps as long as there is more to do; jobs go first."""
        more = False
        while True:
            self._working = more
            try:
                job, future = self._jobs.get(block=not more)
            except queue.Empty:
                more = self._step()
                continue
            self._working = more = True
            if not future.set_running_or_notify_cancel():
                continue
            try:
                with self._heartbeat.beating():
                    result = job()
            except SystemExit:
                # What some of mlx-lm's architectures do where a package of theirs is missing.
                words = "mlx-lm wanted to end the process; a package that it needs is missing"
                future.set_exception(ImportError(words))
            except Exception as error:  # noqa: BLE001  the asker gets it; the thread goes on
                future.set_exception(error)
            else:
                future.set_result(result)
