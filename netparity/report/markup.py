"""Pieces of HTML: escaped text and tables."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
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


def table(
    head: Sequence[str], rows: Iterable[tuple[bool, Sequence[Any]]], numeric: set[int] | frozenset[int] = frozenset()
) -> str:
    """A table in its own scroll box; rows that are not good are marked."""

    def cell(tag: str, index: int, value: Any) -> str:
        style = ' class="number"' if index in numeric else ""
        return f"<{tag}{style}>{text(value)}</{tag}>"

    def row(tag: str, good: bool, cells: Sequence[Any]) -> str:
        style = "" if good else ' class="bad"'
        return f"<tr{style}>{''.join(cell(tag, i, value) for i, value in enumerate(cells))}</tr>"

    top, lines = row("th", True, head), [row("td", good, cells) for good, cells in rows]
    return f'<div class="scroll"><table><thead>{top}</thead><tbody>{"".join(lines)}</tbody></table></div>'
