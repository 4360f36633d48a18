"""Identifier of the current boot; the output of macOS is taken from its manual."""

import platform
from collections.abc import Sequence

import pytest

from reconciler.host import boot
from reconciler.host.run import Output

SESSION = "7F3A0E5C-9A53-4B7E-8B0E-1C1C2A1B9D4E"


def system(command: Sequence[str]) -> Output:
    assert tuple(command) == ("sysctl", "-n", "kern.bootsessionuuid")
    return Output(0, f"{SESSION}\n")


def test_the_boot_id_of_macos_is_its_boot_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert boot.boot_id(system) == SESSION
    assert boot.boot_id(lambda _: Output(1, "unknown oid")) == ""


@pytest.mark.skipif(platform.system() != "Linux", reason="asks the kernel of Linux")
def test_the_boot_id_of_linux_is_stable() -> None:
    assert boot.boot_id(system) == boot.boot_id(system) != ""


def test_an_unknown_boot_id_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(boot, "LINUX", boot.LINUX / "nothing")
    assert boot.boot_id(system) == ""
