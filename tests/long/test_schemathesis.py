"""Every route, requested with input that its description allows and with input that it does not.

schemathesis generates requests from the OpenAPI document. Each response must match it: an error
has the standard form, and a status of 500 or more is one that docs/http/errors.md lists.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, reject, seed, settings
from schemathesis.generation import GenerationMode

from reconciler.api.errors import ROWS
from tests.support import Daemon, Home, check_answer, described

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

EXAMPLES = 30
"""Examples for each route and kind."""

COSTLY = {"POST /api/v1/models/download": 3}
"""Fewer examples for routes that start a process for each request."""

CODES = {code for status, _, code in ROWS.values() if status >= 500}

DOCUMENTED = CODES - {"internal_error"} | {"not_supported"}
"""Codes of errors that are not caused by a bug."""

DOCUMENT, _ = described()

OPERATIONS: dict[str, Any] = {
    f"{found.method.upper()} {found.path}": found
    for result in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations()
    if (found := result.ok())  # type: ignore[union-attr]
}

CASES = [
    (route, mode)
    for route, operation in OPERATIONS.items()
    for mode in GenerationMode
    if mode is GenerationMode.POSITIVE or operation.query or operation.body
]
"""Negative cases of routes that take only a name are left out: any text is a valid name."""

FUZZED = settings(
    derandomize=False, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Daemon]:
    """A daemon with one model and an unreachable hub."""
    root = tmp_path_factory.mktemp("home")
    own = root / "models" / "tiny"
    own.mkdir(parents=True)
    (own / "llama").symlink_to(models / "tiny/llama")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
        with Daemon(Home(root, root / "models"), "--log-level", "debug") as running:
            yield running


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[requests.Session]:
    """One connection for all requests."""
    assert daemon.url
    with requests.Session() as session:
        yield session


def hold(method: str, path: str, answer: requests.Response) -> None:
    """Validate a response against the description of its route."""
    if answer.headers["Content-Type"].startswith("text/"):
        assert answer.status_code == 200
        return
    assert answer.headers["Content-Type"] == "application/json"
    content: Any = json.loads(answer.content)
    check_answer(method, path, answer.status_code, content)
    if answer.status_code >= 500 and "version" not in content:  # /health has a different form
        error = content["error"]
        code = error.get("code", "not_supported") if isinstance(error, dict) else "not_supported"
        assert code in DOCUMENTED, content


def _waits(query: Any) -> bool:
    """True if the request waits for completion, by default up to a minute."""
    if not isinstance(query, dict) or "wait" not in query:
        return False
    given = query.get("timeout", 60)
    return isinstance(given, int | float) and given > 0


@pytest.mark.parametrize(("route", "mode"), CASES)
def test_every_response_matches_its_description(
    daemon: Daemon, client: requests.Session, route: str, mode: GenerationMode
) -> None:
    operation = OPERATIONS[route]

    @seed(1)
    @settings(FUZZED, max_examples=COSTLY.get(route, EXAMPLES))
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        if _waits(case.query):
            case.query["timeout"] = 0.01
        try:
            sent = case.as_transport_kwargs(base_url=daemon.url)
            with client.request(**sent, timeout=60, stream=True) as answer:
                if "event-stream" in answer.headers["Content-Type"]:
                    return
                hold(answer.request.method or "", answer.request.path_url, answer)
        except (requests.exceptions.InvalidHeader, UnicodeError, requests.exceptions.InvalidURL):
            reject()

    ask()
    assert daemon.process.poll() is None
    assert "request failed unexpectedly" not in daemon.log()
    assert "Traceback" not in daemon.log()
