"""Which web pages and which host names a daemon answers, as `serve` was told.

A browser sends what page a request comes from as `Origin` (scheme, host and port), and sends it
whenever the page could read the answer or has a body sent. The names here are compared with it as a
whole; patterns would let in whoever gets a name that fits.
"""

import re
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

ANY = "*"

PRIVATE_TREES = frozenset({"local", "internal", "localhost", "lan", "home", "test", "home.arpa"})
"""Trees of names that nobody can buy a name in: RFC 6761, 6762 and 8375, ICANN's `.internal`, and
what routers use. In any other tree one label is not enough for a pattern."""

DEFAULT_PORTS = {"http": 80, "https": 443}
"""That browsers leave out of an origin."""


@dataclass(frozen=True)
class Access:
    """Who may speak to the daemon besides programs of this machine."""

    host: str
    """The address that is listened on."""
    token: str | None = None
    """What every request must carry."""
    origins: frozenset[str] = frozenset()
    """Pages that browsers may let read answers; `ANY`: all, which takes a token."""
    hosts: tuple[str, ...] = ()
    """Names beside those of loopback by which it may be spoken to; `.NAME` is every name below."""

    def allows_origin(self, origin: str) -> bool:
        """True if a page of this origin may use the daemon."""
        return ANY in self.origins or origin in self.origins

    def serves(self, host: str) -> bool:
        """True if `host`, in lower case and without a port, is a name of this daemon."""
        if host == self.host or is_loopback(host):
            return True
        return any(host == name or (name[:1] == "." and host.endswith(name)) for name in self.hosts)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def origin_of(text: str) -> str:
    """An origin as browsers send it. Raises ValueError with what to write instead."""
    if text == ANY:
        return ANY
    if text == "null":
        words = "null is the origin of every sandboxed page; use * together with --token-file"
        raise ValueError(words)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(f"{text} is not an origin such as https://chat.example") from None
    if not parts.scheme or not parts.hostname or not _HOSTNAME.fullmatch(parts.netloc):
        words = f"{text} is not an origin: write scheme, host and port, as in http://localhost:3000"
        raise ValueError(words)
    if "*" in text:
        raise ValueError(f"{text}: origins are exact; name each, or * together with --token-file")
    shown = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    place = shown if port in (None, DEFAULT_PORTS.get(parts.scheme)) else f"{shown}:{port}"
    origin = f"{parts.scheme}://{place}"
    if parts.path or parts.query or parts.fragment:
        raise ValueError(f"{text} is more than an origin: write {origin}")
    return origin


_HOSTNAME = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._*-]+)(:[0-9]{1,5})?", re.ASCII)


def host_of(text: str) -> str:
    """A name, or a pattern `.NAME`, in lower case. Raises ValueError with what to write instead."""
    name = text.lower()
    if name == ANY:
        words = "* would let any web page in that has a name resolve to this machine (DNS "
        raise ValueError(f"{words}rebinding); name hosts, or require a token by --token-file")
    pattern = name.startswith(("*.", "."))
    bare = name.removeprefix("*").removeprefix(".") if pattern else name
    bare = bare.removeprefix("[").removesuffix("]")
    if ":" in bare and not _is_address(bare):
        raise ValueError(f"{text}: write the name alone, without a scheme or a port")
    if not _is_address(bare) and not _NAME.fullmatch(bare):
        raise ValueError(f"{text} is not the name of a host")
    if not pattern:
        return bare
    if _is_address(bare) or ("." not in bare and bare not in PRIVATE_TREES):
        words = f"{text}: anybody can have a name below .{bare}; name the hosts"
        raise ValueError(words)
    return f".{bare}"


_NAME = re.compile(r"[0-9a-z_]([0-9a-z_-]*[0-9a-z_])?(\.[0-9a-z_]([0-9a-z_-]*[0-9a-z_])?)*")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
