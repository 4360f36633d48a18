"""Ordinary requests to a real daemon with a checkpoint for each published chat template."""

import os
import shutil
from pathlib import Path

import pytest

from tests.support import Daemon, Home
from tests.worker.published import ORDINARY, TEMPLATES

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not TEMPLATES, reason="the published chat templates are not here"),
]


@pytest.fixture
def published(home: Home, models: Path) -> Home:
    """Checkpoints that differ only in their chat templates."""
    home.models = home.root / "models"
    for template in TEMPLATES:
        path = home.models / "published" / template.stem
        shutil.copytree(models / "tiny/llama", path, copy_function=os.link)
        (path / "chat_template.jinja").unlink()
        shutil.copy(template, path / "chat_template.jinja")
    return home


def test_no_request_is_refused_with_any_published_template(published: Home) -> None:
    refused, answered = [], 0
    with Daemon(published) as daemon:
        for template in TEMPLATES:
            model = f"published/{template.stem}"
            daemon.load({"model": model})
            for name, (keys, _) in ORDINARY.items():
                body = {"model": model, "max_tokens": 1} | keys
                status, answer = daemon.request("POST", "/v1/chat/completions", body)
                answered += status == 200
                if status != 200:
                    refused.append((template.stem, name, answer))
            assert daemon.unload(model)[0] == 200
    assert refused == []
    assert answered == len(TEMPLATES) * len(ORDINARY)
