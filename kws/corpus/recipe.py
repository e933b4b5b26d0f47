"""Recipes: what a known corpus must hold. `shards/NAME.toml` says where it comes from, its words and its counts.

recipe + archives -> sha256 of the archives, before anything is packed
recipe + index    -> words and clips of each split, after
"""

from __future__ import annotations

import dataclasses
import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from kws.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Expected words, clips by split, and sha256 by archive name (only those that are known)."""

    path: Path
    words: frozenset[str]
    clips: Mapping[str, int]
    sha256: Mapping[str, str]


def load(path: Path) -> Recipe:
    """Reads a recipe. Raises UsageError where it is none."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
        return Recipe(path, frozenset(tree["words"]), dict(tree["clips"]), dict(tree.get("sha256", {})))
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({error.strerror}); wanted a recipe such as shards/demo.toml"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: not a recipe ({error}); wanted words, [clips] and perhaps [sha256]") from error


def check_archives(recipe: Recipe, paths: Sequence[Path]) -> None:
    """Compares the archives that the recipe knows. Raises UsageError for the first that differs."""
    for path in paths:
        wanted = recipe.sha256.get(path.name)
        if wanted and path.is_file():
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != wanted:
                raise UsageError(f"{path}: sha256 {found}, {recipe.path} has {wanted}; fetch it again")


def differences(recipe: Recipe, words: Sequence[str], clips: Mapping[str, int]) -> list[str]:
    """What a packed corpus has otherwise than the recipe, a line each."""
    lines = [f"word {word}: in the recipe, not in the corpus" for word in sorted(recipe.words - set(words))]
    lines += [f"word {word}: in the corpus, not in the recipe" for word in sorted(set(words) - recipe.words)]
    for split, wanted in recipe.clips.items():
        if clips.get(split, 0) != wanted:
            lines.append(f"{split}: {clips.get(split, 0)} clips, {recipe.path} has {wanted}")
    return lines
