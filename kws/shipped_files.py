"""Finds the files that come with kws (configs/, launch/, slurm/, shards/): in a checkout, or where pip installed them.

kws train quick    -> quick, quick.toml in the current folder, else the shipped configs/quick.toml
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

from kws.errors import UsageError, close_names

_ROOT = Path(__file__).parent.parent
_INSTALLED = Path("share", "kws")


def _places() -> list[Path]:
    """Folders that may hold the shipped files, best first.

    The setup.cfg marks a checkout, not site-packages, where a folder `configs` would be another project's. pip puts
    the files below the prefix of the environment, which is three folders above site-packages.
    """
    if (_ROOT / "setup.cfg").is_file() and (_ROOT / "configs").is_dir():
        return [_ROOT]
    prefixes = [_ROOT, *_ROOT.parents[:3], Path(sysconfig.get_path("data"))]
    return [prefix / _INSTALLED for prefix in prefixes]


def folder(name: str) -> Path:
    """The folder of that name, such as configs or shards/tasks. Where it is missing everywhere, where it should be."""
    places = [place / name for place in _places()]
    return next((place for place in places if place.is_dir()), places[0])


def config_names() -> list[str]:
    """Names of the shipped configs, sorted, without `.toml`."""
    return sorted(path.name.removesuffix(".toml") for path in folder("configs").glob("*.toml"))


def find_config(given: Path) -> Path:
    """The config that a command line names: a file; else, for a name without a folder, the shipped config.

    `configs/NAME.toml`, as the documents write it, is the shipped one where the current folder has no `configs`.
    Raises UsageError with the nearest names.
    """
    in_place = [given] if given.suffix == ".toml" else [given, given.with_name(f"{given.name}.toml")]
    found = next((path for path in in_place if path.is_file()), None)
    if found:
        return found
    if given.is_dir():
        raise UsageError(f"{given}: a folder; wanted a TOML file in it, such as {_example(given)}")
    name = given.name.removesuffix(".toml")
    is_name = given.parent == Path() or (given.parent == Path("configs") and not given.parent.is_dir())
    shipped = folder("configs") / f"{name}.toml"
    if is_name and shipped.is_file():
        return shipped
    raise UsageError(
        f"{given}: no such file; `kws configs` lists the configs that come with kws{_nearest(given, name)}"
    )


def _example(given: Path) -> str:
    return str(next(iter(sorted(given.glob("*.toml"))), given / "NAME.toml"))


def _nearest(given: Path, name: str) -> str:
    """`; did you mean quick?` with files beside the missing one and shipped configs; "" where nothing is near."""
    beside = sorted(path.stem for path in given.parent.glob("*.toml")) if given.parent.is_dir() else []
    near = [str(given.with_name(f"{stem}.toml")) for stem in close_names(name, beside)]
    near += close_names(name, config_names())
    return f"; did you mean {' or '.join(near[:3])}?" if near else ""
