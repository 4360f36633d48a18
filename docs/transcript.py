"""Write first-five-minutes.md: real commands, a real daemon, the demo's model.

`python -m docs.transcript` runs all commands in a temporary directory, which it removes afterwards.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reconciler.demo import DEMO_MODEL

PAGE = Path(__file__).with_name("first-five-minutes.md")

MANIFEST = """\
apiVersion: reconciler/v1
kind: ModelInstance
metadata:
  name: assistant
spec:
  model: demo/questions
  config:
    context_length: 1024
"""

STEPS = (
    ("List the models on disk. The demo's model serves as an example.", "reconciler ls"),
    (
        "Estimate the memory of a load.",
        "reconciler estimate demo/questions --context-length 4096",
    ),
    (
        "Ask a question. The model is loaded first.",
        'reconciler run demo/questions --temperature 0 "What is the capital of Japan?"',
    ),
    ("It stays loaded. The table shows the settings in force.", "reconciler ps -o wide"),
    (
        "Load a second instance, which shares the weights of the first.",
        "reconciler load demo/questions --name narrow --num-experts 1",
    ),
    ("Declare an instance in a manifest.", "cat assistant.yaml"),
    ("Validate the manifest and preview its changes.", "reconciler validate assistant.yaml"),
    (None, "reconciler plan -f assistant.yaml"),
    (None, "reconciler apply -f assistant.yaml --wait"),
    ("Change the manifest.", "sed -i.old s/1024/2048/ assistant.yaml"),
    (None, "reconciler diff -f assistant.yaml"),
    (None, "reconciler apply -f assistant.yaml --wait"),
    ("Show the spec, status and history of the record.", "reconciler describe assistant"),
    ("List past specs and their outcomes.", "reconciler history"),
    ("A mistyped command gets a suggestion.", "reconciler lod demo/questions"),
    ("Clean up.", "reconciler delete assistant"),
    (None, "reconciler unload narrow demo/questions"),
    (None, "reconciler ps"),
)
"""Introductions (None: none) and their commands."""

HEAD = """\
# The first five minutes

Written by `python -m docs.transcript`: every line below a `$` was printed by the command above it.
The daemon runs in another terminal:

```console
$ reconciler serve
{ready}
```
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(written(), "utf-8")


def written() -> str:
    """Run the commands and return the page."""
    with running() as (home, environ, ready):
        page = HEAD.format(ready=re.sub(r":\d+$", ":1234", ready)) + _steps(home, environ)
        return hidden(page, home)


def hidden(text: str, home: Path) -> str:
    """Text without the directories of this run."""
    return text.replace(str(home), "~").replace(str(DEMO_MODEL), "~/models/questions")


@contextmanager
def running() -> Iterator[tuple[Path, dict[str, str], str]]:
    """Run a daemon with the demo's model; yield its home, the commands' environment, and its first
    line of output.
    """
    with tempfile.TemporaryDirectory(prefix="rt-", dir="/tmp") as directory:
        home = Path(directory).resolve()
        model = home / ".reconciler" / "models" / "demo" / "questions"
        model.parent.mkdir(parents=True)
        model.symlink_to(DEMO_MODEL)
        (home / "assistant.yaml").write_text(MANIFEST, "utf-8")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RECONCILER_", "HF_"))}
        environ = kept | {"HOME": str(home)}
        command = [sys.executable, "-m", "reconciler", "serve", "--port", "0"]
        with (
            (home / "log").open("wb") as log,
            subprocess.Popen(
                command, cwd=home, env=environ, stdout=subprocess.PIPE, stderr=log, text=True
            ) as daemon,
        ):
            assert daemon.stdout is not None  # noqa: S101  it is a pipe
            ready = daemon.stdout.readline().strip()
            try:
                yield home, environ | {"RECONCILER_URL": ready.split()[-1]}, ready
            finally:
                daemon.send_signal(signal.SIGTERM)


def output(command: str, home: Path, environ: dict[str, str]) -> str:
    """Output of a command, run by the user of that home."""
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(command)]
        if command.startswith("reconciler")
        else shlex.split(command),
        cwd=home,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout.replace("python -m reconciler", "reconciler")


def _steps(home: Path, environ: dict[str, str]) -> str:
    parts = []
    for introduction, command in STEPS:
        if introduction is not None:
            parts.append(f"\n{introduction}\n")
        out = output(command, home, environ)
        parts.append(f"\n```console\n$ {command}\n{out}```\n")
    return "".join(parts)


def masked(page: str) -> str:
    """Page without the parts that vary between runs: numbers, and the spaces around them."""
    return re.sub(r"[\d.]+ ?([kMG]?B|s|m|h|d)?\b|[0-9a-f]{16}| {2,}", " ", page)


if __name__ == "__main__":
    main()
