"""`reconciler open`."""

import urllib.request
import webbrowser

import pytest
from click.testing import CliRunner

from reconciler.cli import main
from tests.support import Daemon, Home


def test_open_opens_the_page_of_the_daemon(shared: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def start(url: str) -> bool:
        opened.append(url)
        return len(opened) == 1

    monkeypatch.setattr(webbrowser, "open", start)
    command = ["--url", shared.url, "open"]
    printed = CliRunner().invoke(main, [*command, "--print"])
    assert (printed.output, printed.exit_code, opened) == (f"{shared.url}/\n", 0, [])
    done = CliRunner().invoke(main, command)
    assert (done.exit_code, opened) == (0, [f"{shared.url}/"])
    failed = CliRunner().invoke(main, command)
    assert failed.exit_code == 1
    assert f"open {shared.url}/ yourself" in failed.output


def test_open_without_a_daemon_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda url: pytest.fail(f"opened {url}"))
    done = CliRunner().invoke(main, ["--url", "http://127.0.0.1:9", "open"])
    assert done.exit_code == 3


def test_serve_can_disable_the_page(home: Home) -> None:
    with Daemon(home, "--no-page") as daemon:
        request = urllib.request.Request(f"{daemon.url}/", headers={"Accept": "text/html"})
        with urllib.request.urlopen(request) as reply:
            assert reply.headers.get_content_type() == "text/plain"
