"""Fit the rows of a table to the terminal: an ellipsis replaces the middle of long cells.

The first column is the name, which users copy into other commands, so it is never shortened. If the
names and the other columns at their minimum widths do not fit, lines exceed the terminal's width.
"""

from collections.abc import Sequence

GAP = 3
"""Cells between two columns."""

NARROWEST = 10
"""Minimum width of a shortened column, in cells."""

ELLIPSIS = "…"


def fitted(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[list[str]]:
    """Shorten the widest columns until a line has at most `width` cells, if possible."""
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
    """Replace the middle of a text with an ellipsis if it is too wide."""
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
