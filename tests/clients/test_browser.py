"""Web pages in a real browser: an allowed origin and a foreign one."""

import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.clients import harness
from tests.clients.harness import Client, Clients, acted
from tests.support import Daemon, Home

pytestmark = harness.long

BROWSER = Client(
    "Chromium",
    "npm",
    (
        *("@sparticuz/chromium@147.0.0", "puppeteer-core@24.43.1", "esbuild@0.28.2"),
        *("openai@7.57.0", "@anthropic-ai/sdk@1.14.0"),
    ),
    "the SDKs of OpenAI and Anthropic in pages of two origins, one of them allowed; images, links, "
    "DNS rebinding",
)


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """Port of a web server, and the directory that it serves."""
    files = tmp_path / "pages"
    files.mkdir()
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(files))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, files
        server.shutdown()


def test_only_an_allowed_page_can_use_the_api_in_a_browser(
    clients: Clients, home: Home, pages: tuple[int, Path]
) -> None:
    port, files = pages
    with Daemon(home, "--allow-origin", f"http://chat.example:{port}") as daemon:
        model = acted(daemon, "browser", [], otherwise="Hello to you.")
        installed = clients.installed(BROWSER)
        found = installed.program("browser.mjs", daemon, model, str(port), str(files))
        assert daemon.loaded() == {model}
    friend = found["friend"]
    for key in ("openai", "stream", "anthropic", "anthropicStream"):
        assert friend[key] == "Hello to you."
    assert (friend["models"], friend["error"], friend["instance"]) == ([model], 404, model)
    stranger = found["stranger"]
    assert (stranger["get"], stranger["post"]) == ("TypeError", "TypeError")
    assert (stranger["simple"], stranger["image"]) == (0, "error")  # 0: sent, but not readable
    assert (found["link"], found["rebound"], found["typed"]) == (403, 403, 200)
