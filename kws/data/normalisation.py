"""Mean and standard deviation of each feature band over the train split, by which features are normalised.

`kws pack` measures them from a part of the clips and saves them in the index's folder (features.json). For shards that
were packed by other tools they are measured when a run needs them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from kws import files
from kws.audio.features import SPECS, BandStatistics, Features
from kws.data.excerpt import Excerpt
from kws.data.index import Index
from kws.data.reader import Reader
from kws.data.store import DEFAULT_CACHE, CacheSettings

MAX_CLIPS, MAX_SHARDS = 2048, 8
"""Clips that are measured, and shards that they are taken from. A mean over 2,048 clips is off by about a hundredth of
a standard deviation."""
_BATCH = 64


def load_or_measure(
    index: Index, name: str, excerpt: Excerpt, cache_settings: CacheSettings = DEFAULT_CACHE
) -> BandStatistics:
    """Returns mean and standard deviation of each band, (F,) each, of the features `name` of the clips that `excerpt`
    takes: the saved ones where they fit, else measured now."""
    try:
        saved = json.loads(_path(index.root).read_text(encoding="utf-8"))
        mean, deviation = saved["features"][name]
        fits = (saved["corpus"], saved["clip_samples"]) == (index.content_id, excerpt.samples)
        if (
            fits
            and _same_part(index, excerpt, saved.get("excerpt", "start"))
            and len(mean) == len(deviation) == SPECS[name].bands
        ):
            return mean, deviation
    except (OSError, ValueError, KeyError, TypeError):
        pass  # missing, damaged or of another version: it can always be measured again
    return measure(index, (name,), excerpt, cache_settings)[name]


def _same_part(index: Index, excerpt: Excerpt, rule: str) -> bool:
    """Whether a statistic measured with `rule` is of the same parts of the recordings: none is longer than a clip, or
    the rule is the excerpt's."""
    return rule == excerpt.rule or all(
        int(samples.max(initial=0)) <= excerpt.samples for (samples,) in index.split("train").chunks("samples")
    )


def measure_and_save(
    index: Index, excerpt: Excerpt, progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Measures all features of the clips that `excerpt` takes and saves the result in the index's folder."""
    measured = measure(index, tuple(SPECS), excerpt, progress=progress)
    content = {
        "corpus": index.content_id, "clip_samples": excerpt.samples, "excerpt": excerpt.rule, "features": measured,
    }  # fmt: skip
    files.write_text(_path(index.root), json.dumps(content))


def measure(
    index: Index, names: tuple[str, ...], excerpt: Excerpt, cache_settings: CacheSettings = DEFAULT_CACHE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, BandStatistics]:  # fmt: skip
    """Measures features by name from up to MAX_CLIPS clips of up to MAX_SHARDS shards of the train split.

    Damaged clips are left out; whether they end the run is decided where training reads them. progress(done, total) is
    called after each batch of clips.
    """
    clips = _spread_clips(index)
    reader = Reader(index, "train", on_bad="skip", cache_settings=cache_settings)
    kinds = {name: Features(name) for name in names}
    sums = {name: torch.zeros(2, kind.spec.bands, dtype=torch.float64) for name, kind in kinds.items()}
    num_frames = dict.fromkeys(names, 0)
    for first in range(0, len(clips), _BATCH):
        ids = clips[first : first + _BATCH]
        rows, lengths = reader.read_rows(ids, excerpt)
        wave = torch.from_numpy(rows[lengths >= 0])
        for name, kind in kinds.items() if len(wave) else ():
            features = kind(wave).double()[:, 0]
            sums[name] += torch.stack([features.sum(dim=(0, 2)), features.square().sum(dim=(0, 2))])
            num_frames[name] += features.shape[0] * features.shape[2]
        progress(first + len(ids), len(clips))
    return {name: _normal_from_sums(sums[name], num_frames[name]) for name in names}


def _normal_from_sums(sums: torch.Tensor, count: int) -> BandStatistics:
    """Turns sums and sums of squares of each band, (2, F), over `count` frames into mean and deviation."""
    mean, square = sums / max(1, count)
    deviation = (square - mean.square()).clamp_min(0.0).sqrt().clamp_min(1e-3)  # that of digital silence is 0
    return [round(value, 6) for value in mean.tolist()], [round(value, 6) for value in deviation.tolist()]


def _spread_clips(index: Index) -> npt.NDArray[np.int64]:
    """Returns ids of clips evenly spread over a few evenly spread shards, so that few remote shards are fetched."""
    shards = [shard for shard in index.split("train").shards if shard.clips and shard.bytes]
    numbers = sorted({round(place) for place in np.linspace(0, len(shards) - 1, MAX_SHARDS)})
    chosen = [shards[number] for number in numbers]
    each = -(-MAX_CLIPS // len(chosen))
    parts = [
        np.unique(np.linspace(shard.start, shard.start + shard.clips - 1, min(each, shard.clips)).astype(np.int64))
        for shard in chosen
    ]
    return np.concatenate(parts)


def _path(root: Path) -> Path:
    return root / "index" / "features.json"
