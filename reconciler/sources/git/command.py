"""The `git` command, run in a bare repository that holds only fetched objects.

Fetched content cannot run or configure anything: there is no working tree, hence no filters and no
submodules; no hooks; and no configuration except from this file and the environment, whose helpers
provide passwords and keys.
"""

import asyncio
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from reconciler.host.children import kill_group
from reconciler.host.spawn import Spawned, spawn

TIP = "refs/reconciler/tip"
"""Ref of the last fetched commit."""

SECONDS = 300.0
"""Time limit of one command; a network that fails during a fetch reports no error."""

LEASHED = """
(read -r _; kill -KILL 0) <"$1" >/dev/null 2>&1 &
shift
exec "$@"
"""
"""Shell script that runs a command and kills its process group when the given pipe is closed.

git would not notice the death of the daemon, and would run concurrently with the next daemon's git.
"""

MAX_OUTPUT_BYTES = 100_000_000
"""Limit of a command's output. A few small trees can reference each other so often that the list
of their files is practically endless."""

MAX_ERROR_BYTES = 100_000
"""Limit of a command's error output; the rest is dropped."""

READ_BYTES = 1 << 16

LONGEST_WORDS = 500
"""Maximum length of git's error text in a message, in characters."""


class GitError(Exception):
    """A git command failed; the message is its error output."""


@dataclass(frozen=True)
class Remote:
    """Repository to fetch from."""

    url: str
    key: Path | None = None
    """Private key for ssh; None to use ssh's defaults."""


class Repository:
    """A bare repository under `directory`, created if missing."""

    def __init__(self, directory: Path, remote: Remote, seconds: float = SECONDS) -> None:
        self.directory = directory
        self._remote = remote
        self._seconds = seconds
        self._refspec = ""
        self._format = SHA1
        """Object format of this repository."""
        self._options = [
            "core.hooksPath=/dev/null",
            "core.fsmonitor=false",
            "gc.autoDetach=false",
            "protocol.allow=never",
            *(f"protocol.{protocol}.allow=always" for protocol in PROTOCOLS),
            f"remote.origin.url={remote.url}",
            "remote.origin.promisor=true",
            "remote.origin.partialclonefilter=blob:none",
        ]

    async def open(self) -> bool:
        """Create the repository if missing or invalid; True if created. Raises `GitError`."""
        made = False
        try:
            output = await self.git("rev-parse", "--is-bare-repository", "--show-object-format")
            self._format = output.decode().split()[-1]
        except GitError:
            await self._make()
            made = True
        # This process is the only writer, so any lock was left by a killed git.
        for lock in self.directory.rglob("*.lock"):
            lock.unlink(missing_ok=True)
        return made

    async def _make(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True, mode=0o700)
        more = () if self._format == SHA1 else (f"--object-format={self._format}",)
        await self.git("init", "--quiet", "--bare", "--template=", *more, str(self.directory))

    async def fetch(self, ref: str, *, whole: bool) -> str:
        """Fetch a branch or tag without its files, and return its commit. Raises `GitError`.

        `whole`: True to include the history back to the objects that exist here.
        """
        name, listed = await self._resolve(ref)
        wanted = SHA256 if len(listed) == SHA256_DIGITS else SHA1
        if wanted != self._format:  # known only after the first answer of the remote
            self._format = wanted
            await self._make()
        self._refspec = f"+{name}:{TIP}"
        before = await self._tip()
        if before == listed:
            return await self.commit(TIP)
        try:
            await self._fetch_history(whole=whole)
        except GitError as error:
            if not (whole and any(word in str(error) for word in CUT_HISTORY)):
                raise
        if whole and await self._tip() == before:
            # The remote's history is cut off there, as in a shallow clone: only the newest commit
            # exists.
            await self._fetch_history(whole=False)
        if await self._tip() == before:
            raise GitError(f"git fetch: {name} was not fetched, although the remote has {listed}")
        return await self.commit(TIP)

    async def _fetch_history(self, *, whole: bool) -> None:
        depth = () if whole else ("--depth=1",)
        await self._fetch("--filter=blob:none", *depth, "origin", self._refspec)

    async def _tip(self) -> str | None:
        """Last fetched object, if any."""
        try:
            return (await self.git("rev-parse", "--verify", "--quiet", TIP)).decode().strip()
        except GitError:
            return None

    async def _resolve(self, ref: str) -> tuple[str, str]:
        """Return the full name of a remote ref and the object it refers to. Raises `GitError`.

        A branch takes precedence over a tag of the same name; git itself prefers the tag.
        """
        names = [ref] if ref == "HEAD" or ref.startswith("refs/") else []
        names += [f"refs/heads/{ref}", f"refs/tags/{ref}"]
        output = (await self.git("ls-remote", "--quiet", "origin", *names)).decode(errors="replace")
        listed = dict(line.split("\t")[::-1] for line in output.splitlines() if "\t" in line)
        for name in names:
            if name in listed:
                return name, listed[name]
        if OBJECT.fullmatch(ref):
            return ref, ref
        raise GitError(f"couldn't find remote ref {ref}")

    async def fetch_files(self, ids: list[str]) -> None:
        """Fetch files of the last fetched commit, by their ids. Raises `GitError`.

        If the server does not serve single files, such as behind an sshd that does not pass on
        GIT_PROTOCOL, all files are fetched.
        """
        try:
            # With the default negotiation, git would assume that all files of an existing commit
            # exist.
            await self._fetch(
                *("--filter=blob:none", "--stdin", "origin"),
                text="".join(f"{i}\n" for i in ids),
                options=("fetch.negotiationAlgorithm=noop",),
            )
        except GitError:
            await self._fetch("--no-filter", "--refetch", "origin", self._refspec)

    async def _fetch(self, *arguments: str, text: str = "", options: Sequence[str] = ()) -> None:
        await self.git(
            "fetch",
            "--quiet",
            "--force",
            "--no-tags",
            "--no-recurse-submodules",
            "--no-write-fetch-head",
            *arguments,
            text=text,
            options=options,
        )

    async def commit(self, ref: str) -> str:
        """Return the commit that a ref refers to. Raises `GitError`."""
        return (await self.git("rev-parse", "--verify", f"{ref}^{{commit}}")).decode().strip()

    async def git(
        self,
        *arguments: str,
        text: str = "",
        options: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
    ) -> bytes:
        """Run git and return its output; `options` are configuration values. Raises `GitError`."""
        if shutil.which("git") is None:
            raise GitError("git is not installed; on a Mac: xcode-select --install")
        words = [
            *("git", f"--git-dir={self.directory}"),
            *(word for option in (*self._options, *options) for word in ("-c", option)),
            *arguments,
        ]
        with _leash() as leash:
            process, exited, close = await self._start(words, leash, environ or {})
            try:
                async with asyncio.timeout(self._seconds):
                    out, error = await _talk(process, text.encode())
            except TimeoutError:
                problem = f"no answer within {self._seconds:g} s"
                raise GitError(f"git {arguments[0]}: {problem}") from None
            finally:
                if process.returncode is None:
                    kill_group(process.pid)
                close()
                await exited.wait()
        if len(out) > MAX_OUTPUT_BYTES:
            problem = f"more than {MAX_OUTPUT_BYTES} bytes of output"
            raise GitError(f"git {arguments[0]}: {problem}")
        if process.returncode:
            raise GitError(_words(error.decode(errors="replace")))
        return out

    async def _start(self, words: Sequence[str], leash: int, environ: Mapping[str, str]) -> Spawned:
        return await spawn(
            *("/bin/sh", "-c", LEASHED, "sh", f"/dev/fd/{leash}", *words),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment() | dict(environ),
            start_new_session=True,  # so that its helpers are killed with it
            pass_fds=(leash,),
        )

    def _environment(self) -> dict[str, str]:
        """Environment for git, including the user's helpers; password prompts are disabled."""
        own = {k: v for k, v in os.environ.items() if k not in REPOSITORY_VARIABLES}
        # Without this, git fetches a missing object on demand, and starts itself again without end.
        own |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C", "GIT_NO_LAZY_FETCH": "1"}
        if self._remote.key is not None:
            ssh = own.get("GIT_SSH_COMMAND", "ssh")
            key = shlex.quote(str(self._remote.key))
            own["GIT_SSH_COMMAND"] = f"{ssh} -o BatchMode=yes -o IdentitiesOnly=yes -i {key}"
        return own


SHA1, SHA256 = "sha1", "sha256"
"""Object formats."""

SHA256_DIGITS = 64

OBJECT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")

CUT_HISTORY = ("promisor remote", "shallow", "lazy fetching")
"""Parts of git's error messages for a commit whose history is unavailable."""

PROTOCOLS = ("https", "http", "ssh", "git", "file")

REPOSITORY_VARIABLES = frozenset(
    {
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_NAMESPACE",
        "GIT_COMMON_DIR",
    }
)
"""Variables that would direct git to another repository."""


async def _talk(process: asyncio.subprocess.Process, text: bytes) -> tuple[bytes, bytes]:
    """Read a process's output and error output to their ends, each up to one byte above its limit.

    A process that exceeds the limit of its output is killed.
    """
    assert process.stdin and process.stdout and process.stderr  # noqa: S101, PT018  all are pipes
    out, error, _ = await asyncio.gather(
        _read(process.stdout, MAX_OUTPUT_BYTES, partial(kill_group, process.pid)),
        _read(process.stderr, MAX_ERROR_BYTES),
        _write(process.stdin, text),
    )
    await process.wait()
    return out, error


async def _read(
    stream: asyncio.StreamReader, most: int, end: Callable[[], None] = lambda: None
) -> bytes:
    """Read a stream to its end, truncated one byte above `most`; calls `end` when truncated."""
    data = bytearray()
    while piece := await stream.read(READ_BYTES):
        if len(data) <= most:
            data += piece
            if len(data) > most:
                end()
    return bytes(data[: most + 1])


async def _write(stream: asyncio.StreamWriter, text: bytes) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # it exited without reading all input
        stream.write(text)
        await stream.drain()
    stream.close()


@contextmanager
def _leash() -> Iterator[int]:
    """Yield the end of a pipe that is closed when this process or the block ends."""
    hand, held = os.pipe()
    try:
        yield hand
    finally:
        os.close(hand)
        os.close(held)


def _words(error: str) -> str:
    """Format git's error output as one line."""
    lines = [line.strip() for line in error.splitlines()]
    shown = [line for line in lines if line and not line.startswith(("hint:", "warning:"))]
    words = "; ".join(line.removeprefix("fatal: ").removeprefix("error: ") for line in shown)
    return words[:LONGEST_WORDS]
