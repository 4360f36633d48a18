"""Where a prompt is likely to part from later ones: places to keep its KV cache at.

Caches of sliding windows and recurrent states cannot go back, so a later prompt can use one only if
it begins with every token that the cache holds. Three places are such beginnings:

- the end of the system turns and the tools, which other conversations share,
- the end of the last turn as it is rendered once a user's turn follows the answer,
- the same, once a tool's result follows: templates treat earlier reasoning differently then.

They are found by rendering what may come later and comparing it with the prompt. mlx_lm.server
finds the first two, for prompts that end with a user's turn only.
"""

from collections import deque
from collections.abc import Callable
from itertools import takewhile
from typing import Any

from reconciler.worker.beginning import common

Turn = dict[str, Any]
Render = Callable[[list[Turn]], str]
"""Turns, as the chat template takes them; their text without a generation prompt. May raise
anything: templates do."""

Encode = Callable[[str], list[int]]
"""Text that holds all special tokens; its tokens."""

SYSTEM_ROLES = ("system", "developer")

TAIL = 2048
"""Characters at the end of a prompt within which it parts from the prompt of the next turn. One
that parts earlier was shorter once, and its cache was kept then."""

OVERLAP = 256
"""Characters before the place where texts part that are tokenised again."""

LONGEST = 2_000_000
"""Characters of a prompt that is looked at."""

REMEMBERED = 16
"""Ends of system turns that are remembered: their prompts come again."""

CALL = "call00000"
"""The id of a tool call: nine letters or digits, as Mistral's templates demand."""


class Segmenter:
    """Finds the places in prompts of one model."""

    def __init__(self, encode: Encode, *, rewinds: bool = False) -> None:
        """With `rewinds` caches can go back: of the places only the first one is of use then."""
        self._encode, self._rewinds = encode, rewinds
        self._roots: deque[list[int]] = deque(maxlen=REMEMBERED)
        """Beginnings of prompts that end with the system turns."""

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
        """The places in a prompt, in tokens from its beginning, ascending.

        `text` is `turns` rendered with the generation prompt, `tokens` are its tokens; `tools` is
        true if tools are offered, `reasons` if the template knows of reasoning. Places that cannot
        be found are left out.
        """
        if not turns or len(text) > LONGEST:
            return ()
        places = {self._root(tokens, turns, render)}
        for futures in [] if self._rewinds else _futures(turns, tools=tools, reasons=reasons):
            rendered = [one for future in futures if (one := _try(render, future)) is not None]
            places.add(min((self._parting(text, tokens, one) for one in rendered), default=0))
        return tuple(sorted(place for place in places if 0 < place <= len(tokens)))

    def _root(self, tokens: list[int], turns: list[Turn], render: Render) -> int:
        """The end of the system turns and what is rendered with them."""
        roots = list(self._roots)  # other threads add to it meanwhile
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
        """Tokens that the prompt shares with another text; 0: they part long before its end."""
        shared = common(text, other)
        if len(text) - shared > TAIL:
            return 0
        cut = max(0, shared - OVERLAP)
        tail = self._encode(text[cut:])
        before = len(tokens) - len(tail)
        if before < 0 or tokens[before:] != tail:  # a token reaches across the cut
            return common(self._encode(other), tokens)
        return before + common(tail, self._encode(other[cut:]))


def _futures(turns: list[Turn], *, tools: bool, reasons: bool) -> list[list[list[Turn]]]:
    """What the conversation may look like when the next turn is to be answered.

    Of each kind without and with the answer's reasoning, if the template `reasons`: some clients
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
    except Exception:  # noqa: BLE001  a template raises what it likes on turns of ours
        return None
