"""Recipes that start third-party tools with this daemon and one model.

A recipe is a command with its environment and, if a tool reads its settings only from files, files
for a temporary directory. The user's own files are neither read nor written. The names of
variables, options and keys come from each tool's documentation and code.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

PROVIDER = "reconciler"
"""Name of the daemon in tools that name their providers."""

DIRECTORY = "{{directory}}"
"""Placeholder of the temporary directory in a recipe's command and environment."""

TOKEN = "{{token}}"  # noqa: S105  a placeholder
"""Placeholder of the token in a printed recipe."""

KEY = "RECONCILER_TOKEN"
"""Environment variable of the token, for tools whose settings refer to one."""


@dataclass(frozen=True)
class Target:
    """The daemon and model for which a tool is started."""

    url: str
    """The daemon's address, without a path."""
    model: str
    """Name of the model in requests."""
    token: str = ""
    """Token that the daemon requires; "" if it requires none."""
    context_length: int | None = None
    """Most tokens of prompt and completion; None if unknown."""

    @property
    def openai(self) -> str:
        """Base URL of OpenAI's routes."""
        return f"{self.url}/v1"

    @property
    def key(self) -> str:
        """API key; a dummy if there is no token, for tools that require a key."""
        return self.token or "none"


@dataclass(frozen=True)
class Recipe:
    """Command, environment and files that start a tool."""

    command: tuple[str, ...]
    """Program and first arguments; the user's arguments follow."""
    environ: Mapping[str, str] = field(default_factory=dict)
    """Environment variables to set."""
    removed: tuple[str, ...] = ()
    """Environment variables to remove, since they would select another server."""
    files: Mapping[str, str] = field(default_factory=dict)
    """File contents by path below the temporary directory."""
    alone: tuple[str, ...] = ()
    """Arguments used if the user gives none."""

    def words(self, arguments: tuple[str, ...]) -> tuple[str, ...]:
        """The whole command with the user's arguments."""
        return (*self.command, *(arguments or self.alone))


@dataclass(frozen=True)
class Tool:
    """A program that can be started."""

    name: str
    """Name on the command line."""
    title: str
    """Name as its vendor writes it."""
    install: str
    """Command that installs it."""
    recipe: Callable[[Target], Recipe]
    agent: bool = False
    """True if its prompts begin with thousands of tokens of instructions and tools."""


def _claude(target: Target) -> Recipe:
    models = dict.fromkeys(
        (
            "ANTHROPIC_MODEL",
            "ANTHROPIC_DEFAULT_OPUS_MODEL",
            "ANTHROPIC_DEFAULT_SONNET_MODEL",
            "ANTHROPIC_DEFAULT_HAIKU_MODEL",
            "CLAUDE_CODE_SUBAGENT_MODEL",
        ),
        target.model,
    )
    environ = {
        "ANTHROPIC_BASE_URL": target.url,
        "ANTHROPIC_AUTH_TOKEN": target.key,
        **models,
        # Otherwise the system prompt begins with a number that differs in each request, and the
        # prompt cache never matches.
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        # Milliseconds. By default it aborts a stream with nothing but pings for 5 minutes, which
        # happens while a large model loads and prefills a long prompt.
        "CLAUDE_STREAM_IDLE_TIMEOUT_MS": "1800000",
    }
    if target.context_length is not None:
        # It assumes a context of a million tokens for unknown models.
        environ["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] = str(target.context_length)
    # The user's settings.json overrides the process's variables; --settings overrides both.
    settings = {"env": environ | {"ANTHROPIC_API_KEY": ""}}
    command = ("claude", "--settings", f"{DIRECTORY}/settings.json", "--model", target.model)
    files = {"settings.json": json.dumps(settings, indent=2) + "\n"}
    return Recipe(command, environ, ("ANTHROPIC_API_KEY",), files)


def _codex(target: Target) -> Recipe:
    provider = f"model_providers.{PROVIDER}"
    settings: dict[str, str | int] = {
        "model": target.model,
        "model_provider": PROVIDER,
        f"{provider}.name": PROVIDER,
        f"{provider}.base_url": target.openai,
        f"{provider}.wire_api": "responses",
    }
    if target.token:
        settings[f"{provider}.env_key"] = KEY
    if target.context_length is not None:
        settings["model_context_window"] = target.context_length
    # JSON strings are valid TOML; codex uses a value that is not TOML literally.
    options = [part for key, value in settings.items() for part in ("-c", f"{key}={_toml(value)}")]
    return Recipe(("codex", *options), {KEY: target.token} if target.token else {})


def _toml(value: str | int) -> str:
    return json.dumps(value, ensure_ascii=False)


def _opencode(target: Target) -> Recipe:
    model: dict[str, object] = {"name": target.model}
    if target.context_length is not None:
        model["limit"] = {
            "context": target.context_length,
            "output": output_tokens(target.context_length),
        }
    settings = {
        "provider": {
            PROVIDER: {
                "npm": "@ai-sdk/openai-compatible",
                "name": PROVIDER,
                "options": {"baseURL": target.openai, "apiKey": f"{{env:{KEY}}}"},
                "models": {target.model: model},
            }
        },
        "model": f"{PROVIDER}/{target.model}",
        "small_model": f"{PROVIDER}/{target.model}",
    }
    environ = {"OPENCODE_CONFIG_CONTENT": json.dumps(settings), KEY: target.key}
    return Recipe(("opencode",), environ)


def output_tokens(context_length: int) -> int:
    """Most tokens of a response, for tools that reserve part of the context for it."""
    return max(1, min(8192, context_length // 4))


def _aider(target: Target) -> Recipe:
    # litellm removes the prefix `openai/` from the model's name. Options override aider's settings
    # files, and its variables override .env files that set OPENAI_API_KEY.
    options = ("--model", f"openai/{target.model}", "--openai-api-base", target.openai)
    environ = {"AIDER_OPENAI_API_KEY": target.key}
    return Recipe(("aider", *options, "--no-show-model-warnings"), environ)


def _llm(target: Target) -> Recipe:
    model: dict[str, object] = {
        "model_id": target.model,
        "model_name": target.model,
        "api_base": target.openai,
        "supports_schema": True,
        "supports_tools": True,
    }
    environ = {"LLM_USER_PATH": DIRECTORY}
    if target.token:
        # The temporary directory has no stored key of that name, so llm uses the variable.
        model["api_key_name"] = PROVIDER
        environ["OPENAI_API_KEY"] = target.token
    files = {
        # JSON is valid YAML.
        "extra-openai-models.yaml": json.dumps([model], indent=2) + "\n",
        "default_model.txt": target.model,
    }
    return Recipe(("llm",), environ, files=files)


def _open_webui(target: Target) -> Recipe:
    environ = {
        "OPENAI_API_BASE_URL": target.openai,
        "OPENAI_API_KEY": target.key,
        "ENABLE_OPENAI_API": "true",
        "ENABLE_OLLAMA_API": "false",
        "DEFAULT_MODELS": target.model,
        # Otherwise the settings saved in its database at the first start override these.
        "ENABLE_PERSISTENT_CONFIG": "false",
    }
    removed = ("OPENAI_API_BASE_URLS", "OPENAI_API_KEYS")
    return Recipe(("open-webui",), environ, removed, alone=("serve", "--host", "127.0.0.1"))


def _goose(target: Target) -> Recipe:
    environ = {
        "GOOSE_PROVIDER": "openai",
        "GOOSE_MODEL": target.model,
        "OPENAI_HOST": target.url,
        "OPENAI_BASE_PATH": "v1/chat/completions",
        "OPENAI_API_KEY": target.key,
    }
    if target.context_length is not None:
        environ["GOOSE_CONTEXT_LIMIT"] = str(target.context_length)
    # Without arguments, it runs its first-time setup.
    return Recipe(("goose",), environ, alone=("session",))


def _crush(target: Target) -> Recipe:
    model: dict[str, object] = {"id": target.model, "name": target.model}
    if target.context_length is not None:
        model["context_window"] = target.context_length
        model["default_max_tokens"] = output_tokens(target.context_length)
    chosen = {"provider": PROVIDER, "model": target.model}
    settings = {
        "providers": {
            PROVIDER: {
                "name": PROVIDER,
                "type": "openai-compat",
                "base_url": target.openai,
                "api_key": f"${KEY}",
                "models": [model],
            }
        },
        "models": {"large": chosen, "small": chosen},
    }
    files = {"crush.json": json.dumps(settings, indent=2) + "\n"}
    environ = {
        "CRUSH_GLOBAL_CONFIG": DIRECTORY,
        # It stores the last selected model here, which would override this one.
        "CRUSH_GLOBAL_DATA": f"{DIRECTORY}/data",
        KEY: target.key,
    }
    return Recipe(("crush",), environ, files=files)


def _copilot(target: Target) -> Recipe:
    environ = {
        "COPILOT_PROVIDER_BASE_URL": target.openai,
        "COPILOT_PROVIDER_TYPE": "openai",
        "COPILOT_PROVIDER_WIRE_API": "completions",
        "COPILOT_PROVIDER_API_KEY": target.key,
        "COPILOT_MODEL": target.model,
    }
    if target.context_length is not None:
        answer = output_tokens(target.context_length)
        environ["COPILOT_PROVIDER_MAX_PROMPT_TOKENS"] = str(target.context_length - answer)
        environ["COPILOT_PROVIDER_MAX_OUTPUT_TOKENS"] = str(answer)
    others = ("BEARER_TOKEN", "API_KEY_COMMAND", "MODEL_ID", "WIRE_MODEL", "TRANSPORT")
    removed = tuple(f"COPILOT_PROVIDER_{name}" for name in others)
    return Recipe(("copilot",), environ, removed)


def _pi(target: Target) -> Recipe:
    context = target.context_length or 32_768
    model = {
        "id": target.model,
        "name": target.model,
        "reasoning": False,
        "input": ["text"],
        "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0},
        "contextWindow": context,
        "maxTokens": output_tokens(context),
    }
    provider = {
        "name": PROVIDER,
        "baseUrl": target.openai,
        "apiKey": KEY,  # an environment variable's name
        "api": "openai-completions",
        "models": [model],
    }
    written = json.dumps(provider, indent=2)
    extension = f'export default (pi) => pi.registerProvider("{PROVIDER}", {written});\n'
    command = ("pi", "--extension", f"{DIRECTORY}/{PROVIDER}.js", "--provider", PROVIDER)
    files = {f"{PROVIDER}.js": extension}
    return Recipe((*command, "--model", target.model), {KEY: target.key}, files=files)


def _qwen(target: Target) -> Recipe:
    options = ("--auth-type", "openai", "--openai-base-url", target.openai)
    environ = {"OPENAI_API_KEY": target.key, "OPENAI_BASE_URL": target.openai}
    return Recipe(("qwen", *options, "--model", target.model), environ)


def _cline(target: Target) -> Recipe:
    provider = "openai-compatible"
    settings = {
        "provider": provider,
        "apiKey": target.key,
        "model": target.model,
        "baseUrl": target.openai,
    }
    entry = {
        "settings": settings,
        "updatedAt": "2026-01-01T00:00:00.000Z",  # entries without a date are ignored
        "tokenSource": "manual",
    }
    kept = {
        "version": 1,
        "lastUsedProvider": provider,
        "modes": {},
        "providers": {provider: entry},
    }
    files = {"settings/providers.json": json.dumps(kept, indent=2) + "\n"}
    return Recipe(("cline", "--data-dir", DIRECTORY, "--provider", provider), files=files)


TOOLS = {
    tool.name: tool
    for tool in (
        Tool(
            "claude",
            "Claude Code",
            "npm install -g @anthropic-ai/claude-code",
            _claude,
            agent=True,
        ),
        Tool("codex", "Codex", "npm install -g @openai/codex", _codex, agent=True),
        Tool("opencode", "opencode", "npm install -g opencode-ai", _opencode, agent=True),
        Tool("aider", "aider", "python -m pip install aider-install && aider-install", _aider),
        Tool("llm", "llm", "pipx install llm", _llm),
        Tool("open-webui", "Open WebUI", "pip install open-webui", _open_webui),
        Tool("goose", "goose", "brew install block-goose-cli", _goose, agent=True),
        Tool("crush", "Crush", "npm install -g @charmland/crush", _crush, agent=True),
        Tool(
            "copilot", "GitHub Copilot CLI", "npm install -g @github/copilot", _copilot, agent=True
        ),
        Tool("pi", "pi", "npm install -g @mariozechner/pi-coding-agent", _pi, agent=True),
        Tool("cline", "Cline", "npm install -g cline", _cline, agent=True),
        Tool("qwen", "Qwen Code", "npm install -g @qwen-code/qwen-code", _qwen, agent=True),
    )
}
"""Tools by name, in the order of the help."""
