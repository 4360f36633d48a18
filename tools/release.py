"""Make a release: version, changelog, commit, tag and packages.

`python -m tools.release 0.2.0` turns the unreleased section of CHANGELOG.md into a section of that
version, sets the version in pyproject.toml, builds the packages into `dist/` with the section and
checksums, commits, and tags the commit with the section. Nothing is pushed. `--dry-run` prints the
section and writes nothing.
"""

import argparse
import datetime as dt
import hashlib
import re
import subprocess
import sys
from pathlib import Path

from packaging.version import InvalidVersion, Version

UNRELEASED = "## Unreleased\n"


class ReleaseError(Exception):
    """Error that prevents a release."""


def main(arguments: list[str] | None = None) -> int:
    """Make a release in the working directory; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.release", description="Make a release.")
    parser.add_argument("version", help="the new version, such as 0.2.0")
    parser.add_argument("--dry-run", action="store_true", help="print the changes, write nothing")
    asked = parser.parse_args(arguments)
    try:
        release(Path.cwd(), asked.version, dry_run=asked.dry_run)
    except ReleaseError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def release(root: Path, version: str, *, dry_run: bool) -> None:
    """Make a release. Raises ReleaseError and leaves the repository unchanged if it cannot."""
    check_version(version, git(root, "tag", "--list", "v*").split())
    if git(root, "status", "--porcelain"):
        raise ReleaseError("the working tree has changes; commit them first")
    today = dt.datetime.now(dt.UTC).date()
    changelog, notes = released((root / "CHANGELOG.md").read_text("utf-8"), version, today)
    project = with_version((root / "pyproject.toml").read_text("utf-8"), version)
    if dry_run:
        sys.stdout.write(f"Would commit and tag v{version}, and build it into dist/:\n\n{notes}")
        return
    (root / "CHANGELOG.md").write_text(changelog, "utf-8")
    (root / "pyproject.toml").write_text(project, "utf-8")
    try:
        build(root, version, notes)
    except (OSError, subprocess.CalledProcessError) as error:
        git(root, "checkout", "--", "CHANGELOG.md", "pyproject.toml")
        raise ReleaseError(f"the packages cannot be built: {error}") from error
    git(root, "commit", "--quiet", "--all", "--message", f"Document release {version}")
    git(root, "tag", "--annotate", "--cleanup=verbatim", f"v{version}", "--message", notes)
    sys.stdout.write(f"Tagged v{version} and built dist/. Publish it: git push --follow-tags\n")


def check_version(version: str, tags: list[str]) -> None:
    """Check the version. Raises ReleaseError unless it is newer than every tag."""
    try:
        new = Version(version)
    except InvalidVersion:
        raise ReleaseError(f"'{version}' is not a version, such as 0.2.0") from None
    newest = max((Version(tag.removeprefix("v")) for tag in tags), default=None)
    if newest is not None and new <= newest:
        raise ReleaseError(f"{version} is not newer than the latest release, {newest}")


def released(changelog: str, version: str, day: dt.date) -> tuple[str, str]:
    """Changelog with a section for the version, and the text of that section."""
    before, found, after = changelog.partition(UNRELEASED)
    changes, separator, older = after.partition("\n## ")
    if not found or not changes.strip():
        raise ReleaseError("CHANGELOG.md has no changes under '## Unreleased'")
    notes = f"## {version} ({day.isoformat()})\n\n{changes.strip()}\n"
    return f"{before}{UNRELEASED}\n{notes}{separator}{older}", notes


def with_version(project: str, version: str) -> str:
    """Text of pyproject.toml with another version."""
    text, count = re.subn(r'(?m)^version = ".*"$', f'version = "{version}"', project)
    if count != 1:
        raise ReleaseError("pyproject.toml needs exactly one line 'version = ...'")
    return text


def build(root: Path, version: str, notes: str) -> None:
    """Write the packages, the notes and the checksums into `dist/`."""
    dist = root / "dist"
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(root)])
    (dist / f"CHANGES-{version}.md").write_text(notes, "utf-8")
    packages = sorted(dist.glob(f"mlx_reconciler-{version}[-.]*"))
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in packages]
    (dist / f"SHA256SUMS-{version}").write_text("".join(sums), "utf-8")


def run(command: list[str]) -> None:
    """Run a program. Raises CalledProcessError if it fails."""
    subprocess.run(command, check=True, stdout=sys.stderr)


def git(root: Path, *arguments: str) -> str:
    """Output of a git command. Raises ReleaseError if it fails."""
    done = subprocess.run(
        ["git", *arguments],  # noqa: S607
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ReleaseError(f"git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
