"""Test a worker's log of errors during an answer."""

from collections.abc import Callable
from typing import Any

import pytest

from reconciler.worker import answers, server


@pytest.mark.parametrize("failure", [answers.failure, server._unforeseen])
def test_an_error_is_logged_without_its_message(
    failure: Callable[[Exception], Any], capfd: pytest.CaptureFixture[str]
) -> None:
    prompt = "a prompt"
    try:
        raise ValueError(prompt)
    except ValueError as error:
        answer = failure(error)
    log = capfd.readouterr().err
    assert "ValueError" in log
    assert "test_logs.py" in log
    assert prompt not in log
    assert prompt in str(answer)
