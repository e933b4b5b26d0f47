"""Files that ffmpeg reads: the same samples everywhere, cut-off files refused, and what to type where it is absent."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kws.audio import codec, remarks
from kws.audio import ffmpeg as ffmpeg_module
from kws.audio.audio_files import DecodedFile, decode_files
from tests.conftest import tone

WAVE = tone(440, 16000)


@pytest.fixture(scope="module")
def encode(ffmpeg: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of the same tone, by ending; `pipe.webm` as a browser records it: without sizes."""
    folder = tmp_path_factory.mktemp("encoded")
    (folder / "a.wav").write_bytes(codec.wav_bytes(WAVE))
    outputs = [str(folder / f"a.{ending}") for ending in ("m4a", "webm", "aac")]
    subprocess.run([ffmpeg, "-v", "error", "-i", str(folder / "a.wav"), *outputs], check=True)
    piped = ["-f", "webm", "pipe:1"]
    webm = subprocess.run([ffmpeg, "-v", "error", "-i", str(folder / "a.wav"), *piped], check=True, capture_output=True)
    (folder / "pipe.webm").write_bytes(webm.stdout)
    return {path.name: path for path in folder.iterdir()}


def similarity(pcm: codec.Pcm) -> float:
    """How alike a recording and the tone are, where they overlap: 1 for the same but for its phase."""
    spectra = [np.abs(np.fft.rfft(part[:15000].astype(float))) for part in (pcm, WAVE)]
    return float(np.dot(*spectra) / np.prod([np.linalg.norm(spectrum) for spectrum in spectra]))


@pytest.mark.parametrize("name", ["a.m4a", "pipe.webm", "a.aac"])
def test_what_ffmpeg_reads_is_decoded(encode: dict[str, Path], name: str) -> None:
    decoded = codec.decode_with_remarks(encode[name].read_bytes())
    assert similarity(decoded.pcm) > 0.98
    assert decoded.remarks == (remarks.FFMPEG,)


def test_the_ending_does_not_count_and_all_ways_of_reading_agree(encode: dict[str, Path], tmp_path: Path) -> None:
    renamed = tmp_path / "a; echo $x .wav"
    renamed.write_bytes(encode["a.m4a"].read_bytes())
    whole = codec.decode(renamed.read_bytes())
    (file,) = decode_files([renamed])
    assert isinstance(file, DecodedFile)
    assert np.array_equal(file.pcm, whole)
    with renamed.open("rb") as opened:
        spans = [codec.decode_span_with_remarks(opened, start, start + 0.25) for start in (0.0, 0.5)]
        assert abs(codec.duration_s(opened) - len(whole) / 16000) < 1e-3
    for start, span in zip((0, 8000), spans, strict=True):
        assert np.abs(span.pcm.astype(int) - whole[start : start + 4000]).max() <= 1
        assert span.remarks == (remarks.FFMPEG,)
    in_memory = codec.decode_span(io.BytesIO(renamed.read_bytes()), 0.5, 0.75)
    assert np.array_equal(in_memory, spans[1].pcm)


@pytest.mark.parametrize("name", ["a.m4a", "a.webm", "a.aac"])
def test_cut_off_files_are_refused(encode: dict[str, Path], name: str) -> None:
    data = encode[name].read_bytes()
    with pytest.raises(codec.AudioError, match="early"):
        codec.decode(data[: len(data) * 2 // 3])


def lost_sync() -> bytes:
    """A FLAC file with foreign bytes between two frames, at which libsndfile gives up."""
    data = codec.flac_bytes((np.random.default_rng(0).standard_normal(16000) * 3000).astype(np.int16))
    second = data.index(b"\xff\xf8", data.index(b"\xff\xf8") + 2)
    return data[:second] + bytes(300) + data[second:]


def test_flac_that_libsndfile_gives_up_is_read_if_ffmpeg_reads_all_of_it(ffmpeg: str) -> None:
    wanted = (np.random.default_rng(0).standard_normal(16000) * 3000).astype(np.int16)
    decoded = codec.decode_with_remarks(lost_sync())
    assert np.array_equal(decoded.pcm, wanted)
    assert decoded.remarks == (remarks.FFMPEG_INSTEAD,)
    damaged = bytearray(codec.flac_bytes(wanted))
    damaged[9000:9100] = bytes(100)
    for data in (bytes(damaged), lost_sync()[:-3000]):
        with pytest.raises(codec.AudioError, match="ffmpeg"):
            codec.decode(data)


def test_without_ffmpeg_the_command_that_converts_is_given(
    encode: dict[str, Path], monkeypatch: pytest.MonkeyPatch, no_ffmpeg: None
) -> None:
    with pytest.raises(codec.AudioError, match=r"MP4.*ffmpeg -i FILE -ar 16000 -ac 1"):
        codec.decode(encode["a.m4a"].read_bytes())
    with pytest.raises(codec.AudioError, match=r"not readable.*ffmpeg -i FILE"):
        codec.decode(lost_sync())


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"<html>404</html>", "web page"), (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (bytes(5000), "zeros"), (np.arange(3000, dtype="<i2").tobytes(), "s16le"), (b"\0\1" * 1000, "no header"),
    ],
)  # fmt: skip
def test_what_is_no_audio_is_named_and_not_guessed(data: bytes, what: str) -> None:
    with pytest.raises(codec.AudioError, match=what):
        codec.decode(data)


def test_a_playlist_reads_no_other_file(ffmpeg: str, tmp_path: Path) -> None:
    (tmp_path / "secret.wav").write_bytes(codec.wav_bytes(WAVE))
    for text in (
        f"ffconcat version 1.0\nfile '{tmp_path}/secret.wav'\n",
        f"#EXTM3U\n#EXTINF:1,\n{tmp_path}/secret.wav\n",
    ):
        with pytest.raises(codec.AudioError):
            codec.decode(text.encode())


@pytest.fixture
def no_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A PATH without ffmpeg."""
    monkeypatch.setenv("PATH", "")
    ffmpeg_module.program.cache_clear()
    yield
    ffmpeg_module.program.cache_clear()


def test_a_video_without_sound_is_said_to_have_none(ffmpeg: str, tmp_path: Path) -> None:
    source = ["-f", "lavfi", "-i", "color=black:s=32x32:r=5:d=0.4"]
    subprocess.run([ffmpeg, "-v", "error", *source, str(tmp_path / "a.mp4")], check=True)
    with pytest.raises(codec.AudioError, match="no sound"):
        codec.decode_with_remarks((tmp_path / "a.mp4").read_bytes())
