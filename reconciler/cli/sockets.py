"""Sockets to the daemon, which notice that it is gone without a message.

After the sleep of a laptop or a change of network, nothing on this side shows that a connection is
dead. So the kernel asks the other side while a request waits for its response.
"""

import socket
import sys

IDLE_SECONDS = 15
INTERVAL_SECONDS = 5
PROBES = 5
"""A connection is probed after `IDLE_SECONDS` of silence, and ends after `PROBES` in vain."""

USER_TIMEOUT_MS = 1000 * (IDLE_SECONDS + PROBES * INTERVAL_SECONDS)
"""Time in which what was sent must be acknowledged; on Linux only."""

Address = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[object, ...]]


def probed(address: Address) -> socket.socket:
    """Create a socket for an address of `getaddrinfo`, whose connection the kernel probes."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "darwin":
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPALIVE, IDLE_SECONDS)
    else:
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_SECONDS)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, INTERVAL_SECONDS)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
    if sys.platform == "linux":
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    return made
