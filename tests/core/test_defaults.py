"""Record, then generation_config.json: what a request gets for the keys that it leaves out."""

from reconciler.core.defaults import Default, Defaults, for_requests, in_force


def test_a_records_default_goes_before_the_models_own() -> None:
    asked = Defaults(temperature=0.2, system_prompt="Be brief.")
    published = Defaults(temperature=0.7, top_k=20)
    assert in_force(asked, published) == (
        Default("temperature", 0.2, "record"),
        Default("top_k", 20, "generation_config"),
        Default("system_prompt", "Be brief.", "record"),
    )


def test_a_default_of_zero_is_an_opinion() -> None:
    (default,) = in_force(Defaults(temperature=0.0), Defaults(temperature=0.7))
    assert default == Default("temperature", 0.0, "record")


def test_a_value_that_means_none_takes_the_models_own_away_and_is_not_sent() -> None:
    asked = Defaults(max_tokens=-1, top_k=-1, seed=-1)
    defaults = in_force(asked, Defaults(max_tokens=512, top_k=20, top_p=0.9))
    assert {d.key: d.value for d in defaults if d.source == "record"} == asked.sent()
    assert for_requests(defaults) == {"top_p": 0.9}
