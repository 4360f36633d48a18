"""Chats of the live page in a real browser: text rendering, reasoning, tool calls, and a stop."""

import json
import os
import signal

import pytest

from tests.page.chromium import FOUND, Page
from tests.page.conftest import MARKUP
from tests.support import Daemon

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(FOUND is None, reason="there is no Chromium"),
    pytest.mark.asyncio(loop_scope="module"),
]


async def test_model_output_is_rendered_as_text(page: Page, actor: str) -> None:
    await page.go(f"chat/{actor}")
    await page.fill("#message", "Anything")
    await page.press("Enter")
    await page.shows(MARKUP, ".turn.assistant .content")
    await page.shows("first token after", ".figures")
    assert await page.run("document.querySelectorAll('main img, main script').length") == 0
    assert "taken" not in await page.run("document.title")


async def test_reasoning_is_collapsed_and_tool_calls_are_shown(page: Page, actor: str) -> None:
    await page.go(f"chat/{actor}")
    await page.fill("#message", "think")
    await page.press("Enter")
    await page.shows("Done.", ".turn.assistant > .content")
    await page.shows("first token after", ".figures")
    assert await page.run("document.querySelector('.reasoning').open") is False
    assert "First the units." in await page.run("document.querySelector('.reasoning').textContent")
    await page.click("button|New chat")
    parameters = {"type": "object", "properties": {"city": {}}}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    await page.click("summary|Settings")
    await page.fill(".parameters textarea[spellcheck]", json.dumps(tools))
    await page.fill("#message", "How is it?")
    await page.press("Enter")
    await page.shows("weather(", ".call")
    await page.shows("Oslo", ".call")
    await page.shows("Send", ".composer .primary")
    assert await page.run("document.querySelector('#message').placeholder") == "Result of weather"
    await page.fill("#message", "Rain")
    await page.press("Enter")
    await page.until("document.querySelectorAll('.turn.assistant .figures').length === 2")
    assert await page.run("document.querySelector('.turn.tool .content').innerText") == "Rain"


async def test_an_answer_can_be_stopped(page: Page, actor: str, shared: Daemon) -> None:
    def in_flight() -> int:
        instances = shared.get("/api/v1/instances")["instances"]
        (count,) = [one["requests"] for one in instances if one["name"] == actor]
        return int(count)

    await page.go(f"chat/{actor}")
    worker = shared.get(f"/api/v1/records/{actor}")["status"]["worker_pid"]
    os.kill(worker, signal.SIGSTOP)
    try:
        await page.fill("#message", "Anything")
        await page.press("Enter")
        await page.shows("Waiting for the first token", ".turn.assistant")
        shared.until(lambda: in_flight() == 1)
        await page.click("button|Stop")
        await page.shows("Stopped.", ".turn.assistant")
        shared.until(lambda: in_flight() == 0)
    finally:
        os.kill(worker, signal.SIGCONT)
    await page.fill("#message", "Anything")
    await page.press("Enter")
    await page.shows(MARKUP, ".turn.assistant .content")


async def test_a_failed_exchange_is_not_sent_again(page: Page) -> None:
    """Its roles would not alternate, and an incomplete call has no result."""
    sent = await page.run("""(async () => {
      const { conversation, submit } = await import('/page/js/conversation.js');
      const call = { index: 0, id: 'c', function: { name: 'f', arguments: '{"a' } };
      const lines = (...all) => all.map((one) => `data: ${JSON.stringify(one)}\n\n`).join('');
      const answers = [
        lines({ choices: [{ delta: { tool_calls: [call] } }] }, { error: { message: 'died' } }),
        lines({ choices: [{ delta: { content: 'Yes.' } }] }),
        lines({ choices: [{ delta: { content: 'No.' } }] }),
      ];
      const sent = [];
      const real = window.fetch;
      window.fetch = async (path, options) => {
        if (path !== '/v1/chat/completions') return real(path, options);
        sent.push(JSON.parse(options.body).messages.map((one) => `${one.role} ${one.content}`));
        return new Response(answers.shift());
      };
      const talk = conversation('failing');
      for (const text of ['One?', 'Two?', 'Three?']) await submit(talk, 'failing', text);
      window.fetch = real;
      return sent;
    })()""")
    assert sent == [
        ["user One?"],
        ["user Two?"],
        ["user Two?", "assistant Yes.", "user Three?"],
    ]
