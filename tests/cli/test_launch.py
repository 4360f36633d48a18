"""`launch` with fake tools that print their arguments and environment."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from reconciler.cli import main
from reconciler.recipes.editors import EDITORS
from reconciler.recipes.script import script
from reconciler.recipes.tools import DIRECTORY, TOKEN, TOOLS, Recipe, Target
from tests.support import Daemon, Home, environment

MODEL = "reconciler/questions"

FAKE = """\
#!{python} -IS
import json, os, signal, sys
if "FAKE_WAITS" in os.environ:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
values = [*os.environ.values(), *sys.argv, *map(os.path.dirname, sys.argv)]
made = next((v for v in values if os.path.basename(v)[:4] == "tmp."
    or os.path.basename(v)[:11] == "reconciler-"), None)
files = {{}}
for place, _, names in os.walk(made) if made else ():
    for name in names:
        path = os.path.join(place, name)
        files[os.path.relpath(path, made)] = open(path).read()
print(json.dumps([sys.argv, dict(os.environ), files, made]), flush=True)
if "FAKE_WAITS" in os.environ:
    signal.pause()
sys.exit(7)
"""

TARGET = Target("http://127.0.0.1:1234", "it's/a $model", "", 40_000)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A directory with a fake program for each tool."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for tool in TOOLS.values():
        path = directory / tool.recipe(TARGET).command[0]
        path.write_text(FAKE.format(python=sys.executable))
        path.chmod(0o755)
    return directory


def path_of(programs: Path) -> str:
    return f"{programs}{os.pathsep}{os.environ['PATH']}"


def as_started(recipe: Recipe, printed: str) -> Any:
    """Compare the output of a fake with the recipe, and return the remaining arguments."""
    argv, variables, files, directory = json.loads(printed)
    placed = [word.replace(DIRECTORY, directory or "") for word in recipe.command[1:]]
    assert argv[1 : 1 + len(placed)] == placed
    for key, value in recipe.environ.items():
        assert variables[key] == value.replace(DIRECTORY, directory or "")
    assert not set(recipe.removed) & set(variables)
    assert {name: text.rstrip() for name, text in files.items()} == {
        name: text.rstrip() for name, text in recipe.files.items()
    }
    assert directory is None or not Path(directory).exists()
    return argv[1 + len(placed) :]


@pytest.mark.parametrize("name", TOOLS)
def test_a_printed_recipe_starts_the_tool_as_launch_does(
    name: str, programs: Path, tmp_path: Path
) -> None:
    secret = "to`k$en'1"
    token_file = tmp_path / "a token"
    token_file.write_text(secret)
    make = TOOLS[name].recipe
    printed = Target(TARGET.url, TARGET.model, TOKEN, TARGET.context_length)
    commands = script(make(printed), ("-p", "two words"), str(token_file))
    assert secret not in commands
    recipe = make(Target(TARGET.url, TARGET.model, secret, TARGET.context_length))
    others = dict.fromkeys(recipe.removed, "elsewhere")
    done = subprocess.run(
        ["sh", "-c", commands],
        env=environment(PATH=path_of(programs), TMPDIR=str(tmp_path), **others),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert as_started(recipe, done.stdout) == ["-p", "two words"]


@pytest.mark.parametrize("name", TOOLS)
def test_every_recipe_names_the_daemon_and_the_model(name: str) -> None:
    recipe = TOOLS[name].recipe(TARGET)
    everything = json.dumps([recipe.command, dict(recipe.environ), dict(recipe.files)])
    assert "http://127.0.0.1:1234" in everything
    assert "it's/a $model" in everything


@pytest.mark.parametrize("name", EDITORS)
@pytest.mark.parametrize("token", ["", "TOKEN"])
def test_settings_of_editors_are_json_or_yaml(name: str, token: str) -> None:
    target = replace(TARGET, token=token)
    text = EDITORS[name].settings(target)
    assert yaml.safe_load(text)  # JSON is valid YAML
    everything = json.dumps(yaml.safe_load(text))
    assert f"{target.url}/v1" in everything
    assert target.model in everything
    assert ("TOKEN" in text) == (token != "" and name != "zed")  # Zed keeps keys in the keychain


def test_a_shell_completes_the_names_of_tools() -> None:
    words = {"COMP_WORDS": "reconciler launch c", "COMP_CWORD": "2"}
    asked = {"_RECONCILER_COMPLETE": "bash_complete"} | words
    result = CliRunner().invoke(main, [], prog_name="reconciler", env=asked)
    found = [line.partition(",")[2] for line in result.output.splitlines()]
    assert found == ["claude", "codex", "crush", "copilot", "cline", "continue"]


def launch(daemon: Daemon, programs: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a process, which becomes the tool."""
    return subprocess.run(
        [sys.executable, "-m", "reconciler", "--url", daemon.url, "launch", *arguments],
        env=environment(PATH=path_of(programs), ANTHROPIC_API_KEY="elsewhere"),
        capture_output=True,
        text=True,
        check=False,
    )


def asked(daemon: Daemon | None, programs: Path | None, *arguments: str) -> Result:
    """Run the command in this process; it must start no tool."""
    where = daemon.url if daemon else "http://127.0.0.1:1"
    path = "/nowhere" if programs is None else path_of(programs)
    command = ["--url", where, "launch", *arguments]
    return CliRunner().invoke(main, command, env={"PATH": path})


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Daemon]:
    """A daemon in which only these tests load models."""
    with Daemon(Home(tmp_path_factory.mktemp("bare"), models)) as running:
        yield running


def test_launch_loads_the_model_and_becomes_the_tool(bare: Daemon, programs: Path) -> None:
    options = ("--model", MODEL, "--context-length", "2000")
    done = launch(bare, programs, "codex", *options, "--", "exec", "Hi")
    recipe = TOOLS["codex"].recipe(Target(bare.url, MODEL, "", 2000))
    assert as_started(recipe, done.stdout) == ["exec", "Hi"]
    assert done.returncode == 7
    assert "context_length 2000 is short for Codex" in done.stderr
    assert bare.loaded() == {MODEL}
    # The only loaded model is the default, and the directory of files is removed.
    done = launch(bare, programs, "claude")
    as_started(TOOLS["claude"].recipe(Target(bare.url, MODEL, "", 2000)), done.stdout)
    assert done.returncode == 7
    printed = asked(bare, programs, "llm", "--print")
    assert printed.exit_code == 0
    assert printed.stdout.startswith("directory=$(mktemp -d)\n")
    bare.load({"model": MODEL, "instance_id": "second"})
    refused = asked(bare, programs, "llm")
    assert refused.exit_code == 1
    assert f"2 models are loaded; choose one with --model: {MODEL}, second" in refused.stderr
    # A record's name is accepted like a model's.
    done = launch(bare, programs, "llm", "--model", "second")
    assert json.loads(done.stdout)[2]["default_model.txt"] == "second"
    for name in ("second", MODEL):
        bare.unload(name)
    refused = asked(bare, programs, "llm")
    assert "no model is loaded; choose one with --model" in refused.stderr


def test_launch_reports_missing_models_and_programs(bare: Daemon, programs: Path) -> None:
    done = asked(bare, None, "aider", "--model", MODEL)
    assert done.exit_code == 1
    assert "aider is not installed: `aider` is not on PATH; install it with" in done.stderr
    assert bare.loaded() == set()
    done = asked(None, programs, "aider", "--model", MODEL)
    assert done.exit_code == 3
    assert "start the daemon with `reconciler serve`" in done.stderr
    done = asked(None, programs, "aider", "--model", MODEL, "--print")
    assert done.exit_code == 0
    assert f"# {MODEL} is not loaded" in done.stdout
    done = asked(None, programs, "zed")
    assert done.exit_code == 1
    assert "`reconciler launch zed --print` prints the lines to add" in done.stderr
    done = asked(None, programs, "zed", "--model", MODEL, "--print")
    assert "add to ~/.config/zed/settings.json:" in done.stderr
    providers = json.loads(done.stdout)["language_models"]["openai_compatible"]
    assert providers["reconciler"]["available_models"][0]["name"] == MODEL
    done = asked(bare, programs, "aider", "--model", "no/such")
    assert done.exit_code == 4
    assert "Model no/such not found" in done.stderr


def test_a_signal_reaches_a_tool_that_has_a_temporary_directory(
    bare: Daemon, programs: Path
) -> None:
    command = [sys.executable, "-m", "reconciler", "--url", bare.url, "launch", "llm"]
    with subprocess.Popen(
        [*command, "--model", MODEL],
        env=environment(PATH=path_of(programs), FAKE_WAITS="1"),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        directory = Path(json.loads(process.stdout.readline())[3])
        assert directory.exists()
        process.terminate()
    assert process.returncode == 5
    assert not directory.exists()
    bare.unload(MODEL)
