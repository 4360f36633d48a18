"""Names of files, which are shown in tables, messages and logs."""

import unicodedata

TURNS = frozenset(("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"))
"""Bidirectional classes of characters that change the display order of others."""


def unfit_name(name: str) -> str | None:
    """Reason why a name cannot be displayed, or None."""
    kinds = {unicodedata.category(character) for character in name}
    if "Cs" in kinds:  # surrogates: Python's form of bytes that it cannot decode
        return "its name is not UTF-8; rename it"
    turned = any(unicodedata.bidirectional(character) in TURNS for character in name)
    if turned or kinds & {"Cc", "Zl", "Zp"}:
        return "its name has control characters; rename it"
    return None
