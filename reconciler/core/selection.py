"""The documents of a snapshot by name, and which of them a node follows.

A snapshot is mostly the one before. What was made of that one is handed in, and only names that
stand in files which differ are looked at again; from nothing, that is all of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.core.difference import difference
from reconciler.core.selector import unmet
from reconciler.core.snapshot import Declared, ManifestFile, Snapshot

SHOWN_NAMES = 20
"""In a message."""

Placed = tuple[ManifestFile, Declared]
"""A document, and the file that it stands in."""


@dataclass(frozen=True)
class Selection:
    """What the documents of a snapshot say to a node with these labels."""

    labels: Mapping[str, str]
    files: tuple[ManifestFile, ...] = ()
    places: Mapping[str, tuple[Placed, ...]] = field(default_factory=dict)
    """All documents by name, in the order of the files."""
    followed: Mapping[str, Placed] = field(default_factory=dict)
    flagged: Mapping[str, str] = field(default_factory=dict)
    """Why names that stand twice are not followed. One may stand twice for different nodes."""
    not_selected: Mapping[str, str] = field(default_factory=dict)
    """Why names are not meant for this node."""
    changed: tuple[str, ...] = ()
    """Names whose documents may differ from those of the selection that this one was made from."""


@dataclass(frozen=True)
class Ahead:
    """The selection of a snapshot, made before the snapshot is taken up."""

    before: Selection | None
    selection: Selection

    def of(self, before: Selection | None) -> Selection | None:
        """The selection, if `before` is still what it was made from."""
        return self.selection if before is self.before else None


def select(
    snapshot: Snapshot, labels: Mapping[str, str], before: Selection | None = None
) -> Selection:
    """Sort the documents of a snapshot. `before` is what was made of another one, or None."""
    files = snapshot.files
    forgotten: Iterable[str] = ()
    if before is None or before.labels != labels:
        forgotten = before.places if before is not None else ()
        before = Selection(labels)
    gone, come = difference(before.files, files)
    changed = _changed_places(before.places, gone, come)
    places = dict(before.places)
    followed, flagged = dict(before.followed), dict(before.flagged)
    not_selected = dict(before.not_selected)
    crowded = any(len(where) > 1 for where in changed.values())
    order = {id(file): number for number, file in enumerate(files)} if crowded else {}
    for name, where in changed.items():
        places.pop(name, None)
        followed.pop(name, None)
        flagged.pop(name, None)
        not_selected.pop(name, None)
        if not where:
            continue
        if len(where) > 1:
            where.sort(key=lambda placed: order[id(placed[0])])
        places[name] = tuple(where)
        mine = [placed for placed in where if _unmet(placed, labels) is None]
        if len(mine) > 1:
            flagged[name] = _twice(mine)
        elif mine:
            followed[name] = mine[0]
        else:
            file, document = where[-1]
            why = _unmet(where[-1], labels)
            not_selected[name] = f"{file.path}:{document.line}: {why}"
    names = tuple(dict.fromkeys((*changed, *forgotten)))
    return Selection(labels, files, places, followed, flagged, not_selected, names)


def duplicates(files: Sequence[ManifestFile]) -> dict[str, str]:
    """Why names stand twice, whatever the labels of a node: two documents with the same selector,
    or one that is for every node beside another one.
    """
    places = _changed_places({}, (), files)
    found = {}
    for name, where in places.items():
        selectors = [document.spec.node_selector for _, document in where]
        if len(where) > 1 and (() in selectors or len(set(selectors)) < len(selectors)):
            found[name] = _twice(where)
    return found


def _changed_places(
    before: Mapping[str, Sequence[Placed]],
    gone: Iterable[ManifestFile],
    come: Iterable[ManifestFile],
) -> dict[str, list[Placed]]:
    """The documents by name, of all names that stand in files that went or came."""
    changed: dict[str, list[Placed]] = {}
    for file in (*gone, *come):
        for document in file.declared:
            if document.name not in changed:
                changed[document.name] = list(before.get(document.name, ()))
    for file in gone:
        for document in file.declared:
            where = changed[document.name]
            del where[next(i for i, (known, _) in enumerate(where) if known is file)]
    for file in come:
        for document in file.declared:
            changed[document.name].append((file, document))
    return changed


def _unmet(placed: Placed, labels: Mapping[str, str]) -> str | None:
    selector = placed[1].spec.node_selector
    return unmet(selector, labels) if selector else None


def _twice(where: Sequence[Placed]) -> str:
    places = [f"{file.path}:{document.line}" for file, document in where[:SHOWN_NAMES]]
    more = ", ..." if len(where) > SHOWN_NAMES else ""
    return f"declared more than once: {', '.join(places)}{more}"
