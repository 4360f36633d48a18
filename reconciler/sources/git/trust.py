"""Verifies that a commit is signed by an allowed signer."""

import asyncio
import tempfile
from functools import partial
from pathlib import Path

from reconciler.host.kinds import read_at_most
from reconciler.host.spawn import spawn
from reconciler.sources.git.command import GitError, Repository
from reconciler.sources.git.tree import RefusedError
from reconciler.sources.scan import SECONDS, in_thread

GPG_SECONDS = 30.0
"""Time limit for gpg to import a keyring."""

MAX_KEYS = 100_000_000
"""Maximum size of the file; the keyring of a large distribution has some 10 MB."""

ARMOR = b"-----BEGIN PGP"


async def verify(repository: Repository, commit: str, signers: Path) -> None:
    """Check a commit's signature against a file of ssh's allowed signers or a GPG keyring.

    Other keys are not trusted: neither the user's own keyring nor keys from git's configuration.
    Raises `RefusedError`.
    """
    try:
        reading, _ = in_thread(partial(read_at_most, signers, MAX_KEYS))
        keys = await asyncio.wait_for(reading, SECONDS)
    except TimeoutError:
        raise RefusedError(f"cannot read {signers}: no answer within {SECONDS:g} s") from None
    except OSError as error:
        raise RefusedError(f"cannot read {signers}: {error.strerror}") from None
    if len(keys) > MAX_KEYS:
        raise RefusedError(f"cannot read {signers}: it is larger than {MAX_KEYS} bytes")
    with tempfile.TemporaryDirectory(prefix="reconciler-gpg-") as home:
        allowed = "/dev/null"
        if is_keyring(keys):
            await _import(signers, home)
        else:
            allowed = str(signers)
        try:
            await repository.git(
                "verify-commit",
                commit,
                options=(
                    f"gpg.ssh.allowedSignersFile={allowed}",
                    "gpg.x509.program=false",
                    "gpg.minTrustLevel=undefined",
                ),
                environ={"GNUPGHOME": home},
            )
        except GitError as error:
            words = str(error) or "it is not signed"
            raise RefusedError(f"not signed by a key in {signers}: {words}") from None


def is_keyring(keys: bytes) -> bool:
    """True if the data is a GPG keyring, armored or not; ssh's allowed signers are plain text."""
    if keys.lstrip().startswith(ARMOR):
        return True
    try:
        keys.decode()
    except UnicodeDecodeError:
        return True
    return False


async def _import(keyring: Path, home: str) -> None:
    """Create a keyring that holds only these keys. Raises `RefusedError`."""
    try:
        process, exited, close = await spawn(
            *("gpg", "--homedir", home, "--batch", "--quiet", "--no-autostart"),
            *("--import", str(keyring)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise RefusedError(
            f"{keyring} is a GPG keyring, but gpg cannot run: {error.strerror}"
        ) from None
    try:
        async with asyncio.timeout(GPG_SECONDS):
            _, words = await process.communicate()
    except TimeoutError:
        raise RefusedError(f"gpg: no answer within {GPG_SECONDS:g} s") from None
    finally:
        close()
        await exited.wait()
    if process.returncode:
        raise RefusedError(f"gpg cannot read {keyring}: {words.decode(errors='replace').strip()}")
