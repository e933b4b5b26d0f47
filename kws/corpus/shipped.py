"""Where the files of `shards/` lie: beside the package in a checkout, or where the install put them."""

from __future__ import annotations

import sysconfig
from pathlib import Path

_ROOT = Path(__file__).parent.parent.parent
_INSTALLED = Path("share", "kws", "shards")
_PLACES = (_ROOT / "shards", Path(sysconfig.get_path("data")) / _INSTALLED, _ROOT / _INSTALLED)
"""Of a checkout, of an environment, of `pip install --target`."""


def folder(name: str) -> Path:
    """The folder of that name below shards/; where none is there, the one where a checkout has it."""
    places = [place / name for place in _PLACES]
    return next((place for place in places if place.is_dir()), places[0])
