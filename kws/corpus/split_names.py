"""The names by which people call the splits: of folders, of shards, and in tables."""

from __future__ import annotations

import re

from kws.corpus.recording import NOISE_FOLDER

SPLITS = {
    "train": "train", "training": "train",
    "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid", "devel": "valid", "eval": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip
"""Name in lower case -> train, valid or test."""
SHARD_SPLITS = SPLITS | {"noise": "noise", NOISE_FOLDER: "noise"}
"""The same for shards, which may also hold noise."""
_PART = re.compile(r"[-_.]")
_WORD = re.compile(r"[a-z]+")


def split_called(name: str) -> str:
    """train, valid or test for a name with no other part, such as Training or val; "" for any other."""
    return SPLITS.get(name.lower(), "")


def split_in(name: str) -> str:
    """The split that a name begins or ends with, such as train-clean-100 or my_test; "" where there is none."""
    parts = _PART.split(name.lower())
    return SPLITS.get(parts[0], "") or SPLITS.get(parts[-1], "")


def split_of_file(path: str) -> str:
    """The split that a file's name or its nearest folder names: train_manifest.json, test/metadata.csv; else ""."""
    *folders, base = path.split("/")
    words = _WORD.findall(base.rpartition(".")[0].lower() or base)
    named = {SPLITS[word] for word in words if word in SPLITS}
    if len(named) == 1:
        return named.pop()
    return next(filter(None, map(split_called, reversed(folders))), "")
