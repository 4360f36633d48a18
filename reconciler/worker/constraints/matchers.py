"""Compiles grammars for the tokens of a checkpoint, and keeps those that were used last."""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from reconciler.worker.constraints.compiling import GrammarError, reason

KEPT = 32
"""Compiled grammars that are kept. One takes some 0.1 to 10 MB."""

LEXER_STATES = 100_000
"""Of one grammar: 1 to 2 kB each. llguidance's default is 250,000."""


class Matchers:
    """Makes what follows an answer through a grammar. Its methods may be called on any thread."""

    def __init__(self, tokenizer: Any, ends: Iterable[int], vocabulary: int) -> None:
        """`tokenizer` is mlx_lm's, `ends` the tokens that end an answer; ids from `vocabulary` on
        are none of the model's.
        """
        self._tokenizer, self._vocabulary = tokenizer, vocabulary
        self._ends = sorted(token for token in ends if 0 <= token < vocabulary)
        self._table: Any = None
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self._lock, self._compiling = threading.Lock(), threading.Lock()

    def matcher(self, grammar: str) -> Any:
        """A matcher of llguidance at the beginning of an answer. Raises `GrammarError`.

        The first one needs the table of tokens, which for 128,000 takes about a second, 0.6 s of it
        with Python's lock. Compiling takes milliseconds, without that lock.
        """
        found = self._find(grammar)
        if found is None:
            with self._compiling:
                found = self._find(grammar) or self._compiled(grammar)
                self._keep(grammar, found)
        return found.deep_copy()

    def _find(self, grammar: str) -> Any:
        with self._lock:
            if grammar in self._kept:
                self._kept.move_to_end(grammar)
            return self._kept.get(grammar)

    def _keep(self, grammar: str, found: Any) -> None:
        with self._lock:
            self._kept[grammar] = found
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)

    def _compiled(self, grammar: str) -> Any:
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(max_lexer_states=LEXER_STATES, verbose_errors=False)
        made = LLMatcher(self._tokens(), grammar, log_level=0, limits=limits)
        if not made.is_error():
            made.compute_bitmask()  # what takes too much at its beginning is refused now
        if made.is_error():
            raise GrammarError(reason(made.get_error()))
        return made

    def _tokens(self) -> Any:
        if self._table is None:
            if not self._ends:
                words = "this model has no token that ends an answer, so that none could end"
                raise GrammarError(words)
            from llguidance import LLTokenizer

            from reconciler.worker.constraints.tokens import TokenTable

            table = TokenTable(self._tokenizer, self._ends, self._vocabulary)
            wrapper: Any = table  # llguidance reads the attributes
            self._table = LLTokenizer(wrapper, n_vocab=self._vocabulary, eos_token=self._ends)
        return self._table
