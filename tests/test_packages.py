"""Dependencies: bounds, pinned versions, hashes, and the installation commands of the docs."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

PROJECT: dict[str, Any] = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))
INTERNALS = {"mlx", "mlx-lm", "transformers"}
"""Packages whose internals the worker uses."""

OF_OTHER_PLATFORMS = {"colorama", "httpx2-jsfetch"}


def requirements() -> Iterator[Requirement]:
    """Requirements of the product, including those of its extras."""
    extras = PROJECT["project"]["optional-dependencies"].values()
    for lines in (PROJECT["project"]["dependencies"], *extras):
        yield from map(Requirement, lines)


def pinned(path: str) -> dict[NormalizedName, str]:
    """Versions by canonical name, from a file of pinned requirements."""
    found = re.findall(r"^([\w.-]+)==([\w.]+)", Path(path).read_text("utf-8"), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def test_packages_whose_internals_are_used_have_an_upper_bound() -> None:
    bounded = {
        requirement.name
        for requirement in requirements()
        if any(part.operator == "<" for part in requirement.specifier)
    }
    assert bounded >= INTERNALS
    assert [r for r in requirements() if r.name in INTERNALS and r.name not in bounded] == []


def test_the_tested_versions_are_within_the_bounds() -> None:
    versions = pinned("constraints.txt")
    for requirement in requirements():
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_the_lock_has_the_tested_versions_of_all_requirements() -> None:
    lock, versions = pinned("requirements.lock"), pinned("constraints.txt")
    assert {name: lock[name] for name in lock.keys() - OF_OTHER_PLATFORMS} == {
        name: versions[name] for name in lock.keys() - OF_OTHER_PLATFORMS
    }
    needed = {canonicalize_name(requirement.name) for requirement in requirements()}
    needed |= {canonicalize_name("mlx-metal"), canonicalize_name("mlx-cpu")}
    assert needed <= lock.keys()


def test_every_package_in_the_lock_has_hashes() -> None:
    text = Path("requirements.lock").read_text("utf-8")
    blocks = re.split(r"^(?=[\w])", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(pinned("requirements.lock"))
    assert [block.splitlines()[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_the_classifiers_are_the_versions_that_the_workflow_tests() -> None:
    workflow: Any = yaml.safe_load(Path(".github/workflows/ci.yml").read_text("utf-8"))
    tested = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    prefix = "Programming Language :: Python :: 3."
    named = [c for c in PROJECT["project"]["classifiers"] if c.startswith(prefix)]
    assert [c.rpartition(" ")[2] for c in named] == tested
    (lowest,) = re.findall(r">=([\d.]+)", PROJECT["project"]["requires-python"])
    assert Version(lowest) == Version(tested[0])


BY_NAME = re.compile(
    rf"(pip|pipx|uv tool|brew) install\b[^\n`]*[ '\"]"
    rf"({PROJECT['project']['name']}|reconciler)(\[\w+\])?(?=[\s`'\"&|)]|$)"
)


def test_nothing_installs_the_product_by_name_from_an_index() -> None:
    assert BY_NAME.search("uv tool install --python 3.12 mlx-reconciler")
    assert BY_NAME.search("pip install 'mlx-reconciler[cpu]'")
    texts = [*Path().glob("*.md"), Path("Makefile")]
    for folder in ("docs", ".github", "reconciler"):
        texts += [p for p in Path(folder).rglob("*") if p.suffix in (".md", ".yml", ".py")]
    assert len(texts) > 100
    assert [path for path in texts if BY_NAME.search(path.read_text("utf-8"))] == []
