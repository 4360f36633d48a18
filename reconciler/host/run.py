"""Programs of the operating system, run one at a time.

Whoever needs one takes a `Run`, so that tests answer for the programs of a system that they do
not run on.
"""

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Output:
    """What a program of the system printed, and its exit code."""

    code: int
    text: str


Run = Callable[[Sequence[str]], Output]
"""Runs a program of the system."""


def run_program(command: Sequence[str]) -> Output:
    """Run a program of the system; 127 where it is not there, as shells have it."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return Output(127, f"{command[0]} is not there")
    return Output(done.returncode, done.stdout + done.stderr)
