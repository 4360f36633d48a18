"""Signatures of reasoning blocks, which clients send back unread, even if the text was omitted.

Anthropic's signatures contain the encrypted reasoning. Here, if the text of a block is omitted, the
signature contains it unencrypted, so that the next prompt includes it. All other
signatures are ignored. Signatures are not verified: a client could also send any reasoning as text.
"""

import base64
import hashlib
from typing import Any

_CARRIES = "text."


def of_text(text: str, *, omitted: bool) -> str:
    """Create the signature of a block; it contains the reasoning if `omitted`, else a hash."""
    data = text.encode("utf-8", "replace")
    if omitted:
        return _CARRIES + base64.b64encode(data).decode("ascii")
    return hashlib.sha256(data).hexdigest()


def carried(signature: Any) -> str:
    """Extract the reasoning from a signature; "" if it contains none."""
    if not isinstance(signature, str) or not signature.startswith(_CARRIES):
        return ""
    try:
        return base64.b64decode(signature.removeprefix(_CARRIES), validate=True).decode()
    except ValueError:
        return ""
