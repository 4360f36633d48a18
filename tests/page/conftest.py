"""A browser, and models that play a role for it."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.clients.harness import Clients, acted
from tests.page.chromium import Browser, Page, chromium
from tests.support import Daemon


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    async with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, shared: Daemon) -> AsyncIterator[Page]:
    """The page of the shared daemon, once it is live."""
    async with browser.page() as tab:
        await open_live(tab, shared)
        yield tab


async def open_live(tab: Page, daemon: Daemon) -> None:
    await tab.open(f"{daemon.url}/")
    await tab.shows("Live", ".connection")


@pytest.fixture(scope="session")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Clients:
    return Clients(tmp_path_factory.mktemp("clients"))


@pytest.fixture(scope="module")
def actor(shared: Daemon) -> str:
    """A model that answers with markup, and reasons or calls a tool on request."""
    from tests.clients.acting import Rule, call

    rules = [
        Rule("tools and not result", call("weather", city="Oslo")),
        Rule("'think' in asked", "<think>First the units.</think>Done."),
    ]
    return acted(shared, "page", rules, otherwise=MARKUP)


MARKUP = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
"""Answer of a hostile model."""
