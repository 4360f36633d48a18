"""Keys by which mlx-lm's models configure their experts."""

import ast
import json
import re
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from reconciler.models.checkpoint import _EXPERT_KEYS, _EXPERT_TOTAL_KEYS, read_facts

NESTED = {"dbrx": "ffn_config"}
"""Models with their keys in a nested dictionary that their arguments do not describe."""


def routing() -> Iterator[tuple[str, str]]:
    """Names and source of mlx-lm's models that route experts."""
    spec = find_spec("mlx_lm")
    assert spec is not None
    assert spec.submodule_search_locations
    for file in sorted((Path(spec.submodule_search_locations[0]) / "models").glob("*.py")):
        source = file.read_text("utf-8")
        if file.stem != "switch_layers" and re.search(r"Switch(GLU|MLP|Linear)\(", source):
            yield file.stem, source


def test_every_model_that_routes_experts_counts_them_in_a_known_key() -> None:
    unknown = []
    for name, source in routing():
        if name in NESTED:
            assert NESTED[name] in source
            continue
        nodes = [n.target for n in ast.walk(ast.parse(source)) if isinstance(n, ast.AnnAssign)]
        fields = {n.id for n in nodes if isinstance(n, ast.Name)}
        if not (fields & set(_EXPERT_KEYS) and fields & set(_EXPERT_TOTAL_KEYS)):
            unknown.append(name)
    assert unknown == []
    assert len(list(routing())) > 40


DEEPSEEK = {"model_type": "deepseek_v3", "num_experts_per_tok": 2}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"num_experts_per_tok": 2, "num_local_experts": 8}, (2, 8, 1, 8)),
        ({"model_type": "hunyuan", "moe_topk": [4, 4], "num_experts": 16}, (4, 16, 1, 16)),
        ({"model_type": "hunyuan", "moe_topk": [2, 4], "num_experts": 16}, (4, 16, 1, 16)),
        (
            {"model_type": "dbrx", "ffn_config": {"moe_top_k": 4, "moe_num_experts": 16}},
            (4, 16, 1, 16),
        ),
        (DEEPSEEK | {"n_routed_experts": 64, "n_group": 8, "topk_group": 3}, (2, 64, 1, 24)),
        (DEEPSEEK | {"n_routed_experts": 8, "n_group": 1, "topk_group": 1}, (2, 8, 1, 8)),
        # The architecture decides.
        ({"model_type": "mixtral"}, (2, 8, 1, 8)),
        # A dense architecture whose configuration was copied from one with experts.
        ({"model_type": "llama", "num_experts_per_tok": 2, "num_experts": 8}, (0, 0, 1, 0)),
        # Two spellings; the architecture reads one.
        (
            {
                "model_type": "kimi_linear",
                "num_experts_per_tok": 1,
                "num_experts_per_token": 2,
                "num_experts": 8,
            },
            (2, 8, 1, 8),
        ),
        (
            {"num_experts_per_tok": 10**400, "num_local_experts": -1},
            (2, 8, 1, 8),
        ),
        (
            {"model_type": "llama4", "num_experts_per_tok": 1, "num_local_experts": 16},
            (1, 16, 1, 1),
        ),
        (
            {"model_type": "phimoe", "num_experts_per_tok": 2, "num_local_experts": 16},
            (2, 16, 1, 16),
        ),
    ],
)
def test_a_routers_number_of_experts_is_read_from_its_configuration(
    models: Path, tmp_path: Path, config: dict[str, object], expected: tuple[int, ...]
) -> None:
    path = tmp_path / "checkpoint"
    shutil.copytree(models / "tiny/llama", path)
    (path / "config.json").write_text(json.dumps({"model_type": "mixtral"} | config), "utf-8")
    facts = read_facts(path)
    experts = (
        facts.experts_per_token,
        facts.experts_total,
        facts.experts_least,
        facts.experts_most,
    )
    assert experts == expected
