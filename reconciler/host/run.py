"""Runs programs of the operating system, one at a time.

Callers take a `Run` as a parameter, so that tests can replace the programs of a system that they
do not run on.
"""

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Output:
    """Exit code and output of a program of the system."""

    code: int
    text: str


Run = Callable[[Sequence[str]], Output]
"""Runs a program of the system."""


def run_program(command: Sequence[str]) -> Output:
    """Run a program of the system; the code is 127 if it does not exist, as in shells."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return Output(127, f"{command[0]} not found")
    return Output(done.returncode, done.stdout + done.stderr)
