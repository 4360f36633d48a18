"""The error that crosses package boundaries, and the problem that it carries.

Everything reported to a user about a failed load is a `Problem`; `LoadError` carries it up to the
caller.
"""

import traceback
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath
from typing import Self


class Reason(StrEnum):
    """Machine-readable `reason` of conditions, and of HTTP errors that have one."""

    MODEL_NOT_FOUND = "ModelNotFound"
    MODEL_GATED = "ModelGated"
    REVISION_NOT_FOUND = "RevisionNotFound"
    AMBIGUOUS_MODEL = "AmbiguousModel"
    INVALID_CHECKPOINT = "InvalidCheckpoint"
    ADAPTER_NOT_FOUND = "AdapterNotFound"
    INVALID_ADAPTER = "InvalidAdapter"
    DRAFT_MODEL_NOT_FOUND = "DraftModelNotFound"
    INVALID_DRAFT_MODEL = "InvalidDraftModel"
    IMPOSSIBLE_SETTING = "ImpossibleSetting"
    INSUFFICIENT_MEMORY = "InsufficientMemory"
    LOAD_FAILED = "LoadFailed"
    SETTING_MISMATCH = "SettingMismatch"
    WORKER_DIED = "WorkerDied"
    WORKER_KILLED = "WorkerKilled"
    WORKER_HUNG = "WorkerHung"
    GENERATION_DIED = "GenerationDied"
    DOWNLOADING = "Downloading"
    OFFLINE = "Offline"
    DOWNLOAD_FAILED = "DownloadFailed"
    HASH_MISMATCH = "HashMismatch"
    INSUFFICIENT_DISK_SPACE = "InsufficientDiskSpace"
    UNKNOWN_JOB = "UnknownJob"
    ENGINE_UNAVAILABLE = "EngineUnavailable"
    MODEL_IN_USE = "ModelInUse"
    NOT_REMOVABLE = "NotRemovable"
    MANAGED_BY_MANIFEST = "ManagedByManifest"
    NOT_LOADED = "NotLoaded"
    NOT_READY = "NotReady"
    UNKNOWN_INSTANCE = "UnknownInstance"
    NOT_SELECTED = "NotSelected"
    UNKNOWN_SOURCE = "UnknownSource"
    NOTHING_HELD = "NothingHeld"
    REMOVED = "Removed"
    SUSPENDED = "Suspended"
    STOPPING = "Stopping"
    SUSPECTED_HOST_CRASH = "SuspectedHostCrash"
    STATE_UNWRITABLE = "StateUnwritable"
    INTERNAL_ERROR = "InternalError"
    QUEUED = "Queued"
    WAITING_FOR_MEMORY = "WaitingForMemory"
    BACKING_OFF = "BackingOff"
    READING_CHECKPOINT = "ReadingCheckpoint"
    IDLE = "Idle"


WAITS = frozenset(
    {
        Reason.QUEUED,
        Reason.WAITING_FOR_MEMORY,
        Reason.BACKING_OFF,
        Reason.READING_CHECKPOINT,
        Reason.IDLE,
    }
)
"""Reasons of waits and of idle records: states of a record, never problems."""


DEATHS = frozenset(
    {Reason.WORKER_DIED, Reason.WORKER_KILLED, Reason.WORKER_HUNG, Reason.GENERATION_DIED}
)
"""Deaths of a worker: it crashed, was killed from outside, hung, or can no longer generate."""


@dataclass(frozen=True)
class Problem:
    """A problem, with a message that says what is wrong and what to do.

    A permanent problem lasts until the spec or the files change; any other is retried.
    `param` is the request key at fault.
    """

    reason: Reason
    message: str
    permanent: bool = True
    param: str | None = None

    @classmethod
    def of_error(cls, error: BaseException) -> Self:
        """The problem for an unexpected error, in one line with its file and line number."""
        frames = traceback.extract_tb(error.__traceback__)
        place = f" ({PurePath(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
        words = f"{type(error).__name__}: {error}"[:LONGEST_MESSAGE]
        message = f"internal error, please report it: {words}{place}"
        return cls(Reason.INTERNAL_ERROR, message, permanent=False)


LONGEST_MESSAGE = 300
"""Maximum length of an unexpected error in a message, in characters."""


class LoadError(Exception):
    """A load, update or unload that failed or was refused."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem
