"""Colours of all pictures, and matplotlib figures as PNG bytes, without pyplot and without a display."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # matplotlib takes most of a second to import, so functions that draw import it
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#333333", "#9a9a9a", "#e6e8eb"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette for colour-blind readers: blue, vermillion, green, purple, orange, light blue."""
DPI = 140


def png(figure: Figure) -> bytes:
    """The figure as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    out = io.BytesIO()
    FigureCanvasAgg(figure)  # the canvas attaches itself
    with warnings.catch_warnings():
        # Letters that the font lacks are drawn as boxes, with a warning for each of them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(out, format="png", dpi=DPI, facecolor="white", bbox_inches="tight", pad_inches=0.2)
    return out.getvalue()
