"""A worker's checkpoint and the sessions that use it."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from reconciler.core.embedder import Embedder
from reconciler.core.facts import Adapter, Shapes
from reconciler.core.footprint import reading_config
from reconciler.core.protocol import (
    LoadWeights,
    OpenSession,
    SeeShapes,
    SessionOpened,
    Usage,
    WeightsLoaded,
    WeightsRead,
)
from reconciler.core.records import EffectiveSettings, Phase, SettingWarning
from reconciler.worker import experts, shapes
from reconciler.worker.constraints.enforcer import Enforcer
from reconciler.worker.disk.prompts import StoredPrompts
from reconciler.worker.embedding import encoder
from reconciler.worker.embedding.session import EmbeddingSession
from reconciler.worker.generators import Batching
from reconciler.worker.heartbeat import LONG_JOB_SECONDS, Heartbeat
from reconciler.worker.kv_budget import KVBudget
from reconciler.worker.loading import TokenizerThread, read_weights
from reconciler.worker.modules import Modules, build
from reconciler.worker.output import OutputFormat
from reconciler.worker.preprocessing.pool import Preprocessor
from reconciler.worker.prompt_cache import always_rewindable
from reconciler.worker.request_defaults import Applicable, applicable
from reconciler.worker.session import Session
from reconciler.worker.sessions import Sessions
from reconciler.worker.shapes import embedding_rows, vocabulary
from reconciler.worker.speculation.generator import Speculation
from reconciler.worker.speculation.modules import DraftModules
from reconciler.worker.stalls import StallBudget

if TYPE_CHECKING:
    from reconciler.core.reranker import Reranker
    from reconciler.worker.disk.restoring import Post

TOGETHER = (Batching.TOGETHER, None)

NO_DRAFTS = (
    "it is not used: the model's KV cache cannot be rewound (sliding windows or recurrent states), "
    "or its requests run one at a time"
)


class Model(Sessions):
    """One checkpoint, loaded once. MLX thread only, except for members marked thread-safe."""

    def __init__(
        self,
        heartbeat: Heartbeat | None = None,
        preprocessor: Preprocessor | None = None,
        stall_budget: StallBudget | None = None,
    ) -> None:
        super().__init__(self._shared_bytes, stall_budget or StallBudget())
        self.preprocessor = preprocessor or Preprocessor(apart=False)
        """Turns requests into prompts, once the checkpoint is loaded. Thread-safe."""
        self._heartbeat = heartbeat or Heartbeat()
        self._path: Path | None = None
        self._modules: Modules | None = None
        self._adapters: dict[str, Adapter | None] = {}
        """Adapters by session."""
        self._drafts = DraftModules()
        self.embedder: Embedder | None = None
        """Embedding configuration of the model; None if it generates text. Thread-safe."""
        self.reranker: Reranker | None = None
        """Reranking configuration of the model; None if it is not a reranker. Thread-safe."""
        self.tokenizer: Any = None
        self.output_format = OutputFormat()
        """Format of its reasoning and tool calls."""
        self.enforcer = Enforcer(None, (), 0)
        """Enforcer of constraints on completions."""
        self.vocabulary = 0
        """Size of the vocabulary: the model's token ids are below this number."""
        self._computed: set[tuple[int, bool, bool, int | None]] = set()
        """Compute settings with which a token was already generated."""
        self._defaults: dict[str, Mapping[str, Any]] = {}
        """Request defaults by session."""
        self._batching: dict[tuple[int, bool, bool], tuple[Batching, str | None]] = {}
        """Batching by compute settings, with the reason if requests cannot run together."""
        self._together: frozenset[str] = frozenset()
        """Compute settings with which an earlier worker found that requests can run together."""
        self._weights = 0
        """Memory that MLX holds when no session is open [bytes]."""
        self._prompts = StoredPrompts()
        self.post: Post = lambda job: job()
        """Runs a job on the MLX thread."""

    def see(self, command: SeeShapes) -> Shapes:
        """Determine a checkpoint's shapes without loading it. Raises as `load`."""
        return shapes.see(Path(command.path), command.embedder)

    def load(
        self, command: LoadWeights, on_progress: Callable[[WeightsRead], None]
    ) -> WeightsLoaded:
        """Read weights and tokenizer in parallel: reading releases the GIL.

        `on_progress` is called with the bytes read so far. Propagates mlx_lm's exceptions for a
        checkpoint that it cannot load.
        """
        if self._path is not None:
            raise RuntimeError(f"this worker has already loaded {self._path}")
        begin = time.monotonic()
        self._together = frozenset(command.together)
        path = Path(command.path)
        phases: dict[str, Phase] = {}
        tokenizer = TokenizerThread(path, begin, self.preprocessor)
        tokenizer.start()
        try:
            with self._heartbeat.beating(LONG_JOB_SECONDS):
                model = self._build(path, command.embedder)
                self.reranker = command.reranker
                read_weights(model, self._heartbeat, on_progress)
            phases["weights"] = Phase(0.0, time.monotonic() - begin)
        finally:
            with self._heartbeat.beating(LONG_JOB_SECONDS):
                tokenizer.join()
        if tokenizer.error is not None:
            raise tokenizer.error
        phases["tokenizer"] = tokenizer.phase
        self._path, self.tokenizer = path, tokenizer.result
        self._weights = mx.get_active_memory()
        if self.embedder is not None:
            self.vocabulary = embedding_rows(model)
            self.preprocessor.bind_embedder(self.tokenizer, self.vocabulary, self.embedder)
            return WeightsLoaded(phases, self._weights)
        self.output_format = tokenizer.output_format
        self.vocabulary = vocabulary(model)
        eos = self.tokenizer.eos_token_ids
        self.tokenizer.eos_token_ids = {token for token in eos if 0 <= token < self.vocabulary}
        self.enforcer = Enforcer(self.tokenizer, self.tokenizer.eos_token_ids, self.vocabulary)
        rewinds = always_rewindable(make_prompt_cache(model))
        self.preprocessor.bind(self.tokenizer, self.vocabulary, rewinds=rewinds)
        return WeightsLoaded(phases, self._weights)

    def _build(self, path: Path, embedder: Embedder | None) -> Any:
        """Build the lazy model, and the factory for further modules over its arrays."""
        self.embedder, make = embedder, build
        if embedder is not None:

            def make(path: Path, config: dict[str, Any]) -> Any:
                return encoder.load(path, embedder, config)[0]

        model = make(path, {})
        self._modules = Modules(path, model, make)
        return model

    def unread(self, command: OpenSession) -> list[str]:
        """Directories whose weights have to be read to open a session. Thread-safe."""
        found = []
        if command.draft is not None and not self._drafts.has(command.draft):
            found.append(command.draft.path)
        modules, adapter = self._modules, command.adapter
        if adapter is not None and modules is not None and not modules.has_adapter(command):
            found.append(adapter.path)
        return found

    def prepare(self, name: str, command: OpenSession) -> bool:
        """Read some of the weights that a session needs; True if there are more.

        Called again and again before `open`, so that other sessions are stepped in between. If
        `open` is not called, `abandon` has to be. Raises `DraftModelError`.
        """
        if command.draft is None or self.embedder is not None:
            return False
        with self._heartbeat.beating(LONG_JOB_SECONDS):
            return self._drafts.read(name, command.draft)

    def abandon(self, name: str) -> None:
        """Release what was prepared for a session that is not opened."""
        self._drafts.end_opening(name)
        self._drop_unused()

    def open(self, name: str, command: OpenSession) -> SessionOpened:
        """Open a session. It replaces one of the same name once it has generated a token."""
        with self._heartbeat.beating(LONG_JOB_SECONDS):
            try:
                opened = self._open(name, command)
                self._adapters[name] = command.adapter
                self._drafts.use(name, command.draft)
            finally:
                self.abandon(name)
        return opened

    def set_defaults(self, name: str, asked: Mapping[str, Any]) -> Applicable:
        """Set a session's request defaults to those of `asked` that the model supports.

        Not for the MLX thread: it renders the chat template.
        """
        defaults = applicable(asked, self.preprocessor)
        self._defaults[name] = defaults.values
        return defaults

    def _open(self, name: str, command: OpenSession) -> SessionOpened:
        if self._path is None or self._modules is None:
            raise RuntimeError("no checkpoint is loaded")
        begin = time.monotonic()
        before = mx.get_active_memory()
        eos = self.tokenizer.eos_token_ids
        config = command.config
        budgeted = reading_config(config, self.embedder)
        kv_budget = KVBudget(budgeted, command.shapes, command.session_bytes)
        module = self._modules.get(command)
        way = (config.num_experts, config.flash_attention, config.offload_kv_cache_to_gpu)
        computed = (*way, config.kv_cache_bits)
        session: Session | EmbeddingSession
        batching, reason, unused_draft = None, None, None
        if self.embedder is not None:
            session = EmbeddingSession(module, self.embedder, config, kv_budget, self._heartbeat)
        else:
            draft = self._drafts.make(command.draft, config, self.vocabulary)
            session = Session(
                module,
                config,
                tuple(eos),
                kv_budget,
                self._heartbeat,
                speculation=Speculation(lookup=command.prompt_lookup, draft=draft),
                prompts=self._prompts.of(command),
                post=self.post,
            )
            if way not in self._batching:
                known = str(way) in self._together
                self._batching[way] = TOGETHER if known else session.learn_batching()
            batching, reason = self._batching[way]
            session.run_requests(batching)
            if command.draft is not None and not session.drafts:
                unused_draft = SettingWarning("draft_model", command.draft.path, NO_DRAFTS)
        observed, unused = session.observe(
            compute=command.adapter is not None or computed not in self._computed
        )
        self._computed.add(computed)
        self._close(name)
        self._sessions[name] = session
        phases = {"warm_up": Phase(0.0, time.monotonic() - begin)}
        memory = max(0, mx.get_active_memory() - before) + self._drafts.read_for(name)
        warnings = self._warnings(config, session, reason)
        warnings += () if unused_draft is None else (unused_draft,)
        together = (str(way),) if batching is Batching.TOGETHER else ()
        return SessionOpened(observed, unused, phases, memory, warnings, together=together)

    def flush(self, seconds: float) -> None:
        """Wait until all kept prompts are on disk, at most so long. Thread-safe."""
        self._prompts.flush(seconds)

    def _warnings(
        self, config: EffectiveSettings, session: Session | EmbeddingSession, apart: str | None
    ) -> tuple[SettingWarning, ...]:
        """Warnings about the model; `apart`: the reason if requests do not run together."""
        problem = self.output_format.problem
        found = (
            experts.warning(config.num_experts, session.routed),
            SettingWarning("output_format", None, problem) if problem else None,
            SettingWarning("batching", None, apart) if apart else None,
        )
        return tuple(warning for warning in found if warning is not None)

    def close(self, name: str) -> Usage:
        """Close the session of that name, if there is one, and return its usage."""
        usage = self._close(name)
        self._drop_unused()
        return usage

    def _close(self, name: str) -> Usage:
        """Close a session, and release nothing that another one may use."""
        session = self._sessions.pop(name, None)
        self._defaults.pop(name, None)
        self._adapters.pop(name, None)
        self._drafts.leave(name)
        if session is None:
            return Usage()
        session.close()
        return session.usage

    def _drop_unused(self) -> None:
        """Release adapters, draft models and buffers that no session uses."""
        if self._modules is not None:
            self._modules.retain_only(self._adapters.values())
        self._drafts.drop_unused()
        mx.clear_cache()

    def defaults(self, name: str) -> Mapping[str, Any]:
        """Request defaults of a session. Thread-safe."""
        return self._defaults.get(name, {})

    def _shared_bytes(self) -> int:
        """Memory for what sessions share, and for the caches of draft models [bytes]."""
        adapters = self._modules.adapter_bytes if self._modules else 0
        return self._weights + adapters + self._drafts.reserved
