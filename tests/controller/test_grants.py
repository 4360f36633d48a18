"""Memory that is lent to who answers."""

from reconciler.controller.grants import Grants


def test_no_byte_is_lent_to_two() -> None:
    grants = Grants(lambda name: (100, 1 + sum(n not in grants for n in "abc" if n != name)))
    assert [grants.grant(name) for name in "abc"] == [33, 33, 34]


def test_what_is_lent_stays_the_same_until_it_is_given_back() -> None:
    free = 100
    grants = Grants(lambda _: (free, 1))
    assert grants.grant("a") == 100
    free = 10
    assert grants.grant("a") == 100
    assert grants.grant("b") == 0
    grants.end("a")
    grants.end("a")
    assert "a" not in grants
    assert grants.grant("a") == 10
