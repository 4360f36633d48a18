"""Walk through docs/fleet: run its blocks as described."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from reconciler.core.schema import check
from reconciler.core.snapshot import read_file
from tests.repositories import ENVIRONMENT, Origin, Signer

pytestmark = pytest.mark.long

FLEET = Path("docs/fleet").absolute()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (FLEET / "README.md").read_text("utf-8"), re.DOTALL)


def block(language: str, words: str) -> str:
    """The block in that language that contains these words."""
    (found,) = [text for kind, text in BLOCKS if kind == language and words in text]
    return str(found)


def shell(text: str, directory: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-e", "-c", text],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | ENVIRONMENT | {"PATH": path, "HOME": str(directory.parent)} | environ,
    )


@pytest.fixture
def repository(tmp_path: Path) -> Origin:
    """The repository of the first section, with its manifests under the paths named there."""
    repository = Origin(tmp_path / "repository")
    for document in block("yaml", "# fleet/assistant.yaml").split("---\n"):
        path, _, text = document.partition("\n")
        repository.write(path.removeprefix("# "), text)
    repository.commit()
    return repository


def test_the_manifests_are_valid_and_signed(repository: Origin, tmp_path: Path) -> None:
    done = shell(block("sh", "reconciler validate"), repository.root)
    assert (done.returncode, done.stdout) == (0, "2 records in 2 valid files\n")
    (tmp_path / ".ssh").mkdir()
    Signer(tmp_path / ".ssh", "id_ed25519")
    done = shell(block("sh", "gpg.format"), repository.root)
    assert done.returncode == 0, done.stderr
    signed = repository.commit()
    signers = repository.root / "allowed_signers"
    repository.git("-c", f"gpg.ssh.allowedSignersFile={signers}", "verify-commit", signed)


def test_a_pull_request_gets_a_preview_of_its_changes(repository: Origin, tmp_path: Path) -> None:
    workflow: Any = yaml.safe_load((FLEET / "pull-requests.yml").read_text("utf-8"))
    job = workflow["jobs"]["plan"]
    assert job["steps"][-1]["env"]["LABELS"] == "${{ matrix.labels }}"
    repository.git("update-ref", "refs/remotes/origin/main", "HEAD")
    repository.git("checkout", "--quiet", "-b", "change")
    large = repository.root / "fleet" / "assistant-large.yaml"
    large.write_text(large.read_text("utf-8").replace("32768", "65536"), "utf-8")
    repository.commit()
    for labels, changes in zip(job["strategy"]["matrix"]["labels"], (True, False), strict=True):
        summary = tmp_path / "summary"
        summary.write_text("", "utf-8")
        script = "set -o pipefail\n" + job["steps"][-1]["run"]
        environ = {"BASE": "main", "LABELS": labels, "GITHUB_STEP_SUMMARY": str(summary)}
        done = shell(script, repository.root, **environ)
        assert done.returncode == 0, done.stderr
        assert ("+  context_length: 65536" in summary.read_text("utf-8")) == changes
        repository.git("branch", "--force", "proposal", "main")


def test_the_inventory_and_the_overlays_are_valid() -> None:
    assert check("inventory", yaml.safe_load(block("yaml", "# inventory.yaml"))) == ()
    base = read_file("assistant.yaml", (FLEET / "overlays/base/assistant.yaml").read_bytes())
    assert (base.flaws, [d.name for d in base.declared]) == ((), ["assistant"])
    for folder in ("studio", "mini"):
        text = (FLEET / "overlays" / folder / "kustomization.yaml").read_text("utf-8")
        overlay: Any = yaml.safe_load(text)
        operations = yaml.safe_load(overlay["patches"][0]["patch"])
        paths = [operation["path"] for operation in operations]
        assert paths == ["/spec/config/context_length", "/spec/node_selector"]
