"""Model roots: the directories that hold checkpoints.

A root lists its models, and `catalog` matches identifiers against these lists. No identifier is
ever joined to a path, so the file system's handling of upper and lower case does not matter. Every
directory is read through a `Looker`: a directory that hangs or is not accessible is listed with its
error, and its siblings are listed normally.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from reconciler.core.errors import LoadError
from reconciler.core.manifest import ManifestError, parse
from reconciler.host.names import unfit_name
from reconciler.models.files import (
    error_of,
    files_below,
    is_directory,
    names_in,
    read_bytes,
)
from reconciler.models.jsonfile import lenient_object
from reconciler.models.looker import Looker

T = TypeVar("T")

WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".npz")
"""File name extensions that mark a directory as a model, loadable or not."""

MAX_REF = 1000
MAX_YAML = 1_000_000
"""Maximum sizes (bytes) of a ref file, which names a commit, and of a virtual model's YAML file."""


@dataclass(frozen=True)
class LocalModel:
    """A model found on disk."""

    key: str
    """`PUBLISHER/NAME`, or `NAME`."""
    path: Path
    """Absolute path with links resolved."""
    commit: str | None = None
    own_key: str | None = None
    """Key of the concrete model, if this one is virtual."""
    error: LoadError | None = None
    """Error that prevents reading it, which may be a folder of models. If `key` is empty, `path` is
    the model root itself."""
    mlx: bool = True
    """True if it has weights that MLX may read."""
    siblings: tuple[Path, ...] = ()
    """Snapshots of the same model in the Hugging Face cache, this one included."""


@dataclass(frozen=True)
class Walk:
    """One scan of the model roots, and the settings for its calls on paths."""

    looker: Looker
    seconds: float
    """Timeout of a call, in seconds."""
    repositories: dict[Path, list["LocalModel | _Repository"]] = field(default_factory=dict)
    """Contents of Hugging Face caches by directory. Each is read once, for any number of requested
    revisions."""

    def results(
        self, function: Callable[[Path], T], paths: Sequence[Path]
    ) -> list[T | BaseException]:
        """Call `function` on each path; return the results or exceptions in the same order."""
        return self.looker.each(function, paths, self.seconds)

    def each(
        self, function: Callable[[Path], T], paths: Sequence[Path]
    ) -> Iterator[tuple[Path, T | LoadError]]:
        """Call `function` on each path; yield the path with its result or error.

        Paths that vanish during the scan, or are no directories, are skipped.
        """
        for path, result in zip(paths, self.results(function, paths), strict=True):
            if isinstance(result, FileNotFoundError | NotADirectoryError):
                continue
            if isinstance(result, BaseException):
                yield path, error_of(result, path)
            else:
                yield path, result


class ModelRoot(Protocol):
    """A directory that holds models, in the layout of one tool."""

    root: Path

    def all(self, walk: Walk) -> Iterable[LocalModel]:
        """Every model at its default revision. Several models may share a key."""

    def at(self, revision: str, walk: Walk) -> Iterable[LocalModel]:
        """Every model that has a snapshot at that commit, branch or tag."""


@dataclass(frozen=True)
class _Folder:
    """A directory and its classification."""

    path: Path
    """Absolute path with links resolved."""
    is_model: bool
    mlx: bool
    inner: tuple[Path, ...]
    """Entries that may be directories, sorted by name."""


class Directory:
    """A tree of `PUBLISHER/NAME` or `NAME` directories. Symbolic links are followed."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def all(self, walk: Walk) -> Iterator[LocalModel]:
        for root, names in walk.each(_folders, [self.root]):
            if isinstance(names, LoadError):
                yield LocalModel("", root, error=names)
                continue
            publishers = []
            for path, folder in walk.each(_folder, names):
                if not isinstance(folder, LoadError) and not folder.is_model:
                    publishers += [(f"{path.name}/{p.name}", p) for p in folder.inner]
                else:
                    yield _held(path.name, path, folder)
            keys = {path: key for key, path in publishers}
            for path, folder in walk.each(_folder, list(keys)):
                if isinstance(folder, LoadError) or folder.is_model:
                    yield _held(keys[path], path, folder)

    def at(self, revision: str, walk: Walk) -> Iterator[LocalModel]:  # noqa: ARG002  no revisions here
        return iter(())


class HubCache:
    """A Hugging Face cache: `models--PUBLISHER--NAME/snapshots/COMMIT`, with refs in `refs/`.

    huggingface_hub documents this layout for its cache. Files are links into `blobs/`, and each
    branch or tag is a file in `refs/`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def all(self, walk: Walk) -> Iterator[LocalModel]:
        return self.at("main", walk)

    def at(self, revision: str, walk: Walk) -> Iterator[LocalModel]:
        if self.root not in walk.repositories:
            walk.repositories[self.root] = list(self._repositories(walk))
        known = walk.repositories[self.root]
        yield from (one for one in known if isinstance(one, LocalModel))
        having = {
            one.path: one for one in known if isinstance(one, _Repository) and one.has(revision)
        }

        def snapshot(path: Path) -> LocalModel | None:
            return _snapshot(having[path], revision)

        for path, held in walk.each(snapshot, list(having)):
            if isinstance(held, LoadError):
                yield LocalModel(repository_key(path), path, error=held)
            elif held is not None:
                yield held

    def _repositories(self, walk: Walk) -> Iterator["LocalModel | _Repository"]:
        """The cached models. An unreadable one is yielded with its error."""
        for root, names in walk.each(_folders, [self.root]):
            if isinstance(names, LoadError):
                yield LocalModel("", root, error=names)
                continue
            paths = [path for path in names if repository_key(path)]
            for path, found in walk.each(_repository, paths):
                if isinstance(found, LoadError):
                    yield LocalModel(repository_key(path), path, error=found)
                else:
                    yield found


@dataclass(frozen=True)
class _Repository:
    """A model's directory in the cache."""

    path: Path
    refs: Mapping[str, Path]
    """Files of branches and tags, by name."""
    snapshots: tuple[Path, ...]

    def has(self, revision: str) -> bool:
        """True if there may be a snapshot at that commit, branch or tag."""
        return revision in self.refs or any(path.name == revision for path in self.snapshots)


def repository_key(path: Path) -> str:
    """Key of the model that the directory belongs to; empty for any other directory."""
    kind, *parts = path.name.split("--", 2)
    return "/".join(parts) if kind == "models" else ""


def _repository(path: Path) -> _Repository:
    """Read a model's directory in the cache.

    Raises OSError or ValueError; FileNotFoundError if it has no snapshots.
    """
    refs = path / "refs"
    named = {p.relative_to(refs).as_posix(): p for p in files_below(refs)}
    return _Repository(path, named, _folders(path / "snapshots"))


def _snapshot(repository: _Repository, revision: str) -> LocalModel | None:
    commit = _line(repository.refs[revision]) if revision in repository.refs else revision
    for path in repository.snapshots:
        if path.name == commit and is_directory(path):
            folder = _folder(path)
            if folder.is_model:
                key = repository_key(repository.path)
                siblings = repository.snapshots
                return LocalModel(key, folder.path, commit, mlx=folder.mlx, siblings=siblings)
    return None


class LMStudio:
    """LM Studio's downloads folder, and the virtual models of its catalog.

    `settings.json` names the folder. `hub/models/PUBLISHER/NAME/model.yaml` names the concrete
    models of a virtual one: the key of another model, or a list of repositories.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def all(self, walk: Walk) -> Iterator[LocalModel]:
        concrete: list[LocalModel] = []
        for root, downloads in walk.each(_downloads, [self.root]):
            if isinstance(downloads, LoadError):
                yield LocalModel("", root, error=downloads)
                return
            concrete = list(Directory(downloads).all(walk))
        yield from concrete
        bases = dict(self._bases(walk))
        by_key = {held.key.lower(): held for held in concrete if held.error is None}
        for name in sorted(bases):
            if name.lower() in by_key:
                continue
            for key in sorted(_resolved(name, bases, by_key)):
                if by_key[key].mlx:
                    yield replace(by_key[key], key=name, own_key=by_key[key].key)

    def at(self, revision: str, walk: Walk) -> Iterator[LocalModel]:  # noqa: ARG002  no revisions here
        return iter(())

    def _bases(self, walk: Walk) -> Iterator[tuple[str, list[str]]]:
        """Virtual models, each with the lower-cased keys of its bases.

        Unreadable directories are skipped.
        """
        for _, publishers in walk.each(_folders, [self.root / "hub" / "models"]):
            folders: list[Path] = []
            for _, inner in walk.each(_folders, _known(publishers)):
                folders += _known(inner)
            for path, base in walk.each(_base, folders):
                if isinstance(base, list):
                    yield f"{path.parent.name}/{path.name}", base


def _known(paths: Iterable[Path] | LoadError) -> list[Path]:
    return [] if isinstance(paths, LoadError) else list(paths)


def _downloads(root: Path) -> Path:
    try:
        named = Path(lenient_object(root / "settings.json")["downloadsFolder"])
        folder = named.expanduser()
    except (KeyError, TypeError, RuntimeError):  # RuntimeError: `~NAME` of an unknown user
        return root / "models"
    return folder if folder.is_absolute() else root / "models"


def _base(folder: Path) -> list[str] | None:
    """Lower-cased keys of a virtual model's bases; None if its YAML file cannot be read."""
    try:
        documents = parse(read_bytes(folder / "model.yaml", MAX_YAML))
    except (OSError, ValueError, ManifestError):
        return None
    if not documents or not isinstance(documents[0].value, dict):
        return None
    return [key.lower() for key in _keys(documents[0].value.get("base"))]


def _keys(base: Any) -> Iterator[str]:
    """Keys in a `base`: the string itself, or for each entry its key and its repositories."""
    if isinstance(base, str):
        yield base
    for entry in base if isinstance(base, list) else []:
        if not isinstance(entry, dict):
            continue
        if isinstance(entry.get("key"), str):
            yield entry["key"]
        sources = entry.get("sources")
        for source in sources if isinstance(sources, list) else []:
            if isinstance(source, dict):
                user, repository = source.get("user"), source.get("repo")
                if isinstance(user, str) and isinstance(repository, str):
                    yield f"{user}/{repository}"


def _resolved(name: str, bases: dict[str, list[str]], concrete: dict[str, LocalModel]) -> set[str]:
    """Concrete keys reachable through chains of bases. A cycle has none."""
    virtual = {key.lower(): key for key in bases}
    found: set[str] = set()
    seen, ahead = {name}, [name]
    while ahead:
        for key in bases[ahead.pop()]:
            if key in concrete:
                found.add(key)
            elif key in virtual and virtual[key] not in seen:
                seen.add(virtual[key])
                ahead.append(virtual[key])
    return found


def _held(key: str, path: Path, folder: _Folder | LoadError) -> LocalModel:
    if isinstance(folder, LoadError):
        return LocalModel(key, path, error=folder)
    return LocalModel(key, folder.path, mlx=folder.mlx)


def _folders(path: Path) -> tuple[Path, ...]:
    """Entries of a directory that may be directories, sorted by name. Hidden ones are skipped.

    Names that are not valid text are skipped too: no request can name them, and no response can
    contain them. Raises OSError or ValueError.
    """
    return tuple(
        path / name
        for name in names_in(path)
        if not name.startswith(".") and unfit_name(name) is None
    )


def _folder(path: Path) -> _Folder:
    """Classify a directory. Raises OSError or ValueError; NotADirectoryError if it is none."""
    names = names_in(path)
    mlx = any(name.endswith(WEIGHTS[0]) for name in names)
    is_model = "config.json" in names or any(name.endswith(WEIGHTS) for name in names)
    inner = () if is_model else _folders(path)
    return _Folder(Path(os.path.realpath(path)), is_model, mlx, inner)


def _line(path: Path) -> str:
    try:
        return read_bytes(path, MAX_REF).decode("ascii").strip()
    except (OSError, ValueError):
        return ""
