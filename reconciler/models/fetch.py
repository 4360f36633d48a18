"""Fetch a model from a Hugging Face hub: `python -m reconciler.models.fetch CACHE MODEL REVISION`.

A process of its own, which the daemon starts and ends: huggingface_hub stays out of the daemon, and
a download that hangs harms nobody. It tells how far it is as JSON lines, and ends when its stdin is
closed, as it is when the daemon dies.

huggingface_hub does the talking: names, tokens, mirrors, retries, redirections. Its own downloads
begin anew when their process is killed, so the files are written here: into the cache's documented
layout (`blobs`, `snapshots`, `refs`), each blob first under a name of ours that the next attempt
goes on with. A snapshot is linked once all of its blobs are there and verified.
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
"""What MLX and the tokenizers read, LoRA adapters included, and sentence-transformers' modules, in
folders of their own. Nothing that could run, and nothing in other folders."""

ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""A git blob's SHA-1, or the SHA-256 of a large file."""

REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
"""A commit, branch or tag, as the published schemas have it: it names a file in `refs`."""

MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")

ENVIRONMENT = {
    # Its chunks are not resumed after a kill.
    "HF_HUB_DISABLE_XET": "1",
    # Nothing is asked of the hub but the model.
    "HF_HUB_DISABLE_TELEMETRY": "1",
}

REPORT_BYTES = 1_000_000
"""At least so many between two lines."""


class FetchError(Exception):
    """Why it cannot be fetched; `code` is for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Wanted:
    """One file of the model, as the hub says it is."""

    name: str
    size: int
    etag: str


def main(cache: Path, model: str, revision: str) -> None:
    """Fetch, and tell; the last line is `done` or `error`."""
    threading.Thread(target=end_with_stdin, daemon=True).start()
    os.environ.update(ENVIRONMENT)
    try:
        _fetch(cache, model, revision)
    except FetchError as error:
        _emit(error=error.code, message=str(error))
    except Exception as error:  # noqa: BLE001  whatever it is, the daemon is told
        problem = understood(error, model, revision)
        _emit(error=problem.code, message=str(problem))


def _fetch(cache: Path, model: str, revision: str) -> None:
    # Requests and manifests are checked before; a record of an older version may not have been.
    if not MODEL.fullmatch(model):
        raise FetchError("model_not_found", f"{model!r} is not a name as the hub has them")
    if not REVISION.fullmatch(revision):
        raise FetchError("revision_not_found", f"{revision!r} is not the name of a revision")
    from huggingface_hub import HfApi

    info = HfApi().model_info(model, revision=revision, files_metadata=True)
    commit = str(info.sha)
    files = [
        Wanted(s.rfilename, s.size or 0, s.lfs.sha256 if s.lfs else str(s.blob_id))
        for s in info.siblings or ()
        if WANTED.fullmatch(s.rfilename)
    ]
    if not any(re.fullmatch(r"[^/]+\.safetensors", file.name) for file in files):
        raise FetchError("invalid_checkpoint", f"{model} has no model*.safetensors for MLX")
    if not (ETAG.fullmatch(commit) and all(ETAG.fullmatch(file.etag) for file in files)):
        raise FetchError("hub_unreachable", f"the hub's description of {model} makes no sense")
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
    """The path, if its directory lies in `folder` when links are followed, else `FetchError`."""
    if not (path.parent.resolve() / path.name).is_relative_to(folder.resolve()):
        raise FetchError("disk_error", f"{path} leads out of {folder}; nothing is written there")
    return path


def _get(folder: Path, model: str, commit: str, files: list[Wanted]) -> None:
    """Get the blobs that are missing."""
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
                f"{file.name} is not what the hub said it would be, and was removed; try again",
            )
        part.replace(blobs / file.etag)
        done += file.size
        _emit(downloaded=done)


def _get_one(model: str, commit: str, file: Wanted, part: Path, done: int) -> None:
    """Get a file, or the rest of it."""
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
    """Raises `FetchError` where a disk has not `needed` bytes left."""
    if needed > free:
        from reconciler.core.memory import readable_bytes

        raise FetchError(
            "insufficient_disk_space",
            f"{readable_bytes(needed)} are to be fetched and {readable_bytes(free)} are free on "
            "the disk of the cache",
        )


def matches(path: Path, file: Wanted) -> bool:
    """Whether a file is what its etag says: the SHA-256 of its bytes, or git's SHA-1 of a blob."""
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
    """The snapshot: names that lead to blobs. It appears as a whole."""
    snapshot = folder / "snapshots" / commit
    building = folder / "snapshots" / f".{commit}"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    for file in files:
        link, depth = building / file.name, file.name.count("/")
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(Path(*[".."] * (2 + depth), "blobs") / file.etag)
    if snapshot.is_dir():  # begun by another tool
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
    """Keep other processes of ours away from a model."""
    with (folder / ".reconciler.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _counter(begin: int) -> Any:
    """What huggingface_hub takes for its progress bar, and which tells instead of drawing."""

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
    """What huggingface_hub raised, in our words."""
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return FetchError("offline", "HF_HUB_OFFLINE is set: nothing is fetched")
    if isinstance(error, errors.GatedRepoError):
        return FetchError(
            "model_gated", f"{model} is gated: accept its terms on the hub, and set HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return FetchError(
            "model_not_found",
            f"the hub has no {model}, or shows it only to those whose HF_TOKEN may see it",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return FetchError("revision_not_found", f"{model} has no revision {revision}")
    if isinstance(error, errors.HFValidationError):
        return FetchError("model_not_found", f"{model} is not a name as the hub has them")
    if isinstance(error, OSError) and error.errno is not None:
        return FetchError("disk_error", f"the cache cannot be written: {error}")
    words = f"{type(error).__name__}: {error}".splitlines()[0]
    return FetchError("hub_unreachable", f"the hub cannot be reached: {words}")


def _emit(**line: Any) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def end_with_stdin(end: Callable[[int], None] = os._exit) -> None:
    # Not through a buffer, which would be locked when Python ends.
    while os.read(sys.stdin.fileno(), 1):
        pass
    end(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
