"""Malformed and hostile HTTP: an error in the standard form, and none of it in the log."""

import gzip
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from reconciler.core.schema import check
from tests.support import Daemon, Home

SECRET = b"token-zirconium-4711"

BOMB = gzip.compress(b" " * 50_000_000, 1)
UNLOAD = b"/api/v1/models/unload"
LOAD = b"/api/v1/models/load"
CHAT = b"/v1/chat/completions"
NAMED = b'{"instance_id":"x"}'


def head(method: bytes, path: bytes, *headers: bytes, host: bytes = b"localhost") -> bytes:
    """Head of a request, with a token that the daemon does not require."""
    lines = (b"%b %b HTTP/1.1" % (method, path), b"Host: " + host, *headers)
    return b"\r\n".join([*lines, b"Authorization: Bearer " + SECRET, b"", b""])


def get(path: bytes, *headers: bytes, host: bytes = b"localhost") -> bytes:
    return head(b"GET", path, *headers, host=host)


def post(path: bytes, body: bytes, *headers: bytes, method: bytes = b"POST") -> bytes:
    return head(method, path, b"Content-Length: %d" % len(body), *headers) + body


HOSTILE: dict[str, tuple[int, bytes]] = {
    # Names
    "an unbalanced bracket in Host": (403, get(b"/health", host=b"[")),
    "half an address in Host": (403, get(b"/health", host=b"[::1")),
    "bytes in Host": (403, get(b"/health", host=b"\xe9\xff")),
    "an empty Host": (403, get(b"/health", host=b"")),
    "a user in Host": (403, get(b"/health", host=b"127.0.0.1@evil.example")),
    "a path in Host": (403, get(b"/health", host=b"evil.example/@127.0.0.1")),
    "a long Host": (403, get(b"/health", host=b"a" * 7000)),
    "no Host": (400, b"GET /health HTTP/1.1\r\n\r\n"),
    "two Hosts": (400, b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"),
    "another host in the address": (403, get(b"http://evil.example/health")),
    "an unbalanced bracket in Origin": (403, get(b"/health", b"Origin: http://[")),
    "bytes in Origin": (403, get(b"/health", b"Origin: \xff\xfe")),
    "no name in Origin": (403, get(b"/health", b"Origin: null")),
    "two Origins": (
        403,
        get(b"/health", b"Origin: http://localhost", b"Origin: http://evil.example"),
    ),
    # Malformed HTTP
    "a header without end": (400, get(b"/health", b"X: " + SECRET * 1000)),
    "a zero in a header": (400, get(b"/health", b"X\x00: " + SECRET)),
    "many headers": (400, get(b"/health", *(b"X-%d: y" % i for i in range(500)))),
    "a method of bytes": (400, b"G\x80T /health HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + SECRET * 5),
    "another version": (400, b"GET /health HTTP/9.9\r\nHost: localhost\r\n\r\n"),
    "an unbalanced bracket in the address": (400, get(b"http://[evil/x")),
    "bytes in the path": (400, get(b"/api/v1/records/\xff\xfe")),
    "a long address": (400, get(b"/api/v1/history?name=" + SECRET * 1000)),
    "a negative length": (400, head(b"POST", UNLOAD, b"Content-Length: -5")),
    "a length that is no number": (400, head(b"POST", UNLOAD, b"Content-Length: abc")),
    "two lengths": (400, head(b"POST", UNLOAD, b"Content-Length: 2", b"Content-Length: 3")),
    "length and chunks": (
        400,
        head(b"POST", UNLOAD, b"Content-Length: 4", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
    ),
    "a chunk without a size": (
        400,
        head(b"POST", UNLOAD, b"Transfer-Encoding: chunked") + b"zz\r\n" + SECRET,
    ),
    "chunks of another kind": (400, head(b"POST", UNLOAD, b"Transfer-Encoding: rot13")),
    "an unknown expectation": (417, post(UNLOAD, NAMED, b"Expect: nonsense")),
    # Bodies
    "a bomb": (413, post(LOAD, BOMB, b"Content-Encoding: gzip")),
    "a bomb for chats": (413, post(CHAT, BOMB, b"Content-Encoding: gzip")),
    "a length that is a lie": (413, head(b"POST", UNLOAD, b"Content-Length: 99999999999")),
    "broken deflate": (400, post(LOAD, b"\x99" + SECRET, b"Content-Encoding: deflate")),
    "broken gzip": (400, post(LOAD, gzip.compress(NAMED)[:-12], b"Content-Encoding: gzip")),
    "brotli": (415, post(LOAD, b"abc", b"Content-Encoding: br")),
    "zstandard": (415, post(LOAD, b"abc", b"Content-Encoding: zstd")),
    "an unknown compression": (415, post(LOAD, b"abc", b"Content-Encoding: rot13")),
    "bytes as compression": (415, post(LOAD, b"abc", b"Content-Encoding: \xff")),
    "two compressions": (415, post(LOAD, b"abc", b"Content-Encoding: gzip, gzip")),
    "compressed, and right": (404, post(UNLOAD, gzip.compress(NAMED), b"Content-Encoding: gzip")),
    "an unknown charset": (404, post(UNLOAD, NAMED, b"Content-Type: a/json; charset=nope")),
    "bytes as type": (404, post(UNLOAD, NAMED, b"Content-Type: \xff;;=;")),
    "an unknown charset for chats": (
        404,
        post(CHAT, b'{"model":"x"}', b"Content-Type: a; charset=z"),
    ),
    # Invalid text
    "half a pair as name": (400, post(UNLOAD, b'{"instance_id":"\\ud800"}')),
    "half a pair as key": (400, post(UNLOAD, b'{"\\ud800":"x"}')),
    "half a pair as bytes": (400, post(UNLOAD, b'{"instance_id":"\xed\xa0\x80"}')),
    "half a pair for chats": (404, post(CHAT, b'{"model":"\\ud800"}')),
    "half a pair in a path": (404, get(b"/api/v1/records/%ed%a0%80")),
    "half a pair in a new name": (400, post(b"/api/v1/records/%ed%a0%80", b"{}", method=b"PUT")),
    "half a pair in a query": (400, get(b"/api/v1/records/x?wait=%ed%a0%80")),
    "bytes in a query": (400, get(b"/api/v1/events?follow=%ff")),
    "no path at all": (404, get(b"//[evil")),
    # Long or deep values
    "a long name": (400, post(UNLOAD, json.dumps({"instance_id": "x" * 900_000}).encode())),
    "a long key": (400, post(UNLOAD, json.dumps({"y" * 900_000: "x"}).encode())),
    "a long model": (400, post(CHAT, json.dumps({"model": "x" * 900_000}).encode())),
    "deep lists": (400, post(UNLOAD, b"[" * 100_000)),
    "deep lists for chats": (400, post(CHAT, b'{"model":"x","a":' + b"[" * 100_000)),
    "a large number": (400, post(LOAD, b'{"model":"x","context_length":' + b"9" * 5000 + b"}")),
    "many keys": (400, post(LOAD, json.dumps({f"k{i}": 1 for i in range(60_000)}).encode())),
    "zeros to delete": (400, post(b"/api/v1/plan", b'{"delete":[' + b"0," * 480_000 + b"0]}")),
    "wrong records": (400, post(b"/api/v1/plan", b'{"apply":[' + b'{"a":1},' * 99_999 + b"{}]}")),
    # Methods
    "TRACE": (405, head(b"TRACE", b"/")),
    "OPTIONS *": (404, head(b"OPTIONS", b"*")),
    "CONNECT": (403, head(b"CONNECT", b"evil.example:443")),
    "a page for browsers": (404, get(b"/nope", b"Accept: text/html")),
}
"""Status and request bytes by kind of fault."""


@pytest.fixture(scope="module")
def hardened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon without models that logs at the most detailed level."""
    root = tmp_path_factory.mktemp("home")
    (root / "models").mkdir()
    home = Home(root, root / "models")
    with Daemon(home, "--log-level", "debug", "--log-format", "json") as running:
        yield running


def send(daemon: Daemon, data: bytes) -> tuple[int, str, bytes]:
    """Status, type and body of the first response to these bytes."""
    address = urlsplit(daemon.url)
    with socket.create_connection((address.hostname or "", address.port or 0), 30) as wire:
        wire.sendall(data)
        answer = b""
        while (more := wire.recv(65536)) and not _is_whole(answer := answer + more):
            pass
    top, _, body = answer.partition(b"\r\n\r\n")
    type_ = re.search(r"(?i)content-type: (\S+)", top.decode("latin-1"))
    return int(top.split()[1]), type_[1] if type_ else "", body


def _is_whole(answer: bytes) -> bool:
    top, found, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", top)
    return bool(found and length and len(body) >= int(length[1]))


@pytest.mark.parametrize(("status", "data"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_http_is_answered_in_the_standard_form(
    hardened: Daemon, status: int, data: bytes
) -> None:
    got, type_, body = send(hardened, data)
    assert (got, type_) == (status, "application/json"), body[:300]
    assert check("error", json.loads(body)) == ()
    assert len(body) < 3000
    assert SECRET not in body


def test_valid_http_is_answered(hardened: Daemon) -> None:
    for data in (
        get(b"/health"),
        get(b"/health", host=b"127.0.0.1:9"),
        get(b"/health", host=b"[::1]:1234"),
        get(b"/health", b"Origin: http://localhost"),
        b"GET /health HTTP/1.0\r\n\r\n",  # as health checks of proxies do
    ):
        assert send(hardened, data)[0] == 200, data


def test_hostile_http_is_not_in_the_log_and_the_log_stays_json(hardened: Daemon) -> None:
    for _, data in HOSTILE.values():
        send(hardened, data)
    log = hardened.log()
    assert SECRET.decode() not in log
    events = {json.loads(line)["event"] for line in log.splitlines()}
    assert events <= {"mlx is ready", "request is malformed", "worker output"}


def test_a_malformed_token_is_refused_as_a_wrong_one(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("schlüssel", "utf-8")
    (tmp_path / "models").mkdir()
    with Daemon(Home(tmp_path, tmp_path / "models"), "--token-file", str(secret)) as daemon:

        def asked(*authorizations: bytes) -> int:
            lines = [b"GET /health HTTP/1.1", b"Host: any", *authorizations, b"", b""]
            return send(daemon, b"\r\n".join(lines))[0]

        assert asked("Authorization: Bearer schlüssel".encode()) == 200
        for wrong in (
            b"",
            b"\xff\xfe",
            b"Bearer",
            b"Bearer \xed\xa0\x80",
            b"Bearer " + b"x" * 8000,
        ):
            assert asked(b"Authorization: " + wrong) == 401, wrong
        right = "Authorization: Bearer schlüssel".encode()
        assert asked(b"Authorization: Bearer x", right) == 401
        assert "x" * 100 not in daemon.log()
