"""A local Hugging Face hub with the part of the API that search and downloads need."""

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

LARGE = (".safetensors", ".txt")
"""Suffixes of files that the hub keeps as large files, identified by SHA-256."""


@dataclass
class Repository:
    """A model with one commit, named by `main` and a tag."""

    files: dict[str, bytes]
    gated: bool = False
    commit: str = ""
    tag: str = "v1"
    lies: dict[str, str] = field(default_factory=dict)
    """Wrong SHA-256 that the hub reports, by file name."""
    parameters: dict[str, int] = field(default_factory=dict)
    """Number of weights by data type, as in search results."""
    tags: tuple[str, ...] = ("mlx",)
    downloads: int = 0

    def __post_init__(self) -> None:
        content = b"".join(name.encode() + data for name, data in sorted(self.files.items()))
        self.commit = hashlib.sha1(content, usedforsecurity=False).hexdigest()

    def described(self, name: str) -> dict[str, Any]:
        """A file's entry in the API."""
        data = self.files[name]
        blob = b"blob %d\0" % len(data) + data
        entry: dict[str, Any] = {
            "rfilename": name,
            "size": len(data),
            "blobId": hashlib.sha1(blob, usedforsecurity=False).hexdigest(),
        }
        if name.endswith(LARGE):
            sha256 = self.lies.get(name, hashlib.sha256(data).hexdigest())
            entry["lfs"] = {"size": len(data), "sha256": sha256, "pointerSize": 100}
        return entry


class Hub:
    """Serves repositories, records requests, and can stall in the middle of a file."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.stop_after: int | None = None
        """Number of bytes of a large file after which it stalls."""
        self.stopped = threading.Event()
        """Set once it has stalled."""
        self._released = threading.Event()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def reset(self) -> None:
        """Remove all repositories and end stalled responses."""
        self._released.set()
        self._released = threading.Event()
        self.stopped.clear()
        self.stop_after = None
        self.repositories.clear()
        self.asked.clear()

    def add(self, name: str, model: Path, **more: bytes) -> Repository:
        """Add a repository with the files of a model and `more`."""
        files = {path.name: path.read_bytes() for path in model.iterdir() if path.is_file()}
        others = {key.replace("_dot_", "."): data for key, data in more.items()}
        self.repositories[name] = Repository(files | others)
        return self.repositories[name]

    def fetched(self) -> list[str]:
        """Names of the requested files."""
        found = (re.fullmatch(r"/.+/resolve/[^/]+/(.+)", path) for path, _ in self.asked)
        return [match[1] for match in found if match]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer a request."""
        path = request.path.partition("?")[0]
        headers = {key.lower(): value for key, value in request.headers.items()}
        self.asked.append((path, headers))
        if path == "/api/models":
            _send(request, 200, json.dumps(self._found(request.path)).encode())
            return
        api = re.fullmatch(r"/api/models/(.+)/revision/(.+)", path)
        resolve = re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", path)
        found = api or resolve
        repository = self.repositories.get(found[1]) if found else None
        if found is None or repository is None:
            _send(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif repository.gated and "Authorization" not in request.headers:
            _send(request, 403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif found[2] not in ("main", repository.tag, repository.commit):
            _send(request, 404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif resolve is None:
            siblings = [repository.described(name) for name in sorted(repository.files)]
            info = {"id": found[1], "sha": repository.commit, "siblings": siblings}
            _send(request, 200, json.dumps(info).encode())
        else:
            self._send_file(request, repository.files[resolve[3]], resolve[3])

    def _found(self, path: str) -> list[dict[str, Any]]:
        """Search results, the most downloaded first."""
        query = parse_qs(urlsplit(path).query)
        (words,), tags = query["search"], set(query.get("filter", ()))
        found: list[dict[str, Any]] = [
            {
                "id": name,
                "downloads": one.downloads,
                "gated": "manual" if one.gated else False,
                "lastModified": "2026-01-02T03:04:05.000Z",
            }
            | ({"safetensors": _safetensors(one.parameters)} if one.parameters else {})
            for name, one in self.repositories.items()
            if words.lower() in name.lower() and tags <= set(one.tags)
        ]
        found.sort(key=lambda one: -one["downloads"])
        return found[: int(query["limit"][0])]

    def _send_file(self, request: BaseHTTPRequestHandler, data: bytes, name: str) -> None:
        match = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        begin = int(match[1]) if match else 0
        request.send_response(206 if begin else 200)
        request.send_header("Content-Length", str(len(data) - begin))
        request.end_headers()
        stops = self.stop_after is not None and name.endswith(LARGE)
        if not stops or len(data) <= (self.stop_after or 0):
            request.wfile.write(data[begin:])
            return
        request.wfile.write(data[begin : self.stop_after])
        request.wfile.flush()
        released = self._released
        self.stopped.set()
        released.wait()
        request.close_connection = True


def _safetensors(parameters: dict[str, int]) -> dict[str, Any]:
    return {"parameters": parameters, "total": sum(parameters.values())}


def _send(
    request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None
) -> None:
    request.send_response(status)
    request.send_header("Content-Length", str(len(body)))
    request.send_header("Content-Type", "application/json")
    for key, value in (headers or {}).items():
        request.send_header(key, value)
    request.end_headers()
    request.wfile.write(body)
