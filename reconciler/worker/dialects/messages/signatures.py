"""Signatures of reasoning: what a client sends back unread with a block whose text it did not get.

Anthropic's signatures have the reasoning in them, encrypted. Here it is in them as it is where the
text of the block was left out, so that the model finds it in the next prompt. Others say nothing.
They prove nothing and nobody checks them: a client may as well send any reasoning as text.
"""

import base64
import hashlib
from typing import Any

_CARRIES = "text."


def of_text(text: str, *, omitted: bool) -> str:
    """The signature of a block with that reasoning, which it carries if the text is omitted."""
    data = text.encode("utf-8", "replace")
    if omitted:
        return _CARRIES + base64.b64encode(data).decode("ascii")
    return hashlib.sha256(data).hexdigest()


def carried(signature: Any) -> str:
    """The reasoning that a signature carries; "" if it is another's."""
    if not isinstance(signature, str) or not signature.startswith(_CARRIES):
        return ""
    try:
        return base64.b64decode(signature.removeprefix(_CARRIES), validate=True).decode()
    except ValueError:
        return ""
