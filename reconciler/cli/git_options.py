"""Options for git repositories and for labels of nodes."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from reconciler.cli.duration import Duration
from reconciler.cli.files import RegularFile
from reconciler.sources.git import Following
from reconciler.sources.git.command import Remote

F = TypeVar("F", bound=Callable[..., Any])

REF = re.compile(r"(?!.*\.\.)[A-Za-z0-9._][A-Za-z0-9._/-]{0,199}")
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")

SHORTEST_SECONDS = 1.0
"""Shortest interval between polls."""

label = click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="KEY=VALUE",
    envvar="RECONCILER_LABEL",
    show_envvar=True,
    help="Label of this node, matched by the `node_selector` of manifests; repeatable.",
)


def followed(function: F) -> F:
    """Add the options of `serve` for followed repositories."""
    options = (
        _option("--git", "URL of a git repository to follow; repeatable."),
        _option("--git-ref", "Branch or tag to follow.", default=["main"]),
        _option("--git-path", "Folder of the repository that holds the manifests."),
        _option(
            "--git-interval", "Time between polls: 60s or 5m.", type=Duration(), default=["60s"]
        ),
        _option("--git-key", "Private key for ssh.", type=_FILE),
        _option(
            "--git-verify",
            "Follow signed commits only: file of ssh's allowed signers, or a GPG keyring.",
            type=_FILE,
        ),
    )
    for option in reversed(options):
        function = option(function)
    return click.option(
        "--git-allow-rewind",
        is_flag=True,
        envvar="RECONCILER_GIT_ALLOW_REWIND",
        show_envvar=True,
        help="Also follow commits that do not descend from the previous one, such as old ones.",
    )(function)


def branch_options(function: F) -> F:
    """Add the options for one branch of one repository."""
    options = (
        click.option("--git", metavar="URL", help="URL of a git repository."),
        click.option("--git-ref", default="main", help="Branch or tag."),
        click.option("--git-path", help="Folder of the repository that holds the manifests."),
        click.option("--git-key", type=_FILE, help="Private key for ssh."),
        click.option(
            "--git-verify",
            type=_FILE,
            help="File of ssh's allowed signers, or a GPG keyring, to verify the commit.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


_FILE = RegularFile()


def _option(name: str, words: str, **more: Any) -> Callable[[F], F]:
    variable = "RECONCILER_" + name.removeprefix("--").replace("-", "_").upper()
    return click.option(name, multiple=True, envvar=variable, show_envvar=True, help=words, **more)


def followings(
    git: Sequence[str], options: Mapping[str, Sequence[Any]], *, allow_rewind: bool
) -> list[Following]:
    """Build the settings of each `--git`. An option given once applies to all of them.

    Raises `click.UsageError`.
    """
    columns = {name: _spread(name, values, len(git)) for name, values in options.items()}
    found = [
        following(url, **{n: c[i] for n, c in columns.items()}, allow_rewind=allow_rewind)
        for i, url in enumerate(git)
    ]
    names = [f.name for f in found]
    if len(set(names)) < len(names):
        raise click.UsageError("two --git options name the same folder of the same repository")
    return found


def _spread(name: str, values: Sequence[Any], count: int) -> Sequence[Any]:
    if len(values) == count:
        return values
    if len(values) > 1:
        flag = name.replace("_", "-")
        raise click.UsageError(
            f"--{flag} is given {len(values)} times; give it once, or once for each --git ({count})"
        )
    return [values[0] if values else None] * count


def following(
    url: str,
    *,
    git_ref: str | None = None,
    git_path: str | None = None,
    git_interval: float | None = None,
    git_key: Path | None = None,
    git_verify: Path | None = None,
    allow_rewind: bool = False,
) -> Following:
    """Check the options of one repository. Raises `click.UsageError`."""
    ref = git_ref or "main"
    if not REF.fullmatch(ref):
        raise click.UsageError(f"--git-ref {ref} is not a branch or tag")
    folder = (git_path or "").strip("/")
    if any(part in (".", "..", "") for part in folder.split("/")) and folder:
        raise click.UsageError(f"--git-path {git_path} is not a folder of a repository")
    if git_interval is not None and git_interval < SHORTEST_SECONDS:
        raise click.UsageError(f"--git-interval {git_interval:g} s is too short; the minimum is 1s")
    defaults = Following(Remote(url))
    return Following(
        Remote(_url(url), git_key.absolute() if git_key is not None else None),
        ref,
        folder,
        defaults.interval if git_interval is None else git_interval,
        git_verify.absolute() if git_verify is not None else None,
        allow_rewind,
    )


def _url(url: str) -> str:
    if url.startswith("-"):
        raise click.UsageError(f"--git {url} is not an address")
    if "://" not in url:
        return str(Path(url).absolute()) if Path(url).exists() else url
    parts = urlsplit(url)
    token = parts.username is not None and parts.scheme in ("http", "https")
    if parts.password is not None or token:
        raise click.UsageError(
            "--git with a password or a token in the address would show it to other users; "
            "keep it in a git credential helper"
        )
    return url


def labelled(labels: Sequence[str]) -> dict[str, str]:
    """Parse the labels. Raises `click.UsageError`."""
    found = {}
    for one in labels:
        key, equals, value = one.partition("=")
        if not equals or not LABEL.fullmatch(key):
            raise click.UsageError(f"--label {one}: write KEY=VALUE")
        found[key] = value
    return found
