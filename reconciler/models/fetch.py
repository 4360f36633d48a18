"""Download a model from a Hugging Face hub: `python -m reconciler.models.fetch CACHE MODEL
REVISION`.

Runs in a separate process that the daemon starts and ends, so that the daemon never imports
huggingface_hub and a hanging download affects nothing else. It reports progress as JSON lines, and
exits when its stdin is closed, which also happens when the daemon dies.

huggingface_hub handles the protocol: names, tokens, mirrors, retries, redirects. Its own downloads
start over when their process is killed, so this module writes the files itself, in the cache's
documented layout (`blobs`, `snapshots`, `refs`). Each blob first has a temporary name from which
the next attempt resumes. A snapshot is linked once all of its blobs are complete and verified.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from reconciler.host.durable import sync, write_whole

WANTED = re.compile(
    r"(model[^/]*|adapters)\.safetensors|[^/]+\.(json|jinja|txt|model|tiktoken)"
    r"|\d{1,2}_[a-z]{1,40}/(config\.json|model\.safetensors)",
    re.IGNORECASE,
)
"""Files that MLX and the tokenizers read, including LoRA adapters and the modules of
sentence-transformers in their own directories. No executable code, and no other directories."""

ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""A git blob's SHA-1, or the SHA-256 of a large file."""

REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
"""A commit, branch or tag, as in the published schemas. It becomes a file name in `refs`."""

MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")

LOCK = ".reconciler.lock"
"""File in a model's directory in the cache that a download process locks."""

ENVIRONMENT = {
    # Xet chunks cannot be resumed after a kill.
    "HF_HUB_DISABLE_XET": "1",
    # No requests to the hub other than for the model.
    "HF_HUB_DISABLE_TELEMETRY": "1",
}

METADATA_SECONDS = 20.0
"""Maximum wait for the hub's list of files. A network that drops packets would take minutes."""

REPORT_BYTES = 1_000_000
"""Minimum bytes between two progress lines."""


class FetchError(Exception):
    """The download failed; `code` is machine-readable."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Wanted:
    """One file of the model, as described by the hub."""

    name: str
    size: int
    etag: str


def main(cache: Path, model: str, revision: str) -> None:
    """Download the model and report progress; the last line has the key `done` or `error`."""
    threading.Thread(target=end_with_stdin, daemon=True).start()
    os.environ.update(ENVIRONMENT)
    try:
        _fetch(cache, model, revision)
    except FetchError as error:
        _emit(error=error.code, message=str(error))
    except Exception as error:  # noqa: BLE001  every failure is reported to the daemon
        problem = understood(error, model, revision)
        _emit(error=problem.code, message=str(problem))


def _fetch(cache: Path, model: str, revision: str) -> None:
    # Requests and manifests are validated earlier, but records of an older version may not be.
    if not MODEL.fullmatch(model):
        raise FetchError("model_not_found", f"{model!r} is not a valid model name on the hub")
    if not REVISION.fullmatch(revision):
        raise FetchError("revision_not_found", f"{revision!r} is not a valid revision name")
    from huggingface_hub import HfApi

    info = HfApi().model_info(
        model, revision=revision, files_metadata=True, timeout=METADATA_SECONDS
    )
    commit = str(info.sha)
    files = [
        Wanted(s.rfilename, s.size or 0, s.lfs.sha256 if s.lfs else str(s.blob_id))
        for s in info.siblings or ()
        if WANTED.fullmatch(s.rfilename)
    ]
    if not any(re.fullmatch(r"[^/]+\.safetensors", file.name) for file in files):
        raise FetchError("invalid_checkpoint", f"{model} has no safetensors weights for MLX")
    if not (ETAG.fullmatch(commit) and all(ETAG.fullmatch(file.etag) for file in files)):
        raise FetchError("hub_unreachable", f"the hub returned invalid metadata for {model}")
    folder = cache / f"models--{model.replace('/', '--')}"
    for directory in (folder / "blobs", folder / "snapshots" / commit):
        inside(folder, directory / "file")
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        _get(folder, model, commit, files)
        _link(folder, commit, files)
        if revision != commit:
            ref = inside(folder, folder / "refs" / revision)
            ref.parent.mkdir(parents=True, exist_ok=True)
            write_whole(ref, commit.encode("ascii"))
    _emit(done=commit)


def inside(folder: Path, path: Path) -> Path:
    """Return `path` if its real directory is inside `folder`. Raises `FetchError` otherwise."""
    if not (path.parent.resolve() / path.name).is_relative_to(folder.resolve()):
        raise FetchError("disk_error", f"{path} leads out of {folder}; refusing to write there")
    return path


def _get(folder: Path, model: str, commit: str, files: list[Wanted]) -> None:
    """Download the missing blobs."""
    blobs = folder / "blobs"
    missing = [file for file in files if not (blobs / file.etag).is_file()]
    total = sum(file.size for file in files)
    done = total - sum(file.size for file in missing)
    parts = {file.etag: blobs / f"{file.etag}.reconciler.incomplete" for file in missing}
    begun = sum(part.stat().st_size for part in parts.values() if part.is_file())
    check_space(total - done - begun, shutil.disk_usage(blobs).free)
    _emit(total=total, present=done + begun, missing=len(missing))
    for file in missing:
        part = parts[file.etag]
        _get_one(model, commit, file, part, done)
        if not matches(part, file):
            part.unlink()
            raise FetchError(
                "hash_mismatch",
                f"{file.name} does not match the hub's hash or size and was removed; try again",
            )
        part.replace(blobs / file.etag)
        done += file.size
        _emit(downloaded=done)


def _get_one(model: str, commit: str, file: Wanted, part: Path, done: int) -> None:
    """Download one file, resuming from the partial file if there is one."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    begun = part.stat().st_size if part.is_file() else 0
    if part.is_symlink() or begun > file.size:
        part.unlink()
        begun = 0
    with part.open("r+b" if begun else "wb") as stream:
        stream.seek(begun)
        http_get(
            hf_hub_url(model, file.name, revision=commit),
            stream,
            resume_size=begun,
            headers=build_hf_headers(),
            expected_size=file.size,
            tqdm_class=_counter(done + begun),
        )
        stream.flush()
        sync(stream.fileno())


def check_space(needed: int, free: int) -> None:
    """Raise `FetchError` if `needed` bytes are more than the `free` bytes of the disk."""
    if needed > free:
        from reconciler.core.memory import readable_bytes

        raise FetchError(
            "insufficient_disk_space",
            f"{readable_bytes(needed)} must be downloaded, but only {readable_bytes(free)} are "
            "free on the disk of the cache",
        )


def matches(path: Path, file: Wanted) -> bool:
    """True if the file matches its etag: the SHA-256 of its bytes, or git's SHA-1 of a blob."""
    size = path.stat().st_size
    if size != file.size:
        return False
    if len(file.etag) == hashlib.sha256().digest_size * 2:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == file.etag


def _link(folder: Path, commit: str, files: list[Wanted]) -> None:
    """Create the snapshot: links to the blobs. It appears atomically."""
    snapshot = folder / "snapshots" / commit
    building = folder / "snapshots" / f".{commit}"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    for file in files:
        link, depth = building / file.name, file.name.count("/")
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(Path(*[".."] * (2 + depth), "blobs") / file.etag)
    if snapshot.is_dir():  # created by another tool
        for file in files:
            link = snapshot / file.name
            if "/" in file.name:
                inside(folder, link.parent).mkdir(exist_ok=True)
            inside(folder, link).unlink(missing_ok=True)
            (building / file.name).rename(link)
        shutil.rmtree(building)
    else:
        building.rename(snapshot)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on the model's directory against other download processes."""
    with (folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _counter(begin: int) -> Any:
    """A replacement for huggingface_hub's progress bar class that emits progress lines."""

    class Counter:
        def __init__(self, **_: Any) -> None:
            self.count = self.reported = begin

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, count: int) -> None:
            self.count += count
            if self.count - self.reported >= REPORT_BYTES:
                self.reported = self.count
                _emit(downloaded=self.count)

    return Counter


def understood(error: Exception, model: str, revision: str) -> FetchError:
    """Convert an exception of huggingface_hub into a `FetchError`."""
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return FetchError("offline", "HF_HUB_OFFLINE is set, so the hub is not contacted")
    if isinstance(error, errors.GatedRepoError):
        return FetchError(
            "model_gated", f"{model} is gated: accept its terms on the hub, and set HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return FetchError(
            "model_not_found",
            f"the hub has no model {model}, or HF_TOKEN is missing or has no access to it",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return FetchError("revision_not_found", f"{model} has no revision {revision}")
    if isinstance(error, errors.HFValidationError):
        return FetchError("model_not_found", f"{model} is not a valid model name on the hub")
    if isinstance(error, OSError) and error.errno is not None:
        return FetchError("disk_error", f"the cache cannot be written: {error}")
    words = f"{type(error).__name__}: {error}".splitlines()[0]
    return FetchError("hub_unreachable", f"the hub cannot be reached: {words}")


def _emit(**line: Any) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def end_with_stdin(end: Callable[[int], None] = os._exit) -> None:
    # Unbuffered: the lock of a buffered stream would block Python's shutdown.
    while os.read(sys.stdin.fileno(), 1):
        pass
    end(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
