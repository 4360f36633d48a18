"""One file -> its declarations, or its errors."""

import pytest

from reconciler.core.records import LoadSpec, RequestedSettings
from reconciler.core.snapshot import MAX_FLAWS, Declared, read_file

VALID = """\
apiVersion: reconciler/v1
kind: ModelInstance
metadata:
  name: assistant
  labels: {team: search}
spec:
  model: openai/gpt-oss-20b
  config:
    context_length: 16384
    flash_attention: true
"""


def test_a_document_declares_a_record() -> None:
    config = RequestedSettings(context_length=16384, flash_attention=True)
    expected = Declared("assistant", LoadSpec("openai/gpt-oss-20b", config), 1)
    assert read_file("a.yaml", VALID.encode()).declared == (expected,)


def test_several_documents_declare_several_records() -> None:
    text = VALID + "---\n" + VALID.replace("name: assistant", "name: second")
    found = read_file("a.yaml", text.encode()).declared
    assert [(d.name, d.line) for d in found] == [("assistant", 1), ("second", 12)]


def test_an_error_has_line_column_and_key() -> None:
    text = VALID.replace("context_length: 16384", "context_length: long")
    (flaw,) = read_file("a.yaml", text.encode()).flaws
    assert (flaw.position.line, flaw.position.column) == (9, 5)
    assert flaw.key == "spec.config.context_length"
    assert flaw.message == 'spec.config.context_length must be integer or null, got "long"'


def test_all_errors_of_a_file_are_reported_at_once() -> None:
    text = VALID.replace("context_length", "contextlength").replace("kind: ", "knd: ")
    keys = {f.key for f in read_file("a.yaml", text.encode()).flaws}
    assert keys == {"kind", "knd", "spec.config.contextlength"}


def test_one_error_makes_the_whole_file_declare_nothing() -> None:
    text = VALID + "---\n" + VALID.replace("model:", "mdl:")
    file = read_file("a.yaml", text.encode())
    assert (file.declared, file.valid) == ((), False)


def test_a_document_of_another_program_is_ignored_and_listed() -> None:
    file = read_file("a.yaml", b"apiVersion: v1\nkind: ConfigMap\n---\n" + VALID.encode())
    assert file.valid
    assert len(file.declared) == 1
    assert file.ignored == ("line 1: apiVersion is v1, not reconciler/v1",)


def test_our_apiversion_with_an_unknown_kind_is_an_error() -> None:
    file = read_file("a.yaml", VALID.replace("ModelInstance", "ModelInstnace").encode())
    (flaw,) = file.flaws
    assert (flaw.position.line, flaw.key) == (2, "kind")
    assert "ModelInstance" in flaw.message


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("reconciler/v2", "ModelInstance"),
        ("reconciler/v1beta1", "Other"),
        ("Reconciler/v1", "Other"),
        ("models.example.com/v1", "ModelInstance"),
        ("v1", "modelinstance"),
    ],
)
def test_an_unknown_version_of_our_group_or_kind_is_an_error(version: str, kind: str) -> None:
    text = VALID.replace("reconciler/v1", version).replace("ModelInstance", kind)
    file = read_file("a.yaml", text.encode())
    assert file.ignored == ()
    assert {f.key for f in file.flaws} >= ({"apiVersion"} if version != "reconciler/v1" else set())


@pytest.mark.parametrize(
    "text",
    [
        VALID + "".join(f"  k{i}: 1\n" for i in range(40_000)),
        VALID + f"  node_selector: [{'{}, ' * 40_000}]\n",
        f"{VALID.replace('{team: search}', '')} {{{','.join(f'k{i}: 1' for i in range(9_000))}}}",
        VALID + f"  {'k' * 1000}: {'v' * 100_000}\n",
        VALID + f"  priority: 0x{'f' * 4000}\n",
        "[" * 100_000,
    ],
)
def test_errors_are_limited_in_number_and_length(text: str) -> None:
    flaws = read_file("a.yaml", text.encode()).flaws
    assert 1 <= len(flaws) <= MAX_FLAWS + 1
    assert max(len(f.message) + len(f.key) for f in flaws) < 1000


def test_any_exception_while_parsing_a_file_is_an_error_of_that_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: bytes) -> None:
        raise RuntimeError("x" * 10_000)

    monkeypatch.setattr("reconciler.core.snapshot.parse_file", fail)
    (flaw,) = read_file("a.yaml", b"").flaws
    assert flaw.message.startswith("cannot be read: RuntimeError: xxx")
    assert len(flaw.message) < 1000


def test_an_unfinished_file_is_detected() -> None:
    for text in ("", "# a comment\n", VALID + "---\n", "---\n"):
        assert read_file("a.yaml", text.encode()).unfinished
    for text in (VALID, "apiVersion: v1\nkind: ConfigMap\n", "a: ["):
        assert not read_file("a.yaml", text.encode()).unfinished


def test_a_document_that_is_not_a_mapping_is_an_error() -> None:
    for data in (b"- a\n", b"just words\n", b"42\n"):
        assert not read_file("a.yaml", data).valid


def test_an_empty_file_declares_nothing_and_is_valid() -> None:
    for data in (b"", b"# a comment\n", b"---\n"):
        file = read_file("a.yaml", data)
        assert (file.valid, file.declared) == (True, ())
