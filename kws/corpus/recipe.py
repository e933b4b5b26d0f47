"""Recipes of known corpora, `shards/NAME.toml`: where a corpus comes from, its words and its number of clips.

recipe + archives -> compares size and sha256 of the archives, before packing
recipe + index    -> compares words and clips of each split, after packing
"""

from __future__ import annotations

import dataclasses
import hashlib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from kws import shipped_files
from kws.errors import UsageError, did_you_mean, unreadable

_CHUNK_BYTES = 1 << 22
_KINDS = {str: "a string", int: "a whole number", bool: "true or false"}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Expected words, clips by split, and sha256 by archive name (of those that are known).

    url, bytes: address and size of the archive, where there is exactly one ("", None: unknown). allow_leaks: the corpus
    is packed as it was published, although its splits share recordings or speakers.
    """

    path: Path
    words: frozenset[str]
    clips: Mapping[str, int]
    sha256: Mapping[str, str]
    url: str = ""
    bytes: int | None = None
    allow_leaks: bool = False

    @property
    def name(self) -> str:
        """Its name on the command line of `kws fetch`."""
        return self.path.stem

    def archive_name(self, address: str = "") -> str:
        """The file name of its archive, from the recipe's url, else from `address`."""
        return PurePosixPath(urlsplit(self.url or address).path).name or self.name

    def check_archive(self, path: Path, progress: Callable[[int, int, str], None] = lambda *done: None) -> None:
        """Compares size and sha256 of its archive; the file may have any name. Raises UsageError where they differ."""
        size = path.stat().st_size
        if self.bytes not in (None, size):
            raise UsageError(f"{path}: found {size} bytes, wanted {self.bytes} ({self.path}); fetch it again")
        for wanted in self.sha256.values():
            _check_sha256(path, wanted, self.path, lambda done: progress(done, size, "checking"))


def find(name: str) -> Recipe:
    """The recipe of that name, or in that TOML file. Raises UsageError that lists the known names."""
    folder = shipped_files.folder("shards")
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    if not path.is_file():
        names = sorted(path.stem for path in folder.glob("*.toml"))
        near, known = did_you_mean(name.removesuffix(".toml"), names), ", ".join(names)
        raise UsageError(f"{name}: no such recipe; known are {known or 'none'}; or give a file, NAME.toml{near}")
    return load(path)


def is_shipped(recipe: Recipe) -> bool:
    """Whether it is one of kws's own recipes, all of which are of folders of word folders."""
    return recipe.path.parent == shipped_files.folder("")


def load(path: Path) -> Recipe:
    """Reads a recipe. Raises UsageError for an invalid one."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
        return Recipe(
            path, frozenset(tree["words"]), dict(tree["clips"]), dict(tree.get("sha256", {})),
            _typed(tree, "url", str, ""), _typed(tree, "bytes", int, None), _typed(tree, "allow_leaks", bool, False),
        )  # fmt: skip
    except OSError as error:
        raise unreadable(error, path, "wanted a recipe such as shards/demo.toml") from error
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: not a recipe ({error}); wanted words, [clips] and perhaps [sha256]") from error


def _typed(tree: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = tree.get(name, default)
    if name in tree and type(value) is not kind:
        raise TypeError(f"{name} = {value!r}, wanted {_KINDS[kind]}")
    return value


def check_archives(recipe: Recipe, paths: Sequence[Path]) -> None:
    """Compares the sha256 of archives that the recipe lists by name. Raises UsageError for the first that differs."""
    for path in paths:
        wanted = recipe.sha256.get(path.name)
        if wanted and path.is_file():
            _check_sha256(path, wanted, recipe.path)


def _check_sha256(path: Path, wanted: str, source: Path, done: Callable[[int], None] = lambda done: None) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            done(file.tell())
    if digest.hexdigest() != wanted:
        raise UsageError(f"{path}: found sha256 {digest.hexdigest()}, wanted {wanted} ({source}); fetch it again")


def differences(recipe: Recipe, words: Sequence[str], clips: Mapping[str, int]) -> list[str]:
    """Differences between a packed corpus and the recipe, a line each."""
    lines = [f"word {word}: in the recipe, not in the corpus" for word in sorted(recipe.words - set(words))]
    lines += [f"word {word}: in the corpus, not in the recipe" for word in sorted(set(words) - recipe.words)]
    for split, wanted in recipe.clips.items():
        if clips.get(split, 0) != wanted:
            lines.append(f"{split}: {clips.get(split, 0)} clips, {recipe.path} expects {wanted}")
    return lines
