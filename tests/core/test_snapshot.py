"""One file -> what it declares, or why it does not."""

from reconciler.core.records import Asked, LoadSpec
from reconciler.core.snapshot import Declared, read_file

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
    config = Asked(context_length=16384, flash_attention=True)
    expected = Declared("assistant", LoadSpec("openai/gpt-oss-20b", config), 1)
    assert read_file("a.yaml", VALID.encode()).declared == (expected,)


def test_several_documents_declare_several_records() -> None:
    text = VALID + "---\n" + VALID.replace("name: assistant", "name: second")
    found = read_file("a.yaml", text.encode()).declared
    assert [(d.name, d.line) for d in found] == [("assistant", 1), ("second", 12)]


def test_a_flaw_is_told_with_line_column_and_key() -> None:
    text = VALID.replace("context_length: 16384", "context_length: long")
    (flaw,) = read_file("a.yaml", text.encode()).flaws
    assert (flaw.position.line, flaw.position.column) == (9, 5)
    assert flaw.key == "spec.config.context_length"
    assert flaw.message == 'spec.config.context_length must be integer or null, got "long"'


def test_all_flaws_of_a_file_are_told_at_once() -> None:
    text = VALID.replace("context_length", "contextlength").replace("kind: ", "knd: ")
    keys = {f.key for f in read_file("a.yaml", text.encode()).flaws}
    assert keys == {"kind", "knd", "spec.config.contextlength"}


def test_one_flaw_makes_the_whole_file_declare_nothing() -> None:
    text = VALID + "---\n" + VALID.replace("model:", "mdl:")
    file = read_file("a.yaml", text.encode())
    assert (file.declared, file.valid) == ((), False)


def test_a_document_for_another_program_is_ignored_and_listed() -> None:
    file = read_file("a.yaml", b"apiVersion: v1\nkind: ConfigMap\n---\n" + VALID.encode())
    assert file.valid
    assert len(file.declared) == 1
    assert file.ignored == ("line 1: apiVersion is v1, not reconciler/v1",)


def test_our_apiversion_with_an_unknown_kind_is_an_error() -> None:
    file = read_file("a.yaml", VALID.replace("ModelInstance", "ModelInstnace").encode())
    (flaw,) = file.flaws
    assert (flaw.position.line, flaw.key) == (2, "kind")
    assert "ModelInstance" in flaw.message


def test_what_is_not_a_mapping_is_an_error() -> None:
    for data in (b"- a\n", b"just words\n", b"42\n"):
        assert not read_file("a.yaml", data).valid


def test_an_empty_file_declares_nothing_and_is_valid() -> None:
    for data in (b"", b"# a comment\n", b"---\n"):
        file = read_file("a.yaml", data)
        assert (file.valid, file.declared) == (True, ())
