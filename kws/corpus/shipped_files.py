"""Finds the files of `shards/`: beside the package in a checkout, or where pip installed them."""

from __future__ import annotations

import sysconfig
from pathlib import Path

_ROOT = Path(__file__).parent.parent.parent
_INSTALLED = Path("share", "kws", "shards")
_PLACES = (_ROOT / "shards", Path(sysconfig.get_path("data")) / _INSTALLED, _ROOT / _INSTALLED)
"""In a checkout, in an environment, after `pip install --target`."""


def folder(name: str) -> Path:
    """The folder of that name below shards/. Where it is missing everywhere, its path in a checkout."""
    places = [place / name for place in _PLACES]
    return next((place for place in places if place.is_dir()), places[0])
