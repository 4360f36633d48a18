"""The live page in a real browser: live updates, and actions of the user."""

import itertools
import os
import platform
import signal
from pathlib import Path

import pytest

from reconciler.core.schema import load_spec
from reconciler.core.snapshot import read_file
from tests.conftest import QUESTIONS
from tests.daemon.test_state import full
from tests.hub import Hub
from tests.page.chromium import FOUND, Browser, Page
from tests.page.conftest import open_live
from tests.support import Daemon, Home

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(FOUND is None, reason="there is no Chromium"),
    pytest.mark.asyncio(loop_scope="module"),
]

TOKEN = "zirconium"


def row(name: str) -> str:
    return f"a.row[href$='/{name}']"


async def test_the_effect_of_a_manifest_change_is_shown_without_a_reload(
    page: Page, shared: Daemon
) -> None:
    shared.home.write("watched.yaml", name="watched", model=QUESTIONS, context_length=128)
    await page.shows("Ready", row("watched"))
    await page.shows("watched.yaml:1", row("watched"))
    await page.click(row("watched"))
    await page.shows("128", "table.settings")
    shared.home.write("watched.yaml", name="watched", model=QUESTIONS, context_length=256)
    await page.shows("generation 2 is loaded", ".why")
    await page.shows("config.context_length", "table.difference")
    assert await page.run(
        "[...document.querySelectorAll('table.difference td')].map((e) => e.innerText)"
    ) == ["config.context_length", "128", "256"]
    await page.shows("Change it there", ".note")
    assert await page.run("document.querySelector('.buttons .danger') === null")
    (shared.home.manifests / "watched.yaml").unlink()
    await page.shows("There is no such record")


async def test_an_invalid_manifest_shows_file_line_and_key(page: Page, shared: Daemon) -> None:
    path = shared.home.write("wrong.yaml", name="wrong", model="m", **{"<b>contxt</b>": 5})
    await page.shows("wrong.yaml:7:", ".note.bad code")
    await page.shows("spec.config.<b>contxt</b>", ".note.bad code")
    await page.go("sources")
    await page.shows("Invalid", ".files")
    await page.shows("wrong.yaml:7:", ".diagnostic")
    await page.click(".section button|Suspend")
    await page.shows("Suspended: changes are not followed", ".note")
    await page.click(".section button|Resume")
    await page.shows("Suspend", ".section-head button")
    path.unlink()
    await page.until("!document.querySelector('.diagnostic')")


async def test_a_user_loads_chats_and_unloads(page: Page, shared: Daemon) -> None:
    await page.click("a.button|Load a model")
    await page.fill("input[name=model]", QUESTIONS)
    await page.fill("input[name=instance_id]", "asked")
    await page.shows("It fits.", ".note.ok")
    await page.shows("asked", ".actions")
    await page.click("summary|Settings")
    await page.fill("input[name='config.context_length']", "512")
    await page.click("form button|Load")
    await page.shows("was loaded in", ".note.ok")
    assert shared.get("/api/v1/records/asked")["spec"]["config"] == {"context_length": 512}
    await page.click("a.button|Chat")
    await page.shows("512 tokens of context", ".parameters")
    await page.fill("#message", "What is the capital of Japan?")
    await page.press("Enter")
    await page.shows("The capital of Japan is Tokyo.", ".turn.assistant")
    await page.shows("tokens/s", ".figures")
    await page.fill("#message", "How much is 3 + 4?")
    await page.click("button|Send")
    await page.shows("from the cache", ".figures")
    await page.go("record/asked")
    await page.click("button|Unload and remove")
    await page.click("dialog button.danger")
    await page.until(f"location.hash === '#/' && !document.querySelector({row('asked')!r})")
    shared.gone("asked")


async def test_an_impossible_load_shows_the_reason_before_the_click(
    page: Page, shared: Daemon
) -> None:
    await page.go("load")
    await page.fill("input[name=model]", "nobody/has-this")
    await page.shows("not found", ".card .note.bad")
    await page.shows("Pull nobody/has-this", ".card a")
    manifest = shared.home.write("absent.yaml", name="absent", model="nobody/has-this")
    await page.go("record/absent")
    await page.click("a.button|Pull nobody/has-this")
    await page.until("document.querySelector('#pull')?.value === 'nobody/has-this'")
    manifest.unlink()
    await page.go("load")
    await page.fill("input[name=model]", QUESTIONS)
    await page.shows("It fits.", ".note.ok")
    await page.click("summary|Settings")
    await page.fill("input[name='config.context_length']", "0")
    await page.shows("must be at least 1", ".field .bad-text")


async def test_editing_a_spec_shows_its_effect_first(page: Page, shared: Daemon) -> None:
    shared.load({"model": QUESTIONS, "instance_id": "edited"})
    await page.go("record/edited")
    await page.click("button|Edit")
    await page.fill("input[name='config.context_length']", "-1")
    await page.shows("must be at least 1", "dialog .field .bad-text")
    assert await page.run("document.querySelector('dialog .primary').disabled")
    await page.fill("input[name='config.context_length']", "200")
    await page.shows("Reconfigure", "dialog .actions")
    await page.click("dialog button|Apply")
    await page.until("!document.querySelector('dialog')")
    await page.shows("generation 2 is loaded", ".why")
    assert shared.ready("edited", 2)["status"]["config"]["context_length"] == 200


async def test_a_record_is_suspended_and_loaded_again(page: Page, shared: Daemon) -> None:
    shared.load({"model": QUESTIONS, "instance_id": "resting"})
    await page.go("record/resting")
    await page.click("button|Suspend")
    await page.shows("Suspended", ".title .state")
    await page.click("button|Load again")
    await page.shows("Ready", ".title .state")
    assert shared.ready("resting")["spec"].get("suspend") is None


async def test_a_record_saved_as_a_manifest_declares_the_same(page: Page, shared: Daemon) -> None:
    body = {
        "model": QUESTIONS,
        "instance_id": "saved:1",
        "config": {"context_length": 100, "flash_attention": False},
        "defaults": {"temperature": 0.5, "chat_template_kwargs": {"a b": ["yes", "1"]}},
        "idle_ttl_seconds": 5000,
    }
    shared.load(body)
    await page.go("record/saved%3A1")
    await page.click("button|Save as manifest")
    text = await page.until("document.querySelector('dialog pre')?.innerText")
    read = read_file("saved.yaml", text.encode())
    assert read.flaws == ()
    (declared,) = read.declared
    spec = shared.get("/api/v1/records/saved:1")["spec"]
    assert (declared.name, declared.spec) == ("saved:1", load_spec(spec))
    await page.press("Escape")
    await page.until("!document.querySelector('dialog')")


async def test_the_recipe_of_a_client_is_shown(page: Page, shared: Daemon) -> None:
    shared.load({"model": QUESTIONS, "instance_id": "recipe"})
    await page.go("record/recipe")
    await page.click("button|Use in a client")
    await page.click("dialog summary|Codex")
    await page.shows(f"{shared.url}/v1", "dialog details[open] pre")
    await page.click("dialog details[open] button|Copy")
    await page.shows("Copied", "dialog details[open] button")


async def test_a_killed_worker_is_shown_and_recovers(page: Page, shared: Daemon) -> None:
    shared.load({"model": "tiny/llama", "instance_id": "killed"})
    await page.go("record/killed")
    await page.shows("Ready", ".title .state")
    pid = shared.get("/api/v1/records/killed")["status"]["worker_pid"]
    os.kill(pid, signal.SIGKILL)
    await page.shows("Worker killed", ".events")
    await page.shows("Ready", ".title .state")
    await page.until(
        "[...document.querySelectorAll('.facts dt')].find((e) => e.innerText === 'Restarts')"
        "?.nextSibling.innerText === '1'"
    )


async def test_each_view_shows_its_contents(page: Page, shared: Daemon) -> None:
    shared.load({"model": "tiny/qwen3", "instance_id": "viewed"})
    await page.go("models")
    await page.shows("tiny/qwen3", "li.row")
    await page.fill("input[type=search]", "llama-4bit")
    await page.until("document.querySelectorAll('li.row').length === 1")
    await page.go("plan")
    await page.shows("reconcile loop", "main")
    await page.go("events")
    await page.fill("input[aria-label='Filter events']", "viewed")
    await page.shows("is loaded and answers", ".events")
    await page.go("machine")
    await page.shows("viewed", "table")
    await page.shows(shared.get("/api/v1/node")["version"], ".facts")
    await page.go("record/viewed")
    await page.shows("Weights", ".phases")
    await page.until("document.querySelectorAll('.chart svg').length === 4")


async def test_the_page_can_be_used_with_the_keyboard(page: Page, shared: Daemon) -> None:
    shared.load({"model": QUESTIONS, "instance_id": "keyboard"})
    await page.press("Tab")
    await page.until("document.activeElement.innerText === 'Skip to content'")
    await page.press("Enter")
    await page.until("document.activeElement.id === 'main'")
    await page.fill("input[type=search]", "keyboard")
    await page.until("document.querySelectorAll('a.row').length === 1")
    for _ in range(6):
        await page.press("Tab")
    await page.until("document.activeElement.matches('a.row')")
    await page.press("Enter")
    await page.shows("keyboard", "h1")
    await page.until("document.activeElement.id === 'main'")


async def test_a_pull_is_watched_cancelled_and_repeated(
    browser: Browser, home: Home, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.add("maker/small", models / "tiny/llama")
        with Daemon(home) as daemon:
            async with browser.page() as tab:
                await open_live(tab, daemon)
                await tab.go("models/maker/small")
                hub.stop_after = 1000
                await tab.click("form button|Pull")
                await tab.shows("Downloading", ".files .state")
                await tab.click(".progress button|Cancel")
                await tab.shows("was cancelled", ".files .diagnostic")
                hub.reset()
                hub.add("maker/small", models / "tiny/llama")
                await tab.click("form button|Pull")
                await tab.shows("On disk", ".files .state")
                await tab.shows("maker/small", "li.row")
                await tab.click(".files a|Load it")
                await tab.shows("It fits.", ".note.ok")
                await tab.go("models")
                await tab.fill("#pull", "nobody/has-this")
                await tab.click("form button|Pull")
                await tab.shows("nobody/has-this", ".card .note.bad")


async def test_a_hidden_page_holds_no_connection_and_catches_up(
    browser: Browser, shared: Daemon
) -> None:
    async with browser.page() as tab:
        await open_live(tab, shared)
        await tab.run(
            "Object.defineProperty(document, 'hidden', { value: true, configurable: true });"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        tab.requests.clear()
        shared.load({"model": QUESTIONS, "instance_id": "meanwhile"})
        assert [one for one in tab.requests if "/api/" in one] == []
        await tab.run(
            "Object.defineProperty(document, 'hidden', { value: false, configurable: true });"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        await tab.shows("Ready", row("meanwhile"))


async def test_a_read_that_fails_is_repeated(page: Page, shared: Daemon) -> None:
    await page.run("""(() => {
      const real = window.fetch;
      window.fetch = async (path, options) => {
        if (path !== '/api/v1/records/unread') return real(path, options);
        window.fetch = real;
        throw new TypeError('Failed to fetch');
      };
    })()""")
    spec = {"spec": {"model": QUESTIONS, "suspend": True}}
    shared.request("PUT", "/api/v1/records/unread", spec)
    await page.shows("Suspended", row("unread"))


@pytest.mark.parametrize("address", ["record/100%", "chat/%ff", "constructor", "__proto__/x"])
async def test_a_malformed_address_shows_a_view(
    browser: Browser, shared: Daemon, address: str
) -> None:
    async with browser.page() as tab:
        await tab.open(f"{shared.url}/#/{address}")
        await tab.shows("Live", ".connection")
        await tab.go("sources")
        await tab.shows("Sources", "h1")
        await tab.go(address)
        await tab.until("document.querySelector('h1').innerText !== 'Sources'")


async def test_a_token_is_requested_and_kept_only_in_the_tab(browser: Browser, home: Home) -> None:
    file = home.root / "token"
    file.write_text(TOKEN)
    with Daemon(home, "--token-file", str(file)) as daemon:
        async with browser.page() as tab:
            await tab.open(f"{daemon.url}/")
            await tab.shows("requires a token", "h1")
            await tab.fill("#token", "wrong")
            await tab.press("Enter")
            await tab.shows("That is not the daemon's token", ".note.bad")
            await tab.fill("#token", f"\u201c{TOKEN}\u201d")  # not Latin-1, as headers must be
            await tab.press("Enter")
            await tab.until("document.querySelector('#token')?.value === ''")  # a new form
            await tab.shows("That is not the daemon's token", ".note.bad")
            await tab.fill("#token", TOKEN)
            await tab.press("Enter")
            await tab.shows("No model is declared yet")
            await tab.shows("Live", ".connection")
            kept = "[localStorage.length, document.cookie, location.href.includes('zirconium')]"
            assert await tab.run(kept) == [0, "", False]
            await tab.send("Page.reload")
            await tab.shows("Live", ".connection")
            assert all(TOKEN not in one for one in tab.requests)


async def test_a_restarted_daemon_is_followed_again(browser: Browser, home: Home) -> None:
    daemon = Daemon(home)
    port = daemon.url.rpartition(":")[2]
    daemon._options = (*daemon._options, "--port", port)
    with daemon:
        async with browser.page() as tab:
            await open_live(tab, daemon)
            daemon.stop()
            await tab.shows("No connection", ".connection")
            daemon.start()
            home.write("after.yaml", name="after", model=QUESTIONS)
            await tab.shows("Ready", row("after"))
            await tab.shows("Live", ".connection")


@pytest.mark.skipif(platform.system() != "Linux", reason="limits a process from outside")
async def test_a_degraded_daemon_shows_the_reason(browser: Browser, home: Home) -> None:
    with Daemon(home) as daemon:
        daemon.load({"model": QUESTIONS, "instance_id": "kept"})
        async with browser.page() as tab:
            await open_live(tab, daemon)
            spec = {"spec": {"model": QUESTIONS, "suspend": True}}
            with full(daemon):
                names = (f"rest/{i}" for i in itertools.count())
                while daemon.request("PUT", f"/api/v1/records/{next(names)}", spec)[0] == 200:
                    pass
                await tab.shows(str(home.state), ".note.bad")
            await tab.until("!document.querySelector('main > .note.bad')")


async def test_five_hundred_records_stay_smooth(browser: Browser, home: Home) -> None:
    """Only visible rows are rendered, and one change reads one record."""
    manifest = "apiVersion: reconciler/v1\nkind: ModelInstance\nmetadata: {{name: r{0:03}}}\n"
    spec = "spec: {{model: {1}, suspend: true}}\n---\n"
    documents = (manifest + spec).format
    text = "".join(documents(i, QUESTIONS) for i in range(500))
    (home.manifests / "many.yaml").write_text(text, "utf-8")
    with Daemon(home) as daemon:
        async with browser.page() as tab:
            await open_live(tab, daemon)
            await tab.shows("All 500", ".chips")
            await tab.shows("Resting 500", ".chips")
            assert await tab.run("document.querySelectorAll('a.row').length") == 50
            assert await tab.run("document.querySelectorAll('*').length") < 800
            await tab.click(".pager button|Next")
            await tab.shows("r050", "a.row")
            await tab.fill("input[type=search]", "r49")
            await tab.until("document.querySelectorAll('a.row').length === 10")
            tab.requests.clear()
            (home.manifests / "one.yaml").write_text(documents(777, QUESTIONS), "utf-8")
            await tab.shows("All 501", ".chips")
            await tab.shows("Resting 501", ".chips")
            read = [one for one in tab.requests if "/api/v1/records" in one]
            assert set(read) == {f"GET {daemon.url}/api/v1/records/r777"}
