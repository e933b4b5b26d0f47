"""A recording in blocks is what codec.decode gives for the whole file, and is refused where that refuses it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from kws.audio import codec, recording_blocks, remarks
from kws.audio.recording_blocks import BLOCK_S, open_recording, read_spans
from tests.conftest import tone

SECONDS = 2.5 * BLOCK_S
LENGTH = round(SECONDS * 48_000)
VOICES = np.stack([tone(300, LENGTH), tone(700, LENGTH)], axis=1) / 32768.0


def write(path: Path, samples: np.ndarray, rate: int = 44_100, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def joined(path: Path) -> codec.Pcm:
    with open_recording(path) as recording:
        return np.concatenate(list(recording))


@pytest.mark.parametrize(("name", "channels", "rate", "subtype"), [
    ("a.wav", 1, 16_000, "PCM_16"), ("a.wav", 1, 16_000, "PCM_24"), ("a.wav", 2, 8_000, "PCM_16"),
    ("a.wav", 2, 44_100, "FLOAT"), ("a.flac", 1, 48_000, "PCM_16"), ("a.ogg", 2, 44_100, "VORBIS"),
    ("a.mp3", 1, 22_050, "MPEG_LAYER_III"), ("a.aiff", 1, 11_025, "PCM_U8"),
])  # fmt: skip
def test_the_blocks_together_are_the_decoded_file(
    tmp_path: Path, name: str, channels: int, rate: int, subtype: str
) -> None:
    path = write(tmp_path / name, VOICES[: round(SECONDS * rate), :channels], rate, subtype)
    with open_recording(path) as recording:
        blocks = list(recording)
        assert recording.duration_s == pytest.approx(SECONDS, abs=0.1)
        again = list(recording)
    assert len(blocks) >= 3
    assert all(0 < len(block) <= 1.1 * BLOCK_S * 16_000 for block in blocks)
    assert np.array_equal(np.concatenate(blocks), codec.decode(path.read_bytes()))
    assert np.array_equal(np.concatenate(again), np.concatenate(blocks))


@pytest.mark.parametrize(("change", "remark"), [
    (lambda wave: np.stack([wave[:, 0], -wave[:, 0]], axis=1), remarks.ANTIPHASE),
    (lambda wave: np.stack([wave[:, 0], 0 * wave[:, 0]], axis=1), remarks.SILENT_CHANNEL),
    (lambda wave: np.round(wave * 32768), remarks.SCALED), (lambda wave: 5 * wave, remarks.CLIPPED),
])  # fmt: skip
def test_what_the_whole_file_decides_is_decided_as_for_the_whole_file(
    tmp_path: Path, change: object, remark: str
) -> None:
    """The first block alone would be read in another way."""
    wave = np.concatenate([np.zeros((round(1.2 * BLOCK_S * 44_100), 2)), VOICES])
    path = write(tmp_path / "a.wav", change(wave), subtype="FLOAT")  # type: ignore[operator]
    decoded = codec.decode_with_remarks(path.read_bytes())
    with open_recording(path) as recording:
        assert np.array_equal(np.concatenate(list(recording)), decoded.pcm)
        assert remark in recording.remarks
        assert recording.source == decoded.source


@pytest.mark.parametrize(("name", "cut", "says"), [
    ("a.wav", 0, "empty"), ("a.wav", 60_000, "ends early"),
    ("a.flac", 60_000, "ends early|damaged"), ("a.ogg", 20_000, "ends early"),
])  # fmt: skip
def test_an_empty_or_cut_file_is_refused(tmp_path: Path, name: str, cut: int, says: str) -> None:
    path = write(tmp_path / name, VOICES, subtype="VORBIS" if name.endswith("ogg") else "PCM_16")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(codec.AudioError, match=says):
        joined(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("no sound at all, but text")
    with pytest.raises(codec.AudioError, match="text"):
        joined(tmp_path / "a.wav")
    write(tmp_path / "b.wav", np.zeros((0, 1)))
    with pytest.raises(codec.AudioError, match="no samples"):
        joined(tmp_path / "b.wav")
    write(tmp_path / "c.wav", np.where(VOICES > 0.25, np.nan, VOICES)[:, 0], subtype="FLOAT")
    with pytest.raises(codec.AudioError, match="not finite"):
        joined(tmp_path / "c.wav")


def test_what_libsndfile_does_not_read_comes_from_ffmpeg_as_it_runs(tmp_path: Path, ffmpeg: str) -> None:
    wav, m4a = write(tmp_path / "a.wav", VOICES), tmp_path / "a.m4a"
    subprocess.run([ffmpeg, "-loglevel", "error", "-i", wav, "-c:a", "aac", m4a], check=True, timeout=60)
    with open_recording(m4a) as recording:
        found = np.concatenate(list(recording))
        assert remarks.FFMPEG in recording.remarks
    assert np.array_equal(found, codec.decode(m4a.read_bytes()))
    m4a.write_bytes(m4a.read_bytes()[:-5000])
    with pytest.raises(codec.AudioError):
        joined(m4a)


def test_spans_are_the_same_samples_and_end_with_the_recording(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", VOICES[: round(SECONDS * 44_100)])
    whole = joined(path)
    spans = [(1.5, 2.25), (-1.0, 0.5), (BLOCK_S - 0.1, BLOCK_S + 0.1), (SECONDS - 0.5, SECONDS + 9), (90.0, 91.0)]
    parts = read_spans(path, spans)
    assert np.array_equal(parts[0], whole[24_000:36_000])
    assert np.array_equal(parts[1], whole[:8_000])
    assert np.array_equal(parts[2], whole[round((BLOCK_S - 0.1) * 16_000) : round((BLOCK_S + 0.1) * 16_000)])
    assert np.array_equal(parts[3], whole[-8_000:])
    assert len(parts[4]) == 0
    assert recording_blocks.read_spans(path, []) == []
