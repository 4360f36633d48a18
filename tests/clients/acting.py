"""Makes small real checkpoints that play a role: a scripted answer for each turn of a conversation.

The chat template chooses the answer by conditions on the messages and tools it receives, and ends
the prompt with that answer's mark. The model maps each mark and each piece of an answer to the
token that follows; nothing else in the prompt matters. So it answers as scripted, whatever a
client puts around its messages, at any temperature, and stops by itself. Tool calls follow Qwen's
models, `<tool_call>{"name": …, "arguments": {…}}</tool_call>`; reasoning, `<think>…</think>`.

Only the end of each message's text is in the prompt: the prompts of coding agents are long, and a
token here is a byte.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

END = "<|im_end|>"
CONTEXT = 131072
"""Tokens of context, as many as models for agents have."""

KEPT = 400
"""Characters of each message's text, system turns included, that are in the prompt."""

CERTAIN = 100.0
"""Minimum logit of the token that follows; the others have 0."""


@dataclass(frozen=True)
class Rule:
    """An answer and the condition under which it is given."""

    when: str
    """Jinja condition over `messages` and `tools`, and these: `asked`, the joined texts of user and
    system turns; `last`, the last message; `result`, the text of the last message if it is a
    tool's, else ""; `names`, the names of the tools."""
    answer: str


def call(name: str, /, **arguments: Any) -> str:
    """A tool call in the model's output format."""
    written = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{written}\n</tool_call>"


def make(directory: Path, rules: Sequence[Rule], otherwise: str) -> None:
    """Write a checkpoint that answers by the first rule that holds, else with `otherwise`.

    `otherwise` also follows a prompt without a chat template. Answers must not be empty.
    """
    import mlx.core as mx
    from mlx_lm.utils import save_config

    directory.mkdir(parents=True)
    answers = [otherwise, *(rule.answer for rule in rules)]
    pieces = _pieces(answers)
    tokenizer = _tokenizer(pieces, rules)
    tokenizer.save_pretrained(directory)
    vocabulary = len(tokenizer)
    numbers = tokenizer.get_vocab()
    follows: dict[int, int] = {}
    for number, answer in enumerate(answers):
        before = numbers[_mark(number)]
        for piece in [*pieces[answer], END]:
            token = numbers[_in_vocabulary(piece)] if piece != END else numbers[END]
            follows[before] = before = token
    config = {
        "model_type": "llama",
        "hidden_size": len(follows) + 1,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000,
        "vocab_size": vocabulary,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": False,
        "eos_token_id": numbers[END],
    }
    weights = _weights(follows, vocabulary, any_other=numbers[_in_vocabulary(pieces[otherwise][0])])
    mx.save_safetensors(str(directory / "model.safetensors"), weights, {"format": "mlx"})
    save_config(config, directory / "config.json")


def _mark(number: int) -> str:
    """Mark that ends a prompt to be followed by answer `number`."""
    return f"<|answer_{number}|>"


def _pieces(answers: Sequence[str]) -> dict[str, list[str]]:
    """Words and similar pieces of each answer, none of which appears twice."""
    used: set[str] = set()
    found: dict[str, list[str]] = {}
    for answer in sorted(set(answers), key=len):  # a short answer may be a piece of a longer one
        pieces: list[str] = []
        part = ""
        for word in re.findall(r"\s*\w{1,8}|\s*[^\w\s]|\s+", answer):
            part += word
            if len(part) > 1 and part not in used:  # single characters are tokens already
                pieces.append(part)
                used.add(part)
                part = ""
        while part and (part in used or len(part) < 2):
            if not pieces:
                raise ValueError(f"the answer is too short: {answer!r}")
            part = pieces.pop() + part
        found[answer] = [*pieces, *([part] if part else [])]
        used.update(found[answer])
    return found


def _in_vocabulary(text: str) -> str:
    """A text encoded as in byte-level vocabularies."""
    from tokenizers import pre_tokenizers

    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return "".join(part for part, _ in split.pre_tokenize_str(text))


def _tokenizer(pieces: dict[str, list[str]], rules: Sequence[Rule]) -> Any:
    """Make a token for each byte, piece and mark; texts are tokenized to bytes and marks."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [_in_vocabulary(piece) for parts in pieces.values() for piece in parts]
    vocabulary = {text: i for i, text in enumerate([*letters, *dict.fromkeys(words)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = [END, "<|im_start|>", *(_mark(number) for number in range(len(rules) + 1))]
    tokenizer.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, chat_template=template(rules)
    )


def template(rules: Sequence[Rule]) -> str:
    """Chat template that chooses the answer."""
    choice = "".join(
        f"{{%- {'if' if number == 1 else 'elif'} {rule.when} %}}{_mark(number)}"
        for number, rule in enumerate(rules, 1)
    )
    chosen = choice + "{%- else %}" + _mark(0) + "{%- endif %}" if rules else _mark(0)
    return _TEMPLATE.replace("KEPT", str(KEPT)).replace("CHOSEN", chosen)


_TEMPLATE = """\
{%- if tools %}<|im_start|>tools
{% for tool in tools %}{{ tool.function.name }} \
{% for key in (tool.function.parameters or {}).properties or {} %}{{ key }} {% endfor %}
{% endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{%- if message.reasoning_content %}
<think>
{{ message.reasoning_content[-KEPT:] }}
</think>
{%- endif %}
{{ (message.content or '')[-KEPT:] }}
{%- for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{%- set last = messages[-1] %}
{%- set result = last.content if last.role == 'tool' else '' %}
{%- set names = (tools or []) | map(attribute='function.name') | list %}
{%- set asked = messages | rejectattr('role', 'in', ['assistant', 'tool']) \
| map(attribute='content') | join('\\n') %}
CHOSEN
{%- endif %}"""


def _weights(follows: dict[int, int], vocabulary: int, any_other: int) -> dict[str, Any]:
    """One-hot embeddings for tokens that something follows, equal ones otherwise; the layer adds 0.

    `follows`: token -> the token after it. `any_other`: the token after any other one.
    """
    import mlx.core as mx

    size = len(follows) + 1
    dimension = {token: number for number, token in enumerate(follows, 1)}
    embedding = mx.zeros((vocabulary, size))
    embedding[:, 0] = 1.0
    head = mx.zeros((vocabulary, size))
    head[any_other, 0] = CERTAIN
    for token, number in dimension.items():
        embedding[token, 0] = 0.0
        embedding[token, number] = 1.0
        head[follows[token], number] = CERTAIN
    layer = "model.layers.0"
    zeros = {
        f"{layer}.self_attn.q_proj": (8, size),
        f"{layer}.self_attn.k_proj": (8, size),
        f"{layer}.self_attn.v_proj": (8, size),
        f"{layer}.self_attn.o_proj": (size, 8),
        f"{layer}.mlp.gate_proj": (8, size),
        f"{layer}.mlp.up_proj": (8, size),
        f"{layer}.mlp.down_proj": (size, 8),
    }
    norms = (f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm", "model.norm")
    return {
        "model.embed_tokens.weight": embedding,
        "lm_head.weight": head,
        **{f"{name}.weight": mx.zeros(shape) for name, shape in zeros.items()},
        **{f"{name}.weight": mx.ones(size) for name in norms},
    }
