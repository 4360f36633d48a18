"""The live page in a real browser, for `make test`; the rest is in `test_browser`."""

from pathlib import Path

import pytest

from tests.page.chromium import FOUND, chromium
from tests.support import Daemon

pytestmark = pytest.mark.skipif(FOUND is None, reason="there is no Chromium")


async def test_an_added_manifest_appears_and_becomes_ready(shared: Daemon, tmp_path: Path) -> None:
    async with chromium(tmp_path / "profile") as browser, browser.page() as page:
        await page.open(f"{shared.url}/")
        await page.shows("Live", ".connection")
        shared.home.write("smoke.yaml", name="a-smoke", model="tiny/llama", context_length=64)
        await page.shows("tiny/llama", "a.row[href$='/a-smoke']")
        await page.shows("Ready", "a.row[href$='/a-smoke'] .state")


async def test_a_tab_ends_with_its_test(tmp_path: Path) -> None:
    async with chromium(tmp_path / "profile") as browser:
        before = await browser.tabs()
        async with browser.page():
            pass
        assert await browser.tabs() == before
