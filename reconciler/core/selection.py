"""Documents of a snapshot by name, and the ones that a node follows.

Most of a snapshot is unchanged from the previous one. The previous selection is passed in, and only
names in files that differ are processed again; without one, all names are.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.core.difference import difference
from reconciler.core.selector import unmet
from reconciler.core.snapshot import Declared, ManifestFile, Snapshot

SHOWN_NAMES = 20
"""Maximum number of names in a message."""

Placed = tuple[ManifestFile, Declared]
"""A document with its file."""


@dataclass(frozen=True)
class Selection:
    """The documents of a snapshot, selected for a node with these labels."""

    labels: Mapping[str, str]
    files: tuple[ManifestFile, ...] = ()
    places: Mapping[str, tuple[Placed, ...]] = field(default_factory=dict)
    """Documents by name, in the order of the files."""
    followed: Mapping[str, Placed] = field(default_factory=dict)
    flagged: Mapping[str, str] = field(default_factory=dict)
    """Names declared more than once for this node and so not followed, with the reason."""
    not_selected: Mapping[str, str] = field(default_factory=dict)
    """Names declared for other nodes only, with the reason."""
    changed: tuple[str, ...] = ()
    """Names whose documents may differ from those in the previous selection."""


@dataclass(frozen=True)
class Ahead:
    """The selection of a snapshot, computed before the snapshot is absorbed."""

    before: Selection | None
    selection: Selection

    def of(self, before: Selection | None) -> Selection | None:
        """The selection, if it was computed from `before`; else None."""
        return self.selection if before is self.before else None


def select(
    snapshot: Snapshot, labels: Mapping[str, str], before: Selection | None = None
) -> Selection:
    """Select the documents of a snapshot. `before` is the selection of another one, or None."""
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
    """Names declared more than once regardless of a node's labels, with the reason: two documents
    have the same selector, or one of several has no selector.
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
    """Documents by name, for all names in files that were removed or added."""
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
