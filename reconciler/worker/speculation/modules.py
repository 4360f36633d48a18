"""The draft models of a worker, which its sessions share."""

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache

from reconciler.core.footprint import draft_step
from reconciler.core.protocol import Draft
from reconciler.core.records import EffectiveSettings
from reconciler.worker import overrides
from reconciler.worker.building import build_lazily
from reconciler.worker.speculation.draft import DraftModel, DraftModelError

CHUNK_BYTES = 64 * 2**20
"""Weights that are read at a time, unless single arrays are larger."""

Key = tuple[str, str]
"""Directory and fingerprint of a model."""


@dataclass
class _Loaded:
    """A draft model."""

    model: Any
    unread: deque[Any]
    """Its arrays that are not read yet."""
    nbytes: int
    tried: bool = False
    """True if it can compute."""


class DraftModules:
    """Loaded draft models, which sessions share. MLX thread only, except `has`.

    A model is read a chunk at a time: streams get their tokens in between.
    """

    def __init__(self) -> None:
        self._used: dict[str, Draft | None] = {}
        """Draft models by session."""
        self._opening: dict[str, Draft] = {}
        """Draft models of sessions that are being opened."""
        self._read_for: dict[str, int] = {}
        """Bytes of models that are read for sessions that are being opened."""
        self._loaded: dict[Key, _Loaded] = {}

    @property
    def nbytes(self) -> int:
        """Size of all weights [bytes]."""
        return sum(one.nbytes for one in self._loaded.values())

    @property
    def reserved(self) -> int:
        """Memory for all weights, and for the caches of the sessions that use them [bytes]."""
        used = (draft.session_bytes for draft in self._used.values() if draft is not None)
        return self.nbytes + sum(used)

    def has(self, draft: Draft) -> bool:
        """True if a model is loaded, or being read. Thread-safe."""
        return _key(draft) in self._loaded

    def read(self, session: str, draft: Draft) -> bool:
        """Read a chunk of a model for a session that is being opened; True if more is to be done.

        Once it is read, it is tried. Raises `DraftModelError`.
        """
        self._opening[session] = draft
        is_new = not self.has(draft)
        more = self._read(draft)
        if is_new:
            self._read_for[session] = self._loaded[_key(draft)].nbytes
        return more

    def read_for(self, session: str) -> int:
        """Size of the weights that `read` read for a session that is being opened [bytes]."""
        return self._read_for.get(session, 0)

    def make(self, draft: Draft | None, config: EffectiveSettings, known: int) -> DraftModel | None:
        """Make the draft model of a session, if it has one.

        `config`: settings of the session; `known`: number of tokens of the model to draft for.
        Raises `DraftModelError`.
        """
        if draft is None:
            return None
        settings = overrides.Overrides(config.flash_attention, config.offload_kv_cache_to_gpu)
        module = overrides.ModelWithOverrides(self.get(draft), settings)
        return DraftModel(module, draft.most_tokens, draft_step(config), known)

    def get(self, draft: Draft) -> Any:
        """Get or load a model. Raises `DraftModelError`."""
        while self._read(draft):
            pass
        return self._loaded[_key(draft)].model

    def _read(self, draft: Draft) -> bool:
        """Build a model, read its next chunk, or try it; True if more is to be done."""
        loaded = self._loaded.get(_key(draft))
        if loaded is not None and loaded.tried:
            return False
        what = "loaded" if loaded is None or loaded.unread else "run"
        try:
            if loaded is None:
                self._loaded[_key(draft)] = _build(Path(draft.path))
            elif loaded.unread:
                mx.eval(_next_chunk(loaded.unread))
            else:
                _try(loaded.model)
                loaded.tried = True
        except Exception as error:
            self._loaded.pop(_key(draft), None)
            words = f"{type(error).__name__}: {error!s:.500}"
            raise DraftModelError(f"draft_model: {draft.path} cannot be {what}: {words}") from error
        return not (loaded is not None and loaded.tried)

    def end_opening(self, session: str) -> None:
        """Record that a session is no longer being opened."""
        self._opening.pop(session, None)
        self._read_for.pop(session, None)

    def use(self, session: str, draft: Draft | None) -> None:
        """Record the draft model that an open session uses."""
        self._used[session] = draft

    def leave(self, session: str) -> None:
        """Record that a session is closed."""
        self._used.pop(session, None)

    def drop_unused(self) -> None:
        """Release the models of no session."""
        used = [*self._used.values(), *self._opening.values()]
        keys = {_key(draft) for draft in used if draft is not None}
        self._loaded = {key: one for key, one in self._loaded.items() if key in keys}


def _key(draft: Draft) -> Key:
    return draft.path, draft.fingerprint


def _build(path: Path) -> _Loaded:
    """Build a lazy model, which reads no weights. Propagates mlx_lm's exceptions."""
    model = build_lazily(path)[0]
    arrays = [array for _, array in tree_flatten(model.parameters())]
    return _Loaded(model, deque(arrays), sum(array.nbytes for array in arrays))


def _next_chunk(unread: deque[Any]) -> list[Any]:
    """Remove the next arrays to read, of about `CHUNK_BYTES`."""
    chunk, size = [], 0
    while unread and size < CHUNK_BYTES:
        chunk.append(unread.popleft())
        size += chunk[-1].nbytes
    return chunk


def _try(model: Any) -> None:
    """Compute several tokens and one more. Propagates the model's exceptions.

    A model that fails here would fail each request for which it drafts.
    """
    cache: list[Any] = make_prompt_cache(model)
    for tokens in (2, 1):
        mx.eval(model(mx.zeros((1, tokens), dtype=mx.int32), cache=cache))
