"""YAML dumper that quotes strings which YAML 1.2 reads as numbers.

Manifests are read as YAML 1.2. PyYAML writes YAML 1.1, in which `1e3` and `0o17` are strings; in
YAML 1.2 they are numbers.
"""

import re

import yaml


class Dumper(yaml.SafeDumper):
    """Quotes strings that YAML 1.1 or YAML 1.2 would read as another type."""


_FIRST = list("-+.0123456789")
for _kind, _pattern in (
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"),
    ("int", r"0o[0-7]+$|0x[0-9a-fA-F]+$"),
):
    Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(_pattern), _FIRST)
