"""Audio files on disk: which are found, in which order they are decoded, and why some are skipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kws.audio import codec, remarks
from kws.audio.audio_files import DecodedFile, SkippedFile, decode_files, find_audio, printable
from kws.errors import UsageError


def test_given_files_are_kept_and_folders_are_searched_for_audio(tmp_path: Path) -> None:
    for name in ("b/2.WAV", "b/1.flac", "b/deep/3.ogg", "b/notes.txt", "plain"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_audio([tmp_path / "plain", tmp_path / "b"])
    assert [path.name for path in found] == ["plain", "1.flac", "2.WAV", "3.ogg"]


def test_a_file_given_twice_is_found_once(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    assert find_audio([tmp_path / "a.wav", tmp_path]) == [tmp_path / "a.wav"]


def test_missing_paths_and_folders_without_audio_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none: no such file"):
        find_audio([tmp_path / "none"])
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match=r"flac.*wav"):
        find_audio([tmp_path])


def test_many_files_are_decoded_in_order_and_broken_ones_are_skipped_in_place(tmp_path: Path) -> None:
    paths = []
    for number in range(150):
        paths.append(tmp_path / f"{number}.wav")
        paths[-1].write_bytes(b"RIFF" if number % 7 == 3 else codec.wav_bytes(np.full(5, number, np.int16)))
    found = list(decode_files(paths))
    assert [item.path for item in found] == paths
    for number, item in enumerate(found):
        if number % 7 == 3:
            assert isinstance(item, SkippedFile)
            assert str(item).startswith(f"{item.path}: ")
        else:
            assert isinstance(item, DecodedFile)
            assert item.pcm.tolist() == [number] * 5


def test_a_path_is_printed_without_control_characters() -> None:
    assert printable(Path("a\x1b[31m\nb\udcff\u202e/语 <b>.wav")) == "a\\x1b[31m\\nb\\udcff\\u202e/语 <b>.wav"


def test_contents_and_not_endings_decide_in_folders(tmp_path: Path) -> None:
    for name, data in {
        "take": codec.wav_bytes(np.ones(5, np.int16)),
        "notes": b"text",
        "._a.wav": b"\0\5\26\7",
    }.items():
        (tmp_path / name).write_bytes(data)
    assert find_audio([tmp_path]) == [tmp_path / "take"]


def test_remarks_come_with_the_samples(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(codec.wav_bytes(np.zeros(16000, np.int16)))
    (file,) = decode_files([tmp_path / "a.wav"])
    assert isinstance(file, DecodedFile)
    assert file.remarks == (remarks.SILENT,)
