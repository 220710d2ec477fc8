"""Pieces of HTML: escaped text and tables."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class Markup(str):
    """Text that is markup already and must not be escaped again."""


MARKED = {True: Markup('<span class="pass">✓</span>'), False: Markup('<span class="fail">✗ fails</span>')}


def text(value: Any) -> str:
    """A value as HTML: escaped, unless it is markup.

    >>> text("a < b"), text(Markup("<b>a</b>"))
    ('a &lt; b', '<b>a</b>')
    """
    return value if isinstance(value, Markup) else html.escape(str(value))


def place(row: Mapping[str, Any]) -> str:
    """A row's stage, what it is taken of where that needs to be said, and the mode if it is evaluation.

    >>> place({"stage": "sum", "quantity": "vjp_input[conv]", "mode": "evaluation"})
    'sum ← conv (evaluation)'
    """
    of = str(row["quantity"]).partition("[")[2].removesuffix("]")
    found = f"{row['stage']} ← {of}" if of else str(row["stage"])
    return f"{found} (evaluation)" if row.get("mode") == "evaluation" else found


def region(content: str, label: str, style: str = "scroll") -> str:
    """A box that scrolls by itself, with the keyboard too."""
    return f'<div class="{style}" role="group" tabindex="0" aria-label="{html.escape(label)}">{content}</div>'


def table(
    head: Sequence[str],
    rows: Iterable[tuple[bool, Sequence[Any]]],
    numeric: set[int] | frozenset[int] = frozenset(),
    label: str = "Table",
) -> str:
    """A table in its own scroll box; rows that are not good are marked.

    Args:
      head: the columns' titles.
      rows: whether each is good, and its cells.
      numeric: which columns are numbers.
      label: for readers that cannot see it.
    """

    def cell(tag: str, index: int, value: Any) -> str:
        style = ' class="number"' if index in numeric else ""
        style += ' scope="col"' if tag == "th" else ""
        return f"<{tag}{style}>{text(value)}</{tag}>"

    def row(tag: str, good: bool, cells: Sequence[Any]) -> str:
        style = "" if good else ' class="bad"'
        return f"<tr{style}>{''.join(cell(tag, i, value) for i, value in enumerate(cells))}</tr>"

    top, lines = row("th", True, head), [row("td", good, cells) for good, cells in rows]
    return region(f"<table><thead>{top}</thead><tbody>{''.join(lines)}</tbody></table>", label)
