"""Map the keys of a completion request to the names that the clients of a dialect use.

Requests of other dialects are validated as translated completions, so errors and warnings name keys
that the client never sent. `names` maps a key, or a prefix of keys, to the client's name.
"""

import re
from collections.abc import Mapping
from typing import TypeVar

from reconciler.worker.errors import RequestError

E = TypeVar("E", bound=RequestError)

Names = Mapping[str, str]
"""Client's keys by the completion's keys; an entry for `tools[0]` also covers everything inside."""

_KEY = re.compile(r"[A-Za-z_]\w*(?:\.\w+|\[\d+\])*")


def named(key: str, names: Names) -> str:
    """Translate a key to the client's name; the longest matching prefix wins."""
    known = [own for own in names if key == own or key.startswith((f"{own}.", f"{own}["))]
    longest = max(known, key=len, default="")
    return names[longest] + key[len(longest) :] if longest else key


def reworded(text: str, names: Names) -> str:
    """Translate the key at the beginning of a message to the client's name."""
    found = _KEY.match(text)
    return named(found[0], names) + text[found.end() :] if found else text


def renamed(error: E, names: Names) -> E:
    """Translate the key and message of an error to the client's names."""
    param = None if error.param is None else named(error.param, names)
    return type(error)(reworded(str(error), names), error.code, param)
