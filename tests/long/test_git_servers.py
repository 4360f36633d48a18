"""Repositories on real servers: https with a password, and ssh.

`git daemon` is in tests/sources/test_git.py.
"""

import base64
import getpass
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from reconciler.core.snapshot import Snapshot
from reconciler.sources.git import Following, GitSource
from reconciler.sources.git.command import Remote
from tests.repositories import ENVIRONMENT, Origin, Signer
from tests.sources.test_git import AT, names
from tests.support import eventually

pytestmark = pytest.mark.long

PASSWORD = "Basic " + base64.b64encode(b"fleet:secret").decode()


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    origin = Origin(tmp_path / "origin")
    origin.declare("a", "b")
    return origin


async def look(remote: Remote, state: Path) -> Snapshot:
    source = GitSource(Following(remote, folder="fleet"), state, lambda: AT)
    snapshots = source.snapshots()
    try:
        return await anext(snapshots)
    finally:
        await snapshots.aclose()


class Backend(BaseHTTPRequestHandler):
    """git's own CGI program behind a password."""

    root: Path

    def do_GET(self) -> None:
        self.answer(b"")

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, body: bytes) -> None:
        if self.headers.get("Authorization") != PASSWORD:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="fleet"')
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        environ = {
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "HTTP_GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(
            ["git", "http-backend"],
            input=body,
            capture_output=True,
            check=True,
            env=os.environ | ENVIRONMENT | environ,
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Suppress the server's log."""


@contextmanager
def http_server(root: Path) -> Iterator[str]:
    handler = type("Handler", (Backend,), {"root": root})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/origin"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_http_uses_a_password_from_a_credential_helper(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in ENVIRONMENT.items():
        monkeypatch.setenv(key, value)
    with http_server(origin.root.parent) as url:
        refused = await look(Remote(url), tmp_path / "one")
        assert "could not read Username" in str(refused.unreadable)
        helper = "!f() { echo username=fleet; echo password=secret; }; f"
        monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
        monkeypatch.setenv("GIT_CONFIG_KEY_0", "credential.helper")
        monkeypatch.setenv("GIT_CONFIG_VALUE_0", helper)
        assert names(await look(Remote(url), tmp_path / "two")) == ["a", "b"]
        assert "secret" not in "".join(
            p.read_text("utf-8", errors="replace")
            for p in (tmp_path / "two").rglob("*")
            if p.is_file()
        )


@contextmanager
def ssh_server(directory: Path, allowed: Signer) -> Iterator[int]:
    """An sshd that accepts the key of `allowed`; yields its port."""
    program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if program is None:
        pytest.skip("sshd is not installed")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    host = Signer(directory, "host")
    (directory / "authorized").write_text(allowed.key.with_suffix(".pub").read_text(), "utf-8")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    (directory / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host.key}\nPidFile none\n"
        f"AuthorizedKeysFile {directory}/authorized\nStrictModes no\nPermitRootLogin yes\n",
        "utf-8",
    )
    public = host.key.with_suffix(".pub").read_text("utf-8")
    (directory / "known").write_text(f"[127.0.0.1]:{port} {public}", "utf-8")
    process = subprocess.Popen([program, "-D", "-f", str(directory / "sshd_config")])

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        eventually(listens, lambda: "sshd does not listen")
        yield port
    finally:
        process.kill()
        process.wait()


async def test_ssh_uses_a_deploy_key(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy, other = Signer(tmp_path, "deploy"), Signer(tmp_path, "other")
    with ssh_server(tmp_path, deploy) as port:
        url = f"ssh://{getpass.getuser()}@127.0.0.1:{port}{origin.root}"
        unknown = await look(Remote(url, deploy.key), tmp_path / "one")
        assert "Host key verification failed" in str(unknown.unreadable)
        monkeypatch.setenv("GIT_SSH_COMMAND", f"ssh -o UserKnownHostsFile={tmp_path}/known")
        refused = await look(Remote(url, other.key), tmp_path / "two")
        assert "Permission denied" in str(refused.unreadable)
        allowed = await look(Remote(url, deploy.key), tmp_path / "three")
        assert (allowed.unreadable, names(allowed)) == (None, ["a", "b"])
