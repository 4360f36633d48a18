"""The daemon's address as users write it: `127.0.0.1:1234`, or a base URL with `/v1`."""

from urllib.parse import urlsplit

SUFFIXES = ("/api/v1", "/api/v0", "/api", "/v1")
"""API paths removed from the end of an address, longest first; commands add their own."""


def normalize(url: str) -> str:
    """Add a missing scheme, and remove the path of an API. Raises ValueError."""
    text = url.strip()
    full = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(full)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname)
        valid = valid and (parts.port is None or parts.port > 0)
        (parts.hostname or "").encode("idna")
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment or any(c.isspace() for c in full):
        raise ValueError(f"'{url}' is not a daemon's address; write HOST:PORT or http://HOST:PORT")
    full = full.rstrip("/")
    for suffix in SUFFIXES:
        if full.endswith(suffix):
            return full.removesuffix(suffix).rstrip("/")
    return full
