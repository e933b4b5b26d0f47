"""Mean and deviation of each band of the features over the train split, to normalise by.

Measured when a corpus is packed, from a part of its clips spread evenly, and kept beside the index; where it is not
there (shards that someone else packed) it is measured when a run asks for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kws.audio.features import SPECS, BandStatistics, Features
from kws.data.index import Index
from kws.data.plan import Slot
from kws.data.store import USUAL, Caching
from kws.data.stream import Reader

CLIPS, _SHARDS, _BATCH = 2048, 8, 64
"""A mean over 2,048 clips is off by a hundredth of a deviation."""


def measure(
    index: Index, names: tuple[str, ...], samples: int, caching: Caching = USUAL,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, BandStatistics]:  # fmt: skip
    """Of features by name, from up to 2,048 clips of the train split out of up to eight of its shards.

    Damaged clips are left out: whether they end the run is for its training to say.
    """
    clips = _spread(index)
    reader = Reader(index, "train", [0] * len(index.words), samples, on_bad="skip", caching=caching)
    kinds = {name: Features(name) for name in names}
    sums = {name: torch.zeros(2, kind.spec.bands, dtype=torch.float64) for name, kind in kinds.items()}
    frames = dict.fromkeys(names, 0)
    for first in range(0, len(clips), _BATCH):
        rows = clips[first : first + _BATCH]
        wave = reader.batch(Slot(0, 0, rows, rows)).wave
        for name, kind in kinds.items() if len(wave) else ():
            found = kind(wave).double()[:, 0]
            sums[name] += torch.stack([found.sum(dim=(0, 2)), found.square().sum(dim=(0, 2))])
            frames[name] += found.shape[0] * found.shape[2]
        progress(first + len(rows), len(clips))
    return {name: _normal(sums[name], frames[name]) for name in names}


def _normal(sums: torch.Tensor, count: int) -> BandStatistics:
    mean, square = sums / max(1, count)
    deviation = (square - mean.square()).clamp_min(0.0).sqrt().clamp_min(1e-3)  # digital silence has none
    return [round(value, 6) for value in mean.tolist()], [round(value, 6) for value in deviation.tolist()]


def _spread(index: Index) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Clip ids, evenly spread over a few shards that are evenly spread: of remote shards few are fetched."""
    shards = [shard for shard in index.split("train").shards if shard.clips and shard.bytes]
    chosen = [shards[number] for number in sorted({round(place) for place in np.linspace(0, len(shards) - 1, _SHARDS)})]
    each = -(-CLIPS // len(chosen))
    parts = [
        np.unique(np.linspace(shard.start, shard.start + shard.clips - 1, min(each, shard.clips)).astype(np.int64))
        for shard in chosen
    ]
    return np.concatenate(parts)


def write(index: Index, samples: int, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Measures all features there are and keeps them beside the index."""
    measured = measure(index, tuple(SPECS), samples, progress=progress)
    found = {"corpus": index.content_id, "clip_samples": samples, "features": measured}
    path = _path(index.root)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(found), encoding="utf-8")
    partial.replace(path)


def of(index: Index, name: str, samples: int, caching: Caching = USUAL) -> BandStatistics:
    """Mean and deviation of each band, (F,) each: as kept beside the index, else measured now."""
    try:
        kept = json.loads(_path(index.root).read_text(encoding="utf-8"))
        mean, deviation = kept["features"][name]
        same = (kept["corpus"], kept["clip_samples"]) == (index.content_id, samples)
        if same and len(mean) == len(deviation) == SPECS[name].bands:
            return mean, deviation
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, or from another version: it is only a copy of what the clips say
    return measure(index, (name,), samples, caching)[name]


def _path(root: Path) -> Path:
    return root / "index" / "features.json"
