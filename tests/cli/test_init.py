"""`init`: the manifest is valid, and never overwrites a file."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from reconciler.cli import main
from reconciler.cli.output import yaml_text
from reconciler.core.manifest import parse
from reconciler.core.snapshot import read_file

MODEL = "mlx-community/Qwen3-0.6B-4bit"


def init(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["init", *arguments])


def test_the_manifest_declares_the_model_under_its_last_part() -> None:
    result = init(MODEL)
    assert result.exit_code == 0
    (declared,) = read_file("manifest", result.stdout.encode()).declared
    assert (declared.name, declared.spec.model) == ("Qwen3-0.6B-4bit", MODEL)
    assert declared.spec.config.sent() == {}
    assert declared.spec.download == "never"


def test_options_are_in_the_manifest() -> None:
    result = init(MODEL, "--name", "assistant", "--context-length", "4096", "--download")
    (declared,) = read_file("manifest", result.stdout.encode()).declared
    assert declared.name == "assistant"
    assert declared.spec.config.sent() == {"context_length": 4096}
    assert declared.spec.download == "if-missing"


def test_its_comments_are_valid_settings() -> None:
    lines = []
    for line in init(MODEL).stdout.splitlines():
        is_setting = line.startswith("  # ") and not line.endswith(".")
        lines.append(line.replace("# ", "", 1) if is_setting else line)
    lines[-1] = lines[-1].replace("# ", "", 1)
    read = read_file("manifest", "\n".join(lines).encode())
    assert read.flaws == ()
    (declared,) = read.declared
    assert declared.spec.aliases == ("gpt-4o",)
    assert declared.spec.idle_ttl_seconds == 3600
    assert declared.spec.config.context_length == 16384
    assert declared.spec.defaults.system_prompt == "Answer briefly."


def test_a_file_is_written_once(tmp_path: Path) -> None:
    file = tmp_path / "assistant.yaml"
    result = init(MODEL, str(file))
    assert result.exit_code == 0
    assert result.stdout == ""
    before = file.read_text("utf-8")
    assert before == init(MODEL).stdout
    result = init("other/model", str(file))
    assert (result.exit_code, file.read_text("utf-8")) == (1, before)
    assert "is not overwritten" in result.output


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    result = init(MODEL, str(tmp_path / "missing" / "assistant.yaml"))
    assert result.exit_code == 1
    assert "cannot write" in result.output


@pytest.mark.parametrize("arguments", [("a/b c",), ("a/b", "--name", "no spaces"), ("",)])
def test_an_invalid_record_is_an_error(arguments: tuple[str, ...]) -> None:
    result = init(*arguments)
    assert result.exit_code == 1
    assert "apiVersion" not in result.stdout


@pytest.mark.parametrize(
    "model", ["a/123", "a/true", "a/1e3", "a/null", "a/0o17", "a/0x1f", "a/1.5"]
)
def test_names_that_look_like_other_types_stay_strings(model: str) -> None:
    (declared,) = read_file("manifest", init(model).stdout.encode()).declared
    assert declared.name == model.rpartition("/")[2]


@pytest.mark.parametrize(
    "value",
    [
        *("1e3", "0o17", "0x1f", "12", "-1.5e+3", ".5", "1.", "true", "no", "-", "2026-01-01"),
        *(1e30, 1000.0, 0.1, 5, -3, True, None),
    ],
)
def test_printed_yaml_is_read_back_unchanged(value: object) -> None:
    (document,) = parse(yaml_text({"key": value}).encode())
    assert document.value == {"key": value}
    assert type(document.value["key"]) is type(value)
