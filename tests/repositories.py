"""Real git repositories and servers."""

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.support import MANIFEST

ENVIRONMENT = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_AUTHOR_NAME": "author",
    "GIT_AUTHOR_EMAIL": "author@example.com",
    "GIT_COMMITTER_NAME": "author",
    "GIT_COMMITTER_EMAIL": "author@example.com",
}
"""Environment without the user's git settings."""


class Origin:
    """A repository with a working tree for commits of a test."""

    def __init__(self, root: Path, *options: str) -> None:
        self.root = root
        self.git("init", "--quiet", "--initial-branch=main", *options, str(root), here=False)
        self.git("config", "uploadpack.allowFilter", "true")

    @property
    def url(self) -> str:
        return f"file://{self.root}"

    def git(self, *arguments: str, here: bool = True, text: str = "") -> str:
        where = ("-C", str(self.root)) if here else ()
        done = subprocess.run(
            ["git", *where, *arguments],
            check=True,
            input=text,
            capture_output=True,
            text=True,
            env=os.environ | ENVIRONMENT,
        )
        return done.stdout.strip()

    def make_tree(self, *entries: str) -> str:
        """Write a tree of entries in the format of `ls-tree`."""
        return self.git("mktree", text="".join(f"{entry}\n" for entry in entries))

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")

    def declare(self, *names: str, model: str = "m", context: int = 64, more: str = "") -> str:
        """Commit manifests of exactly these records, each with `more`, in the folder `fleet`."""
        for old in (self.root / "fleet").glob("*.yaml"):
            old.unlink()
        for name in names:
            manifest = MANIFEST.format(
                name=name, model=model, config=f"{{context_length: {context}}}"
            )
            self.write(f"fleet/{name}.yaml", manifest + more)
        return self.commit()

    def commit(self, *options: str) -> str:
        self.git("add", "--all")
        self.git(*options, "commit", "--quiet", "--allow-empty", "--message=change")
        return self.git("rev-parse", "HEAD")


class Signer:
    """An ssh key that signs commits."""

    def __init__(self, directory: Path, name: str) -> None:
        self.key = directory / name
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self.key)],
            check=True,
        )

    @property
    def options(self) -> tuple[str, ...]:
        """Options of git for signing."""
        sign = (f"user.signingKey={self.key}", "gpg.format=ssh", "commit.gpgSign=true")
        return tuple(word for one in sign for word in ("-c", one))

    @property
    def line(self) -> str:
        """Line for a file of allowed signers."""
        return f"author@example.com {self.key.with_suffix('.pub').read_text('utf-8')}"


@contextmanager
def git_daemon(root: Path) -> Iterator[str]:
    """Run `git daemon` for the repositories under `root`; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            *("git", "daemon", "--verbose", "--export-all", "--reuseaddr"),
            *("--listen=127.0.0.1", f"--port={port}", f"--base-path={root}", str(root)),
        ],
        env=os.environ | ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        assert "Ready" in process.stderr.readline()
        yield f"git://127.0.0.1:{port}"
    finally:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        process.wait()
        process.stderr.close()


class Cut:
    """A proxy to a server that stalls after `bytes_left` bytes of responses."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self.bytes_left = 10**9
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        for one in [self._listener, *self._open]:
            one.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._address)
            self._open += [client, server]
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self._copy, args=pair, daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        answers = source.getpeername() == self._address
        try:
            while data := source.recv(4096):
                if answers:
                    data, self.bytes_left = (
                        data[: self.bytes_left],
                        max(0, self.bytes_left - len(data)),
                    )
                    if not data:
                        return  # stall with the connection open
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return
