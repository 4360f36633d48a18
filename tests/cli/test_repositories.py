"""Options for repositories, and names in the configuration of `fleet`."""

from pathlib import Path
from typing import Any

import click
import pytest

from reconciler.cli import haproxy
from reconciler.cli.duration import Duration
from reconciler.cli.git_options import following, followings, labelled
from reconciler.cli.inventory import Node
from reconciler.host.node import facts, labels
from reconciler.host.run import Output

URL = "https://git.example.com/fleet.git"


@pytest.mark.parametrize(
    ("url", "more", "message"),
    [
        ("https://me:secret@git.example.com/x", {}, "a git credential helper"),
        ("https://ghp_secret@git.example.com/x", {}, "a git credential helper"),
        ("--upload-pack=x", {}, "is not an address"),
        (URL, {"git_ref": "--force"}, "is not a branch or tag"),
        (URL, {"git_ref": "a..b"}, "is not a branch or tag"),
        (URL, {"git_ref": "main:refs/heads/x"}, "is not a branch or tag"),
        (URL, {"git_path": "a/../b"}, "is not a folder"),
        (URL, {"git_interval": 0.0}, "the minimum is 1s"),
    ],
)
def test_invalid_options_of_repositories_are_rejected(url: str, more: Any, message: str) -> None:
    with pytest.raises(click.UsageError, match=message):
        following(url, **more)


def test_names_contain_repository_folder_and_branch() -> None:
    assert following(URL, git_path="/fleet/").name == f"git:{URL}//fleet?ref=main"
    assert following("git@host:x.git", git_ref="v1").name == "git:git@host:x.git?ref=v1"


def test_an_option_given_once_applies_to_all_repositories() -> None:
    options = {"git_ref": ("next",), "git_path": ("a", "b"), "git_key": ()}
    first, second = followings([URL, "git@host:x"], options, allow_rewind=False)
    assert (first.ref, first.folder, first.remote.key) == ("next", "a", None)
    assert (second.ref, second.folder) == ("next", "b")
    with pytest.raises(click.UsageError, match="once for each --git"):
        followings([URL], {"git_ref": ("a", "b")}, allow_rewind=False)
    with pytest.raises(click.UsageError, match="the same folder"):
        followings([URL, URL], {}, allow_rewind=False)


def test_labels() -> None:
    assert labelled(["role=prod", "chip=Apple M4 Max", "a="]) == {
        "role": "prod",
        "chip": "Apple M4 Max",
        "a": "",
    }
    for wrong in ("role", "=prod", "a b=c"):
        with pytest.raises(click.UsageError, match="KEY=VALUE"):
            labelled([wrong])


def test_durations() -> None:
    durations = {"30": 30.0, "1.5s": 1.5, "5m": 300.0, "1m30s": 90.0, "2h": 7200.0}
    for text, seconds in durations.items():
        assert Duration().convert(text, None, None) == seconds
    for wrong in ("", "soon", "-1", "5d", "1m 3s"):
        with pytest.raises(click.BadParameter, match="is not a duration"):
            Duration().convert(wrong, None, None)


def test_facts_of_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output of macOS' programs; this test was not run on a Mac."""

    def run(command: Any) -> Output:
        if command[0] == "sysctl":
            return Output(0, "Apple M4 Max\n")
        return Output(0, '  |   "gpu-core-count" = 40\n')

    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.mac_ver", lambda: ("15.5", ("", "", ""), "arm64"))
    monkeypatch.setattr("socket.gethostname", lambda: "studio-1.local")
    found = facts(run)
    known = {k: found[k] for k in ("host", "chip", "gpu_cores", "os", "os_version")}
    assert known == {
        "host": "studio-1",
        "chip": "Apple M4 Max",
        "gpu_cores": "40",
        "os": "macos",
        "os_version": "15.5",
    }
    assert labels(found, {"chip": "other"})["chip"] == "other"
    assert "gpu_cores" not in facts(lambda _: Output(1, "unknown"))


def test_the_configuration_contains_no_token(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret", "utf-8")
    nodes = [Node("one two", "https://mac.local", token), Node("b", "http://10.0.0.2:1234")]
    text = haproxy.configuration({"p/m": nodes}, ":8000")
    assert "secret" not in text
    assert 'Authorization "Bearer ${RECONCILER_TOKEN}"' in text
    assert "server one_two mac.local:443 ssl verify required" in text
    assert "server b 10.0.0.2:1234\n" in text
    assert haproxy.NAME.fullmatch("evil' }\nbackend x") is None
