"""Names that cannot be set as template variables, in all inputs."""

import inspect

import pytest
from jinja2.defaults import DEFAULT_NAMESPACE
from transformers import PreTrainedTokenizerBase

from reconciler.core.schema import check, schema
from reconciler.core.template_variables import PREFIXES, RESERVED, reserved

NAMES = schema("defaults")["properties"]["chat_template_kwargs"]["propertyNames"]["not"]["anyOf"]


def test_every_parameter_of_the_tokenizers_function_is_reserved() -> None:
    for function in (PreTrainedTokenizerBase.apply_chat_template, PreTrainedTokenizerBase.__call__):
        for name in inspect.signature(function).parameters:
            assert reserved(name), name


def test_every_global_of_jinja_and_every_special_token_is_reserved() -> None:
    special = PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES
    assert {*DEFAULT_NAMESPACE, *special} <= RESERVED


def test_the_schema_repeats_the_list() -> None:
    pattern, names = NAMES
    assert set(names["enum"]) == RESERVED
    assert pattern["pattern"] == "^(return)?_"
    assert PREFIXES == ("return_", "_")


@pytest.mark.parametrize("name", ["tools", "chat_template", "return_dict", "__class__", "range"])
def test_defaults_may_not_have_them(name: str) -> None:
    path = ("defaults", "chat_template_kwargs")
    request = {"model": "m", "defaults": {"chat_template_kwargs": {name: 1, "style": "terse"}}}
    (mistake,) = check("load-request", request)
    assert (mistake.path, mistake.code) == (path, "invalid_value")
    assert mistake.message == (
        f'defaults.chat_template_kwargs must not have the key "{name}": '
        "it is not a variable of a chat template"
    )


@pytest.mark.parametrize("name", ["style", "enable_thinking", "xml_tools", "date_string"])
def test_other_names_are_allowed(name: str) -> None:
    assert not reserved(name)
    assert (
        check("load-request", {"model": "m", "defaults": {"chat_template_kwargs": {name: 1}}}) == ()
    )
