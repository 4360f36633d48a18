"""Rows of a table that fit a terminal: long cells lose their middle, and no word is broken.

The first column is the name, which is copied into other commands, so it stays whole. If the names
and the narrowest other columns do not fit, the lines are longer than the terminal is wide.
"""

from collections.abc import Sequence

GAP = 3
"""Between two columns."""

NARROWEST = 10
"""Least width of a column that is shortened."""

ELLIPSIS = "…"


def fitted(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[list[str]]:
    """The rows with the widest columns shortened until a line has at most `width` cells."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(headings, *rows, strict=True)]
    least = [
        own if position == 0 else min(own, max(NARROWEST, cell_len(heading)))
        for position, (own, heading) in enumerate(zip(widths, headings, strict=True))
    ]
    excess = sum(widths) + GAP * (len(widths) - 1) - width
    while excess > 0 and widths != least:
        widest = max(
            (i for i in range(len(widths)) if widths[i] > least[i]), key=lambda i: widths[i]
        )
        widths[widest] -= 1
        excess -= 1
    return [[shortened(cell, own) for cell, own in zip(row, widths, strict=True)] for row in rows]


def shortened(text: str, width: int) -> str:
    """The beginning and the end of a text, with an ellipsis between them if it is too wide."""
    from rich.cells import cell_len

    if cell_len(text) <= width:
        return text
    head, tail = text, ""
    begin, end = (width - 1) // 2, width - 1 - (width - 1) // 2
    while cell_len(head) > begin:
        head = head[:-1]
    while len(tail) < len(text) and cell_len(text[len(text) - len(tail) - 1 :]) <= end:
        tail = text[len(text) - len(tail) - 1 :]
    return head + ELLIPSIS + tail
