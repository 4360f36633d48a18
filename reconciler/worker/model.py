"""A worker's checkpoint and the sessions that use it."""

import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache

from reconciler.core.embedder import Embedder
from reconciler.core.facts import Adapter, Shapes
from reconciler.core.footprint import draft_step, reading_config
from reconciler.core.protocol import (
    Activity,
    Draft,
    LoadWeights,
    OpenSession,
    Recall,
    SeeShapes,
    SessionOpened,
    Usage,
    WeightsLoaded,
    WeightsRead,
)
from reconciler.core.records import EffectiveSettings, Phase, SettingWarning
from reconciler.worker import experts, overrides, shapes, tokenizers
from reconciler.worker.constraints.enforcer import Enforcer
from reconciler.worker.disk.store import Make, PromptDisk, Scope
from reconciler.worker.embedding import encoder
from reconciler.worker.embedding.session import EmbeddingRequest, EmbeddingSession
from reconciler.worker.generators import Batching
from reconciler.worker.heartbeat import LONG_JOB_SECONDS, Heartbeat
from reconciler.worker.kv_budget import KVBudget
from reconciler.worker.modules import Modules, build
from reconciler.worker.output import OutputFormat, of_tokenizer
from reconciler.worker.pending import Request
from reconciler.worker.preprocessing.pool import Preprocessor
from reconciler.worker.prompt_cache import always_rewindable
from reconciler.worker.request_defaults import Applicable, applicable
from reconciler.worker.session import Session
from reconciler.worker.shapes import embedding_rows, vocabulary
from reconciler.worker.speculation.draft import DraftModel, DraftModules
from reconciler.worker.speculation.generator import Speculation
from reconciler.worker.stalls import StallBudget
from reconciler.worker.vocabulary import vocabulary_kept

if TYPE_CHECKING:
    from reconciler.core.reranker import Reranker
    from reconciler.worker.disk.restoring import Post

TOGETHER = (Batching.TOGETHER, None)

SAME_NUMBERS = {"context_length", "eval_batch_size"}
"""Settings on which the values in a KV cache do not depend."""

DISK_VERSION = 1
"""Increased when prompts on disk become invalid although MLX and mlx-lm stay the same."""

STEPS = 50
"""Number of progress reports while weights are read; fewer if single arrays are larger."""

NO_DRAFTS = (
    "it is not used: the model's KV cache cannot be rewound (sliding windows or recurrent states), "
    "or its requests run one at a time"
)


class Model:
    """One checkpoint, loaded once. MLX thread only, except for members marked thread-safe."""

    def __init__(
        self,
        heartbeat: Heartbeat | None = None,
        preprocessor: Preprocessor | None = None,
        stall_budget: StallBudget | None = None,
    ) -> None:
        self.preprocessor = preprocessor or Preprocessor(apart=False)
        """Turns requests into prompts, once the checkpoint is loaded. Thread-safe."""
        self._heartbeat = heartbeat or Heartbeat()
        self._stall_budget = stall_budget or StallBudget()
        self._path: Path | None = None
        self._modules: Modules | None = None
        self._adapters: dict[str, Adapter | None] = {}
        """Adapters by session."""
        self._drafts: dict[str, Draft | None] = {}
        """Draft models by session."""
        self._draft_modules = DraftModules()
        self.embedder: Embedder | None = None
        """Embedding configuration of the model; None if it generates text. Thread-safe."""
        self.reranker: Reranker | None = None
        """Reranking configuration of the model; None if it is not a reranker. Thread-safe."""
        self._sessions: dict[str, Session | EmbeddingSession] = {}
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
        self._limit = 0
        """Limit on MLX's memory, set when a session was last stepped [bytes]; 0 before that."""
        self._disk: PromptDisk | None = None
        """Prompts on disk; None until a session has some."""
        self.post: Post = lambda job: job()
        """Runs a job on the MLX thread."""
        self._floor = 0.0
        """Thread time of the last stepped session before its step [s]."""

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
        tokenizer = _Tokenizer(path, begin, self.preprocessor)
        tokenizer.start()
        try:
            with self._heartbeat.beating(LONG_JOB_SECONDS):
                model = self._build(path, command.embedder)
                self.reranker = command.reranker
                self._read(model, on_progress)
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

    def open(self, name: str, command: OpenSession) -> SessionOpened:
        """Open a session. It replaces one of the same name once it has generated a token."""
        with self._heartbeat.beating(LONG_JOB_SECONDS):
            try:
                opened = self._open(name, command)
                self._adapters[name] = command.adapter
                self._drafts[name] = command.draft
            finally:
                self._drop_adapters()
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
            draft = self._draft(command, config)
            session = Session(
                module,
                config,
                tuple(eos),
                kv_budget,
                self._heartbeat,
                speculation=Speculation(lookup=command.prompt_lookup, draft=draft),
                prompts=self._prompts(command),
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
        self.close(name)
        self._sessions[name] = session
        phases = {"warm_up": Phase(0.0, time.monotonic() - begin)}
        memory = max(0, mx.get_active_memory() - before)
        warnings = self._warnings(config, session, reason)
        warnings += () if unused_draft is None else (unused_draft,)
        together = (str(way),) if batching is Batching.TOGETHER else ()
        return SessionOpened(observed, unused, phases, memory, warnings, together=together)

    def _prompts(self, command: OpenSession) -> Callable[[Make], Scope] | None:
        """The prompts on disk that a session can use; None if there are none."""
        if command.prompts is None:
            return None
        if self._disk is None:
            self._disk = PromptDisk(command.prompts)
        settings = asdict(command.config)
        for key in SAME_NUMBERS:
            del settings[key]
        scope = {
            "fingerprint": command.prompts.fingerprint,
            "settings": settings,
            "versions": [DISK_VERSION, version("mlx"), version("mlx-lm")],
            "device": str(mx.default_device()),
        }
        return partial(Scope, self._disk, scope)

    def flush(self, seconds: float) -> None:
        """Wait until all kept prompts are on disk, at most so long. Thread-safe."""
        if self._disk is not None:
            self._disk.flush(seconds)

    def _draft(self, command: OpenSession, config: EffectiveSettings) -> DraftModel | None:
        """The draft model of a session. Raises `DraftModelError`."""
        if command.draft is None:
            return None
        settings = overrides.Overrides(config.flash_attention, config.offload_kv_cache_to_gpu)
        module = overrides.ModelWithOverrides(self._draft_modules.get(command.draft), settings)
        step = draft_step(config)
        return DraftModel(module, command.draft.most_tokens, step, self.vocabulary)

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
        session = self._sessions.pop(name, None)
        self._defaults.pop(name, None)
        self._adapters.pop(name, None)
        self._drafts.pop(name, None)
        if session is None:
            return Usage()
        session.close()
        self._drop_adapters()
        mx.clear_cache()
        return session.usage

    def _drop_adapters(self) -> None:
        """Release adapters and draft models that no session uses."""
        if self._modules is not None:
            self._modules.retain_only(self._adapters.values())
        self._draft_modules.retain_only(self._drafts.values())

    def usage(self) -> dict[str, Usage]:
        """Usage by session. Thread-safe."""
        # Iterates over an atomic copy: sessions open and close meanwhile.
        return {name: session.usage for name, session in self._sessions.copy().items()}

    def activity(self) -> dict[str, Activity]:
        """The KV cache of each session. Also for other threads."""
        sessions = self._sessions.copy().items()
        return {name: Activity(one.kv_bytes, one.kept_bytes) for name, one in sessions}

    def defaults(self, name: str) -> Mapping[str, Any]:
        """Request defaults of a session. Thread-safe."""
        return self._defaults.get(name, {})

    def kept_bytes(self) -> int:
        """Size of all sessions' prompt caches [bytes]. Thread-safe."""
        return sum(session.kept_bytes for session in self._sessions.copy().values())

    def recall(self, command: Recall) -> dict[str, int]:
        """Lower leases; return the memory that each session still uses beyond its reservation."""
        return {
            name: self._sessions[name].recall(lease)
            for name, lease in command.leases.items()
            if name in self._sessions
        }

    def session(self, name: str) -> Session:
        """Find an open session that generates text. Raises KeyError."""
        session = self._sessions[name]
        if isinstance(session, EmbeddingSession):
            raise KeyError(name)
        return session

    def embedding_session(self, name: str) -> EmbeddingSession:
        """Find an open embedding session. Raises KeyError."""
        session = self._sessions[name]
        if isinstance(session, Session):
            raise KeyError(name)
        return session

    def context_length(self, name: str) -> int | None:
        """Context length of a session [tokens]; None if it is closed. Thread-safe."""
        session = self._sessions.get(name)
        return None if session is None else session.config.context_length

    def cancel(self, name: str, request: Request | EmbeddingRequest) -> None:
        """Cancel a request, if its session is still open."""
        session = self._sessions.get(name)
        if isinstance(session, EmbeddingSession):
            if isinstance(request, EmbeddingRequest):
                session.cancel(request)
        elif session is not None and isinstance(request, Request):
            session.cancel(request)

    def step(self) -> bool:
        """Step the session with the least thread time; False if no session was busy."""
        busy = [session for session in self._sessions.values() if session.busy]
        if not busy:
            return False
        for session in busy:  # a session gets no credit for idle time
            session.seconds = max(session.seconds, self._floor)
        session = min(busy, key=lambda s: s.seconds)
        self._floor = session.seconds
        begin = time.monotonic()
        self._set_limit(session)
        if isinstance(session, Session):
            texts = [other for other in busy if isinstance(other, Session)]
            session.step(self._stall_budget.of_step(texts))
        else:
            session.step()
        session.seconds += time.monotonic() - begin
        if not any(s.busy for s in self._sessions.values()):
            # No work is left to reuse cached GPU buffers for, and they count as used memory.
            mx.clear_cache()
        return True

    def _set_limit(self, session: Session | EmbeddingSession) -> None:
        """Set MLX's memory limit for a step of this session.

        At its limit MLX releases cached buffers, and waits for running work before it starts more.
        On a GPU, MLX would cache buffers up to the memory of the machine, regardless of other
        workers: on an H200 it took up to 2.9 times the budgeted memory, and with a limit no more
        than a step needs. The CPU backend caches no buffers here, but allocates memory for work
        that has not run yet: while a long prompt is prefilled, for the scores of many tiles of
        attention at once. On the CPU there is no limit for short prompts and for generation: they
        have little memory to save, and waiting slows them down.
        """
        if overrides.on_gpu():
            limit = min(self._held(), sys.maxsize)
        else:
            limit = 1 if session.reads_in_tiles else sys.maxsize
        if limit != self._limit:
            mx.set_memory_limit(limit)
            self._limit = limit

    def _held(self) -> int:
        """Memory for this worker's arrays [bytes].

        A busy session counts with its lease; an idle one with its reservation, or with its prompt
        cache if that is larger.
        """
        held = self._weights + (self._modules.adapter_bytes if self._modules else 0)
        held += self._draft_modules.nbytes
        held += sum(draft.session_bytes for draft in self._drafts.values() if draft is not None)
        for session in self._sessions.values():
            budget = session.kv_budget
            idle = max(budget.reserved, session.kept_bytes)
            held += budget.everything if session.busy else idle
        return held

    def probe(self, name: str) -> None:
        """Generate one token. Propagates the model's exceptions.

        Does nothing if the session is closed, or if any session is busy: its requests then show
        whether the model works.
        """
        session = self._sessions.get(name)
        if session is not None and not any(s.busy for s in self._sessions.values()):
            session.probe()

    def _read(self, model: Any, on_progress: Callable[[WeightsRead], None]) -> None:
        """Read the weights in about `STEPS` chunks."""
        arrays = [array for _, array in tree_flatten(model.parameters())]
        total = sum(array.nbytes for array in arrays)
        done, step = 0, 0
        batch: list[Any] = []
        on_progress(WeightsRead(0, total))
        for array in arrays:
            batch.append(array)
            step += array.nbytes
            if step >= total / STEPS or array is arrays[-1]:
                mx.eval(batch)
                self._heartbeat.beat()
                done += step
                on_progress(WeightsRead(done, total))
                batch, step = [], 0


class _Tokenizer(threading.Thread):
    """Loads the tokenizer in parallel with the weights."""

    def __init__(self, path: Path, begin: float, preprocessor: Preprocessor) -> None:
        super().__init__(name="tokenizer")
        self.path, self.begin, self.preprocessor = path, begin, preprocessor
        self.result: Any = None
        self.output_format = OutputFormat()
        self.error: Exception | None = None
        self.phase = Phase(0.0, 0.0)

    def run(self) -> None:
        start = time.monotonic()
        try:
            with vocabulary_kept():
                self.result = tokenizers.load(self.path, self.preprocessor)
                self.output_format = of_tokenizer(self.result, self.preprocessor.renderer)
        except Exception as error:  # noqa: BLE001  raised again on the MLX thread
            self.error = error
        self.phase = Phase(start - self.begin, time.monotonic() - start)
