"""Pieces of HTML that the sections of the report page share. Every text is escaped here."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape


def section(title: str, content: str) -> str:
    """A section of the page; `content` is HTML."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def picture_card(png: bytes, text: str, min_width: int) -> str:
    """A picture on a white card, which makes it readable on the dark page; `min_width` is in px."""
    data = base64.b64encode(png).decode("ascii")
    width = int.from_bytes(png[16:20], "big") * 5 // 8  # drawn at 140 dots per inch: text has its normal size
    size = f"width:{width}px;min-width:{min(min_width, width)}px"
    image = f'<img alt="{escape(text)}" style="{size}" src="data:image/png;base64,{data}">'
    return f'<div class="scroll card">{image}</div>'


def table(names: Iterable[str], rows: Iterable[Iterable[object]], align: str) -> str:
    """`align` has an "l" (text) or an "r" (number) for each column."""

    def line(tag: str, cells: Iterable[object]) -> str:
        pairs = zip(cells, align, strict=True)
        return "<tr>" + "".join(f'<{tag} class="{side}">{escape(str(cell))}</{tag}>' for cell, side in pairs) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    return f'<div class="scroll"><table><thead>{line("th", names)}</thead><tbody>{body}</tbody></table></div>'


def embedded(kind: str, data: bytes) -> str:
    """The data as an address within the page, such as audio/wav."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
