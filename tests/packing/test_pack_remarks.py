"""Recordings with wrong headers, foreign endings and implausible sound are packed whole; a note counts them."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from kws.audio import codec, remarks
from kws.data.index import Index
from kws.data.reader import Reader
from kws.packing import pack, publish
from tests.conftest import tone

CLIPS = 12
TAG = b"ID3\3\0\0" + bytes([0, 0, 39, 8]) + bytes(5000)


def clip(number: int) -> codec.Pcm:
    return tone(200 + 30 * number, 8000, seed=number)


def packed(folder: Path, files: dict[str, bytes]) -> tuple[Index, pack.PackReport]:
    for name, data in files.items():
        (folder / "words" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "words" / name).write_bytes(data)
    return pack.pack([folder / "words"], folder / "shards")


def samples(corpus: Index) -> set[bytes]:
    """The samples of all clips."""
    return {
        Reader(corpus, split).read(row).tobytes()
        for split in ("train", "valid", "test")
        for row in range(len(corpus.splits.get(split, ())))
    }


def noted(report: pack.PackReport, remark: str) -> int:
    """The number of recordings in the note about a remark."""
    (line,) = [note for note in report.notes if remark in note]
    return int(line.split()[0])


def test_tags_before_the_header_cost_no_sample(tmp_path: Path) -> None:
    files = {f"go/{n}_nohash_0.wav": TAG * (n % 4 == 0) + codec.wav_bytes(clip(n)) for n in range(CLIPS)}
    corpus, report = packed(tmp_path, files)
    assert samples(corpus) == {clip(n).tobytes() for n in range(CLIPS)}
    assert not report.skipped
    assert noted(report, remarks.TAG_BEFORE) == 3


def test_wrong_sizes_cost_no_sample_and_truncated_files_are_faults(tmp_path: Path) -> None:
    files = {}
    for n in range(CLIPS):
        data = bytearray(codec.wav_bytes(clip(n)))
        data[40:44] = (0 if n % 2 else len(data) - 44 + 36).to_bytes(4, "little")
        files[f"go/{n}_nohash_0.wav"] = bytes(data)
    files["go/cut_nohash_0.wav"] = codec.wav_bytes(clip(0))[:-400]
    corpus, report = packed(tmp_path, files)
    assert samples(corpus) == {clip(n).tobytes() for n in range(CLIPS)}
    assert ["cut" in line for line in report.skipped] == [True]
    assert noted(report, remarks.WRONG_SIZE) == CLIPS
    listed = (tmp_path / "shards" / "index" / publish.REMARKS).read_text().splitlines()
    assert len(listed) == 1 + CLIPS


def test_the_contents_count_and_not_the_ending(tmp_path: Path) -> None:
    def encoded(form: str, n: int) -> bytes:
        buffer = io.BytesIO()
        soundfile.write(buffer, clip(n), 16000, format=form, subtype="PCM_16")
        return buffer.getvalue()

    kinds = [(".wave", "WAV"), (".snd", "AU"), (".aifc", "AIFF"), (".m4a", "WAV"), (".wav", "FLAC"), ("", "CAF")]
    files = {f"go/{n}_nohash_0{ending}": encoded(form, n) for n, (ending, form) in enumerate(kinds)}
    corpus, report = packed(tmp_path, files)
    assert samples(corpus) == {clip(n).tobytes() for n in range(len(kinds))}
    assert not report.skipped


def test_implausible_sound_is_fixed_or_told(tmp_path: Path) -> None:
    files = {}
    for n in range(CLIPS):
        buffer = io.BytesIO()
        sound = [clip(n).astype(np.float32), clip(n) * 0, clip(n)][n % 3]
        soundfile.write(buffer, sound, 16000, format="WAV", subtype=["FLOAT", "PCM_16", "PCM_16"][n % 3])
        files[f"go/{n}_nohash_0.wav"] = buffer.getvalue()
    files["_background_noise_/quiet.wav"] = codec.wav_bytes(np.zeros(16000, np.int16))
    corpus, report = packed(tmp_path, files)
    assert samples(corpus) == {(clip(n) * (n % 3 != 1)).tobytes() for n in range(CLIPS)}
    assert noted(report, remarks.SCALED) == noted(report, remarks.SILENT) == CLIPS // 3
    assert not report.skipped


def test_m4a_is_packed_through_ffmpeg_and_without_it_at_the_next_try(
    ffmpeg: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kws.audio import ffmpeg as ffmpeg_module

    (tmp_path / "a.wav").write_bytes(codec.wav_bytes(clip(0)))
    subprocess.run([ffmpeg, "-v", "error", "-i", str(tmp_path / "a.wav"), str(tmp_path / "a.m4a")], check=True)
    files = {"go/a_nohash_0.m4a": (tmp_path / "a.m4a").read_bytes(), "go/b_nohash_0.wav": codec.wav_bytes(clip(1))}
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")
        ffmpeg_module.program.cache_clear()
        corpus, report = packed(tmp_path / "without", files)
    ffmpeg_module.program.cache_clear()
    assert len(samples(corpus)) == 1
    assert ["ffmpeg -i FILE" in line for line in report.skipped] == [True]
    corpus, report = packed(tmp_path / "with", files)
    assert len(samples(corpus)) == 2
    assert noted(report, remarks.FFMPEG) == 1
