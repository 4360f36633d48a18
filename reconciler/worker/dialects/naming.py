"""Keys of a completion request under the names by which the clients of a dialect know them.

A request of another dialect is checked as the completion that it means; errors and warnings then
name keys that its client never sent. `names` maps a key, or the beginning of one, to the client's.
"""

import re
from collections.abc import Mapping
from typing import TypeVar

from reconciler.worker.errors import RequestError

E = TypeVar("E", bound=RequestError)

Names = Mapping[str, str]
"""A key of the completion -> the client's; `tools[0]` stands for all that is inside of it too."""

_KEY = re.compile(r"[A-Za-z_]\w*(?:\.\w+|\[\d+\])*")


def named(key: str, names: Names) -> str:
    """The client's name of a key: the longest beginning that has one counts."""
    known = [own for own in names if key == own or key.startswith((f"{own}.", f"{own}["))]
    longest = max(known, key=len, default="")
    return names[longest] + key[len(longest) :] if longest else key


def reworded(text: str, names: Names) -> str:
    """A message, with the key at its beginning under the client's name."""
    found = _KEY.match(text)
    return named(found[0], names) + text[found.end() :] if found else text


def renamed(error: E, names: Names) -> E:
    """The error that a client of the dialect gets."""
    param = None if error.param is None else named(error.param, names)
    return type(error)(reworded(str(error), names), error.code, param)
