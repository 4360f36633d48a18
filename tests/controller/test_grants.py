"""Memory that is lent to who answers."""

from reconciler.controller.grants import Grants
from tests.controller.fakes import Bench, load, request


def test_no_byte_is_lent_to_two() -> None:
    def spare(name: str) -> tuple[int, int]:
        return 100, 1 + sum(n not in grants for n in "abc" if n != name)

    grants = Grants(spare, lambda _: 100)
    assert [grants.grant(name) for name in "abc"] == [33, 33, 34]


def test_what_is_lent_stays_the_same_until_it_is_given_back() -> None:
    free = 100
    grants = Grants(lambda _: (free, 1), lambda _: 100)
    assert grants.grant("a") == 100
    free = 10
    assert grants.grant("a") == 100
    assert grants.grant("b") == 0
    grants.end("a")
    grants.end("a")
    assert "a" not in grants
    assert grants.grant("a") == 10


def test_what_others_were_let_in_with_is_lent_no_more() -> None:
    unheld = 100
    grants = Grants(lambda _: (100, 1), lambda _: unheld)
    assert grants.grant("a") == 100
    unheld = 30
    assert grants.grant("a") == 30
    assert grants.grant("b") == 0
    unheld = 80
    assert grants.grant("a") == 30


async def test_a_load_takes_memory_back_from_an_instance_that_never_rests(bench: Bench) -> None:
    await load(bench, request("tiny/llama", context_length=1024))
    async with bench.controller.request("tiny/llama", "completions", b""):
        await load(bench, request("tiny/qwen3", context_length=8192))
        async with bench.controller.request("tiny/llama", "completions", b""):
            pass
    before, after = (spare for *_, spare in bench.engine.requests)
    loaded = bench.engine.loaded["tiny/qwen3"]
    assert before - after == loaded.shared_bytes + loaded.session_bytes
