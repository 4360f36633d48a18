"""Test the numbers of embedding sessions over real tiny checkpoints."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_adapters, load_model

from reconciler.core.embedder import POOLINGS, Embedder
from reconciler.core.protocol import LoadWeights, OpenSession, SeeShapes
from reconciler.core.records import EffectiveSettings
from reconciler.models.adapter import read_adapter
from reconciler.models.checkpoint import read_facts
from reconciler.worker import overrides
from reconciler.worker.embedding import encoder
from reconciler.worker.embedding.answers import finished_vector
from reconciler.worker.embedding.session import EmbeddingSession
from reconciler.worker.heartbeat import Heartbeat
from reconciler.worker.kv_budget import KVBudget
from reconciler.worker.model import Model
from tests import adapters, architectures, embedders, tiny

STEP = 16
FEW = ("qwen3", "gemma3_text", "gpt_oss", "qwen3_next", "deepseek_v3")
WITHOUT = {
    *("bitnet", "dbrx", "exaone", "gemma3", "gemma3n", "gemma4", "gpt_bigcode", "gpt_neox"),
    *("kimi_vl", "lfm2-vl", "lille-130m", "llama4", "mamba", "mamba2", "mistral3", "muse_spark"),
    *("nanochat", "nemotron_h", "openelm", "phi", "phi3small", "phixtral", "pixtral", "plamo3"),
    *("prism_hadamard_qwen35", "qwen", "qwen2_vl", "qwen3_vl", "qwen3_vl_moe", "rwkv7"),
    *("stablelm", "talkie"),
}
"""Architectures whose hidden states mlx-lm's models do not expose, or that differ in a batch."""


def tokens(length: int, seed: int = 7) -> list[int]:
    return [(seed * n + seed) % 300 + 5 for n in range(length)]


TEXTS = [tokens(5), tokens(37, 3), tokens(1), tokens(70, 11), tokens(12, 5), tokens(16, 9)]


def settings(step: int = STEP, context: int = 1024) -> EffectiveSettings:
    gpu = overrides.on_gpu()
    return EffectiveSettings(context, step, True, 0, gpu)


def loaded(path: Path) -> Model:
    model = Model()
    model.load(LoadWeights(str(path), read_facts(path).embedder), lambda _: None)
    return model


def opened(model: Model, config: EffectiveSettings, **more: Any) -> EmbeddingSession:
    model.open("a", OpenSession(config, **more))
    return model.embedding_session("a")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedders.make("qwen3", tmp_path_factory.mktemp("models") / "qwen3", bare=True)


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Model:
    overrides.install()
    return loaded(checkpoint)


def last_states(path: Path, texts: Sequence[list[int]]) -> Any:
    """Hidden state of the last token of each text by mlx_lm, alone and without padding."""
    decoder = embedders.decoder(path)
    return np.array([np.array(decoder.model(mx.array([one]))[0, -1]) for one in texts])


def close(one: Any, other: Any, tolerance: float = 1e-5) -> bool:
    one, other = np.array(one), np.array(other)
    return bool(np.abs(one - other).max() <= tolerance * np.abs(other).max())


@pytest.mark.parametrize("step", [4, STEP, 512])
def test_each_text_is_computed_as_if_it_were_alone(
    step: int, model: Model, checkpoint: Path
) -> None:
    """Includes batches, padding and several steps."""
    vectors = opened(model, settings(step)).embed(TEXTS, [0] * len(TEXTS))
    assert close(vectors, last_states(checkpoint, TEXTS))


def by_hand(hidden: Any, skip: int) -> dict[str, Any]:
    """sentence-transformers' pooling modes by their definition: hidden (length, width)."""
    kept = hidden[skip:]
    weights = np.arange(1, len(hidden) + 1)[skip:, None]
    return {
        "cls": hidden[0],
        "max": kept.max(axis=0),
        "mean": kept.mean(axis=0),
        "mean_sqrt_len_tokens": kept.sum(axis=0) / np.sqrt(len(kept)),
        "weightedmean": (kept * weights).sum(axis=0) / weights.sum(),
        "lasttoken": hidden[-1],
    }


@pytest.mark.parametrize("skip", [0, 4])
@pytest.mark.parametrize("step", [STEP, 512])
def test_every_pooling_mode_matches_its_definition(
    step: int, skip: int, model: Model, checkpoint: Path
) -> None:
    embedder = Embedder(POOLINGS, 64 * len(POOLINGS))
    config = settings(step)
    module = opened(model, config)._model
    session = EmbeddingSession(module, embedder, config, KVBudget(config), Heartbeat())
    texts = [text for text in TEXTS if len(text) > skip]
    vectors = session.embed(texts, [skip] * len(texts))
    decoder = embedders.decoder(checkpoint)
    for text, vector in zip(texts, vectors, strict=True):
        expected = by_hand(np.array(decoder.model(mx.array([text]))[0]), skip)
        assert close(vector, np.concatenate([expected[mode] for mode in POOLINGS]))


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3_text"])
def test_published_embedding_models_are_supported(name: str, tmp_path: Path) -> None:
    path = embedders.make(name, tmp_path / name)
    vectors = opened(loaded(path), settings()).embed(TEXTS, [0] * len(TEXTS))
    assert close(vectors, last_states(path, TEXTS))


def test_a_quantized_checkpoint_is_supported(tmp_path: Path) -> None:
    tiny.write(tiny._BASE | {"model_type": "qwen3"}, tmp_path / "Qwen3-Embedding", bits=4)
    path = tmp_path / "Qwen3-Embedding"
    decoder, _ = load_model(path)
    expected = [np.array(decoder.model(mx.array([one]))[0, -1]) for one in TEXTS]
    vectors = opened(loaded(path), settings()).embed(TEXTS, [0] * len(TEXTS))
    assert close(vectors, expected, 1e-4)


def attended_both_ways(path: Path, window: int, text: list[int]) -> Any:
    """Gemma 3's hidden states with attention in both directions: (length, width).

    Written out over mlx_lm's layers, with masks as transformers defines them for EmbeddingGemma:
    a layer with a window attends to tokens less than window // 2 + 1 away.
    """
    inner = embedders.decoder(path).model
    h = inner.embed_tokens(mx.array([text])) * inner.args.hidden_size**0.5
    far = abs(np.arange(len(text))[:, None] - np.arange(len(text))[None])
    near = mx.array(far < window // 2 + 1)
    for number, layer in enumerate(inner.layers):
        is_global = (number + 1) % inner.sliding_window_pattern == 0
        h = layer(h, mx.ones_like(near) if is_global else near, None)
    return np.array(inner.norm(h)[0])


def test_attention_is_bidirectional_if_the_model_requires_it(tmp_path: Path) -> None:
    path = embedders.make(
        "gemma3_text", tmp_path / "m", pooling="mean", use_bidirectional_attention=True
    )
    session = opened(loaded(path), settings(context=128))
    vectors = session.embed(TEXTS, [0] * len(TEXTS))
    expected = [attended_both_ways(path, 8, text).mean(axis=0) for text in TEXTS]
    assert close(vectors, expected)
    causal = embedders.decoder(path).model(mx.array([TEXTS[1]]))[0].mean(axis=0)
    assert not close(vectors[1], causal, 0.01)


def test_unsupported_bidirectional_attention_is_refused(tmp_path: Path) -> None:
    path = embedders.make("llama", tmp_path / "llama", is_causal=False)
    with pytest.raises(ValueError, match="llama: its tokens attend in both directions"):
        loaded(path)


def test_dense_modules_are_applied_after_pooling(tmp_path: Path) -> None:
    path = embedders.make("qwen3", tmp_path / "m", modules=("Dense", "Dense", "Normalize"))
    vectors = opened(loaded(path), settings()).embed(TEXTS, [0] * len(TEXTS))
    expected = last_states(path, TEXTS)
    for folder in ("2_Dense", "3_Dense"):
        weights: Any = mx.load(str(path / folder / "model.safetensors"))
        expected = expected @ np.array(weights["linear.weight"]).T
    assert close(vectors, expected)
    assert len(vectors[0]) == 16


def test_a_copy_of_dense_modules_among_the_models_weights_is_ignored(tmp_path: Path) -> None:
    path = embedders.make("qwen3", tmp_path / "m", modules=("Dense", "Normalize"))
    file = path / "model.safetensors"
    weights: Any = mx.load(str(file))
    weights["dense.0.weight"] = mx.zeros((32, 64))
    mx.eval(weights)
    file.unlink()
    mx.save_safetensors(str(file), weights, metadata={"format": "mlx"})
    assert len(opened(loaded(path), settings()).embed([tokens(5)], [0])[0]) == 32


def test_an_adapter_applies_to_the_model_and_not_to_its_dense_modules(tmp_path: Path) -> None:
    path = embedders.make("qwen3", tmp_path / "m", modules=("Dense", "Normalize"))
    folder = adapters.make(path, tmp_path / "adapter", seed=1)
    with_adapter, _ = load_model(path)
    load_adapters(with_adapter, str(folder))
    with_adapter.eval()
    states = [np.array(with_adapter.model(mx.array([one]))[0, -1]) for one in TEXTS]
    weights: Any = mx.load(str(path / "2_Dense/model.safetensors"))
    expected = np.array(states) @ np.array(weights["linear.weight"]).T
    model = loaded(path)
    plain = opened(model, settings()).embed(TEXTS, [0] * len(TEXTS))
    session = opened(model, settings(), adapter=read_adapter(folder))
    vectors = session.embed(TEXTS, [0] * len(TEXTS))
    assert close(vectors, expected)
    assert not close(vectors, plain, 0.01)


def test_another_number_of_experts_is_applied(tmp_path: Path) -> None:
    """Only for models with experts, whose hidden states depend on the number."""
    directory = tmp_path / "m"
    embedders.make("qwen3", directory, **tiny.CONFIGS["qwen3_moe"])
    facts = read_facts(directory)
    model = loaded(directory)
    one = replace(settings(), num_experts=1)
    answer = model.open("a", OpenSession(one, facts.experts_key))
    assert answer.observed.num_experts == 1
    vectors = model.embedding_session("a").embed(TEXTS, [0] * len(TEXTS))
    decoder, _ = load_model(directory, model_config={"num_experts_per_tok": 1})
    expected = [np.array(decoder.model(mx.array([text]))[0, -1]) for text in TEXTS]
    assert close(vectors, expected)


def test_hidden_states_of_another_width_are_refused(tmp_path: Path) -> None:
    path = embedders.make("qwen3", tmp_path / "m")
    embedder = read_facts(path).embedder
    assert embedder is not None
    with pytest.raises(ValueError, match="expected hidden states of width 32 from qwen3"):
        encoder.load(path, replace(embedder, dimensions=32))


@pytest.mark.parametrize(
    "name",
    [n if n in FEW else pytest.param(n, marks=pytest.mark.long) for n in architectures.NAMES],
)
def test_every_architecture_computes_texts_alike_in_a_batch_or_is_refused(
    name: str, tmp_path: Path
) -> None:
    config = architectures.config(name)
    tiny.write(config, tmp_path / name)
    embedder = Embedder(("lasttoken",), config.get("hidden_size", 64))
    if name in WITHOUT:
        with pytest.raises((ValueError, RuntimeError)):
            encoder.load(tmp_path / name, embedder)
        return
    module, _ = encoder.load(tmp_path / name, embedder)
    config_ = settings()
    session = EmbeddingSession(module, embedder, config_, KVBudget(config_), Heartbeat())
    expected = [np.array(module.model(mx.array([text]))[0, -1]) for text in TEXTS]
    assert close(session.embed(TEXTS, [0] * len(TEXTS)), expected, 1e-4)


def test_a_session_reports_the_settings_in_force(model: Model) -> None:
    config = replace(settings(), flash_attention=False)
    answer = model.open("b", OpenSession(config))
    assert answer.observed == config
    model.close("b")


def test_shapes_and_weights_exclude_the_head(checkpoint: Path) -> None:
    facts = read_facts(checkpoint)
    seen = Model().see(SeeShapes(str(checkpoint), facts.embedder))
    assert seen.weights == facts.weights_bytes
    assert seen.growing == 2 * 2 * 16 * 2 * 4


# -- vectors -------------------------------------------------------------------------------


def test_vectors_are_shortened_before_they_are_normalized() -> None:
    vector = np.array([3.0, 4.0, 12.0], dtype=np.float32)
    assert close(finished_vector(vector, 3, normalized=True), vector / 13)
    assert close(finished_vector(vector, 2, normalized=True), [0.6, 0.8])
    assert close(finished_vector(vector, 2, normalized=False), [3.0, 4.0])
    assert finished_vector(np.zeros(2, np.float32), 2, normalized=True).tolist() == [0.0, 0.0]


def test_a_vector_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(ValueError, match="NaN or infinity for text 3"):
        finished_vector(np.array([np.nan], np.float32), 1, normalized=False, index=3)
