"""Recording conditions: what is measured, which words give themselves away by it, and which differ by nature only."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soxr

from kws import cli
from kws.audio import codec
from kws.data import index as index_file
from kws.packing import condition_leaks, conditions, pack
from kws.packing.conditions import MEASURES, Conditions

WORDS = ("go", "stop", "yes")
CLIPS = 16
TIME = np.arange(16000) / 16000
VOICE = sum(np.sin(2 * np.pi * 120 * harmonic * TIME) / harmonic**1.2 for harmonic in range(1, 50))
Wave = npt.NDArray[np.float64]
Change = Callable[[Wave, np.random.Generator], Wave]


def clip(word: int, rng: np.random.Generator) -> Wave:
    """A second of room noise with a word: some voiced harmonics and a hiss, of a length and a balance of its own. Level
    and noise differ by clip as by speaker and room."""
    envelope = np.clip(1 - np.abs((TIME - 0.5) / (0.15 + 0.05 * word)), 0, 1)
    hiss = rng.standard_normal(16000) * (0.1 + 0.2 * word)
    level, noise = 10 ** (rng.uniform(-30, -15) / 20), 10 ** (rng.uniform(-65, -45) / 20)
    return np.asarray(level * envelope * (VOICE + hiss) + noise * rng.standard_normal(16000))


def pcm(wave: Wave) -> codec.Pcm:
    return codec.pcm_from_float(wave.astype(np.float32), codec.SAMPLE_RATE_HZ)


def measured(change: Change | None, splits: tuple[str, ...] = ("train",), only: str = "go") -> Conditions:
    """The conditions of CLIPS clips of each word in each split, where those of the word `only` (or of the split) are
    changed."""
    rng = np.random.default_rng(0)
    rows, words, names = [], [], []
    for split in splits:
        for number, word in enumerate(WORDS):
            for _ in range(CLIPS):
                wave = clip(number, rng)
                rows.append(conditions.measure(pcm(change(wave, rng) if change and only in (word, split) else wave)))
                words.append(number)
                names.append(split)
    return Conditions(np.array(words), np.array(names), np.array(rows), len(rows))


def by_telephone(wave: Wave, rng: np.random.Generator) -> Wave:
    return np.asarray(soxr.resample(soxr.resample(wave, 16000, 8000), 8000, 16000))


def by_a_narrow_codec(wave: Wave, rng: np.random.Generator) -> Wave:
    spectrum = np.fft.rfft(wave)
    spectrum[5500:] = 0
    return np.asarray(np.fft.irfft(spectrum))


def louder(wave: Wave, rng: np.random.Generator) -> Wave:
    return wave * 10


def with_hum(wave: Wave, rng: np.random.Generator) -> Wave:
    return wave + 0.03 * np.sin(2 * np.pi * 50 * np.arange(len(wave)) / 16000)


def with_offset(wave: Wave, rng: np.random.Generator) -> Wave:
    return wave + 0.02


def padded(wave: Wave, rng: np.random.Generator) -> Wave:
    return np.pad(wave, (0, 8000))


@pytest.mark.parametrize(
    ("change", "condition"),
    [
        (by_telephone, "bandwidth_hz"), (by_a_narrow_codec, "bandwidth_hz"), (louder, "level_db"),
        (with_hum, "floor_db"), (with_offset, "offset"), (padded, "length_s"),
    ],
)  # fmt: skip
def test_a_word_that_was_recorded_otherwise_is_named(change: Change, condition: str) -> None:
    leaks = condition_leaks.find_leaks(measured(change), WORDS, {})
    assert ("go", condition) in {(leak.word, leak.condition) for leak in leaks}
    assert {leak.word for leak in leaks} == {"go"}
    assert all("'go'" in str(leak) for leak in leaks)


def test_words_that_differ_by_nature_alone_are_not(tmp_path: Path) -> None:
    assert condition_leaks.find_leaks(measured(None, ("train", "test")), WORDS, {}) == []


def test_lengths_that_differ_as_words_do_are_not_named() -> None:
    found = measured(None)
    lengths = found.values[:, MEASURES.index("length_s")]
    lengths[:] = (0.4 + 0.3 * found.words) * np.random.default_rng(0).uniform(0.95, 1.05, len(lengths))
    assert condition_leaks.find_leaks(found, WORDS, {}) == []


def test_a_test_split_that_was_recorded_otherwise_is_named() -> None:
    leaks = condition_leaks.find_leaks(measured(by_telephone, ("train", "test"), only="test"), WORDS, {})
    assert {(leak.word, leak.split, leak.condition) for leak in leaks} == {("", "test", "bandwidth_hz")}


def test_a_word_of_another_source_format_is_named() -> None:
    sources = {("go", "train"): {"MP3": 20, "WAV": 1}, ("stop", "train"): {"WAV": 30}, ("yes", "test"): {"WAV": 20}}
    leaks = condition_leaks.find_leaks(measured(None), WORDS, sources)
    assert [(leak.word, leak.condition, leak.here) for leak in leaks] == [("go", "source", "MP3")]
    mixed = {(word, "train"): {"MP3": 20, "WAV": 10 + 5 * number} for number, word in enumerate(WORDS)}
    assert condition_leaks.find_leaks(measured(None), WORDS, mixed) == []


def test_few_clips_and_odd_ones_are_no_reason() -> None:
    few = measured(louder)
    kept = np.concatenate([np.flatnonzero(few.words == 0)[:4], np.flatnonzero(few.words > 0)])
    part = Conditions(few.words[kept], few.splits[kept], few.values[kept], len(kept))
    assert condition_leaks.find_leaks(part, WORDS, {}) == []
    for odd in (np.zeros(100, np.int16), np.ones(1, np.int16), np.full(40_000, 32767, np.int16)):
        assert conditions.measure(odd).shape == (len(MEASURES),)


def test_the_command_measures_a_sample_and_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for number, word in enumerate(WORDS):
        (tmp_path / "wav" / word).mkdir(parents=True)
        for take in range(20):
            wave = clip(number, rng)
            data = codec.wav_bytes(pcm(by_telephone(wave, rng) if word == "go" else wave))
            (tmp_path / "wav" / word / f"s{take}_nohash_0.wav").write_bytes(data)
    corpus, _ = pack.pack([tmp_path / "wav"], tmp_path / "out")
    few = conditions.measure_corpus(index_file.load(corpus.root), per_cell=4)
    assert max(np.bincount(few.words[few.splits == "train"])) == 4
    assert np.array_equal(few.values, conditions.measure_corpus(corpus, per_cell=4).values)
    assert cli.main(["inspect", str(corpus.root), "--conditions"]) == 0
    out = capsys.readouterr().out
    assert "warning: 'go'" in out
    assert "all 60 clips" in out
    assert cli.main(["inspect", str(corpus.root), "--conditions", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [(row["word"], row["condition"]) for row in facts["warnings"]] == [("go", "bandwidth_hz")]
    assert facts["words"]["go"]["train"]["bandwidth_hz"] < 4100
