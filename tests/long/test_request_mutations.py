"""Mutated chat templates and request bodies: a response or a 4xx, and no harm to others."""

import copy
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.utils import load_tokenizer

from reconciler.core.dialects import Dialect
from reconciler.demo import DEMO_MODEL
from reconciler.worker.chat import rendering
from reconciler.worker.errors import RequestError
from reconciler.worker.preprocessing.pool import Preprocessor
from reconciler.worker.request import parse
from tests.daemon.test_isolation import CHAT, ENDLESS, HOSTILE, MORE, TEXT, streaming
from tests.support import Daemon
from tests.worker.published import Chat

pytestmark = pytest.mark.long

TEMPLATES = sorted((Path(__file__).parents[1] / "templates").glob("*.jinja"))

SPLICES = (
    *(template for template in (HOSTILE | MORE).values()),
    "{{ messages * 100000000 }}",
    "{{ messages[0].content * 100000000 }}",
    "{{ (messages | tojson) * 1000000 }}",
    "{{ namespace(a=1).__class__ }}",
    "{% for i in range(99999) %}{{ i }}{% endfor %}",
    "{{ raise_exception(messages) }}",
    "{{ tools.x.y }}",
    "{{ messages[99] }}",
    "{{ messages[0].clear() }}",
    "{{ cycler() }}{{ joiner(1)() }}",
    "{% set messages = 5 %}",
    "{% include 'a' %}",
    "{% import 'a' as b %}",
    "{{ self._TemplateReference__context }}",
    "{{ ''.join(messages) }}",
    "{{ strftime_now('%') }}",
    "{{ messages | map(attribute='__class__') | list }}",
    "\x00",
    "\U0001f600",
    "{#",
    "{% raw %}",
)

BODY = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello \U0001f600"}]},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "why",
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "5"},
    ],
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "f",
                "description": "d",
                "parameters": {"type": "object", "properties": {"x": {"type": ["string", "null"]}}},
            },
        }
    ],
    "stop": ["a", "b"],
    "logit_bias": {"5": 1.5},
    "temperature": 0.5,
    "top_k": 5,
    "seed": 7,
    "max_tokens": 3,
    "chat_template_kwargs": {"style": "terse"},
    "reasoning": {"effort": "low"},
    "stream_options": {"include_usage": True},
    "response_format": {"type": "text"},
    "logprobs": True,
    "top_logprobs": 2,
}

RESPONSE = {
    "model": "m",
    "instructions": "Be brief.",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "Hello \U0001f600"}]},
        {
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "why"}],
            "content": None,
        },
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": '{"x": 1}'},
        {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_image"}]},
        {"type": "custom_tool_call", "call_id": "b", "name": "g", "input": "x"},
        {"type": "custom_tool_call_output", "call_id": "b", "output": "y"},
        {"type": "web_search_call", "id": "c"},
    ],
    "tools": [
        {
            "type": "function",
            "name": "f",
            "parameters": {"type": "object", "properties": {"x": {"type": ["string", "null"]}}},
            "strict": False,
        },
        {"type": "custom", "name": "g", "format": {"type": "grammar", "syntax": "lark"}},
        {"type": "namespace", "name": "n", "tools": []},
    ],
    "tool_choice": {
        "type": "allowed_tools",
        "mode": "auto",
        "tools": [{"type": "function", "name": "f"}, {"type": "custom", "name": "g"}],
    },
    "parallel_tool_calls": True,
    "reasoning": {"effort": "low", "summary": "auto"},
    "text": {"format": {"type": "json_schema", "name": "a", "schema": {}}, "verbosity": "low"},
    "include": ["message.output_text.logprobs"],
    "top_logprobs": 2,
    "metadata": {"a": "b"},
    "stream_options": {"include_obfuscation": False},
    "max_output_tokens": 3,
    "temperature": 0.5,
}

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.5, 1e308),
    *("", "a", "\x00", "\U0001f600", "a" * 5000, "NaN", "user", "\ufffd"),
    *([], [[]], {}, {"": {}}, {"type": "text"}, [{"type": "image_url"}], ["a"] * 50),
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in inner:
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from paths(item, (*path, key))


def mutated_body(draw: random.Random, of: dict[str, Any] = BODY) -> dict[str, Any]:
    """The body with one to three values changed, removed or duplicated."""
    body: dict[str, Any] = json.loads(json.dumps(of))
    for _ in range(draw.randint(1, 3)):
        *path, key = draw.choice(list(paths(body)))
        owner: Any = body
        for step in path:
            owner = owner[step]
        change = draw.randrange(4)
        if change == 0 and isinstance(owner, dict):
            del owner[key]
        elif change == 1 and isinstance(owner, dict):
            name = draw.choice((*owner, "tools", "_x", "", "content"))
            owner[name] = copy.deepcopy(owner[key])
        elif change == 2 and isinstance(owner, list):
            owner += [copy.deepcopy(owner[key]) for _ in range(draw.randint(1, 40))]
        else:
            owner[key] = copy.deepcopy(draw.choice(VALUES))
    return body


def mutated_bytes(draw: random.Random, of: dict[str, Any] = BODY) -> bytes:
    """The body, mutated as a value and sometimes as bytes."""
    data = bytearray(json.dumps(mutated_body(draw, of)).encode())
    for _ in range(draw.choice((0, 0, 0, 1, 5))):
        at = draw.randrange(len(data))
        data[at : at + draw.randint(0, 3)] = draw.choice(
            (b"", b"\xff", b"\\ud83d", b"[", b"}", b'"', b"\x00", b"1e999", b"\\u0000")
        )
    return bytes(data)


def mutated_template(draw: random.Random) -> str:
    """A template with pieces of others and hostile ones inserted at random positions."""
    source = draw.choice(TEMPLATES).read_text("utf-8")
    for _ in range(draw.randint(1, 3)):
        at, size = draw.randrange(len(source) + 1), draw.choice((0, 0, 1, 5, 50))
        if draw.random() < 0.5:
            piece = draw.choice(SPLICES)
        else:
            other = draw.choice(TEMPLATES).read_text("utf-8")
            begin = draw.randrange(len(other))
            piece = other[begin : begin + draw.randint(1, 60)]
        source = source[:at] + piece + source[at + size :]
    return source


def check_refusal(error: RequestError, *others: str) -> None:
    """Check a refusal; `others` are keys that the client's dialect does not have."""
    assert error.status == 400
    assert not (error.param or "").startswith(others or ("input",))
    assert len(str(error)) < 2000
    # The message for failures that the code does not describe.
    assert "could not be made" not in str(error)


@pytest.fixture(scope="module")
def preprocessor() -> Iterator[Preprocessor]:
    tokenizer = load_tokenizer(DEMO_MODEL)
    made = Preprocessor()
    made.set_up(tokenizer)
    made.bind(tokenizer, len(tokenizer.get_vocab()), rewinds=False)
    yield made
    made.close()


@pytest.mark.parametrize("seed", range(5))
def test_a_mutated_body_is_answered_or_refused(preprocessor: Preprocessor, seed: int) -> None:
    draw = random.Random(seed)
    process = preprocessor._short._process
    for _ in range(1000):
        data = mutated_bytes(draw)
        for chat in (True, False):
            try:
                dialect = Dialect.CHAT if chat else Dialect.TEXT
                body, prompt = preprocessor.submit(data, {}, 4096, dialect=dialect).result()
            except RequestError as error:
                check_refusal(error)
            else:
                assert prompt.tokens
                assert body.messages is None
    assert preprocessor._short._process is process


@pytest.mark.parametrize("seed", range(5))
def test_a_mutated_request_for_a_response_is_answered_or_refused(
    preprocessor: Preprocessor, seed: int
) -> None:
    draw = random.Random(seed)
    process = preprocessor._short._process
    for _ in range(1000):
        data = mutated_bytes(draw, RESPONSE)
        try:
            submitted = preprocessor.submit(data, {}, 4096, dialect=Dialect.RESPONSES)
            body, prompt = submitted.result()
        except RequestError as error:
            check_refusal(error, "messages", "response_format")
        else:
            assert prompt.tokens
            assert json.loads(body.dialect_data["tools"]) is not None
    assert preprocessor._short._process is process


@pytest.mark.parametrize("seed", range(5))
def test_a_mutated_template_fails_only_its_own_requests(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs in this process: templates that need to be killed would hang the test."""
    monkeypatch.setattr(rendering, "SECONDS", 2.0)
    draw = random.Random(seed)
    data = json.dumps(BODY).encode()
    for _ in range(60):
        prompts = Chat(mutated_template(draw)).prompts
        try:
            assert prompts.build(parse(data, chat=True), 100_000, chat=True).tokens
        except RequestError as error:
            check_refusal(error)


def test_mutated_requests_to_hostile_models_harm_no_stream(shared: Daemon) -> None:
    shared.load({"model": "tiny/llama", "context_length": 32_000})
    draw = random.Random(17)
    models = ["tiny/llama"]
    for number in range(3):
        path = Path(shared.home.models) / "mutated" / str(number)
        shutil.copytree(Path(shared.home.models) / "tiny/llama", path)
        source = list(ENDLESS.values())[1] if number == 0 else mutated_template(draw)
        (path / "chat_template.jinja").write_text(source, "utf-8")
        shared.load({"model": f"mutated/{number}", "context_length": 512})
        models.append(f"mutated/{number}")
    workers = {worker.pid for worker in shared.workers()}
    with streaming(shared, "tiny/llama") as stream:
        for _ in range(300):
            body = mutated_body(draw) | {"model": draw.choice(models), "max_tokens": 1}
            status, answer = shared.request("POST", draw.choice((CHAT, TEXT)), body)
            assert status in (200, 400), answer
        stream.next(5)
    assert {worker.pid for worker in shared.workers()} == workers
