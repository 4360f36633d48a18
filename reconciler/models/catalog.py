"""Identifier (`publisher/name` or `name`) -> a checkpoint, among those that the places list."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reconciler.core.errors import Cause, LoadError, Problem
from reconciler.core.facts import Checkpoint
from reconciler.core.records import ModelRef
from reconciler.models.adapter import base_of, is_adapter, read_adapter
from reconciler.models.checkpoint import fingerprint, read_facts
from reconciler.models.files import is_directory
from reconciler.models.places import Held, Place

MAX_SNAPSHOTS = 20
"""Of one model in the Hugging Face cache that are looked at when another cannot be loaded."""


@dataclass(frozen=True)
class Listed:
    """A model that is there: its identifier, and its facts or why it cannot be loaded."""

    key: str
    facts: Checkpoint | Problem


class Catalog:
    """The checkpoints in some places. Blocking: call it off the event loop."""

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = tuple(places)
        self._read: dict[str, Checkpoint] = {}
        """What was read of each directory, good for as long as its files stay as they are."""

    def find(self, ref: ModelRef) -> Checkpoint:
        """The checkpoint that `ref` names.

        Raises `LoadError`: `ModelNotFound`, `AmbiguousModel` naming the candidates,
        `InvalidCheckpoint` for one that cannot load; `AdapterNotFound`, `InvalidAdapter`.
        """
        places = self._held(ref.revision)
        return self._with_adapter(ref, self._facts(self._match(ref, places)))

    def find_all(self, refs: Iterable[ModelRef]) -> Mapping[ModelRef, Checkpoint | Problem]:
        """`find` for many, with one look at the places."""
        looks: dict[str | None, list[list[Held]]] = {}
        found: dict[ModelRef, Checkpoint | Problem] = {}
        for ref in refs:
            if ref.revision not in looks:
                looks[ref.revision] = self._held(ref.revision)
            try:
                facts = self._facts(self._match(ref, looks[ref.revision]))
                found[ref] = self._with_adapter(ref, facts)
            except LoadError as error:
                found[ref] = error.problem
        return found

    def listed(self) -> tuple[Listed, ...]:
        """Every model that is there, by identifier; the first place that holds it wins.

        A virtual model that several variants could stand for is listed by those alone.
        """
        found: dict[str, Held] = {}
        for place in self._held(None):
            keys = [held.key for held in place]
            for held in place:
                if held.key not in found and keys.count(held.key) == 1:
                    found[held.key] = held
        return tuple(Listed(key, self._facts_or_problem(found[key])) for key in sorted(found))

    def _with_adapter(self, ref: ModelRef, checkpoint: Checkpoint) -> Checkpoint:
        if ref.adapter is None:
            return checkpoint
        return replace(checkpoint, adapter=read_adapter(self._adapter(ref.adapter)))

    def _adapter(self, name: str) -> Path:
        """The directory that an absolute path or an identifier names."""
        if name.startswith("/"):
            return Path(name)
        ref = ModelRef(name)
        try:
            return self._match(ref, self._held(None)).path
        except LoadError as error:
            problem = error.problem
            cause = problem.cause
            words = problem.message.replace(f"Model {name}", f"Adapter {name}", 1)
            if cause is Cause.MODEL_NOT_FOUND:
                cause = Cause.ADAPTER_NOT_FOUND
                words += "; name it as PUBLISHER/NAME, or by the absolute path of its directory"
            raise LoadError(Problem(cause, words, param="adapter")) from None

    def _facts(self, held: Held) -> Checkpoint:
        path = held.path.resolve()
        if is_adapter(path):
            words = (
                f"{path} is a LoRA adapter for {base_of(path)}; "
                f"load that model, with adapter: {held.key}"
            )
            raise LoadError(Problem(Cause.INVALID_CHECKPOINT, words, param="model"))
        try:
            return replace(self._facts_of(path), commit=held.commit)
        except LoadError as error:
            if held.commit is None:
                raise
            raise LoadError(self._with_snapshots(held, error.problem)) from None

    def _facts_of(self, path: Path) -> Checkpoint:
        known = self._read.get(str(path))
        if known is None or known.fingerprint != fingerprint(path):
            known = self._read[str(path)] = read_facts(path)
        return known

    def _with_snapshots(self, held: Held, problem: Problem) -> Problem:
        """The problem, naming snapshots of that model that could be loaded in its place.

        None is taken unasked: a cache whose `main` was moved by an interrupted download must not
        answer with an older model.
        """
        others = []
        try:
            snapshots = sorted(held.path.parent.iterdir())[:MAX_SNAPSHOTS]
        except OSError:
            return problem
        for path in snapshots:
            if path.name != held.commit and is_directory(path):
                try:
                    self._facts_of(path.resolve())
                except LoadError:
                    continue
                others.append(path.name)
        if not others:
            return problem
        words = (
            f"{problem.message}. This is the snapshot that {held.key} names now; complete: "
            f"revision {' or '.join(others)}. `reconciler pull {held.key}` fetches what is missing"
        )
        return replace(problem, message=words)

    def _facts_or_problem(self, held: Held) -> Checkpoint | Problem:
        try:
            return self._facts(held)
        except LoadError as error:
            return error.problem

    def _held(self, revision: str | None) -> list[list[Held]]:
        return [
            list(place.all() if revision is None else place.at(revision)) for place in self._places
        ]

    def _match(self, ref: ModelRef, places: Sequence[Sequence[Held]]) -> Held:
        """The model as written, in the first place that holds it; else the only one that differs
        in case alone; else the only one whose last part is the identifier.
        """
        wanted = ref.model.lower()
        for place in places:
            exact = [held for held in place if held.key == ref.model]
            if exact:
                return _only(ref, exact)
        everything = [held for place in places for held in place]
        for loosely in (
            [held for held in everything if held.key.lower() == wanted],
            [held for held in everything if held.key.lower().rpartition("/")[2] == wanted],
        ):
            if loosely:
                return _only(ref, loosely)
        raise LoadError(self._not_found(ref, everything))

    def _not_found(self, ref: ModelRef, everything: Sequence[Held]) -> Problem:
        where = ", ".join(str(place.root) for place in self._places)
        message = f"Model {ref.model} not found in downloaded models (looked in {where})"
        if ref.revision is not None:
            message = (
                f"Model {ref.model} not found in downloaded models at revision {ref.revision}; "
                f"only the Hugging Face cache holds revisions (looked in {where})"
            )
        near = difflib.get_close_matches(ref.model, {held.key for held in everything}, n=3)
        if near:
            message += f"; there is {' and '.join(near)}"
        return Problem(Cause.MODEL_NOT_FOUND, message, param="model")


def _only(ref: ModelRef, candidates: Sequence[Held]) -> Held:
    """The one that they all are. Raises `LoadError` `AmbiguousModel` where they differ."""
    first = candidates[0]
    if len({held.path.resolve() for held in candidates}) == 1:
        return first
    names = sorted({held.own_key or held.key for held in candidates})
    if len(names) == 1:  # the same model in several places: the first wins
        return first
    message = f"Model {ref.model} could be {' or '.join(names)}; name one of them"
    raise LoadError(Problem(Cause.AMBIGUOUS_MODEL, message, param="model"))
