"""Defaults for keys that a request omits: the record's, then those of generation_config.json."""

from reconciler.core.defaults import Default, Defaults, for_requests, in_force


def test_a_records_default_overrides_the_models_own() -> None:
    asked = Defaults(temperature=0.2, system_prompt="Be brief.")
    published = Defaults(temperature=0.7, top_k=20)
    assert in_force(asked, published) == (
        Default("temperature", 0.2, "record"),
        Default("top_k", 20, "generation_config"),
        Default("system_prompt", "Be brief.", "record"),
    )


def test_a_default_of_zero_counts_as_set() -> None:
    (default,) = in_force(Defaults(temperature=0.0), Defaults(temperature=0.7))
    assert default == Default("temperature", 0.0, "record")


def test_a_value_that_means_none_removes_the_models_default_and_is_not_sent() -> None:
    asked = Defaults(max_tokens=-1, top_k=-1, seed=-1)
    defaults = in_force(asked, Defaults(max_tokens=512, top_k=20, top_p=0.9))
    assert {d.key: d.value for d in defaults if d.source == "record"} == asked.sent()
    assert for_requests(defaults) == {"top_p": 0.9}
