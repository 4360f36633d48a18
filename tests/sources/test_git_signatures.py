"""Following with a file of allowed signers."""

import os
import subprocess
import threading
from pathlib import Path

import pytest

from tests.repositories import Origin, Signer
from tests.sources.test_git import names, node


class TestSignatures:
    """Following with a file of allowed signers."""

    async def test_only_commits_signed_by_an_allowed_key_are_followed(
        self, origin: Origin, tmp_path: Path
    ) -> None:
        mine, other = Signer(tmp_path, "mine"), Signer(tmp_path, "other")
        allowed = tmp_path / "allowed"
        allowed.write_text(mine.line, "utf-8")
        origin.declare("a")
        async with node(tmp_path, origin.url, signers=allowed) as mac:
            assert "it is not signed" in await mac.refusal()
            origin.write("fleet/a.yaml", "{apiVersion: other/v1}")
            origin.commit(*other.options)
            assert "No principal matched" in await mac.refusal()
            signed = origin.commit(*mine.options)
            assert (await mac.commit()).applied == signed
            origin.git("reset", "--quiet", "--hard", "HEAD~1")
            origin.declare("b")
            snapshot = await mac.look()
            assert (snapshot.commit is not None, names(snapshot)) == (True, [])
            assert "it is not signed" in str(snapshot.problem)

    async def test_a_commit_of_a_removed_key_is_reported_and_stays_applied(
        self, origin: Origin, tmp_path: Path
    ) -> None:
        mine, other = Signer(tmp_path, "mine"), Signer(tmp_path, "other")
        allowed = tmp_path / "allowed"
        allowed.write_text(mine.line, "utf-8")
        origin.declare("a")
        signed = origin.commit(*mine.options)
        async with node(tmp_path, origin.url, signers=allowed) as mac:
            assert (await mac.commit()).applied == signed
            allowed.write_text(other.line, "utf-8")
            snapshot = await mac.look()
            assert "No principal matched" in str(snapshot.problem)
            assert names(snapshot) == ["a"]  # reported, while the loaded records stay
            allowed.unlink()
            assert "cannot read" in await mac.refusal()

    async def test_an_unreadable_signers_file_does_not_block(
        self, origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("reconciler.sources.git.trust.SECONDS", 0.05)
        released = threading.Event()
        allowed = tmp_path / "allowed"
        origin.declare("a")
        async with node(tmp_path, origin.url, signers=allowed) as mac:
            os.mkfifo(allowed)
            assert f"cannot read {allowed}: it is a FIFO" in await mac.refusal()
            name = "reconciler.sources.git.trust.read_at_most"
            monkeypatch.setattr(name, lambda *_: released.wait())  # as on a dead mount
            assert "no answer within 0.05 s" in await mac.refusal()
        released.set()

    async def test_commits_are_verified_with_a_gpg_keyring(
        self, origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        home = tmp_path / "gnupg"
        home.mkdir(mode=0o700)
        monkeypatch.setenv("GNUPGHOME", str(home))
        make = ["--batch", "--quiet", "--passphrase", "", "--quick-gen-key"]
        gpg("gpg", *make, "author@example.com", "ed25519", "sign", "0")
        gpg("gpg", *make, "other@example.com", "ed25519", "sign", "0")
        ring, armored = tmp_path / "ring.gpg", tmp_path / "ring.asc"
        gpg("gpg", "--quiet", "--output", str(ring), "--export", "author@example.com")
        gpg("gpg", "--quiet", "-a", "--output", str(armored), "--export", "author@example.com")
        (origin.root / "fleet").mkdir()
        signed = origin.declare("a")
        try:
            options = ("-c", "user.signingKey=author@example.com", "-c", "commit.gpgSign=true")
            signed = origin.commit(*options)
            for keys in (ring, armored):
                async with node(tmp_path / keys.suffix, origin.url, signers=keys) as mac:
                    assert (await mac.commit()).applied == signed
            origin.commit("-c", "user.signingKey=other@example.com", "-c", "commit.gpgSign=true")
            async with node(tmp_path / ring.suffix, origin.url, signers=ring) as mac:
                await mac.look()
                assert "No public key" in await mac.refusal()
            # With a file of ssh signers, keys of the user's own keyring do not count.
            allowed = tmp_path / "allowed"
            allowed.write_text(Signer(tmp_path, "mine").line, "utf-8")
            async with node(tmp_path / "ssh", origin.url, signers=allowed) as mac:
                assert "not signed by a key in" in await mac.refusal()
        finally:
            gpg("gpgconf", "--kill", "all")


def gpg(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
