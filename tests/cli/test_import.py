"""`import`: settings of LM Studio and Ollama become valid manifests; omissions are reported."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from reconciler.cli import main
from reconciler.core.snapshot import Declared, read_file

MLX = "mlx-community/Llama-3.2-3B-Instruct-4bit"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["import", *arguments])


def declared(text: str) -> dict[str, Declared]:
    read = read_file("manifest", text.encode())
    assert read.flaws == ()
    return {one.name: one for one in read.declared}


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), "utf-8")


def fields(**sections: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {"fields": [{"key": key, "value": value} for key, value in section.items()]}
        for name, section in sections.items()
    }


PROMPT = "You are terse.\nAnswer: in one line."


@pytest.fixture
def studio(tmp_path: Path) -> Path:
    presets = tmp_path / "config-presets"
    operation = {
        "llm.prediction.systemPrompt": PROMPT,
        "llm.prediction.temperature": 0.7,
        "llm.prediction.topKSampling": 24,
        "llm.prediction.repeatPenalty": {"checked": True, "value": 1.1},
        "llm.prediction.minPSampling": {"checked": False, "value": 0.05},
        "llm.prediction.structured": {"type": "none"},
    }
    write(presets / "terse.preset.json", {"name": "Terse writer"} | fields(operation=operation))
    write(presets / "empty.preset.json", {"name": "Empty"})
    write(presets / "broken.preset.json", "{")
    models = tmp_path / ".internal" / "user-concrete-model-default-config"
    load = {"llm.load.contextLength": 8192, "llm.load.offloadKVCacheToGpu": True}
    write(models / "mlx-community" / "Qwen3-4bit.json", fields(load=load))
    write(models / "maker" / "Some-GGUF" / "some-Q4.gguf.json", fields(load=load))
    return tmp_path


def test_presets_and_defaults_of_lm_studio_s_models_become_manifests(studio: Path) -> None:
    result = run("lmstudio", "--from", str(studio), "--map", f"Terse writer={MLX}")
    assert result.exit_code == 0, result.output
    found = declared(result.stdout)
    assert set(found) == {"terse", "mlx-community/Qwen3-4bit"}
    terse, qwen = found["terse"].spec, found["mlx-community/Qwen3-4bit"].spec
    assert terse.model == MLX
    assert terse.defaults.sent() == {
        "system_prompt": PROMPT,
        "temperature": 0.7,
        "top_k": 24,
        "repetition_penalty": 1.1,
    }
    assert qwen.model == "mlx-community/Qwen3-4bit"
    assert qwen.config.sent() == {"context_length": 8192, "offload_kv_cache_to_gpu": True}


@pytest.mark.parametrize(
    ("value", "bits", "left_out"),
    [
        ({"enabled": True, "bits": 8, "groupSize": 64, "quantizedStart": 5000}, 8, False),
        ({"enabled": True, "bits": 4}, 4, False),
        ({"enabled": False, "bits": 8, "groupSize": 64}, None, False),
        ({"enabled": True, "bits": 6, "groupSize": 64}, None, True),
        ({"enabled": True, "bits": 8, "groupSize": 32}, None, True),
        ({"enabled": True, "bits": [8]}, None, True),
        ({"enabled": True, "bits": True}, None, True),
        (8, None, True),
    ],
)
def test_a_quantised_kv_cache_of_lm_studio_is_taken_over_if_it_is_possible_here(
    tmp_path: Path, value: Any, bits: int | None, *, left_out: bool
) -> None:
    key = "llm.load.mlx.kvCacheQuantization"
    models = tmp_path / ".internal" / "user-concrete-model-default-config"
    load = {"llm.load.contextLength": 8192, key: value}
    write(models / "maker" / "m.json", fields(load=load))
    result = run("lmstudio", "--from", str(tmp_path))
    assert result.exit_code == 0, result.output
    (one,) = declared(result.stdout).values()
    assert one.spec.config.kv_cache_bits == bits
    assert (f"left out: {key}" in result.stderr) is left_out


def test_omitted_settings_are_reported(studio: Path) -> None:
    lines = run("lmstudio", "--from", str(studio), "--map", f"terse={MLX}").stderr.splitlines()
    assert "terse.preset.json: these settings are left out: llm.prediction.structured" in lines
    assert "empty.preset.json: not imported: it sets nothing" in lines
    assert any(line.startswith("broken.preset.json: not imported: ") for line in lines)
    gguf = "maker/Some-GGUF/some-Q4.gguf: not imported: give an MLX model for it with"
    assert any(line.startswith(gguf) for line in lines)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    def layer(kind: str, number: int, content: Any) -> dict[str, str]:
        digest = f"{number:064x}"
        write(tmp_path / "blobs" / f"sha256-{digest}", content)
        media = f"application/vnd.ollama.image.{kind}"
        return {"mediaType": media, "digest": f"sha256:{digest}"}

    registry = tmp_path / "manifests" / "registry.ollama.ai"
    parameters = {"temperature": 0.2, "num_ctx": 4096, "num_predict": 100, "stop": ["</s>"]}
    layers = [layer("params", 1, parameters), layer("system", 2, PROMPT)]
    write(registry / "library" / "llama3.2" / "latest", {"layers": layers})
    write(registry / "maker" / "own" / "7b", {"layers": [layer("system", 3, "Be kind.")]})
    write(registry / "library" / "plain" / "latest", {"layers": [layer("model", 4, "GGUF")]})
    outside = {"mediaType": layers[0]["mediaType"], "digest": "sha256:../../secret"}
    write(registry / "library" / "hostile" / "latest", {"layers": [outside]})
    out_of_range = layer("params", 5, {"temperature": 99})
    write(registry / "library" / "hot" / "latest", {"layers": [out_of_range]})
    return tmp_path


def test_parameters_and_system_prompts_of_ollama_s_models_become_manifests(library: Path) -> None:
    maps = [f"--map={name}={MLX}" for name in ("llama3.2:latest", "maker/own:7b", "hot", "hostile")]
    result = run("ollama", "--from", str(library), *maps, "--map=absent=x")
    assert result.exit_code == 0, result.output
    found = declared(result.stdout)
    assert set(found) == {"llama3.2", "maker/own:7b"}
    llama = found["llama3.2"].spec
    assert llama.config.sent() == {"context_length": 4096}
    expected = {"temperature": 0.2, "max_tokens": 100, "system_prompt": PROMPT}
    assert llama.defaults.sent() == expected
    lines = result.stderr.splitlines()
    assert "llama3.2: these settings are left out: stop" in lines
    assert "plain: not imported: it has no parameters and no system prompt" in lines
    assert "hostile: not imported: 'sha256:../../secret' is not a digest" in lines
    assert any(line.startswith("hot: not imported: spec.defaults.temperature") for line in lines)
    assert "--map absent: no preset or model has this name" in lines


def test_files_are_written_and_never_overwritten(library: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    arguments = ("ollama", "--from", str(library), "--map", f"maker/own:7b={MLX}", "--to")
    assert run(*arguments, str(target)).exit_code == 0
    (file,) = target.iterdir()
    assert file.name == "maker-own-7b.yaml"
    assert set(declared(file.read_text("utf-8"))) == {"maker/own:7b"}
    file.write_text("mine", "utf-8")
    result = run(*arguments, str(target))
    assert result.exit_code == 1
    assert "is not overwritten" in result.output
    assert file.read_text("utf-8") == "mine"


def test_invalid_options_and_nothing_to_import_are_errors(tmp_path: Path) -> None:
    result = run("lmstudio", "--from", str(tmp_path))
    assert (result.exit_code, result.output) == (1, "Error: nothing was imported\n")
    assert run("ollama", "--from", str(tmp_path / "missing")).exit_code == 64
    assert run("ollama", "--from", str(tmp_path), "--map", "llama").exit_code == 64


def test_a_pipe_and_a_deeply_nested_preset_stop_no_other_one(tmp_path: Path) -> None:
    presets = tmp_path / "config-presets"
    deep = json.dumps(fields(operation={"llm.prediction.temperature": "DEEP"}))
    write(presets / "deep.preset.json", deep.replace('"DEEP"', "[" * 400 + "]" * 400))
    os.mkfifo(presets / "pipe.preset.json")
    write(presets / "sound.preset.json", fields(operation={"llm.prediction.temperature": 0.5}))
    maps = [f"--map={name}={MLX}" for name in ("deep", "pipe", "sound")]
    result = run("lmstudio", "--from", str(tmp_path), *maps)
    assert result.exit_code == 0, result.output
    assert set(declared(result.stdout)) == {"sound"}
    assert "deep.preset.json: not imported: its values are nested too deeply" in result.stderr
    assert "pipe.preset.json: not imported: it is not a regular file" in result.stderr
