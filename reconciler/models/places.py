"""Where checkpoints lie on disk: plain model directories, and the Hugging Face cache."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol


class Place(Protocol):
    """Something that holds checkpoints by identifier."""

    root: Path

    def find(self, parts: tuple[str, ...]) -> Path | None:
        """The checkpoint whose identifier has these parts, none of which can climb."""

    def all(self) -> Iterator[tuple[str, Path]]:
        """Every identifier with its checkpoint."""


class Directory:
    """`PUBLISHER/NAME` or `NAME`, as directories."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, parts: tuple[str, ...]) -> Path | None:
        path = self.root.joinpath(*parts)
        return path if (path / "config.json").is_file() else None

    def all(self) -> Iterator[tuple[str, Path]]:
        for pattern in ("*/config.json", "*/*/config.json"):
            for config in self.root.glob(pattern):
                yield config.parent.relative_to(self.root).as_posix(), config.parent


class HubCache:
    """`models--PUBLISHER--NAME/snapshots/COMMIT`, with the commit in `refs/main`.

    The layout that huggingface_hub documents for its cache; files are links into `blobs/`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, parts: tuple[str, ...]) -> Path | None:
        return self._snapshot(self.root / "--".join(("models", *parts)))

    def all(self) -> Iterator[tuple[str, Path]]:
        for repository in self.root.glob("models--*"):
            snapshot = self._snapshot(repository)
            if snapshot is not None:
                _, *parts = repository.name.split("--", 2)
                yield "/".join(parts), snapshot

    def _snapshot(self, repository: Path) -> Path | None:
        try:
            commit = (repository / "refs" / "main").read_text("ascii").strip()
        except (OSError, ValueError):
            return None
        if not commit.isalnum():
            return None
        path = repository / "snapshots" / commit
        return path if (path / "config.json").is_file() else None
