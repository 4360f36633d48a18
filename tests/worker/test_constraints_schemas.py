"""Test that every finished answer of a random model to a random schema validates."""

import asyncio
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from reconciler.worker.errors import RequestError
from tests.worker.constrained import Served, served
from tests.worker.schemas import Schemas

FEW, MANY = 12, 1000
TOGETHER = 16


@pytest.mark.parametrize(
    "number", [FEW, pytest.param(MANY, marks=(pytest.mark.long, pytest.mark.timeout(3600)))]
)
async def test_answers_to_random_schemas_validate(models: Path, number: int) -> None:
    schemas = Schemas(number)
    drawn = [schemas.draw() for _ in range(number)]
    with served(models / "tiny/llama") as one:
        found: list[str] = []
        for begin in range(0, number, TOGETHER):
            found += await asyncio.gather(
                *(_answer(one, schema, n) for n, schema in enumerate(drawn[begin:][:TOGETHER]))
            )
    assert found.count("finished") > 0.8 * number, {kind: found.count(kind) for kind in set(found)}


async def _answer(one: Served, schema: dict[str, Any], seed: int) -> str:
    """True if the answer finished; a finished answer must validate."""
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    try:
        answer = await one.ask(response_format=form, max_tokens=800, temperature=1, seed=seed + 1)
    except RequestError as error:
        return f"refused: {error}"
    if answer.finish_reason != "stop":
        return "cut"
    validator = jsonschema.Draft202012Validator(schema, format_checker=_FORMATS)
    problems = [str(error) for error in validator.iter_errors(answer.json)]
    assert not problems, (schema, answer.content, problems)
    return "finished"


_FORMATS = jsonschema.Draft202012Validator.FORMAT_CHECKER
