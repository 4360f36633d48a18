"""Where checkpoints lie on disk.

A place lists what it holds; `catalog` matches identifiers against the lists, so no identifier
is ever joined to a path, and what a file system thinks of upper and lower case is nobody's
concern.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from reconciler.core.manifest import ManifestError, parse
from reconciler.models.files import files_below, is_directory, is_file, read_bytes
from reconciler.models.jsonfile import optional_object

WEIGHTS = ("*.safetensors", "*.gguf", "*.bin", "*.pt", "*.pth", "*.npz")
"""What makes a directory a model, loadable or not."""

MAX_CHAIN = 10
"""Links from one virtual model to the next."""

MAX_REF = 1000
MAX_YAML = 1_000_000
"""Bytes of a file that names a commit, and of one that describes a virtual model."""


@dataclass(frozen=True)
class Held:
    """A model that lies somewhere."""

    key: str
    """`PUBLISHER/NAME`, or `NAME`."""
    path: Path
    commit: str | None = None
    own_key: str | None = None
    """For a virtual model: the key of the concrete one that stands for it."""


class Place(Protocol):
    """Something that holds models."""

    root: Path

    def all(self) -> Iterator[Held]:
        """Every model, as it is when no revision is asked for. A key may stand for several."""

    def at(self, revision: str) -> Iterator[Held]:
        """Every model that is there at that commit, branch or tag."""


class Directory:
    """`PUBLISHER/NAME` or `NAME`, as directories. Links that the user placed are followed."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def all(self) -> Iterator[Held]:
        for path in _folders(self.root):
            if _is_model(path):
                yield Held(path.name, path)
                continue
            for inner in _folders(path):
                if _is_model(inner):
                    yield Held(f"{path.name}/{inner.name}", inner)

    def at(self, revision: str) -> Iterator[Held]:  # noqa: ARG002  no revisions here
        return iter(())


class HubCache:
    """`models--PUBLISHER--NAME/snapshots/COMMIT`, with branches and tags as files in `refs/`.

    The layout that huggingface_hub documents for its cache; files are links into `blobs/`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def all(self) -> Iterator[Held]:
        return self.at("main")

    def at(self, revision: str) -> Iterator[Held]:
        for repository in _folders(self.root):
            kind, *parts = repository.name.split("--", 2)
            if kind != "models" or not parts:
                continue
            refs = repository / "refs"
            named = {p.relative_to(refs).as_posix(): p for p in files_below(refs)}
            commit = _line(named[revision]) if revision in named else revision
            for snapshot in _folders(repository / "snapshots"):
                if snapshot.name == commit and _is_model(snapshot):
                    yield Held("/".join(parts), snapshot, commit)


class LMStudio:
    """LM Studio's downloads folder, and the virtual models of its catalogue.

    `settings.json` names the folder. `hub/models/PUBLISHER/NAME/model.yaml` says which concrete
    models a virtual one stands for: another model's key, or a list of repositories.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def all(self) -> Iterator[Held]:
        concrete = list(Directory(self._downloads()).all())
        yield from concrete
        bases = dict(self._bases())
        by_key = {held.key.lower(): held for held in concrete}
        for name in bases.keys() - by_key.keys():
            for key in sorted(_resolved(name, bases, by_key, MAX_CHAIN)):
                held = by_key[key]
                if any(held.path.glob("*.safetensors")):
                    yield Held(name, held.path, own_key=held.key)

    def at(self, revision: str) -> Iterator[Held]:  # noqa: ARG002  no revisions here
        return iter(())

    def _downloads(self) -> Path:
        try:
            named = Path(optional_object(self.root / "settings.json")["downloadsFolder"])
            folder = named.expanduser()
        except (KeyError, TypeError, RuntimeError):  # the last: of a user that is not there
            return self.root / "models"
        return folder if folder.is_absolute() else self.root / "models"

    def _bases(self) -> Iterator[tuple[str, list[str]]]:
        """Each virtual model with the lower-cased keys that it stands for."""
        for publisher in _folders(self.root / "hub" / "models"):
            for folder in _folders(publisher):
                try:
                    documents = parse(read_bytes(folder / "model.yaml", MAX_YAML))
                except (OSError, ValueError, ManifestError):
                    continue
                if documents and isinstance(documents[0].value, dict):
                    base = documents[0].value.get("base")
                    yield f"{publisher.name}/{folder.name}", [k.lower() for k in _keys(base)]


def _keys(base: Any) -> Iterator[str]:
    """The keys that a `base` names: itself, or each entry's own and its repositories'."""
    if isinstance(base, str):
        yield base
    for entry in base if isinstance(base, list) else []:
        if not isinstance(entry, dict):
            continue
        if isinstance(entry.get("key"), str):
            yield entry["key"]
        sources = entry.get("sources")
        for source in sources if isinstance(sources, list) else []:
            if isinstance(source, dict) and "user" in source and "repo" in source:
                yield f"{source['user']}/{source['repo']}"


def _resolved(
    name: str, bases: dict[str, list[str]], concrete: dict[str, Held], links: int
) -> set[str]:
    """The concrete keys at the end of a chain of bases."""
    virtual = {key.lower(): key for key in bases}
    found = set()
    for key in bases[name]:
        if key in concrete:
            found.add(key)
        elif key in virtual and links > 0:
            found |= _resolved(virtual[key], bases, concrete, links - 1)
    return found


def _folders(path: Path) -> Iterator[Path]:
    """The directories in a directory, by name; hidden ones are not ours.

    Neither are those whose names are no text: nobody could ask for them, and no answer could
    name them.
    """
    try:
        inner = sorted(path.iterdir())
    except (OSError, ValueError):
        return
    for folder in inner:
        if not folder.name.startswith(".") and _is_text(folder.name) and is_directory(folder):
            yield folder


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_model(path: Path) -> bool:
    return is_file(path / "config.json") or any(
        next(path.glob(pattern), None) is not None for pattern in WEIGHTS
    )


def _line(path: Path) -> str:
    try:
        return read_bytes(path, MAX_REF).decode("ascii").strip()
    except (OSError, ValueError):
        return ""
