"""YAML as manifests are read: a text that YAML 1.2 takes for a number is quoted.

PyYAML writes YAML 1.1, in which `1e3` and `0o17` are texts. They are numbers in YAML 1.2.
"""

import re

import yaml


class Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 or YAML 1.2 would read as another type."""


_FIRST = list("-+.0123456789")
for _kind, _pattern in (
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"),
    ("int", r"0o[0-7]+$|0x[0-9a-fA-F]+$"),
):
    Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(_pattern), _FIRST)
