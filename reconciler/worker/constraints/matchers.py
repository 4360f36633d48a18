"""Compiles grammars for the tokens of a checkpoint, and caches the last used ones."""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from reconciler.worker.constraints.compiling import GrammarError, limits, reason

KEPT = 32
"""Maximum number of cached grammars. A compiled one takes about 0.1 to 10 MB."""

KEPT_SECONDS = 2.0
"""Maximum CPU time that all cached grammars took to compile: the memory of a large one grows with
it, by about 60 MB a second."""


class Matchers:
    """Creates matchers, which track a completion in its grammar. Thread-safe."""

    def __init__(self, tokenizer: Any, ends: Iterable[int], vocabulary: int) -> None:
        """`tokenizer`: mlx_lm's. `ends`: the model's stop tokens. `vocabulary`: number of tokens of
        the model.
        """
        self._tokenizer, self._vocabulary = tokenizer, vocabulary
        self._ends = sorted(token for token in ends if 0 <= token < vocabulary)
        self._table: Any = None
        self._kept: OrderedDict[str, tuple[Any, float]] = OrderedDict()
        """Matcher and CPU time by grammar."""
        self._lock, self._compiling = threading.Lock(), threading.Lock()

    def matcher(self, grammar: str) -> Any:
        """Return llguidance's matcher at the beginning of a completion. Raises `GrammarError`.

        The first call builds the token table, which for 128,000 tokens takes about a second and
        holds the GIL for 0.6 s of it. Compiling takes milliseconds and does not hold the GIL.
        """
        found = self._find(grammar)
        if found is None:
            with self._compiling:
                found = self._find(grammar)
                if found is None:
                    tokens = self._tokens()
                    began = time.thread_time()
                    found = _compiled(tokens, grammar)
                    self._keep(grammar, found, time.thread_time() - began)
        return found.deep_copy()

    def _find(self, grammar: str) -> Any:
        with self._lock:
            if grammar not in self._kept:
                return None
            self._kept.move_to_end(grammar)
            return self._kept[grammar][0]

    def _keep(self, grammar: str, found: Any, seconds: float) -> None:
        with self._lock:
            self._kept[grammar] = found, seconds
            while len(self._kept) > KEPT or (
                len(self._kept) > 1 and sum(one for _, one in self._kept.values()) > KEPT_SECONDS
            ):
                self._kept.popitem(last=False)

    def _tokens(self) -> Any:
        if self._table is None:
            if not self._ends:
                words = "this model has no stop token, so constrained output could never end"
                raise GrammarError(words)
            from llguidance import LLTokenizer

            from reconciler.worker.constraints.tokens import TokenTable

            table = TokenTable(self._tokenizer, self._ends, self._vocabulary)
            wrapper: Any = table  # llguidance reads the attributes
            self._table = LLTokenizer(wrapper, n_vocab=self._vocabulary, eos_token=self._ends)
        return self._table


def _compiled(tokens: Any, grammar: str) -> Any:
    from llguidance import LLMatcher

    made = LLMatcher(tokens, grammar, log_level=0, limits=limits())
    if not made.is_error():
        made.compute_bitmask()  # fail now if the beginning exceeds the limits
    if made.is_error():
        raise GrammarError(reason(made.get_error()))
    return made
