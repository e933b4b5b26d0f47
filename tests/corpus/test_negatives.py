"""Folders of long recordings: which are units of one speaker, and which split each unit is in."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped]

from kws.corpus import negatives
from kws.corpus.negatives import Negatives, assign_splits, units_of
from kws.errors import UsageError


def paths(*names: str) -> list[PurePosixPath]:
    return [PurePosixPath(name) for name in names]


def test_folders_of_speakers_are_units_and_single_files_otherwise() -> None:
    speakers = [f"test-clean/{speaker}/{chapter}/1.flac" for speaker in range(100, 112) for chapter in (1, 2)]
    units, given = units_of(paths(*speakers))
    assert len(set(units)) == 12
    assert units[0] == units[1] == "test-clean/100"
    assert not given
    units, _ = units_of(paths("music/jazz/a.wav", "music/jazz/b.wav", "speech/a.wav"))
    assert len(set(units)) == 3


def test_folders_called_train_and_test_give_the_splits() -> None:
    units, given = units_of(paths("train/a.wav", "train/b.wav", "dev/c.wav", "test/d.wav"))
    assert [given[unit] for unit in units] == ["train", "train", "valid", "test"]


def test_no_split_is_empty_where_there_are_three_units_and_known_ones_stay() -> None:
    for count in (3, 4, 30):
        units = dict.fromkeys(f"talk{number}" for number in range(count))
        splits = assign_splits(units, (10.0, 10.0), lambda unit: None)
        assert set(splits.values()) == {"train", "valid", "test"}
        again = assign_splits(dict.fromkeys([*units, "more"]), (10.0, 10.0), splits.get)
        assert {unit: again[unit] for unit in units} == splits
    assert assign_splits({"alone": None}, (10.0, 10.0), lambda unit: None) == {"alone": "train"}
    assert set(assign_splits(dict.fromkeys("abcdef"), (0.0, 0.0), lambda unit: None).values()) == {"train"}


def test_a_long_recording_is_cut_into_pieces_of_one_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negatives, "PIECE_S", 2.0)
    monkeypatch.setattr(negatives, "_LONGEST_WHOLE_S", 3.0)
    (tmp_path / "radio").mkdir()
    sound = np.random.default_rng(0).normal(0, 0.1, 8 * 22050)
    soundfile.write(tmp_path / "radio" / "long.flac", sound, 22050)
    soundfile.write(tmp_path / "radio" / "short.wav", sound[:22050], 22050)
    (tmp_path / "radio" / "notes.txt").write_text("no sound")
    found = Negatives([tmp_path / "radio"])
    pieces = list(found)
    long = [piece for piece in pieces if "long" in piece.name]
    assert [len(piece.decode()) for piece in long] == [32_000] * 4
    assert len(pieces) == 5
    assert len({piece.name for piece in pieces}) == 5
    assert len({(piece.speaker, piece.split) for piece in long}) == 1
    assert found.left_out.counts[".txt"] == 1
    assert "2 recordings" in found.notes[0]


def test_what_is_no_folder_of_audio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--negatives"):
        Negatives([tmp_path / "missing"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty"):
        list(Negatives([tmp_path / "empty"]))
    (tmp_path / "a" / "empty").mkdir(parents=True)
    with pytest.raises(UsageError, match="empty"):
        Negatives([tmp_path / "empty", tmp_path / "a" / "empty"])
