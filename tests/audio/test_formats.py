"""Which files hold sound: by name and by their first bytes."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from kws.audio import formats

HISS = np.random.default_rng(0).standard_normal(16000) * 0.1
ID3 = b"ID3\x03\0\0" + bytes([0, 0, 1, 0]) + bytes(128)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("go/a.WAV", "audio"), ("a.wave", "audio"), ("a.oga", "audio"), ("a.aifc", "audio"), ("a.m4a", "audio"),
        ("a.amr", "audio"), ("a.txt", "other"), ("a.TextGrid", "other"), ("a.jpg", "other"), ("README", "maybe"),
        ("v1.2/take", "maybe"), ("take.raw", "maybe"), ("take.0001", "maybe"),
    ],
)  # fmt: skip
def test_the_ending_says_what_is_worth_reading(name: str, kind: str) -> None:
    assert formats.name_kind(name) == kind


@pytest.mark.parametrize(
    "form", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3", "NIST", "VOC", "IRCAM"]
)
def test_what_soundfile_writes_is_known_by_its_first_bytes(form: str) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, HISS, 16000, format=form, subtype="VORBIS" if form == "OGG" else None)
    found = formats.audio_format(buffer.getvalue()[: formats.HEAD_BYTES])
    assert found is not None
    assert found.by_soundfile
    assert formats.audio_format(ID3 + buffer.getvalue()[: formats.HEAD_BYTES]) == found


@pytest.mark.parametrize("ending", ["m4a", "aac", "webm", "wma", "ac3", "ts"])
def test_what_only_ffmpeg_reads_is_known_by_its_first_bytes(ffmpeg: str, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    tone = ["-f", "lavfi", "-i", "sine=duration=0.5"]
    subprocess.run([ffmpeg, "-v", "error", *tone, str(path)], check=True)
    found = formats.audio_format(path.read_bytes()[: formats.HEAD_BYTES])
    assert found is not None
    assert not found.by_soundfile


@pytest.mark.parametrize("level", [1, 3, 30, 3000])
def test_samples_without_a_header_are_no_format(level: int) -> None:
    rng = np.random.default_rng(level)
    for _ in range(50):
        assert formats.audio_format((rng.standard_normal(2048) * level).astype("<i2").tobytes()) is None


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"<!DOCTYPE html>\n<html><body>404", "web page"), (b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
        (b"PK\x03\x04", "ZIP"), ("héllo".encode(), "text"), (b"\0\1\2", ""), (b"", ""),
    ],
)  # fmt: skip
def test_other_files_are_named(head: bytes, what: str) -> None:
    assert formats.audio_format(head) is None
    assert what in formats.describe_other(head)
    assert bool(what) == bool(formats.describe_other(head))


def test_an_id3_tag_is_as_long_as_it_says() -> None:
    assert formats.id3_bytes(ID3 + ID3 + b"RIFF") == 2 * len(ID3)
    assert formats.id3_bytes(b"RIFF") == formats.id3_bytes(b"ID3") == 0
