"""Kaldi's data folders: words, speakers, segments, splits; what cannot be read is refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from kws.audio import codec
from kws.errors import UsageError
from tests.conftest import tone
from tests.corpus.tables.tables_of_tests import Read, write_audio, write_lines


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    write_audio(tmp_path, "wavs/1.wav", "wavs/2.wav", "wavs/3.wav")
    return tmp_path


def data_folder(folder: Path, wav: tuple[str, ...], text: tuple[str, ...], speakers: tuple[str, ...] = ()) -> Path:
    write_lines(folder / "wav.scp", *wav)
    write_lines(folder / "text", *text)
    if speakers:
        write_lines(folder / "utt2spk", *speakers)
    return folder


@pytest.mark.parametrize("is_sorted", [True, False])
def test_words_and_speakers_are_read_in_any_order(corpus: Path, is_sorted: bool) -> None:
    wav, text, speakers = ("a wavs/1.wav", "b wavs/2.wav", "c wavs/3.wav"), ("a YES", "b HEY KWS"), ("a anna", "b bert")
    if not is_sorted:
        wav, text = wav[::-1], (text[1], text[0])
    found = Read(data_folder(corpus / "data", wav, text, speakers).parent)
    assert found.speakers == {"YES/1.wav": "anna", "HEY KWS/2.wav": "bert"}
    assert [(row.audio, row.is_fault) for row in found.left_out] == [("wavs/3.wav", False)]
    assert Read(corpus / "data" / "wav.scp").speakers == found.speakers


def test_folders_of_the_splits_are_read_together(corpus: Path) -> None:
    for number, split in enumerate(("train", "dev", "test"), 1):
        data_folder(corpus / "data" / split, (f"u wavs/{number}.wav",), ("u go",))
    assert Read(corpus).splits == {"go/1.wav": "train", "go/2.wav": "valid", "go/3.wav": "test"}
    assert Read(corpus, ["data/dev", "data/test"]).splits == {"go/2.wav": "valid", "go/3.wav": "test"}


def test_segments_are_excerpts_of_recordings(corpus: Path) -> None:
    (corpus / "long.wav").write_bytes(codec.wav_bytes(tone(440, 48000)))
    data_folder(corpus, ("day long.wav",), ("u1 yes", "u2 no"), ("u1 anna", "u2 anna"))
    write_lines(corpus / "segments", "u1 day 0.5 1.25", "u2 day 1.5 2.5")
    found = Read(corpus)
    assert [(clip.name, clip.span, clip.speaker) for clip in found.clips] == [
        ("yes/long-0000500-0001250.wav", (0.5, 1.25), "anna"), ("no/long-0001500-0002500.wav", (1.5, 2.5), "anna"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "says"), [("b sph2pipe -f wav b.sph |", "the command `sph2pipe"), ("b raw.ark:1234", "archive raw.ark")]
)
def test_commands_and_archives_are_refused_with_their_line(corpus: Path, line: str, says: str) -> None:
    data_folder(corpus, ("a wavs/1.wav", line), ("a yes", "b no"))
    with pytest.raises(UsageError, match=rf"wav.scp:2: .*{says}"):
        Read(corpus)
