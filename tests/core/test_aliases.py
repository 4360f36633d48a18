"""Ownership of aliases."""

from datetime import UTC, datetime, timedelta

import pytest

from reconciler.core.aliases import Aliases
from reconciler.core.records import HTTP, LoadSpec, Record

AT = datetime(2026, 1, 1, tzinfo=UTC)


def record(name: str, *aliases: str, age: int = 0) -> Record:
    spec = LoadSpec("p/m", aliases=aliases)
    return Record(name, HTTP, spec, AT - timedelta(seconds=age), file=f"{name}.yaml", line=1)


def known(*records: Record) -> tuple[Aliases, dict[str, Record]]:
    aliases = Aliases()
    for one in records:
        aliases.put(one)
    return aliases, {one.name: one for one in records}


def test_an_alias_belongs_to_the_record_that_declares_it() -> None:
    only = record("a", "gpt-4o", "gpt-4")
    aliases, records = known(only)
    assert aliases.owner("gpt-4o") == aliases.owner("gpt-4") == "a"
    assert aliases.owner("gpt-5") is None
    assert aliases.in_force(only, records) == ("gpt-4o", "gpt-4")
    assert aliases.warnings(only, records) == ()


@pytest.mark.parametrize("reverse", [False, True])
def test_the_older_of_two_records_has_the_alias_and_the_other_warns(*, reverse: bool) -> None:
    new, old = record("a", "gpt-4o"), record("b", "gpt-4o", age=60)
    aliases, records = known(*([old, new] if reverse else [new, old]))
    assert aliases.owner("gpt-4o") == "b"
    assert aliases.in_force(new, records) == ()
    assert aliases.warnings(old, records) == ()
    (warning,) = aliases.warnings(new, records)
    assert (warning.key, warning.asked) == ("aliases", "gpt-4o")
    assert "'b' (b.yaml:1) declared it first" in warning.reason


def test_the_first_name_of_two_records_of_the_same_age_has_the_alias() -> None:
    aliases, _ = known(record("b", "gpt-4o"), record("a", "gpt-4o"))
    assert aliases.owner("gpt-4o") == "a"


def test_a_name_takes_precedence_over_an_older_alias_which_warns() -> None:
    old, named = record("a", "gpt-4o", age=60), record("gpt-4o")
    aliases, records = known(old, named)
    assert aliases.in_force(old, records) == ()
    (warning,) = aliases.warnings(old, records)
    assert "the name of the record at gpt-4o.yaml:1" in warning.reason


def test_an_alias_passes_on_when_its_owner_changes_or_is_removed() -> None:
    new, old = record("a", "gpt-4o"), record("b", "gpt-4o", age=60)
    aliases, _ = known(new, old)
    aliases.put(record("b", "gpt-4", age=60))
    assert aliases.owner("gpt-4o") == "a"
    aliases.drop("a")
    assert aliases.owner("gpt-4o") is None
    assert aliases.owner("gpt-4") == "b"


def test_an_alias_equal_to_the_records_own_name_is_not_a_conflict() -> None:
    same = record("a", "a")
    aliases, records = known(same)
    assert aliases.warnings(same, records) == ()
