"""Keys of a completion request and their handling; the docs' tables are generated from them.

A key is applied, harmless (accepted, without effect on the text of a response), or refused with a
400 because it would change the response and is not supported. A refused key is accepted with a
value that has no effect. Keys not listed here are reported in the warnings of the response.

Sources of the names: OpenAI's client (chat and text completions), mlx_lm.server, llama.cpp's
server, vLLM, SGLang, LM Studio, Ollama and OpenRouter.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from typing import Any, Literal


class Kind(Enum):
    """Handling of a key."""

    ACTS = "acts"
    HARMLESS = "harmless"
    REFUSED = "refused"


Route = Literal["both", "chat", "text"]


NOTHING: tuple[Any, ...] = (0, "", [], {})
"""Values that have no effect for most keys; false equals 0."""


@dataclass(frozen=True)
class Key:
    """A key of a request's body."""

    name: str
    kind: Kind
    meaning: str = ""
    route: Route = "both"
    aliases: tuple[str, ...] = ()
    """Other names, of which the first sent counts; the key's own name takes precedence."""
    neutral: tuple[Any, ...] = NOTHING
    """Values besides null that have no effect; for refused keys."""

    def is_neutral(self, value: Any) -> bool:
        """True if the value has no effect."""
        return value is None or value in self.neutral


def _acts(name: str, meaning: str, *aliases: str, route: Route = "both") -> Key:
    return Key(name, Kind.ACTS, meaning, route, aliases)


def _refused(
    name: str, *neutral: Any, only: tuple[Any, ...] | None = None, route: Route = "both"
) -> Key:
    """A key that is refused unless its value is neutral: `NOTHING` and `neutral`, or `only`."""
    values = (*NOTHING, *neutral) if only is None else only
    return Key(name, Kind.REFUSED, "", route, neutral=values)


_MAX_TOKENS = (
    *("max_completion_tokens", "max_output_tokens", "max_new_tokens"),
    *("n_predict", "num_predict"),
)

ACTS = (
    _acts("model", "the instance, or a model with a loaded instance"),
    _acts("messages", "the conversation", route="chat"),
    _acts("prompt", "a text, token ids, or a list of up to 64 of them", route="text"),
    _acts("suffix", "the text after the completion, if the model has tokens for it", route="text"),
    _acts("echo", "true: the response begins with the prompt, and so do `logprobs`", route="text"),
    _acts(
        "max_tokens", "maximum number of tokens of the response; -1: as many as fit", *_MAX_TOKENS
    ),
    _acts("min_tokens", "minimum number of tokens before an end token", "min_new_tokens"),
    _acts("stop", "up to 16 texts that end the response", "stop_sequences", "stop_strings"),
    _acts("stop_token_ids", "up to 64 more tokens that end the response"),
    _acts("ignore_eos", "true: end tokens do not end the response", "ban_eos_token"),
    _acts("temperature", "0 (greedy) to 2"),
    _acts("top_p", "0 to 1; 0 and 1: off"),
    _acts("top_k", "-1, 0, or the size of the vocabulary and above: off"),
    _acts("min_p", "0 to 1"),
    _acts("xtc_probability", "0 to 1"),
    _acts("xtc_threshold", "0 to 1; above 0.5: off"),
    _acts("seed", "makes the response reproducible; -1: random"),
    _acts("repetition_penalty", "0.01 to 10; 0 and 1: off", "repeat_penalty"),
    _acts(
        "repetition_context_size", "number of latest tokens to consider; -1: all", "repeat_last_n"
    ),
    _acts("presence_penalty", "-2 to 2"),
    _acts("presence_context_size", "number of latest tokens to consider; -1: all"),
    _acts("frequency_penalty", "-2 to 2"),
    _acts("frequency_context_size", "number of latest tokens to consider; -1: all"),
    _acts("logit_bias", "map of token ids to numbers from -100 to 100"),
    _acts("logprobs", "true, or the number of alternatives, up to 20"),
    _acts("top_logprobs", "number of alternatives, up to 20; -1: none", route="chat"),
    _acts("tools", "functions that the model may call", route="chat"),
    _acts("tool_choice", "`auto`, `none`, `required`, or the function to call", route="chat"),
    _acts("parallel_tool_calls", "false: at most one call", route="chat"),
    _acts("reasoning_effort", "`none` turns reasoning off", route="chat"),
    _acts(
        "enable_thinking",
        "true or false: turns reasoning on or off",
        "think",
        "thinking",
        route="chat",
    ),
    _acts("reasoning", "`{effort, enabled}`", route="chat"),
    _acts(
        "thinking_budget",
        "maximum number of tokens of reasoning; -1: no limit, 0: none",
        *("thinking_budget_tokens", "thinking_token_budget"),
        route="chat",
    ),
    _acts("chat_template_kwargs", "variables of the chat template", route="chat"),
    _acts(
        "add_generation_prompt",
        "false: the prompt does not open an assistant message",
        route="chat",
    ),
    _acts(
        "continue_final_message", "true: continue the last message, an assistant's", route="chat"
    ),
    _acts("add_special_tokens", "false: tokenize only the prompt's text", route="text"),
    _acts("stream", "server-sent events"),
    _acts("stream_options", "`include_usage`, `include_progress`"),
    _acts("response_format", "`text`, `json_object` or `json_schema`; the response conforms to it"),
    _acts("structured_outputs", "vLLM's: `json`, `regex`, `choice`, `grammar` or `json_object`"),
    _acts("guided_json", "a JSON schema that the response conforms to", "json_schema"),
    _acts("guided_regex", "a regular expression that the whole response matches", "regex"),
    _acts("guided_choice", "texts to choose the response from"),
    _acts("guided_grammar", "a grammar in GBNF or Lark", "grammar", "ebnf"),
    _acts("n", "number of completions of the prompt, up to 8"),
    _acts("best_of", "the same number as `n`"),
    _acts("ttl", "seconds without a request before a model that this request loads is unloaded"),
)

_HARMLESS = (
    # OpenAI
    *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"),
    *("prompt_cache_retention", "prompt_cache_options"),
    # llama.cpp: slots, caches and speculation, which do not change the response
    *("cache_prompt", "id_slot", "slot_id", "n_keep", "n_discard", "timings_per_token"),
    *("n_draft", "speculative.n_max", "speculative.n_min", "speculative.p_min"),
    # mlx_lm.server and LM Studio: speculative decoding changes only the speed
    *("draft_model", "num_draft_tokens"),
    # vLLM and SGLang: names and order of requests; the library that enforces a grammar
    *("request_id", "rid", "priority", "guided_decoding_backend"),
    # OpenRouter, LiteLLM: routing
    *("provider", "models", "route", "usage", "session_id", "trace", "tags"),
)

HARMLESS = tuple(Key(name, Kind.HARMLESS) for name in _HARMLESS)

REFUSED = (
    # OpenAI
    _refused("functions", route="chat"),
    _refused("function_call", "auto", "none", route="chat"),
    _refused("audio"),
    _refused("modalities", ["text"]),
    _refused("prediction"),
    _refused("web_search_options", only=()),
    _refused("moderation"),
    _refused("verbosity", "medium"),
    # Constrained answers: vLLM, SGLang, llama.cpp, Ollama
    *map(_refused, ("guided_whitespace_pattern", "grammar_lazy", "grammar_triggers")),
    *map(_refused, ("structural_tag", "format", "options")),
    # Samplers that are not supported
    _refused("typical_p", 1),
    _refused("typ_p", 1),
    _refused("tfs_z", 1),
    _refused("top_n_sigma", -1),
    _refused("length_penalty", 1),
    _refused("num_beams", 1),
    _refused("do_sample", only=(True,)),
    *map(_refused, ("top_a", "mirostat", "mirostat_mode", "dynatemp_range", "dry_multiplier")),
    *map(_refused, ("smoothing_factor", "epsilon_cutoff", "eta_cutoff", "penalty_alpha")),
    *map(_refused, ("no_repeat_ngram_size", "encoder_repetition_penalty", "use_beam_search")),
    *map(_refused, ("samplers", "sampler_seq", "logits_processors", "custom_logit_processor")),
    *map(_refused, ("allowed_token_ids", "bad_words", "bad_words_ids", "early_stopping")),
    # Content of a response
    *map(_refused, ("prompt_logprobs", "n_probs", "post_sampling_probs", "return_tokens")),
    *map(_refused, ("return_token_ids", "return_tokens_as_token_ids", "return_hidden_states")),
    *map(_refused, ("return_progress", "response_fields", "include_stop_str_in_output")),
    *map(_refused, ("include", "return_full_text", "no_stop_trim", "n_indent")),
    _refused("skip_special_tokens", only=(True,)),
    _refused("spaces_between_special_tokens", only=(True,)),
    _refused("include_reasoning", only=(True,), route="chat"),
    _refused("separate_reasoning", only=(True,), route="chat"),
    _refused("stream_reasoning", only=(True,), route="chat"),
    _refused("reasoning_format", "auto", "deepseek", route="chat"),
    _refused("parse_tool_calls", only=(True,), route="chat"),
    # Content of a prompt
    _refused("documents", route="chat"),
    _refused("chat_template", route="chat"),
    _refused("role_mapping"),
    _refused("truncate_prompt_tokens", -1),
    _refused("truncation", "disabled"),
    _refused("transforms"),
    _refused("plugins"),
    _refused("prompt_embeds"),
    _refused("image_data"),
    _refused("mm_processor_kwargs"),
    _refused("previous_response_id"),
    # Bounds and weights
    *map(_refused, ("t_max_predict_ms", "adapters", "lora", "lora_path", "cache_salt")),
    *map(_refused, ("kv_transfer_params", "vllm_xargs", "session_params")),
)

KEYS = (*ACTS, *HARMLESS, *REFUSED)

BY_NAME = {name: key for key in KEYS for name in (key.name, *key.aliases)}


def resembles(name: str) -> str | None:
    """The known key most similar to an unknown one, if any is similar enough."""
    found = get_close_matches(name.lower().replace("-", "_"), BY_NAME, n=1, cutoff=0.8)
    return found[0] if found else None
