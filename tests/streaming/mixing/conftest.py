"""A packed corpus whose words are tones of known place, and background recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kws.audio import codec
from kws.data.index import Index
from kws.packing import pack
from tests.conftest import tone

WORDS = {"go": 300.0, "stop": 700.0, "yes": 1500.0}
START, END = 4800, 11200
"""Where the sound of each clip is."""


def spoken(hz: float, seed: int) -> codec.Pcm:
    """A second of faint noise with a tone from START to END."""
    clip = np.random.default_rng(seed).standard_normal(16_000) * 10
    clip[START:END] += tone(hz * (1 + seed % 7 / 50), END - START, level=0.1 + seed % 5 / 10, seed=seed)
    return clip.astype(np.int16)


def noise(seconds: float, seed: int = 0, level: float = 1000.0) -> codec.Pcm:
    """White noise."""
    return (np.random.default_rng(seed).standard_normal(round(seconds * 16_000)) * level).astype(np.int16)


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """The corpus: 20 speakers, each of whom says every word twice."""
    folder = tmp_path_factory.mktemp("words")
    for word, hz in WORDS.items():
        (folder / "wav" / word).mkdir(parents=True)
        for number in range(40):
            path = folder / "wav" / word / f"{number % 20:08x}_nohash_{number // 20}.wav"
            path.write_bytes(codec.wav_bytes(spoken(hz, len(WORDS) * number + round(hz))))
    options = pack.PackOptions(percents=(20.0, 30.0))
    corpus, _ = pack.pack([folder / "wav"], folder / "shards", options, processes=1)
    return corpus


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """A folder with three recordings of noise, of 3 s, 5 s and 75 s, one of them at 44.1 kHz."""
    import soundfile
    import soxr

    folder = tmp_path / "sounds"
    (folder / "more").mkdir(parents=True)
    (folder / "short.wav").write_bytes(codec.wav_bytes(noise(3, 1)))
    soundfile.write(folder / "more" / "b.wav", soxr.resample(noise(5, 2) / 32768, 16_000, 44_100), 44_100)
    (folder / "long.flac").write_bytes(codec.flac_bytes(noise(75, 3)))
    return folder
