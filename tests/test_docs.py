"""The docs cover every route, option, error, metric, setting and test that they must."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from docs import reference, tables
from reconciler.api.app import build
from reconciler.api.errors import ROWS
from reconciler.api.metrics import State
from reconciler.cli import EXIT_CODES
from reconciler.cli.ps import ROWS as PS
from reconciler.cli.serve import serve
from reconciler.controller import Controller
from reconciler.core.conditions import REASONS
from reconciler.core.protocol import Usage
from reconciler.core.records import SETTINGS, Status
from reconciler.core.schema import NAMES, schema
from reconciler.models.catalog import Catalog
from reconciler.recipes.editors import EDITORS
from reconciler.recipes.tools import TOOLS
from reconciler.store import Store
from reconciler.worker.dialects.messages.shapes import NO_EFFECT, Asked
from tests.clients.harness import listed
from tests.controller.fakes import FakeEngine

DOCS = {path.stem: path.read_text("utf-8") for path in Path("docs").glob("*.md")}
HTTP = {path.stem: path.read_text("utf-8") for path in Path("docs/http").glob("*.md")}


def test_every_route_is_documented() -> None:
    router = build(None, "127.0.0.1", None).router  # type: ignore[arg-type]
    for route in router.routes():
        if route.method != "HEAD" and route.resource is not None:
            path = re.sub(r"{(\w+)}", lambda m: m[1].upper(), route.resource.canonical)
            described = [name for name in HTTP if f"{route.method} {path}`" in HTTP[name]]
            assert set(described) - {"README", "streams"}, path


def test_every_key_of_messages_is_documented() -> None:
    section = HTTP["messages"].partition("## `POST /v1/messages`\n")[2].partition("\n## ")[0]
    for key in (*Asked.__struct_fields__, *NO_EFFECT):
        assert f"`{key}`" in section, key


def test_every_option_and_variable_is_documented() -> None:
    for option in serve.params:
        assert f"`{option.opts[0]}`" in DOCS["serve"]
        assert f"`{option.envvar}`" in DOCS["serve"]


def test_every_command_option_and_exit_code_is_documented() -> None:
    text = DOCS["commands"]
    for path, command in reference.walk():
        section = text.partition(f"### `{path}`\n")[2].partition("\n###")[0]
        assert command.help, path
        assert section, path
        for option in reference.options(command):
            assert option.help, (path, option.opts)
            assert all(f"`{name}`" in section or f"`{name}`" in text[:1000] for name in option.opts)
            assert option.envvar is None or f"`{option.envvar}`" in text
    for code in EXIT_CODES:
        assert f"| {code} |" in text


def test_every_error_is_documented() -> None:
    for cause, (status, type_, code) in ROWS.items():
        rows = [line for line in HTTP["errors"].splitlines() if f"`{cause.value}`" in line]
        assert any(f"| {status} | `{type_}` | `{code}` |" in row for row in rows), cause


def test_every_reason_of_a_condition_is_documented() -> None:
    table = HTTP["objects"].partition("\n## Reasons\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == REASONS


def test_every_metric_is_documented(tmp_path: Path) -> None:
    store = Store(tmp_path)
    catalog = Catalog([])
    controller = Controller(store, catalog, lambda _: FakeEngine(1), [], hub_cache=tmp_path)
    families = [
        *controller.metrics.registry.collect(),
        *State(controller, {}, {"a": Usage()}).collect(),
    ]
    store.close()
    assert len(families) > 10
    for family in families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        row = next((line for line in HTTP["operate"].splitlines() if f"`{name}`" in line), None)
        assert row is not None, name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert all(f"`{label}`" in row for label in labels), name


def test_every_setting_is_documented() -> None:
    assert set(schema("config")["properties"]) == set(SETTINGS)
    assert [key for key in SETTINGS if f"| `{key}` |" not in DOCS["settings"]] == []


def test_every_status_field_is_documented() -> None:
    assert [f.name for f in fields(Status)] == list(schema("status")["properties"])
    assert [f.name for f in fields(Status) if f"`status.{f.name}`" not in HTTP["objects"]] == []


def test_the_tables_match_the_schemas() -> None:
    """`make docs` fills them."""
    for path in tables.pages():
        assert tables.filled(path) == path.read_text("utf-8"), path
    assert "| `model` | string |" in HTTP["models"]
    assert "[config](objects.md#config)" in HTTP["models"]


def test_every_page_of_the_http_docs_is_in_their_index() -> None:
    assert set(HTTP) - {"README"} == set(re.findall(r"\]\((\w+)\.md\)", HTTP["README"]))


def test_every_tested_client_is_listed_with_its_versions() -> None:
    clients = listed()
    assert len(clients) > 20
    for client in clients:
        assert f"| {client.name} | {client.registry} | {client.versions} |" in DOCS["clients"]
        assert all(re.search(r"(==|.@)\d[\w.]*$", package) for package in client.packages)


def test_every_listed_client_is_installed_by_a_test() -> None:
    sources = [path.read_text("utf-8") for path in Path("tests/clients").glob("test_*.py")]
    for source in sources:
        for name in re.findall(r"^([A-Z_]+) = Client\(", source, re.MULTILINE):
            assert re.search(rf"installed\({name}\)|[( ]{name},", source), name


def test_every_tool_that_can_be_launched_has_its_recipe() -> None:
    for name in (*TOOLS, *EDITORS):
        assert f"<!-- table: recipe {name} -->" in DOCS["clients"]
    for tool in TOOLS.values():
        assert f"`{tool.install}`" in DOCS["clients"]


def all_tests() -> set[str]:
    """Names of all tests."""
    sources = [path.read_text("utf-8") for path in Path("tests").rglob("test_*.py")]
    return set(re.findall(r"def (test_\w+)\(", "\n".join(sources)))


def test_every_rule_names_an_existing_test() -> None:
    named = re.findall(r"<!-- test: (\w+) -->", DOCS["semantics"])
    assert len(named) > 50
    assert set(named) - all_tests() == set()


def test_every_guarantee_names_an_existing_test() -> None:
    text = DOCS["guarantees"]
    rows = [line for line in text.partition("## Measured")[0].splitlines() if line[:1] == "|"]
    promises = [row for row in rows if not re.match(r"\| (promise|trap) \||\|---", row)]
    assert len(promises) > 60
    unheld = [row for row in promises if "`test_" not in row and "the same" not in row]
    assert unheld == []
    assert set(re.findall(r"`(test_\w+)`", text)) - all_tests() == set()


def test_every_attack_in_the_threat_model_names_an_existing_test() -> None:
    text = DOCS["threat-model"]
    tables_of_attacks = text.partition("## HTTP clients")[2].partition("## Not defended")[0]
    rows = [line for line in tables_of_attacks.splitlines() if line[:1] == "|"]
    attacks = [row for row in rows if not re.match(r"\| attack \||\|---", row)]
    assert len(attacks) > 10
    assert [row for row in attacks if "`test_" not in row] == []
    assert set(re.findall(r"`(test_\w+)`", text)) - all_tests() == set()


def test_every_manifest_key_is_documented() -> None:
    properties = schema("manifest")["properties"]
    keys = ["apiVersion", "kind"]
    keys += [f"metadata.{key}" for key in properties["metadata"]["properties"]]
    keys += [f"spec.{key}" for key in properties["spec"]["properties"]]
    assert [key for key in keys if f"`{key}`" not in DOCS["manifests"]] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_schema_describes_its_keys(name: str) -> None:
    text = Path(f"schemas/{name}.schema.json").read_text("utf-8")
    assert '"description"' in text
    assert f'"$id": "{name}.schema.json"' in text


def test_links_between_the_docs_are_valid() -> None:
    for path in (*Path().glob("*.md"), *Path("docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)\s:]+)\)", prose(path)):
            file, _, heading = target.partition("#")
            page = path.parent / file if file else path
            assert page.exists(), (path, target)
            assert not heading or heading in anchors(page), (path, target)


def prose(page: Path) -> str:
    """Text of a page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Anchors that Markdown viewers generate for the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def test_the_readmes_manifest_is_valid() -> None:
    from reconciler.core.snapshot import read_file

    (block,) = re.findall(r"```yaml\n(.*?)```", Path("README.md").read_text("utf-8"), re.DOTALL)
    assert read_file("README.md", block.encode()).flaws == ()


def test_the_table_of_the_first_five_minutes_has_todays_columns() -> None:
    table = DOCS["first-five-minutes"].partition("$ reconciler ps -o wide\n")[2]
    assert table.partition("\n")[0].split() == [column.heading for column in PS]
