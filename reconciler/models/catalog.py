"""Resolve an identifier (`publisher/name` or `name`) to a checkpoint in one of the model roots."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.facts import Adapter, Checkpoint
from reconciler.core.near import near
from reconciler.core.records import ModelRef
from reconciler.models.adapter import base_of, is_adapter, read_adapter
from reconciler.models.checkpoint import parse_facts
from reconciler.models.contents import fingerprint
from reconciler.models.drafts import DraftModels
from reconciler.models.fetch import MODEL
from reconciler.models.files import error_of
from reconciler.models.looker import HANG_SECONDS, PATIENT_SECONDS, Looker, NoAnswerError
from reconciler.models.places import LocalModel, ModelRoot, Walk

MAX_SNAPSHOTS = 20
"""Maximum number of other snapshots to check when a cached model cannot be loaded."""


@dataclass(frozen=True)
class CatalogEntry:
    """A model on disk: its identifier, and its facts or the reason why it cannot be loaded."""

    key: str
    facts: Checkpoint | Problem
    path: str = ""
    """Absolute path; links are resolved if it is readable."""


class _IsAdapterError(Exception):
    """Raised for an adapter's directory in place of a model's; the message names the base model."""


class Catalog:
    """Checkpoints in the model roots. Methods block: call them off the event loop."""

    def __init__(self, places: Sequence[ModelRoot]) -> None:
        self._places = tuple(places)
        self._looker = Looker()
        self._read: dict[str, tuple[str, Checkpoint | Problem]] = {}
        """Fingerprint and facts (or problem) by directory."""
        self._drafting = DraftModels()

    def find(self, ref: ModelRef) -> Checkpoint:
        """The checkpoint that `ref` names. Waits longer for a disk that has to spin up.

        Raises `LoadError`: `ModelNotFound`, `AmbiguousModel` naming the candidates,
        `InvalidCheckpoint` if it cannot be loaded; `AdapterNotFound`, `InvalidAdapter`;
        `DraftModelNotFound`, `InvalidDraftModel`.
        """
        found = self._search([ref], Walk(self._looker, HANG_SECONDS))[ref]
        if isinstance(found, NoAnswerError):
            found = self._search([ref], Walk(self._looker, PATIENT_SECONDS))[ref]
        if isinstance(found, LoadError):
            raise found
        return found

    def find_all(self, refs: Iterable[ModelRef]) -> Mapping[ModelRef, Checkpoint | Problem]:
        """`find` for many references in one scan. An unresponsive path soon becomes a problem."""
        found = self._search(refs, Walk(self._looker, HANG_SECONDS))
        return {
            ref: result.problem if isinstance(result, LoadError) else result
            for ref, result in found.items()
        }

    def listed(self) -> tuple[CatalogEntry, ...]:
        """Every model on disk, sorted by identifier; the first root that has it wins.

        A virtual model with several possible variants is listed as these variants only. An
        unreadable root is listed by its path.
        """
        walk = Walk(self._looker, HANG_SECONDS)
        found: dict[str, LocalModel] = {}
        for place in self._held(None, walk):
            keys = [held.key or str(held.path) for held in place]
            for key, held in zip(keys, place, strict=True):
                if key not in found and keys.count(key) == 1:
                    found[key] = held
        facts = self._facts(found.values(), walk)
        return tuple(
            CatalogEntry(
                key,
                f.problem if isinstance(f := facts[found[key]], LoadError) else f,
                str(found[key].path),
            )
            for key in sorted(found)
        )

    # -- facts -----------------------------------------------------------------------------

    def _search(
        self, refs: Iterable[ModelRef], walk: Walk
    ) -> dict[ModelRef, Checkpoint | LoadError]:
        looks: dict[str | None, list[list[LocalModel]]] = {}
        matched: dict[ModelRef, LocalModel | LoadError] = {}
        adapters: dict[ModelRef, Path | LoadError] = {}
        for ref in refs:
            for revision in {ref.revision, None} if ref.adapter or ref.draft else {ref.revision}:
                if revision not in looks:
                    looks[revision] = self._held(revision, walk)
            matched[ref] = self._matched(ref, looks[ref.revision])
            if ref.adapter is not None:
                adapters[ref] = self._adapter(ref.adapter, looks)
        drafts = {
            ref: self._matched(ModelRef(ref.draft), looks[None]) for ref in matched if ref.draft
        }
        helds = [h for h in (*matched.values(), *drafts.values()) if isinstance(h, LocalModel)]
        facts = self._facts(helds, walk)
        read = self._adapters([p for p in adapters.values() if isinstance(p, Path)], walk)
        found: dict[ModelRef, Checkpoint | LoadError] = {}
        for ref, held in matched.items():
            checkpoint = facts[held] if isinstance(held, LocalModel) else held
            if isinstance(checkpoint, Checkpoint) and ref in adapters:
                path = adapters[ref]
                adapter = read[path] if isinstance(path, Path) else path
                checkpoint = (
                    adapter
                    if isinstance(adapter, LoadError)
                    else replace(checkpoint, adapter=adapter)
                )
            if isinstance(checkpoint, Checkpoint) and ref in drafts:
                named = drafts[ref]
                draft = facts[named] if isinstance(named, LocalModel) else named
                checkpoint = self._drafting.with_draft(checkpoint, draft, ref.draft or "", walk)
            found[ref] = checkpoint
        return found

    def _facts(
        self, helds: Iterable[LocalModel], walk: Walk
    ) -> dict[LocalModel, Checkpoint | LoadError]:
        """Facts of each model, or the error that prevents loading it."""
        helds = list(helds)
        paths = list(dict.fromkeys(held.path for held in helds if held.error is None))
        read = dict(zip(paths, walk.results(self._facts_of, paths), strict=True))
        found: dict[LocalModel, Checkpoint | LoadError] = {}
        for held in helds:
            if held.error is not None:
                found[held] = held.error
                continue
            result = read[held.path]
            if isinstance(result, Checkpoint):
                found[held] = replace(result, commit=held.commit, key=held.key)
            else:
                error = _of_model(held, result)
                found[held] = error if held.commit is None else self._hinting(held, error, walk)
        return found

    def _facts_of(self, path: Path) -> Checkpoint:
        if is_adapter(path):
            raise _IsAdapterError(base_of(path))
        now = fingerprint(path)
        before, known = self._read.get(str(path), (None, None))
        if known is None or before != now:
            try:
                known = parse_facts(path)
            except (OSError, MemoryError):  # may be temporary
                raise
            except Exception as error:  # noqa: BLE001  hostile files can raise any exception
                known = error_of(error, path).problem
            self._read[str(path)] = (now, known)
        if isinstance(known, Problem):
            raise LoadError(known)
        return known

    def _hinting(self, held: LocalModel, error: LoadError, walk: Walk) -> LoadError:
        """Add the other snapshots of the model that can be loaded to the error message.

        No other snapshot is loaded automatically: after an interrupted download has moved the
        cache's `main`, an older version of the model would answer requests.
        """
        if isinstance(error, NoAnswerError):
            return error
        others = [p for p in held.siblings[:MAX_SNAPSHOTS] if p.name != held.commit]
        results = walk.results(self._facts_of, others)
        complete = [
            path.name
            for path, result in zip(others, results, strict=True)
            if isinstance(result, Checkpoint)
        ]
        if not complete:
            return error
        words = (
            f"{error.problem.message}. This is the current snapshot of {held.key}; "
            f"complete: revision {' or '.join(complete)}. "
            f"Run `reconciler pull {held.key}` to download the missing files"
        )
        return LoadError(replace(error.problem, message=words))

    def _adapters(self, paths: Sequence[Path], walk: Walk) -> dict[Path, Adapter | LoadError]:
        found: dict[Path, Adapter | LoadError] = {}
        results = walk.results(read_adapter, paths)
        for path, result in zip(paths, results, strict=True):
            if isinstance(result, BaseException):
                error = error_of(result, path, Reason.INVALID_ADAPTER, "adapter")
                problem = replace(error.problem, reason=Reason.INVALID_ADAPTER, param="adapter")
                found[path] = LoadError(problem)
            else:
                found[path] = result
        return found

    # -- names -----------------------------------------------------------------------------

    def _held(self, revision: str | None, walk: Walk) -> list[list[LocalModel]]:
        return [
            list(place.all(walk) if revision is None else place.at(revision, walk))
            for place in self._places
        ]

    def _matched(
        self, ref: ModelRef, places: Sequence[Sequence[LocalModel]]
    ) -> LocalModel | LoadError:
        try:
            return self._match(ref, places)
        except LoadError as error:
            return error

    def _adapter(
        self, name: str, looks: Mapping[str | None, Sequence[Sequence[LocalModel]]]
    ) -> Path | LoadError:
        """Directory of an adapter given by absolute path or identifier."""
        if name.startswith("/"):
            return Path(name)
        try:
            return self._match(ModelRef(name), looks[None]).path
        except LoadError as error:
            problem = error.problem
            reason = problem.reason
            words = problem.message.replace(f"Model {name}", f"Adapter {name}", 1)
            if reason is Reason.MODEL_NOT_FOUND:
                reason = Reason.ADAPTER_NOT_FOUND
                words += "; name it as PUBLISHER/NAME, or by the absolute path of its directory"
            return LoadError(Problem(reason, words, param="adapter"))

    def _match(self, ref: ModelRef, places: Sequence[Sequence[LocalModel]]) -> LocalModel:
        """Find the model that `ref` names.

        An exact name wins, in the first root that has it; else the name in any case; else the last
        part of the name. The last two must match one model only.
        """
        wanted = ref.model.lower()
        for place in places:
            exact = [held for held in place if held.key and held.key == ref.model]
            if exact:
                return _only(ref, exact)
        everything = [held for place in places for held in place if held.key]
        for loosely in (
            [held for held in everything if held.key.lower() == wanted],
            [held for held in everything if held.key.lower().rpartition("/")[2] == wanted],
        ):
            if loosely:
                return _only(ref, loosely)
        publisher = wanted.partition("/")[0]
        roots = [held.error for place in places for held in place if held.error and not held.key]
        for error in roots:
            if isinstance(error, NoAnswerError):  # the model may be in this root
                raise error
        for held in everything:
            if held.error is not None and held.key.lower() == publisher:
                raise held.error
        raise LoadError(self._not_found(ref, everything, roots))

    def _not_found(
        self, ref: ModelRef, everything: Sequence[LocalModel], unreadable: Sequence[LoadError]
    ) -> Problem:
        where = ", ".join(str(place.root) for place in self._places)
        message = f"Model {ref.model} not found in downloaded models (looked in {where})"
        if ref.revision is not None:
            message = (
                f"Model {ref.model} not found in downloaded models at revision {ref.revision}; "
                f"only the Hugging Face cache holds revisions (looked in {where})"
            )
        if found := near(ref.model, {held.key for held in everything}):
            message += f"; similar names: {', '.join(found)}"
        if MODEL.fullmatch(ref.model):
            named = ref.model if "/" in ref.model else f"PUBLISHER/{ref.model}"
            message += f"; `reconciler pull {named}` downloads it"
        for error in unreadable:
            message += f"; {error.problem.message}"
        return Problem(Reason.MODEL_NOT_FOUND, message, param="model")


def _of_model(held: LocalModel, error: BaseException) -> LoadError:
    """Convert an exception from reading a model into its error."""
    if isinstance(error, _IsAdapterError):
        words = (
            f"{held.path} is a LoRA adapter for {error}; load that model, with adapter: {held.key}"
        )
        return LoadError(Problem(Reason.INVALID_CHECKPOINT, words, param="model"))
    return error_of(error, held.path)


def _only(ref: ModelRef, candidates: Sequence[LocalModel]) -> LocalModel:
    """The single model among the candidates. Raises `LoadError` `AmbiguousModel` if they differ."""
    first = candidates[0]
    if len({held.path for held in candidates}) == 1:
        return first
    names = sorted({held.own_key or held.key for held in candidates})
    if len(names) == 1:  # the same model in several roots: the first wins
        return first
    message = f"Model {ref.model} is ambiguous: {' or '.join(names)}; name one of them"
    raise LoadError(Problem(Reason.AMBIGUOUS_MODEL, message, param="model"))
