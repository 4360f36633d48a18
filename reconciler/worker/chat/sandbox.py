"""Jinja for chat templates: the environment of transformers, with limits on the size of values.

A checkpoint's template is untrusted code. Jinja's sandbox isolates it from everything outside. This
module prevents it from filling the memory: results of operators, and numbers passed to methods and
filters (such as the width of `center`), are limited. `bounded` ends templates that take too long.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import wraps
from types import BuiltinMethodType
from typing import Any

import jinja2
from jinja2.compiler import CodeGenerator
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS
from jinja2.sandbox import SandboxedEnvironment

MAX_LENGTH = 64_000_000
"""Maximum characters of a text, or bytes of a list, that an operator may create: four times the
maximum body of a request."""

PLACE = 8
"""Bytes of an item's pointer in a list."""

MAX_WIDTH = 1_000_000
"""Maximum width of a value in a format [characters]."""

_WIDTH = re.compile(r"[0-9]{1,4000}")

MAX_NUMBER = 10**18
"""Maximum absolute value of a number that an operator may create."""


class TemplateError(ValueError):
    """A chat template failed on a conversation."""


class _Generation(Extension):
    """Renders `{% generation %}` blocks, which mark the assistant's text for training."""

    tags = {"generation"}  # noqa: RUF012  jinja2's own interface

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


class _CodeGenerator(CodeGenerator):
    """Compiles `~` to a call of the environment's `joined`."""

    def visit_Concat(self, node: jinja2.nodes.Concat, frame: Any) -> None:  # noqa: N802
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


def _concat(texts: Iterable[str]) -> str:
    """Concatenate the texts that a template writes, one by one: there may be no end of them."""
    parts, length = [], 0
    for text in texts:
        length += len(text)
        _check_length(length)
        parts.append(text)
    return "".join(parts)


class _Environment(SandboxedEnvironment):
    """Jinja's sandbox with limits."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))
    code_generator_class = _CodeGenerator
    concat = staticmethod(_concat)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise TemplateError("powers are not supported in chat templates")
        if operator == "%" and isinstance(left, str):
            _check_format(left)
            _check_numbers(right if isinstance(right, tuple) else (right,), {})
        elif operator == "+":
            _check_length(_length(left) + _length(right))
        elif operator == "*" and isinstance(left, int | float) and isinstance(right, int | float):
            if abs(left * 1.0 * right) > MAX_NUMBER:
                raise TemplateError("a number is too large")
        elif operator == "*":
            _check_length(_size(left) * _size(right))
        return super().call_binop(context, operator, left, right)

    def joined(self, parts: tuple[Any, ...]) -> str:
        """Concatenate the parts as texts."""
        texts = [str(part) for part in parts]
        _check_length(sum(map(len, texts)))
        return "".join(texts)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Replace `str.format` by Jinja's own, with limited widths."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        _check_format(value.__self__)
        return _with_bounds(wrapped)

    def call(self, context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(function, BuiltinMethodType):
            _check_numbers(args, kwargs)
            owner: Any = function.__self__
            if isinstance(owner, list) and function.__name__ == "extend":
                _check_length(_length(owner) + sum(map(_length, args)))
        return super().call(context, function, *args, **kwargs)


def _length(value: Any) -> int:
    """Return the characters of a text, or the bytes of a container's pointers."""
    if isinstance(value, str):
        return len(value)
    return PLACE * len(value) if isinstance(value, list | tuple | dict) else 0


def _size(value: Any) -> int:
    """Return the length of a value, or the absolute value of a factor."""
    return abs(value) if isinstance(value, int) else _length(value)


def _check_length(length: int) -> None:
    if length > MAX_LENGTH:
        raise TemplateError(f"a text or list is larger than {MAX_LENGTH} bytes")


def _check_format(form: str) -> None:
    """Raise `TemplateError` if a width in a format string is too large."""
    if any(int(width) > MAX_WIDTH for width in _WIDTH.findall(form)):
        raise TemplateError(f"a format is wider than {MAX_WIDTH}")


def _check_numbers(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    for value in (*args, *kwargs.values()):
        if isinstance(value, int) and abs(value) > MAX_LENGTH:
            raise TemplateError(f"a number is larger than {MAX_LENGTH}")


def _with_bounds(function: Callable[..., Any]) -> Callable[..., Any]:
    """Reject large numbers in all arguments of a filter but the first, which is its value."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        _check_numbers(args[1:], kwargs)
        return function(*args, **kwargs)

    return wrapped


class _Namespace(jinja2.utils.Namespace):
    """A namespace without private attributes."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise TemplateError(f"a namespace cannot have the private attribute {name}")
        super().__setitem__(name, value)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, **more: Any) -> str:  # noqa: FBT001, FBT002
    return json.dumps(value, ensure_ascii=ensure_ascii, default=_plain, **more)


def _plain(value: Any) -> Any:
    if isinstance(value, jinja2.Undefined):
        raise TemplateError(f"{value._undefined_name} is undefined")  # noqa: SLF001
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Iterator):
        return list(value)
    raise TypeError(f"{type(value).__name__} cannot be serialized to JSON")


def _format(form: str, *args: Any, **kwargs: Any) -> str:
    _check_format(str(form))
    _check_numbers(args, kwargs)
    return str(FILTERS["format"](form, *args, **kwargs))


_FILTERS: dict[str, Callable[..., Any]] = {
    **{name: _with_bounds(function) for name, function in FILTERS.items()},
    "tojson": _with_bounds(_to_json),
    "format": _format,
    "from_json": json.loads,
}


def compiled(source: str) -> jinja2.Template:
    """Compile a chat template. Raises jinja2's errors."""
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters |= _FILTERS
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)  # noqa: DTZ005
    environment.globals["namespace"] = _Namespace
    return environment.from_string(source)


def undefined(name: str) -> jinja2.Undefined:
    """Return the value of an undefined variable."""
    return jinja2.Undefined(name=name)
