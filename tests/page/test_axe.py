"""The live page under axe-core's rules, on desktop and phone, light and dark; its screenshots."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.harness import Client, Clients
from tests.conftest import QUESTIONS, ROOT
from tests.page.chromium import DESKTOP, FOUND, PHONE, Browser, Page
from tests.support import Daemon, Home

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(FOUND is None, reason="there is no Chromium"),
    pytest.mark.asyncio(loop_scope="module"),
]

AXE = Client("axe-core", "npm", ("axe-core@4.14.1",), "the live page's accessibility")

PICTURES = ROOT / "docs" / "page"

KEEP = "RECONCILER_KEEP_PICTURES"
"""Variable that, if set, makes the test take the docs' screenshots again."""

MOST_BYTES = 150_000

VIEWS = {
    "": "a.row",
    "chat/assistant": "#message",
    "models": "li.row",
    "sources": ".diagnostic",
    "plan": ".actions",
    "events": ".events",
    "machine": ".facts",
    "load/reconciler/questions": ".note.ok",
    "record/assistant": ".phases",
    "record/broken": ".conditions, table",
}
"""Selector of an element that exists once the view is drawn, by address."""


@pytest.fixture(scope="module")
def scene(models: Path) -> Iterator[Daemon]:
    """A daemon with a ready model, one that is not ready, an invalid manifest, and settings not in
    force as declared. Its directories have short names, as they appear in the screenshots.
    """
    with tempfile.TemporaryDirectory(prefix="reconciler-") as directory:
        root = Path(directory)
        for name in (QUESTIONS, "openai/gpt-oss-20b", "tiny/qwen3"):
            shutil.copytree(models / name, root / "models" / name)
        with Daemon(Home(root, root / "models"), "--memory-budget", "1GB") as daemon:
            declare(daemon)
            yield daemon


def declare(daemon: Daemon) -> None:
    home = daemon.home
    config = {"context_length": 512, "offload_kv_cache_to_gpu": True}
    home.write("assistant.yaml", name="assistant", model=QUESTIONS, **config)
    daemon.ready("assistant")
    home.write(
        "assistant.yaml", name="assistant", model=QUESTIONS, **config | {"context_length": 1024}
    )
    home.write("broken.yaml", name="broken", model="nobody/has-this")
    home.write("wrong.yaml", name="wrong", model=QUESTIONS, context_lenght=512)
    daemon.load({"model": QUESTIONS, "instance_id": "drafts", "config": {"context_length": 256}})
    daemon.load({"model": "openai/gpt-oss-20b", "config": {"context_length": 4096}})
    daemon.ready("assistant", 2)


async def violations(page: Page, where: str) -> list[Any]:
    """Violations found by axe, of any impact."""
    found = await page.run("axe.run()")
    assert len(found["passes"]) > 10, where
    return [
        (where, one["id"], one["impact"], [node["html"] for node in one["nodes"]][:3])
        for one in found["violations"]
    ]


async def test_axe_finds_no_violations(browser: Browser, scene: Daemon, clients: Clients) -> None:
    source = clients.installed(AXE).directory / "node_modules" / "axe-core" / "axe.min.js"
    found = []
    async with browser.page() as page:
        await page.open(f"{scene.url}/")
        await page.shows("Live", ".connection")
        await page.run(source.read_text("utf-8"))
        for screen in (DESKTOP, PHONE):
            for scheme in ("light", "dark"):
                await page.look(screen, scheme)
                for view, drawn in VIEWS.items():
                    await page.go(view)
                    await page.until(f"document.querySelector({drawn!r}) !== null")
                    found += await violations(page, f"{view} {scheme} {screen['width']}")
        await page.look(DESKTOP)
        await page.go("record/drafts")
        for button in ("Edit", "Save as manifest", "Use in a client", "Unload and remove"):
            await page.click(f".buttons button|{button}")
            await page.until("document.querySelector('dialog p, dialog form') !== null")
            found += await violations(page, button)
            await page.press("Escape")
            await page.until("!document.querySelector('dialog')")
    assert found == []


async def test_the_screenshots_in_the_docs_show_this_page(browser: Browser, scene: Daemon) -> None:
    async with browser.page() as page:
        await page.open(f"{scene.url}/")
        await page.shows("Live", ".connection")
        await page.shows("Model not found", "a.row[href$='/broken']")
        await page.shows("wrong.yaml", ".note.bad")
        await page.until("document.querySelector('.memory') !== null")
        await keep(page, "instances")
        await page.look(DESKTOP, "dark")
        await keep(page, "dark")
        await page.look(PHONE)
        await keep(page, "phone")
        await page.look(DESKTOP)
        await page.go("record/assistant")
        await page.until("document.querySelector('table.difference') !== null")
        await keep(page, "record")
        await page.run("document.querySelector('#history').scrollIntoView()")
        await keep(page, "history")
        await page.go("load/tiny/qwen3")
        await page.shows("It fits.", ".note.ok")
        await keep(page, "load")
        await page.go("chat/assistant")
        for question in ("What is the capital of Japan?", "How much is 3 + 4?"):
            before = await page.run("document.querySelectorAll('.figures').length")
            await page.fill("#message", question)
            await page.press("Enter")
            await page.until(f"document.querySelectorAll('.figures').length > {before}")
        await keep(page, "chat")
        await page.go("sources")
        await page.shows("wrong.yaml:7:", ".diagnostic")
        await keep(page, "sources")


async def keep(page: Page, name: str) -> None:
    """Take a screenshot for the docs; write it on request."""
    picture = await page.screenshot()
    assert picture[:4] == b"\x89PNG"
    assert len(picture) < MOST_BYTES
    path = PICTURES / f"{name}.png"
    if os.environ.get(KEEP):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture)
    assert path.exists()
