"""Origins and host names that the daemon accepts, as configured by `serve`.

A browser sends the origin of the requesting page (scheme, host and port) as `Origin` whenever the
page could read the response or the request has a body. Allowed origins are compared as a whole: a
pattern would admit anyone who registers a matching name.
"""

import re
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

ANY = "*"

PRIVATE_TREES = frozenset({"local", "internal", "localhost", "lan", "home", "test", "home.arpa"})
"""Domains in which nobody can register a name: RFC 6761, 6762 and 8375, ICANN's `.internal`, and
those that routers use. In any other domain, one label is not enough for a pattern."""

DEFAULT_PORTS = {"http": 80, "https": 443}
"""Ports that browsers omit from an origin."""


@dataclass(frozen=True)
class Access:
    """Clients that may use the daemon, besides programs on this machine."""

    host: str
    """Address on which the daemon listens."""
    token: str | None = None
    """Token that every request must carry; None if none is required."""
    origins: frozenset[str] = frozenset()
    """Origins of pages that may read responses; `ANY`: all, which requires a token."""
    hosts: tuple[str, ...] = ()
    """Host names accepted besides those of loopback; `.NAME` means every name below NAME."""

    def allows_origin(self, origin: str) -> bool:
        """True if a page of this origin may use the daemon."""
        return ANY in self.origins or origin in self.origins

    def serves(self, host: str) -> bool:
        """True if `host`, in lower case and without a port, is a name of this daemon."""
        if host == self.host or is_loopback(host):
            return True
        return any(host == name or (name[:1] == "." and host.endswith(name)) for name in self.hosts)


def is_loopback(host: str) -> bool:
    """True if only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def origin_of(text: str) -> str:
    """Normalize an origin as browsers send it. Raises ValueError with the fix."""
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
        raise ValueError(f"{text}: origins are exact; list each, or * together with --token-file")
    shown = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    place = shown if port in (None, DEFAULT_PORTS.get(parts.scheme)) else f"{shown}:{port}"
    origin = f"{parts.scheme}://{place}"
    if parts.path or parts.query or parts.fragment:
        raise ValueError(f"{text} has more than scheme, host and port: write {origin}")
    return origin


_HOSTNAME = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._*-]+)(:[0-9]{1,5})?", re.ASCII)


def host_of(text: str) -> str:
    """Normalize a host name, or a pattern `.NAME`. Raises ValueError with the fix."""
    name = text.lower()
    if name == ANY:
        words = "* would admit any web page whose host name resolves to this machine (DNS "
        raise ValueError(f"{words}rebinding); list the hosts, or require a token with --token-file")
    pattern = name.startswith(("*.", "."))
    bare = name.removeprefix("*").removeprefix(".") if pattern else name
    bare = bare.removeprefix("[").removesuffix("]")
    if ":" in bare and not _is_address(bare):
        raise ValueError(f"{text}: write the name alone, without a scheme or a port")
    if not _is_address(bare) and not _NAME.fullmatch(bare):
        raise ValueError(f"{text} is not a host name")
    if not pattern:
        return bare
    if _is_address(bare) or ("." not in bare and bare not in PRIVATE_TREES):
        words = f"{text}: anyone can register a name below .{bare}; list the hosts"
        raise ValueError(words)
    return f".{bare}"


_NAME = re.compile(r"[0-9a-z_]([0-9a-z_-]*[0-9a-z_])?(\.[0-9a-z_]([0-9a-z_-]*[0-9a-z_])?)*")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
