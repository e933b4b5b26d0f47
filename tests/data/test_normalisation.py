"""Normalisation: measured on training clips alone and saved with the index."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kws.audio.features import SPECS, Features
from kws.corpus import tasks
from kws.data import index, normalisation, selection
from kws.data.excerpt import Excerpt
from kws.data.index import Index
from kws.data.reader import Reader
from kws.errors import UsageError

SAMPLES = 16000
NAMES = tuple(SPECS)


@pytest.fixture(scope="module")
def corpus(tones: Index, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """A copy of the tones with its statistics kept."""
    copy = index.load(Path(shutil.copytree(tones.root, tmp_path_factory.mktemp("kept") / "shards")))
    normalisation.measure_and_save(copy, Excerpt(SAMPLES))
    return copy


def train_waves(corpus: Index, samples: int = SAMPLES) -> torch.Tensor:
    """All of the train split, int16 (n, samples)."""
    reader = Reader(corpus, "train")
    wave = np.zeros((len(corpus.split("train")), samples), np.int16)
    for clip, row in enumerate(wave):
        pcm = reader.read(clip)[:samples]
        row[: len(pcm)] = pcm
    return torch.from_numpy(wave)


def test_all_features_are_measured_and_saved_with_the_index(corpus: Index) -> None:
    kept = json.loads((corpus.root / "index" / "features.json").read_text())
    assert set(kept["features"]) == set(SPECS)
    assert [path.name for path in (corpus.root / "index").glob("*.partial")] == []
    for name, spec in SPECS.items():
        mean, deviation = normalisation.load_or_measure(corpus, name, Excerpt(SAMPLES))
        assert len(mean) == len(deviation) == spec.bands
        assert min(deviation) > 0


def test_mean_and_deviation_of_every_band_over_the_training_clips(corpus: Index) -> None:
    wave = train_waves(corpus)
    assert len(wave) < normalisation.MAX_CLIPS, "all clips are measured"
    for name in NAMES:
        bands = Features(name)(wave)[:, 0].transpose(0, 1).flatten(1).double()
        mean, deviation = normalisation.load_or_measure(corpus, name, Excerpt(SAMPLES))
        np.testing.assert_allclose(mean, bands.mean(dim=1), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(deviation, bands.std(dim=1, correction=0), rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_normalised_training_clips_have_mean_0_and_deviation_1(corpus: Index, name: str) -> None:
    features = Features(name, normalisation.load_or_measure(corpus, name, Excerpt(SAMPLES)))
    bands = features(train_waves(corpus))[:, 0].transpose(0, 1).flatten(1)
    assert bands.mean(dim=1).abs().max() < 1e-3
    assert (bands.std(dim=1) - 1).abs().max() < 1e-2


def test_other_splits_are_not_read(corpus: Index, tmp_path: Path) -> None:
    copy = index.load(Path(shutil.copytree(corpus.root, tmp_path / "shards")))
    for split in ("valid", "test", "noise"):
        shutil.rmtree(copy.root / split)
    assert normalisation.measure(copy, ("mel32",), Excerpt(SAMPLES)) == {
        "mel32": normalisation.load_or_measure(corpus, "mel32", Excerpt(SAMPLES))
    }


WRONG = [[1.0] * 32, [2.0] * 32]
UNFIT: dict[str, Callable[[dict[str, Any]], str]] = {
    "empty": lambda kept: "",
    "cut short": lambda kept: json.dumps(kept)[:-100],
    "no object": lambda kept: "[]",
    "no features": lambda kept: json.dumps({key: kept[key] for key in ("corpus", "clip_samples")}),
    "other bands": lambda kept: json.dumps(kept | {"features": {"mel32": [[1.0], [2.0]]}}),
    "clips of another length": lambda kept: json.dumps(kept | {"clip_samples": 8000, "features": {"mel32": WRONG}}),
    "another corpus": lambda kept: json.dumps(kept | {"corpus": "0" * 32, "features": {"mel32": WRONG}}),
}


@pytest.mark.parametrize("how", ["missing", *UNFIT])
def test_missing_or_unfit_values_are_measured_again(corpus: Index, tmp_path: Path, how: str) -> None:
    copy = index.load(Path(shutil.copytree(corpus.root, tmp_path / "shards")))
    path = copy.root / "index" / "features.json"
    kept = json.loads(path.read_text())
    path.unlink() if how == "missing" else path.write_text(UNFIT[how](kept))
    np.testing.assert_allclose(
        normalisation.load_or_measure(copy, "mel32", Excerpt(SAMPLES)), kept["features"]["mel32"], rtol=0, atol=1e-6
    )


def test_of_a_large_corpus_evenly_spread_clips_of_few_shards_are_measured(
    tones: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(normalisation, "MAX_CLIPS", 20)
    monkeypatch.setattr(normalisation, "MAX_SHARDS", 2)
    shards, reads = tones.split("train").shards, []
    assert len(shards) > 3
    read_rows = Reader.read_rows
    monkeypatch.setattr(
        Reader, "read_rows", lambda self, clips, excerpt: reads.append(clips) or read_rows(self, clips, excerpt)
    )
    seen: list[tuple[int, int]] = []
    normalisation.measure(tones, ("mel32",), Excerpt(SAMPLES), progress=lambda done, total: seen.append((done, total)))
    clips = np.concatenate(reads)
    where = np.asarray(tones.split("train").columns["shard"])[clips]
    assert set(where.tolist()) == {0, len(shards) - 1}
    first = clips[where == 0]
    assert len(first) == 10
    assert first[[0, -1]].tolist() == [0, shards[0].clips - 1]
    assert np.ptp(np.diff(first)) <= 1
    assert len(set(clips.tolist())) == len(clips)
    assert seen[-1] == (len(clips), len(clips))


def test_silence_is_not_measured(noisy: Index) -> None:
    quiet = selection.apply_task(noisy, tasks.words_task(noisy.words, 0.5), 1600).index
    assert normalisation.measure(quiet, ("mel32",), Excerpt(1600)) == normalisation.measure(
        noisy, ("mel32",), Excerpt(1600)
    )


def test_a_damaged_clip_is_left_out_and_a_missing_shard_is_an_error(tones: Index, tmp_path: Path) -> None:
    copy = index.load(Path(shutil.copytree(tones.root, tmp_path / "shards")))
    columns, shards = copy.split("train").columns, copy.split("train").shards
    with (copy.root / shards[0].name).open("r+b") as file:
        file.seek(int(columns["offset"][3]) + 1000)
        file.write(b"\x7f\x7f\x7f\x7f")
    (mean, _), (wanted, _) = (
        normalisation.load_or_measure(corpus, "mel32", Excerpt(SAMPLES)) for corpus in (copy, tones)
    )
    assert mean != wanted
    np.testing.assert_allclose(mean, wanted, atol=0.5)
    (copy.root / shards[-1].name).unlink()
    with pytest.raises(UsageError, match=shards[-1].name):
        normalisation.load_or_measure(copy, "mel32", Excerpt(SAMPLES))


def test_shorter_clips_than_asked_for_are_padded_as_training_pads_them(corpus: Index) -> None:
    mean, _ = normalisation.load_or_measure(corpus, "mel32", Excerpt(24000))
    bands = Features("mel32")(train_waves(corpus, 24000))[:, 0].transpose(0, 1).flatten(1)
    np.testing.assert_allclose(mean, bands.mean(dim=1), rtol=1e-4, atol=1e-3)
