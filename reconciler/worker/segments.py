"""Find the positions of a prompt at which later prompts are likely to diverge from it.

The KV cache is saved at these positions. Caches of sliding windows and recurrent states cannot be
rewound, so a later prompt can use one only if it begins with every token that the cache holds.
There are three such positions:

- the end of the system turns and the tools, which other conversations share;
- the end of the last turn, as it is rendered once a user turn follows the answer;
- the same, once a tool result follows: templates then treat earlier reasoning differently.

They are found by rendering possible later conversations and comparing them with the prompt.
mlx_lm.server finds the first two, and only for prompts that end with a user turn.
"""

from collections import deque
from collections.abc import Callable
from itertools import takewhile
from typing import Any

from reconciler.worker.beginning import common

Turn = dict[str, Any]
Render = Callable[[list[Turn]], str]
"""Turns for the chat template -> their text without a generation prompt. May raise anything, as
templates do."""

Encode = Callable[[str], list[int]]
"""Text that includes all special tokens -> its tokens."""

SYSTEM_ROLES = ("system", "developer")

TAIL = 2048
"""Characters at the end of a prompt within which the next turn's prompt diverges. If it diverges
earlier, the cache was saved when the conversation was shorter."""

OVERLAP = 256
"""Characters before the divergence of two texts that are tokenized again."""

LONGEST = 2_000_000
"""Maximum characters of a prompt; longer prompts have no positions."""

REMEMBERED = 16
"""Number of prompts' system turns that are cached, because they are often reused."""

CALL = "call00000"
"""Id of a tool call: nine letters or digits, as Mistral's templates require."""


class Segmenter:
    """Finds the positions in prompts of one model."""

    def __init__(self, encode: Encode, *, rewinds: bool = False) -> None:
        """`rewinds`: True if caches can be rewound; then only the first position is needed."""
        self._encode, self._rewinds = encode, rewinds
        self._roots: deque[list[int]] = deque(maxlen=REMEMBERED)
        """Tokens of prompts up to the end of the system turns."""

    def boundaries(
        self,
        text: str,
        tokens: list[int],
        turns: list[Turn],
        render: Render,
        *,
        tools: bool,
        reasons: bool,
    ) -> tuple[int, ...]:
        """Find the positions in a prompt [tokens from its beginning], ascending.

        `text`: `turns` rendered with the generation prompt; `tokens`: its tokens; `tools`: True if
        the request has tools; `reasons`: True if the template handles reasoning. Positions that
        cannot be found are left out.
        """
        if not turns or len(text) > LONGEST:
            return ()
        places = {self._root(tokens, turns, render)}
        for futures in [] if self._rewinds else _futures(turns, tools=tools, reasons=reasons):
            rendered = [one for future in futures if (one := _try(render, future)) is not None]
            places.add(min((self._parting(text, tokens, one) for one in rendered), default=0))
        return tuple(sorted(place for place in places if 0 < place <= len(tokens)))

    def _root(self, tokens: list[int], turns: list[Turn], render: Render) -> int:
        """Find the end of the system turns and the text rendered with them."""
        roots = list(self._roots)  # other threads append meanwhile
        known = [len(root) for root in roots if tokens[: len(root)] == root]
        if known:
            return max(known)
        system = list(takewhile(lambda turn: turn.get("role") in SYSTEM_ROLES, turns))
        first = str(turns[len(system)].get("content") or "") if len(system) < len(turns) else ""
        other = "b" if first.lstrip()[:1] == "a" else "a"
        rendered = _try(render, [*system, {"role": "user", "content": other}])
        if rendered is None:
            return 0
        place = common(self._encode(rendered), tokens)
        self._roots.append(tokens[:place])
        return place

    def _parting(self, text: str, tokens: list[int], other: str) -> int:
        """Length of the common prefix with another text [tokens]; 0 if it ends before `TAIL`."""
        shared = common(text, other)
        if len(text) - shared > TAIL:
            return 0
        cut = max(0, shared - OVERLAP)
        tail = self._encode(text[cut:])
        before = len(tokens) - len(tail)
        if before < 0 or tokens[before:] != tail:  # a token spans the cut
            return common(self._encode(other), tokens)
        return before + common(tail, self._encode(other[cut:]))


def _futures(turns: list[Turn], *, tools: bool, reasons: bool) -> list[list[list[Turn]]]:
    """Possible conversations when the next turn is to be answered.

    If the template `reasons`, each kind comes without and with the answer's reasoning: some clients
    send it back, some do not.
    """
    if turns[-1].get("role") == "assistant":
        return []
    answer: Turn = {"role": "assistant", "content": "a"}
    kinds: list[list[Turn]] = [[answer, {"role": "user", "content": "a"}]]
    if tools or turns[-1].get("role") == "tool":
        called = {"name": "a", "arguments": {}}
        calls = [{"id": CALL, "type": "function", "function": called}]
        result = {"role": "tool", "name": "a", "tool_call_id": CALL, "content": "a"}
        kinds.append([answer | {"content": "", "tool_calls": calls}, result])
    thoughts: list[Turn] = [{}, {"reasoning_content": "a"}] if reasons else [{}]
    return [
        [[*turns, answer | thought, following] for thought in thoughts]
        for answer, following in kinds
    ]


def _try(render: Render, turns: list[Turn]) -> str | None:
    try:
        return render(turns)
    except Exception:  # noqa: BLE001  a template may raise anything
        return None
