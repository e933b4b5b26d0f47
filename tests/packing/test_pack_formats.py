"""Every audio format that soundfile reads, at any rate and with any channels, becomes 16 kHz mono; truncated files are
left out."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
import soundfile

from kws.audio import codec
from kws.data.index import Index
from kws.packing import pack

# extension, libsndfile's format and subtype, rate, channels; largest error of the samples re full scale
KINDS = {
    "phone": ("wav", "WAV", "PCM_U8", 8000, 1, 0.01),
    "mulaw": ("wav", "WAV", "ULAW", 8000, 1, 0.03),
    "recorder": ("wav", "WAV", "PCM_24", 44100, 2, 0.001),
    "studio": ("wav", "WAVEX", "PCM_32", 48000, 6, 0.001),
    "editor": ("wav", "WAV", "FLOAT", 32000, 2, 0.001),
    "double": ("wav", "WAV", "DOUBLE", 22050, 1, 0.001),
    "long": ("wav", "RF64", "PCM_16", 11025, 1, 0.001),
    "wave64": ("w64", "W64", "PCM_24", 48000, 1, 0.001),
    "odd-rate": ("wav", "WAV", "PCM_16", 12345, 1, 0.001),
    "flac": ("flac", "FLAC", "PCM_24", 44100, 2, 0.001),
    "flac8": ("flac", "FLAC", "PCM_S8", 8000, 1, 0.01),
    "vorbis": ("ogg", "OGG", "VORBIS", 44100, 2, 0.03),
    "opus": ("opus", "OGG", "OPUS", 48000, 1, 0.03),
    "voice-note": ("ogg", "OGG", "OPUS", 16000, 1, 0.03),
    "mp3": ("mp3", "MP3", "MPEG_LAYER_III", 44100, 2, 0.03),
    "mac": ("aiff", "AIFF", "PCM_16", 44100, 2, 0.001),
    "mac-little": ("aif", "AIFF", "FLOAT", 48000, 1, 0.001),
    "unix": ("au", "AU", "PCM_16", 8000, 1, 0.001),
    "apple": ("caf", "CAF", "ALAC_16", 44100, 2, 0.001),
    "apple-pcm": ("caf", "CAF", "PCM_24", 22050, 1, 0.001),
}
SECONDS, HZ = 0.8, 440


def sine(rate: int) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * HZ * np.arange(round(SECONDS * rate)) / rate)


def written(form: str, subtype: str, rate: int, channels: int) -> bytes:
    """The sine, in channels that differ by what cancels in their mean."""
    apart = 0.05 * np.linspace(-1, 1, channels) if channels > 1 else np.zeros(1)
    buffer = io.BytesIO()
    soundfile.write(buffer, sine(rate)[:, None] + apart, rate, format=form, subtype=subtype)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Index, pack.PackReport]:
    """A folder with every kind whole, and cut short."""
    folder = tmp_path_factory.mktemp("formats")
    for word in ("whole", "cut"):
        (folder / "wav" / word).mkdir(parents=True)
    for name, (ending, *form, _) in KINDS.items():
        data = written(*form)  # type: ignore[arg-type]
        (folder / "wav" / "whole" / f"{name}.{ending}").write_bytes(data)
        (folder / "wav" / "cut" / f"{name}.{ending}").write_bytes(data[: len(data) * 4 // 5])
    return pack.pack([folder / "wav"], folder / "out")


def member(corpus: Index, name: str) -> bytes:
    for split in corpus.splits.values():
        for shard in split.shards:
            with tarfile.open(corpus.root / shard.name) as tar:
                if name in tar.getnames():
                    return tar.extractfile(name).read()  # type: ignore[union-attr]
    raise AssertionError(name)


@pytest.mark.parametrize("name", KINDS)
def test_every_format_becomes_the_same_16_khz_samples(packed: tuple[Index, pack.PackReport], name: str) -> None:
    pcm = codec.decode(member(packed[0], f"whole_{name}.wav")) / 32768
    wanted = sine(16000)
    assert abs(len(pcm) - len(wanted)) <= 1
    inner = slice(1600, len(wanted) - 1600)  # lossy formats swing in and out
    assert np.abs(pcm[inner] - wanted[inner]).max() < KINDS[name][-1]


def test_truncated_files_are_left_out_and_reported(packed: tuple[Index, pack.PackReport]) -> None:
    corpus, report = packed
    assert corpus.words == ("whole",)
    assert sum(map(len, corpus.splits.values())) == len(KINDS)
    assert sorted(line.split("cut/")[1].split(".")[0] for line in report.skipped) == sorted(KINDS)
    for line in report.skipped:
        assert any(why in line for why in ("ends early", "not readable as audio", "no samples"))
