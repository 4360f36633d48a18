"""A headless Chromium, controlled with the DevTools protocol over its websocket."""

import asyncio
import base64
import itertools
import json
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
FOUND = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", MAC))), None)
"""Chromium executable, if installed."""

SECONDS = 60
"""Seconds to wait for a page to reach an expected state."""

DESKTOP = {"width": 1180, "height": 800, "deviceScaleFactor": 1, "mobile": False}
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}

KEYS = {"Enter": (13, "\r"), "Tab": (9, ""), "Escape": (27, "")}

FIND = """
(wanted) => {
  const shown = (one) => one.getClientRects().length > 0;
  const named = (one) => (one.getAttribute('aria-label') ?? one.innerText ?? '').trim();
  const [selector, text] = wanted.split('|');
  const all = [...document.querySelectorAll(selector)].filter(shown);
  return text === undefined ? all[0] : all.find((one) => named(one).startsWith(text));
}
"""
"""First visible element that matches `SELECTOR`, or `SELECTOR|TEXT` if its name starts so."""


class Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, session: str) -> None:
        self._socket = socket
        self._session = session
        self._ids = itertools.count(10)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self.complaints: list[str] = []
        """Exceptions and console errors: rejected resources, policy violations."""
        self.requests: list[str] = []
        """Methods and addresses of requests, in order."""

    async def listen(self) -> None:
        """Receive the browser's messages until the connection ends."""
        async for message in self._socket:
            answer = json.loads(message.data)
            if (waiting := self._waiting.pop(answer.get("id"), None)) is not None:
                waiting.set_result(answer)
            elif answer.get("method") == "Network.requestWillBeSent":
                sent = answer["params"]["request"]
                self.requests.append(f"{sent['method']} {sent['url']}")
            elif answer.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(str(answer["params"]["exceptionDetails"]))
            elif answer.get("method") == "Log.entryAdded":
                entry = answer["params"]["entry"]
                # The API's error responses are expected; the page's own files must load.
                answer = entry["source"] == "network" and "/page/" not in entry.get("url", "")
                if entry["level"] == "error" and not answer:
                    self.complaints.append(f"{entry['text']} {entry.get('url', '')}")

    async def send(self, method: str, **params: Any) -> Any:
        """Call a method of the protocol and return its result."""
        id_ = next(self._ids)
        self._waiting[id_] = asyncio.get_running_loop().create_future()
        command = {"id": id_, "sessionId": self._session, "method": method, "params": params}
        await self._socket.send_json(command)
        answer = await asyncio.wait_for(self._waiting[id_], SECONDS + 10)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    async def run(self, expression: str) -> Any:
        """Evaluate an expression; promises are awaited."""
        answer = await self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, (expression, answer["exceptionDetails"])
        return answer["result"].get("value")

    async def until(self, expression: str) -> Any:
        """Value of an expression once it is true; it is evaluated in every frame."""
        looking = f"""new Promise((resolve) => {{
          const end = performance.now() + {SECONDS * 1000};
          const look = () => {{
            const value = ({expression});
            if (value) resolve([true, value]);
            else if (performance.now() > end) resolve([false, document.body.innerText]);
            else setTimeout(look, 30);
          }};
          look();
        }})"""
        holds, value = await self.run(looking)
        assert holds, f"never: {expression}\n{value}\n{self.complaints}"
        return value

    async def shows(self, text: str, selector: str = "main") -> None:
        """Wait until an element shows the text."""
        all_of_them = f"[...document.querySelectorAll({json.dumps(selector)})]"
        await self.until(f"{all_of_them}.some((e) => e.innerText.includes({json.dumps(text)}))")

    async def open(self, url: str) -> None:
        """Go to an address."""
        await self.send("Page.navigate", url=url)
        await self.until("document.querySelector('h1') !== null")

    async def go(self, path: str) -> None:
        """Go to a view of the page."""
        await self.run(f"location.hash = {json.dumps('#/' + path)}")

    async def click(self, wanted: str) -> None:
        """Click an element found by `FIND`, once it no longer moves."""
        place = await self.until(
            f"""(() => {{
              const found = ({FIND})({json.dumps(wanted)});
              if (!found || found.disabled) return null;
              found.scrollIntoView({{ block: 'center' }});
              const box = found.getBoundingClientRect();
              const before = found.place;
              found.place = [box.x + box.width / 2, box.y + box.height / 2];
              return String(before) === String(found.place) && found.place;
            }})()"""
        )
        at = {"x": place[0], "y": place[1], "button": "left", "clickCount": 1}
        await self.send("Input.dispatchMouseEvent", type="mousePressed", **at)
        await self.send("Input.dispatchMouseEvent", type="mouseReleased", **at)

    async def fill(self, wanted: str, text: str) -> None:
        """Replace the text of a field."""
        await self.until(
            f"""(() => {{
              const found = ({FIND})({json.dumps(wanted)});
              if (!found) return false;
              found.focus();
              found.select();
              return true;
            }})()"""
        )
        await self.send("Input.insertText", text=text)

    async def press(self, key: str) -> None:
        """Press and release a key."""
        code, text = KEYS[key]
        same = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        kind = "keyDown" if text else "rawKeyDown"
        await self.send("Input.dispatchKeyEvent", type=kind, text=text, **same)
        await self.send("Input.dispatchKeyEvent", type="keyUp", **same)

    async def look(self, screen: dict[str, Any], scheme: str = "light") -> None:
        """Emulate a screen in a light or dark scheme, without motion."""
        await self.send("Emulation.setDeviceMetricsOverride", **screen)
        await self.send("Emulation.setScrollbarsHidden", hidden=True)
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        await self.send("Emulation.setEmulatedMedia", features=features)

    async def screenshot(self) -> bytes:
        """The visible page as a PNG."""
        await self.run("document.fonts.ready.then(() => true)")
        taken = await self.send("Page.captureScreenshot", format="png")
        return base64.b64decode(taken["data"])


class Browser:
    """Tabs of one browser process."""

    def __init__(self, socket_url: str, client: aiohttp.ClientSession) -> None:
        self._url = socket_url
        self._client = client

    @asynccontextmanager
    async def page(self) -> AsyncIterator[Page]:
        """Open a tab in its own context, and close both; errors in it fail the test."""
        async with self._client.ws_connect(self._url, max_msg_size=0) as socket:
            context = await self._ask(socket, 1, "Target.createBrowserContext")
            target = await self._ask(socket, 2, "Target.createTarget", url="about:blank", **context)
            attached = await self._ask(socket, 3, "Target.attachToTarget", flatten=True, **target)
            page = Page(socket, attached["sessionId"])
            listening = asyncio.create_task(page.listen())
            try:
                for domain in ("Page", "Runtime", "Log", "Network"):
                    await page.send(f"{domain}.enable")
                await page.look(DESKTOP)
                yield page
                assert page.complaints == []
            finally:
                listening.cancel()
                await asyncio.wait([listening])
                await self._ask(socket, 4, "Target.disposeBrowserContext", **context)

    async def tabs(self) -> int:
        """Number of open tabs."""
        async with self._client.ws_connect(self._url, max_msg_size=0) as socket:
            targets = (await self._ask(socket, 1, "Target.getTargets"))["targetInfos"]
            return sum(target["type"] == "page" for target in targets)

    async def _ask(
        self, socket: aiohttp.ClientWebSocketResponse, id_: int, method: str, **params: Any
    ) -> Any:
        await socket.send_json({"id": id_, "method": method, "params": params})
        while True:
            answer = await asyncio.wait_for(socket.receive_json(), SECONDS)
            if answer.get("id") == id_:
                return answer["result"]


@asynccontextmanager
async def chromium(profile: Path) -> AsyncIterator[Browser]:
    """A browser with a fresh profile, closed when the context ends."""
    assert FOUND is not None
    process = await asyncio.create_subprocess_exec(
        FOUND,
        *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        *(
            "--disable-background-networking",
            "--disable-dev-shm-usage",
            "--remote-debugging-port=0",
        ),
        f"--user-data-dir={profile}",
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=PIPE,
    )
    assert process.stderr is not None
    try:
        url = ""
        while not url:
            line = await asyncio.wait_for(process.stderr.readline(), SECONDS)
            assert line, "the browser ended"
            _, _, url = line.decode().strip().partition("DevTools listening on ")
        draining = asyncio.create_task(process.stderr.read())
        async with aiohttp.ClientSession() as client:
            yield Browser(url, client)
        draining.cancel()
    finally:
        process.terminate()
        await process.wait()
