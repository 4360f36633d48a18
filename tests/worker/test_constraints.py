"""Test constrained answers of a real model with random weights, in every batching mode."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from reconciler.worker.completions import UnenforceableError
from reconciler.worker.generators import Batching
from tests.worker.constrained import Served, served

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["cat", "dog"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
TOOL = {"type": "function", "function": {"name": "feed", "parameters": SCHEMA}}
SEEDED: dict[str, Any] = {"temperature": 1, "seed": 7}


@pytest.fixture(scope="module")
def llama(models: Path) -> Iterator[Served]:
    with served(models / "tiny/llama") as one:
        yield one


async def test_an_answer_ends_when_the_schema_is_complete(llama: Served) -> None:
    bodies: list[dict[str, Any]] = [{}, SEEDED, {"chat": False}]
    for body in bodies:
        answer = await llama.ask(response_format=FORMAT, **body)
        assert answer.finish_reason == "stop"
        jsonschema.validate(answer.json, SCHEMA)


async def test_a_forced_call_has_no_text_beside_it(llama: Served) -> None:
    answer = await llama.ask(tools=[TOOL], tool_choice="required", max_tokens=400)
    assert (answer.content, answer.finish_reason) == ("", "tool_calls")
    name, arguments = answer.call
    assert name == "feed"
    jsonschema.validate(arguments, SCHEMA)


async def test_max_tokens_cuts_an_answer(llama: Served) -> None:
    answer = await llama.ask(response_format=FORMAT, max_tokens=4)
    assert (answer.finish_reason, answer.tokens) == ("length", 4)


async def test_texts_choices_and_grammars_are_enforced(llama: Served) -> None:
    exact = await llama.ask(guided_regex=r"[0-9]{4}-[0-9]{2}", **SEEDED)
    assert len(exact.content) == 7
    assert exact.content[4] == "-"
    chosen = await llama.ask(guided_choice=['say "hi"', "nö\n", "日本"], **SEEDED)
    assert chosen.content in ('say "hi"', "nö\n", "日本")
    counted = await llama.ask(grammar='root ::= "a"+ [0-9]', logit_bias={"300": 100})
    assert counted.content.strip("a").isdigit()
    assert {one.finish_reason for one in (exact, chosen, counted)} == {"stop"}


async def test_constrained_and_free_requests_share_a_batch(llama: Served) -> None:
    bodies: list[dict[str, Any]] = [
        {"response_format": FORMAT, "temperature": 1, "seed": 1},
        {"temperature": 0, "max_tokens": 20},
        {"guided_regex": "[a-f]{9}", "temperature": 1, "seed": 3},
        {"response_format": FORMAT, "temperature": 1, "seed": 4},
        {"temperature": 1, "seed": 5, "max_tokens": 40},
    ]
    alone = [await llama.ask(**body) for body in bodies]
    together = await llama.ask_all(*bodies)
    assert [one.content for one in together] == [one.content for one in alone]
    jsonschema.validate(together[0].json, SCHEMA)


async def test_a_preempted_answer_resumes_where_it_was(models: Path) -> None:
    body: dict[str, Any] = {"response_format": FORMAT, "temperature": 1, "seed": 2}
    body["max_tokens"] = None
    with served(models / "tiny/llama") as one:
        reference = await one.ask(**body)
        session = one.model.session("1")
        moved: list[int] = []

        def step(most: int) -> None:
            advance(most)
            for request in list(session._batch.running.values()):
                if request.processors and len(request.generated) == 5 and len(moved) < 3:
                    moved.append(request.emitted)
                    session._batch.leave(request)
                    request.prompt = request.prompt + request.generated
                    request.generated = []
                    session._waiting.ready.appendleft(request)

        advance, session._advance = session._advance, step  # type: ignore[method-assign]
        answer = await one.ask(**body)
    assert moved == [5, 10, 15]
    assert answer.content == reference.content


async def test_stops_penalties_and_samplers_respect_the_schema(llama: Served) -> None:
    for body in (
        {"top_k": 1, "repetition_penalty": 1.5},
        {"top_p": 0.1, "temperature": 2, "seed": 1},
        {"min_p": 0.9, "temperature": 2, "seed": 1},
        {"xtc_probability": 1, "xtc_threshold": 0.01, "temperature": 1, "seed": 1},
        {"min_tokens": 150, "ignore_eos": True},
        {"logit_bias": {"0": 100}},
    ):
        answer = await llama.ask(response_format=FORMAT, max_tokens=400, **body)
        assert answer.finish_reason == "stop", body
        jsonschema.validate(answer.json, SCHEMA)
    answer = await llama.ask(response_format=FORMAT, stop=['"age"'])
    assert answer.finish_reason == "stop"
    assert answer.content.rstrip().endswith(",")


async def test_log_probabilities_cover_only_allowed_tokens(llama: Served) -> None:
    answer = await llama.ask(guided_choice=["yes", "no"], logprobs=True, top_logprobs=20)
    first = answer.likelihoods[0]
    assert 0 < len(first.alternatives) < 20
    assert all(logprob > float("-inf") for _, logprob in first.alternatives)


async def test_requests_that_run_one_by_one_respect_the_schema(models: Path) -> None:
    with served(models / "tiny/llama") as one:
        session = one.model.session("1")
        one.mlx.submit(lambda: session.run_requests(Batching.APART)).result()
        body = {"response_format": FORMAT, "temperature": 1}
        for answer in await one.ask_all(body | {"seed": 1}, body | {"seed": 2}):
            jsonschema.validate(answer.json, SCHEMA)


async def test_an_answer_that_cannot_continue_fails_alone(llama: Served) -> None:
    free = asyncio.create_task(llama.ask(max_tokens=20))
    with pytest.raises(UnenforceableError, match="cannot continue"):
        await llama.ask(guided_grammar='start: "a" X\nX: /b/ & /c/')
    assert (await free).tokens == 20
