"""The draft models of a worker, which its sessions share."""

from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

from reconciler.core.footprint import draft_step
from reconciler.core.protocol import Draft
from reconciler.core.records import EffectiveSettings
from reconciler.worker import overrides
from reconciler.worker.speculation.draft import DraftModel, DraftModelError


class DraftModules:
    """Loaded draft models, which sessions share. MLX thread only."""

    def __init__(self) -> None:
        self._used: dict[str, Draft | None] = {}
        """Draft models by session."""
        self._loaded: dict[tuple[str, str], Any] = {}
        """Models by directory and fingerprint."""
        self._sizes: dict[tuple[str, str], int] = {}

    @property
    def nbytes(self) -> int:
        """Size of all weights [bytes]."""
        return sum(self._sizes[key] for key in self._loaded)

    @property
    def reserved(self) -> int:
        """Memory for all weights, and for the caches of the sessions that use them [bytes]."""
        used = (draft.session_bytes for draft in self._used.values() if draft is not None)
        return self.nbytes + sum(used)

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

    def use(self, session: str, draft: Draft | None) -> None:
        """Record the draft model that an open session uses."""
        self._used[session] = draft

    def leave(self, session: str) -> None:
        """Record that a session is closed."""
        self._used.pop(session, None)

    def get(self, draft: Draft) -> Any:
        """Get or load a model. Raises `DraftModelError`."""
        key = (draft.path, draft.fingerprint)
        if key not in self._loaded:
            what = "loaded"
            try:
                model = load_model(Path(draft.path))[0]
                what = "run"
                _try(model)
            except Exception as error:
                words = f"{type(error).__name__}: {error!s:.500}"
                raise DraftModelError(
                    f"draft_model: {draft.path} cannot be {what}: {words}"
                ) from error
            self._loaded[key] = model
            self._sizes[key] = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
        return self._loaded[key]

    def drop_unused(self) -> None:
        """Release the models that no session uses."""
        used = self._used.values()
        keys = {(draft.path, draft.fingerprint) for draft in used if draft is not None}
        self._loaded = {key: model for key, model in self._loaded.items() if key in keys}


def _try(model: Any) -> None:
    """Compute several tokens and one more. Propagates the model's exceptions.

    A model that fails here would fail each request for which it drafts.
    """
    cache: list[Any] = make_prompt_cache(model)
    for tokens in (2, 1):
        mx.eval(model(mx.zeros((1, tokens), dtype=mx.int32), cache=cache))
