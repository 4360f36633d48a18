"""Checks whether llguidance can enforce a grammar."""

import json
import time
from functools import cache
from typing import Any

from reconciler.worker.chat import bounded
from reconciler.worker.constraints.formats import with_patterns

LONGEST = 500_000
"""Maximum characters of a schema or a grammar. The largest published ones have about 100,000."""

WHITESPACE = r"( |\r?\n[ \t]{0,24})"
"""Whitespace between the parts of a JSON value: a space, or a line break with an indentation.
Without a bound, a model may write whitespace until it reaches its token limit."""

LEXER_STATES = 100_000
"""Maximum lexer states of a grammar, of 1 to 2 kB each. llguidance's default is 250,000."""

COMPILE_SECONDS = 1.0
"""Maximum CPU time to compile the grammars of a request. llguidance limits neither time nor memory:
`multipleOf: 999983` takes 9 s and 370 MB. The largest published schemas take about 0.1 s."""

LONGEST_WAIT = 10.0
"""Time after which a compilation is abandoned, whatever CPU time it got [s]. Otherwise it is once
this process has used twice `COMPILE_SECONDS`."""

_TOO_SLOW = (
    f"compiling it takes more than {COMPILE_SECONDS:g} s; use fewer properties and alternatives, "
    "and smaller numbers in multipleOf and in repetitions"
)

_NOTHING_FITS = "no text fits it; check its references, and parts that refer to themselves"

_ONE_OF = (
    "oneOf is supported only if a constant property or their types make its alternatives mutually "
    "exclusive; use anyOf"
)


class GrammarError(ValueError):
    """The grammar cannot be enforced; the message names the part that is not supported."""


def schema_grammar(name: str, schema: Any) -> str:
    """Build a part of a grammar: JSON that the schema allows. Raises `GrammarError`."""
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise GrammarError("a JSON schema must be an object")
    options = {"whitespace_pattern": WHITESPACE}
    try:
        return _part({"name": name, "json_schema": with_patterns(schema) | {"x-guidance": options}})
    except RecursionError:
        raise GrammarError("it is nested too deeply") from None


def lark_grammar(name: str, lark: str) -> str:
    """Build a part of a grammar in llguidance's variant of Lark. Raises `GrammarError`."""
    return _part({"name": name, "lark_grammar": lark})


def _part(grammar: dict[str, Any]) -> str:
    text = json.dumps(grammar, ensure_ascii=False)
    if len(text) > LONGEST:
        raise GrammarError(f"it has {len(text)} characters; the maximum is {LONGEST}")
    return text


def whole(parts: list[str]) -> str:
    """Combine parts into a grammar, which starts with the first part."""
    return f'{{"grammars": [{", ".join(parts)}]}}'


def check(part: str, seconds: float = COMPILE_SECONDS) -> float:
    """Compile a part on its own, for a vocabulary of bytes; return the CPU time [s].

    Raises `GrammarError` if llguidance cannot compile it, or if that takes more CPU time than
    `seconds`. The time hardly depends on the vocabulary.
    """

    def compiled() -> tuple[str, float]:
        from llguidance import LLMatcher

        began = time.thread_time()
        failed, messages = LLMatcher.validate_grammar_with_warnings(whole([part]), None)
        if failed:
            return messages[0], 0.0
        made = LLMatcher(_byte_tokens(), whole([part]), log_level=0, limits=limits())
        if not made.is_error() and not any(made.compute_bitmask()) and not made.is_error():
            return _NOTHING_FITS, 0.0
        return made.get_error(), time.thread_time() - began

    try:
        error, taken = bounded.call(
            compiled, LONGEST_WAIT, "compiling it", cpu_seconds=2 * COMPILE_SECONDS
        )
    except TimeoutError:
        raise GrammarError(_TOO_SLOW) from None
    if error:
        raise GrammarError(reason(error))
    if taken > seconds:
        raise GrammarError(_TOO_SLOW)
    return taken


def limits() -> Any:
    """Limits of llguidance for a compiled grammar."""
    from llguidance import LLParserLimits

    return LLParserLimits(max_lexer_states=LEXER_STATES, verbose_errors=False)


class _Bytes:
    """Tokenizer interface of llguidance for a vocabulary of single bytes and an end."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    eos_token_id = 256
    special_token_ids = (256,)
    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")

    def __call__(self, text: str) -> list[int]:
        """Tokenize a text."""
        return list(text.encode("utf-8", "replace"))


@cache
def _byte_tokens() -> Any:
    from llguidance import LLTokenizer

    wrapper: Any = _Bytes()  # llguidance reads the attributes
    return LLTokenizer(wrapper, n_vocab=257, eos_token=256)


def reason(message: str) -> str:
    """Return llguidance's message, truncated and without advice on its own API."""
    if message.startswith("oneOf constraints are not supported"):
        return _ONE_OF
    if message.startswith("NoExtension"):
        return _NOTHING_FITS
    return message.strip()[:500]
