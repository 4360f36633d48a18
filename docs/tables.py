"""Fill the tables between `<!-- table: ... -->` and `<!-- end -->` in these docs.

`schema NAME` tabulates a published schema, `schema NAME PREFIX` with a prefix before each key;
`keys KIND` lists keys of completion requests that are handled in that way;
`embedding-keys KIND` lists those of requests for embeddings;
`families` lists the forms of reasoning and tool calls by model family;
`commands`, `exit-codes` and `variables` describe the command line;
`clients` lists the clients that the tests run, with their versions;
`recipe TOOL` is the output of `launch TOOL --print`.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from docs import reference
from reconciler.cli.client import DEFAULT_URL
from reconciler.core import embedding_keys
from reconciler.core.request_keys import KEYS, NOTHING, Key, Kind
from reconciler.core.schema import NAMES, schema
from reconciler.recipes.editors import EDITORS
from reconciler.recipes.script import script
from reconciler.recipes.tools import TOOLS, Target
from reconciler.worker.output.detect import documented
from reconciler.worker.output.format import Region

TABLE = re.compile(r"(<!-- table: (.*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """Paths of all pages of the docs, including those of the HTTP APIs."""
    docs = Path(__file__).parent
    return sorted([*docs.glob("*.md"), *docs.glob("http/*.md")])


def filled(path: Path) -> str:
    """Text of a page with regenerated tables.

    Pages of the HTTP API link to the page with objects that several of them contain.
    """
    objects = "objects.md" if path.parent.name == "http" else ""

    def table(match: re.Match[str]) -> str:
        content = _content(*match[2].split()).replace("](#", f"]({objects}#")
        return f"{match[1]}\n{content}\n{match[3]}"

    return TABLE.sub(table, path.read_text("utf-8"))


def _content(kind: str, *more: str) -> str:
    if kind == "schema":
        return _table(*more)
    if kind == "keys":
        return _keys(Kind(*more))
    if kind == "embedding-keys":
        return _embedding_keys(*more)
    if kind == "families":
        return _families()
    if kind == "recipe":
        return _recipe(*more)
    if kind == "clients":
        return _clients()
    return {
        "commands": reference.commands,
        "exit-codes": reference.exit_codes,
        "variables": reference.variables,
    }[kind]()


def _table(name: str, prefix: str = "") -> str:
    if name not in NAMES:
        raise ValueError(f"there is no schema {name}")
    rows = ["| key | type | meaning |", "|---|---|---|"]
    rows += _rows(schema(name), prefix)
    return "\n".join(rows) + "\n"


def _recipe(tool: str) -> str:
    target = Target(DEFAULT_URL, "openai/gpt-oss-20b", context_length=65_536)
    if tool in EDITORS:
        return f"```\n{EDITORS[tool].settings(target)}```\n"
    return f"```sh\n{script(TOOLS[tool].recipe(target), ())}```\n"


def _clients() -> str:
    from tests.clients.harness import listed

    rows = ["| client | registry | versions | what the tests do |", "|---|---|---|---|"]
    rows += [f"| {one.name} | {one.registry} | {one.versions} | {one.runs} |" for one in listed()]
    return "\n".join(rows) + "\n"


def _families() -> str:
    rows = ["| | name | models | as it is written |", "|---|---|---|---|"]
    for kind, one in documented():
        written = [one.example] if one.example else [_marks(r) for r in one.regions]
        cells = ", ".join(_code(text) for text in written)
        rows.append(f"| {kind} | {_code(one.name)} | {one.models} | {cells} |")
    return "\n".join(rows) + "\n"


def _marks(region: Region) -> str:
    """Opening and closing mark of a region, without the escapes of their patterns."""
    return re.sub(r"\\(.)", r"\1", f"{region.opens}…{region.closes}").replace("\n", "")


def _code(text: str) -> str:
    """Code formatted for a table cell."""
    cell = text.replace("|", "\\|")
    return f"`` {cell} ``" if "`" in cell else f"`{cell}`"


def _keys(kind: Kind) -> str:
    keys = [key for key in KEYS if key.kind is kind]
    if kind is Kind.HARMLESS:
        return ", ".join(f"`{key.name}`" for key in keys) + "\n"
    if kind is Kind.REFUSED:
        return ", ".join(_refused(key) for key in keys) + "\n"
    rows = ["| key | meaning | other names | route |", "|---|---|---|---|"]
    for key in keys:
        route = {"both": "", "chat": "chat", "text": "completions"}[key.route]
        names = ", ".join(f"`{name}`" for name in key.aliases)
        rows.append(f"| `{key.name}` | {key.meaning} | {names} | {route} |")
    return "\n".join(rows) + "\n"


def _embedding_keys(kind: str) -> str:
    if kind == "harmless":
        return ", ".join(f"`{name}`" for name in embedding_keys.HARMLESS) + "\n"
    if kind == "refused":
        return ", ".join(_with_values(*pair) for pair in embedding_keys.REFUSED.items()) + "\n"
    rows = ["| key | meaning | other names |", "|---|---|---|"]
    for name, aliases in embedding_keys.ACTS.items():
        others = ", ".join(f"`{alias}`" for alias in aliases)
        rows.append(f"| `{name}` | {embedding_keys.MEANINGS[name]} | {others} |")
    return "\n".join(rows) + "\n"


def _with_values(name: str, neutral: tuple[Any, ...]) -> str:
    values = ", ".join(f"`{json.dumps(value)}`" for value in neutral)
    return f"`{name}`" + (f" (also {values})" if values else "")


def _refused(key: Key) -> str:
    """Key with its accepted values, unless these are the common neutral values."""
    values = ", ".join(f"`{json.dumps(value)}`" for value in key.neutral if value not in NOTHING)
    if set(map(repr, NOTHING)) <= set(map(repr, key.neutral)):
        return f"`{key.name}`" + (f" (also {values})" if values else "")
    return f"`{key.name}` (only {values or '`null`'})"


def _rows(node: dict[str, Any], prefix: str) -> list[str]:
    rows = []
    for key, value in node.get("properties", {}).items():
        path = f"{prefix}{key}"
        optional = "" if key in node.get("required", []) else ", optional"
        rows.append(f"| `{path}` | {_type(value)}{optional} | {_meaning(value)} |")
        inner = _inner(value)
        if inner is not None:
            rows += _rows(inner[1], path + inner[0])
    return rows


def _inner(value: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Path separator and schema of nested keys; None for schemas with a table of their own."""
    if "properties" in value:
        return ".", value
    items = value.get("items", {})
    if "properties" in items:
        return "[].", items
    for choice in value.get("anyOf", []):
        if "properties" in choice:
            return ".", choice
    return None


def _type(value: dict[str, Any]) -> str:
    if "$ref" in value:
        file, _, rest = value["$ref"].partition(".schema.json")
        return _type(_follow(file, rest)) if rest else f"[{file}](#{file})"
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{choice}`" for choice in value["enum"])
    if "anyOf" in value:
        return " or ".join(_type(choice) for choice in value["anyOf"])
    if value.get("type") == "array":
        return f"list of {_type(value['items'])}"
    types = value["type"] if isinstance(value["type"], list) else [value["type"]]
    return " or ".join(types)


def _meaning(value: dict[str, Any]) -> str:
    if "description" in value:
        return str(value["description"])
    file, _, rest = value["$ref"].partition(".schema.json")
    return str(_follow(file, rest)["description"])


def _follow(file: str, pointer: str) -> dict[str, Any]:
    (name,) = (n for n in NAMES if n == file)
    node = schema(name)
    for part in pointer.removeprefix("#").strip("/").split("/"):
        node = node[part] if part else node
    return node


if __name__ == "__main__":
    for page in pages():
        text = filled(page)
        if page.read_text("utf-8") != text:
            page.write_text(text, "utf-8")
            sys.stdout.write(f"{page.name} is updated\n")
