"""Trains the demo's model: `python -m reconciler.demo.train DIRECTORY [STEPS]`.

A mixture of experts with a common architecture (qwen3_moe), small enough to ship in the package,
trained on the questions in `questions`. The seed is fixed; another processor or another BLAS rounds
differently, so the weights differ slightly there.
"""

import random
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes, save_config, save_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from reconciler.demo.questions import Exchange, lessons

STEPS = 1200
BATCH = 32
"""Exchanges per step."""
LEARNING_RATE = 3e-3
WARM_UP = 100
"""Steps until the learning rate is reached."""

VOCABULARY = 640
_END = "<|im_end|>"
_SPECIAL = (_END, "<|im_start|>", "<think>", "</think>", "<tool_call>", "</tool_call>")

CHAT_TEMPLATE = """\
{%- if tools %}<|im_start|>tools
{% for tool in tools %}{{ tool.function.name }}\
({{ tool.function.parameters.properties.keys() | join(', ') }})
{% endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content or '' }}
{%- for call in message.tool_calls or [] %}{% set tool_call = call.function %}<tool_call>
{"name": "{{ tool_call.name }}", "arguments": {{ tool_call.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if reasoning_effort is defined and reasoning_effort != 'none' %}<think>
{% endif %}{% endif %}"""

# Attention heads 64 wide, which Metal's fused kernel covers. Weights are float32 because MLX's
# gather_mm is float32 only on its CPU backend.
CONFIG: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "eos_token_id": 0,
}


def main(directory: Path, steps: int) -> None:
    """Train, and write the checkpoint to `directory`."""
    chance = random.Random(0)  # noqa: S311  a choice, not a secret
    mx.random.seed(0)
    tokenizer = _tokenizer(chance)
    model_class, args_class = _get_classes(CONFIG)
    model = model_class(args_class.from_dict(CONFIG))
    size = sum(array.size for _, array in tree_flatten(model.parameters()))
    print(f"{size} parameters")
    _train(model, tokenizer, lessons(chance), steps)
    directory.mkdir(parents=True, exist_ok=True)
    save_model(directory, model)
    save_config(dict(CONFIG), directory / "config.json")
    tokenizer.save_pretrained(directory)


def _train(model: Any, tokenizer: Any, exchanges: Any, steps: int) -> None:
    schedule = optim.join_schedules(
        [
            optim.linear_schedule(0.0, LEARNING_RATE, WARM_UP),
            optim.cosine_decay(LEARNING_RATE, steps - WARM_UP),
        ],
        [WARM_UP],
    )
    optimizer = optim.AdamW(schedule, weight_decay=0.01)
    step = nn.value_and_grad(model, _loss)
    model.train()
    for number in range(1, steps + 1):
        batch = [_encoded(tokenizer, next(exchanges)) for _ in range(BATCH)]
        loss, gradients = step(model, *_padded(batch))
        gradients, _ = optim.clip_grad_norm(gradients, 1.0)
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state, loss)
        if number % 100 == 0:
            print(f"step {number}: loss {loss.item():.4f}", flush=True)


def _loss(model: Any, tokens: Any, answers: Any) -> Any:
    """Cross-entropy of the answers' tokens; both (batch, length), `answers` as a 0/1 mask."""
    logits = model(tokens[:, :-1])
    losses = nn.losses.cross_entropy(logits, tokens[:, 1:]) * answers[:, 1:]
    return losses.sum() / answers[:, 1:].sum()


def _encoded(tokenizer: Any, exchange: Exchange) -> tuple[list[int], int]:
    """The tokens of an exchange, and the number of them in the prompt."""
    prompt = tokenizer.apply_chat_template(
        exchange.messages, add_generation_prompt=True, tokenize=False, **exchange.template
    )
    asked = tokenizer.encode(prompt)
    return asked + tokenizer.encode(exchange.answer + _END), len(asked)


def _padded(batch: list[tuple[list[int], int]]) -> tuple[Any, Any]:
    length = max(len(tokens) for tokens, _ in batch)
    rows = [tokens + [0] * (length - len(tokens)) for tokens, _ in batch]
    answers = [
        [0] * asked + [1] * (len(tokens) - asked) + [0] * (length - len(tokens))
        for tokens, asked in batch
    ]
    return mx.array(rows), mx.array(answers)


def _tokenizer(chance: random.Random) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(_SPECIAL),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    exchanges = lessons(chance)
    corpus = [
        text
        for exchange in (next(exchanges) for _ in range(4000))
        for text in (*(m["content"] for m in exchange.messages), exchange.answer)
    ]
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=_END, chat_template=CHAT_TEMPLATE
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else STEPS)
