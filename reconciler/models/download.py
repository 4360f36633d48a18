"""Download jobs of the daemon. Each runs a process that downloads one model."""

import asyncio
import os
import secrets
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import msgspec
import structlog

from reconciler.core.errors import Problem, Reason
from reconciler.core.memory import readable_bytes
from reconciler.core.records import ModelRef
from reconciler.host import children

log = structlog.get_logger()

MAIN = "main"

KEPT_JOBS = 100
"""Number of ended jobs whose outcome is kept."""

REASONS = {
    "model_not_found": Reason.MODEL_NOT_FOUND,
    "model_gated": Reason.MODEL_GATED,
    "revision_not_found": Reason.REVISION_NOT_FOUND,
    "invalid_checkpoint": Reason.INVALID_CHECKPOINT,
    "offline": Reason.OFFLINE,
    "insufficient_disk_space": Reason.INSUFFICIENT_DISK_SPACE,
    "hash_mismatch": Reason.HASH_MISMATCH,
}
"""Reasons by the error code of the download process. Any other code means that the hub or the disk
failed."""

UNREACHABLE = {"hub_unreachable", "offline"}
"""Error codes of the download process if the hub was not reached, or must not be."""

JobStatus = Literal["downloading", "completed", "failed", "already_downloaded"]


class _Line(msgspec.Struct):
    """A progress line of the download process."""

    total: int | None = None
    present: int = 0
    missing: int = 0
    downloaded: int | None = None
    done: str | None = None
    error: str | None = None
    message: str = ""


@dataclass(eq=False)
class Job:
    """One download and its progress, in bytes."""

    ref: ModelRef
    id: str = field(default_factory=lambda: f"job_{secrets.token_hex(8)}")
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    status: JobStatus = "downloading"
    total: int | None = None
    present: int = 0
    """Bytes on disk when it began."""
    downloaded: int = 0
    began: float = 0.0
    completed_at: datetime | None = None
    problem: Problem | None = None
    unreachable: bool = False
    """True if it failed because the hub was not reached."""
    cancelled: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at the next progress, then replaced by a new event."""
    awaited: bool = False
    """True if a record has waited for it; else its outcome is no answer to a record."""
    reported: bool = False
    """True if its problem was reported to the record that needs the model."""
    known: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the hub has listed the files to download, or the job has ended."""
    task: "asyncio.Task[None] | None" = None

    def note_change(self) -> None:
        """Notify waiters of progress or the end of the job."""
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    @property
    def bytes_per_second(self) -> float:
        """Mean rate since the job began."""
        elapsed = time.monotonic() - self.began
        return (self.downloaded - self.present) / elapsed if self.began and elapsed else 0.0

    @property
    def estimated_completion(self) -> datetime | None:
        """Estimated time of completion at the current mean rate."""
        speed = self.bytes_per_second
        if self.status != "downloading" or self.total is None or speed <= 0:
            return None
        return datetime.now(UTC) + timedelta(seconds=(self.total - self.downloaded) / speed)

    @property
    def words(self) -> str:
        """Progress as a phrase for messages."""
        if self.total is None:
            return "waiting for the hub's list of files"
        return f"{readable_bytes(self.downloaded)} of {readable_bytes(self.total)} downloaded"


class Downloads:
    """Download jobs of one cache. Used on the event loop only."""

    def __init__(self, cache: Path, on_end: Callable[[Job], None] = lambda _job: None) -> None:
        """Download into `cache`, a Hugging Face cache."""
        self._cache = cache
        self._on_end = on_end
        self._jobs: dict[str, Job] = {}

    def begin(self, ref: ModelRef) -> Job:
        """Return the model's running download, or start one."""
        for job in self._jobs.values():
            if job.ref == ref and job.status == "downloading":
                return job
        job = Job(ref)
        self._jobs[job.id] = job
        job.task = asyncio.create_task(self._run(job))
        ended = [one for one in self._jobs.values() if one.status != "downloading"]
        for one in ended[: max(0, len(ended) - KEPT_JOBS)]:
            del self._jobs[one.id]
        return job

    def is_fetching(self, model: str) -> bool:
        """True if any revision of the model is being downloaded."""
        jobs = self._jobs.values()
        return any(j.ref.model == model and j.status == "downloading" for j in jobs)

    def missing(self, ref: ModelRef) -> Problem:
        """Download a model that is not on disk; return its progress, or the last attempt's error.

        A failure is reported once, if a record waited for it; the next call tries again.
        """
        last = self.ended(ref)
        if last is not None and last.awaited and not last.reported:
            last.reported = True
            message = f"{ref.model} was downloaded into {self._cache} but is not found there"
            return last.problem or Problem(Reason.DOWNLOAD_FAILED, message, permanent=False)
        job = self.begin(ref)
        job.awaited = True
        return Problem(Reason.DOWNLOADING, job.words, permanent=False)

    def note_found(self, ref: ModelRef) -> None:
        """Note that a model is on disk: its last download has nothing to report if it goes."""
        last = self.ended(ref)
        if last is not None:
            last.reported = True

    def ended(self, ref: ModelRef) -> Job | None:
        """The last download of a model; None if there is none or it has not ended."""
        last = next((job for job in reversed(self._jobs.values()) if job.ref == ref), None)
        return last if last is not None and last.status != "downloading" else None

    def job(self, id_: str) -> Job | None:
        """Look up a running or kept job."""
        return self._jobs.get(id_)

    def jobs(self) -> list[Job]:
        """Running and kept jobs, oldest first."""
        return list(self._jobs.values())

    @property
    def cache(self) -> Path:
        """Directory of the cache."""
        return self._cache

    async def cancel(self, job: Job) -> None:
        """Cancel a running download; return when it has ended."""
        if job.task is None or job.task.done():
            return
        job.cancelled = True
        job.task.cancel()
        await asyncio.gather(job.task, return_exceptions=True)

    async def close(self) -> None:
        """Cancel running downloads. The next attempt resumes them."""
        tasks = [job.task for job in self._jobs.values() if job.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, job: Job) -> None:
        log.info("download begins", model=job.ref.model, revision=job.ref.revision)
        try:
            process = await asyncio.create_subprocess_exec(
                *children.python("reconciler.models.fetch", str(self._cache)),
                *(job.ref.model, job.ref.revision or MAIN),
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,
                start_new_session=True,
                env=children.for_fetch(os.environ),
            )
            try:
                await self._listen(job, process)
            finally:
                if process.stdin is not None:
                    process.stdin.close()
                await process.wait()
            if job.status == "downloading":
                self._fail(job, "died", f"the download ended with exit code {process.returncode}")
        except OSError as error:
            self._fail(job, "died", f"the download could not be started: {error}")
        finally:
            if job.status == "downloading":
                why = "the download was cancelled" if job.cancelled else "the daemon is stopping"
                self._fail(job, "died", f"{why}; the next download resumes this one")
            job.known.set()
            job.note_change()
        log.info("download ended", model=job.ref.model, status=job.status)
        self._on_end(job)

    async def _listen(self, job: Job, process: Process) -> None:
        decoder = msgspec.json.Decoder(_Line)
        while process.stdout is not None and (line := await process.stdout.readline()):
            step = decoder.decode(line)
            if step.total is not None:
                job.total, job.present, job.downloaded = step.total, step.present, step.present
                job.began = time.monotonic()
                if step.missing:
                    job.known.set()
            elif step.downloaded is not None:
                job.downloaded = step.downloaded
            elif step.done is not None:
                fetched = job.downloaded > job.present or job.known.is_set()
                job.status = "completed" if fetched else "already_downloaded"
                job.completed_at = datetime.now(UTC)
            elif step.error is not None:
                self._fail(job, step.error, step.message)
            job.note_change()

    @staticmethod
    def _fail(job: Job, code: str, message: str) -> None:
        reason = REASONS.get(code, Reason.DOWNLOAD_FAILED)
        job.status = "failed"
        job.unreachable = code in UNREACHABLE
        job.completed_at = datetime.now(UTC)
        job.problem = Problem(reason, message, permanent=False, param="model")
