"""Test every architecture of mlx-lm: loading, batching and prompt caching.

The results per architecture are a row of the table in docs/models.md; `make test` tries a few.
"""

import re
from collections.abc import Sequence
from importlib import metadata
from itertools import islice
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.utils import load_model

from reconciler.core.protocol import LoadWeights, OpenSession
from reconciler.core.records import EffectiveSettings
from reconciler.worker import overrides
from reconciler.worker.generators import Batching
from reconciler.worker.model import Model
from reconciler.worker.pending import Request
from reconciler.worker.session import Session
from tests import architectures, tiny

ROOT = Path(__file__).parents[2]
FEW = ("gpt_oss", "llama4", "mamba")

COLUMNS = {
    "together": Batching.TOGETHER,
    "read one by one": Batching.READ_APART,
    "one by one": Batching.APART,
}

TOKENS = 10
STEP = 16
"""Shorter than the prompts, so that they are prefilled in several steps."""


def prompt(seed: int, length: int) -> list[int]:
    return [(seed * n + seed) % 300 + 5 for n in range(length)]


PROMPTS = [prompt(7, 5), prompt(11, 37), prompt(5, 70)]


def rows() -> dict[str, list[str]]:
    """The table's cells by architecture."""
    text = (ROOT / "docs/models.md").read_text("utf-8").partition("## Architectures")[2]
    found = re.findall(r"^\| `([\w.-]+)` \|(.*)\|$", text, re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in found}


def opened(name: str, directory: Path) -> tuple[Model, Session, Path]:
    """Open a session over a tiny checkpoint of the architecture, through the worker's model."""
    path = directory / name
    tiny.write(architectures.config(name), path)
    model = Model()
    model.load(LoadWeights(str(path)), lambda _: None)
    config = EffectiveSettings(
        1024, STEP, flash_attention=True, num_experts=0, offload_kv_cache_to_gpu=overrides.on_gpu()
    )
    answer = model.open("1", OpenSession(config, session_bytes=1 << 40))
    session = model.session("1")
    reasons = [warning.reason for warning in answer.warnings if warning.key == "batching"]
    assert bool(reasons) == (session.batching is not Batching.TOGETHER)
    return model, session, path


def run(
    session: Session, prompts: Sequence[list[int]], places: tuple[int, ...] = ()
) -> tuple[list[list[int]], list[Request]]:
    """Greedy answers to prompts that run concurrently. Raises what the model raises."""
    answers: list[list[int]] = []
    errors: list[Exception] = []
    requests: list[Request] = []
    for one in prompts:
        answer: list[int] = []
        answers.append(answer)
        request = Request(
            one,
            TOKENS,
            lambda token, *_, answer=answer: answer.append(token),
            errors.append,
            boundaries=places,
        )
        session.start(request)
        requests.append(request)
    while session.busy:
        session.step()
    if errors:
        raise errors[0]
    return answers, requests


def examine(name: str, directory: Path) -> tuple[Batching, bool]:
    """Batching of the architecture, and True if prefill steps and the prompt cache change nothing.

    Raises what the worker raises, or AssertionError if an answer differs in a batch.
    """
    model, session, path = opened(name, directory)
    alone, _ = load_model(path)
    expected = [
        [int(token) for token, _ in islice(generate_step(mx.array(one), alone), TOKENS)]
        for one in PROMPTS
    ]
    expected_in_steps = [run(_again(model, session), [one])[0][0] for one in PROMPTS]
    assert run(_again(model, session), PROMPTS)[0] == expected_in_steps
    exact = expected_in_steps == expected
    # In a batch, no forward pass follows the last token, so the cache lacks that token.
    held = len(PROMPTS[2]) + TOKENS - (session.batching is not Batching.APART)
    for following, known in (
        ([*PROMPTS[2][:66], 9, 8, 7, 6], 66),
        ([*PROMPTS[2][:20], *prompt(3, 30)], 20),
        ([*PROMPTS[2], *expected_in_steps[2], 6, 7, 8], held),
    ):
        used = _again(model, session)
        run(used, [PROMPTS[2]], (20, 66))
        answers, (request,) = run(used, [following], (20,))
        fresh, _ = run(_again(model, session), [following])
        assert request.cached_tokens == known
        exact = exact and answers == fresh
    return session.batching, exact


def _again(model: Model, session: Session) -> Session:
    """Open a session without cached prompts and without end tokens."""
    config = session.config
    assert model._modules is not None
    module = model._modules.get(OpenSession(config))
    return Session(module, config, batching=session.batching)


@pytest.mark.parametrize("name", FEW)
def test_some_architectures_match_their_table_row(name: str, tmp_path: Path) -> None:
    check(name, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in architectures.NAMES if name not in FEW])
def test_every_architecture_matches_its_table_row(name: str, tmp_path: Path) -> None:
    check(name, tmp_path)


def check(name: str, directory: Path) -> None:
    batching, kept, _ = rows()[name]
    if batching == "not run":
        with pytest.raises(RuntimeError, match="No Metal back-end"):
            examine(name, directory)
    else:
        assert examine(name, directory) == (COLUMNS[batching], kept == "same")


def test_every_architecture_has_a_table_row() -> None:
    assert tuple(rows()) == architectures.NAMES
    assert f"mlx-lm {metadata.version('mlx-lm')}" in (ROOT / "docs/models.md").read_text("utf-8")
