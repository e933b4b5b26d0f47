"""JSON manifests: usual keys, excerpts, splits by file names, damaged lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kws.audio import codec
from kws.errors import UsageError
from tests.conftest import tone
from tests.corpus.tables.tables_of_tests import Read, write_audio, write_json_lines, write_lines


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_audio(tmp_path, "wavs/1.wav", "wavs/2.wav", "wavs/3.wav")
    (tmp_path / "long.wav").write_bytes(codec.wav_bytes(tone(440, 48000)))
    return tmp_path


@pytest.mark.parametrize("key", ["command", "label", "text", "word"])
def test_the_usual_keys_are_read(folder: Path, key: str) -> None:
    row = {"audio_filepath": "wavs/1.wav", "duration": 0.1, "offset": 0.0, key: "yes", "speaker": 7}
    found = Read(write_json_lines(folder / "train_manifest.json", [row]))
    assert [(clip.name, clip.speaker, clip.span) for clip in found.clips] == [("yes/1.wav", "7", None)]


@pytest.mark.parametrize("as_list", [False, True])
def test_lists_and_lines_with_a_mark_and_crlf_are_the_same(folder: Path, as_list: bool) -> None:
    rows = [{"path": f"wavs/{number}.wav", "word": "yes"} for number in (1, 2)]
    lines = [json.dumps(rows, indent=1)] if as_list else [f"{json.dumps(row)}\r\n" for row in rows]
    found = Read(write_lines(folder / "clips.json", *lines, encoding="utf-8-sig"))
    assert found.names == ["yes/1.wav", "yes/2.wav"]


def test_manifests_of_the_splits_are_read_together(folder: Path) -> None:
    for number, name in enumerate(("train_manifest", "validation_manifest", "test_manifest"), 1):
        write_json_lines(folder / f"{name}.json", [{"audio_filepath": f"wavs/{number}.wav", "command": "go"}])
    (folder / "vocab.json").write_text('{"go": 1}')
    assert Read(folder).splits == {"go/1.wav": "train", "go/2.wav": "valid", "go/3.wav": "test"}


def test_a_single_split_does_not_fill_one_split_with_everything(folder: Path) -> None:
    write_json_lines(folder / "train_manifest.json", [{"audio_filepath": "wavs/1.wav", "command": "go"}])
    found = Read(folder)
    assert found.splits == {"go/1.wav": ""}
    assert "train" in found.notes


def test_offsets_give_excerpts_and_a_whole_file_stays_whole(folder: Path) -> None:
    rows = [
        {"audio_filepath": "long.wav", "offset": 0.0, "duration": 1.0, "command": "yes"},
        {"audio_filepath": "long.wav", "offset": 1.5, "duration": 1.0, "command": "no"},
        {"audio_filepath": "wavs/1.wav", "offset": 0.0, "duration": 0.1, "command": "yes"},
    ]
    found = Read(write_json_lines(folder / "clips.jsonl", rows))
    assert {clip.path: clip.span for clip in found.clips if "wavs" in clip.path} == {"wavs/1.wav": None}
    assert [clip.span for clip in found.clips if clip.path == "long.wav"] == [(0.0, 1.0), (1.5, 2.5)]


def test_a_file_that_is_longer_than_its_line_says_gives_an_excerpt(folder: Path) -> None:
    row = {"audio_filepath": "long.wav", "offset": 0.0, "duration": 1.0, "command": "yes"}
    assert Read(write_json_lines(folder / "clips.jsonl", [row])).clips[0].span == (0.0, 1.0)


def test_a_line_that_is_repeated_is_one_clip_and_under_two_words_a_fault(folder: Path) -> None:
    rows = [{"audio_filepath": f"wavs/{name}.wav", "command": word} for name, word in ("1a", "1a", "1b", "2a")]
    rows = [{"audio_filepath": f"wavs/{row['audio_filepath'][5]}.wav", "command": row["command"]} for row in rows]
    found = Read(write_json_lines(folder / "clips.jsonl", rows))
    assert found.names == ["a/1.wav", "a/2.wav"]
    assert [row.is_fault for row in found.left_out] == [False, True]


def test_the_same_audio_in_two_splits_is_a_fault(folder: Path) -> None:
    for name in ("train", "test"):
        write_json_lines(folder / f"{name}.json", [{"audio_filepath": "wavs/1.wav", "command": "go"}])
    assert [row.is_fault for row in Read(folder).left_out] == [True]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"audio_filepath": "wavs/1.wav", "comm', "damaged JSON"),
        ('["wavs/1.wav", "yes"]', "found"),
        ('{"audio_filepath": "wavs/1.wav", "command": "a/b"}', "the word 'a/b'"),
        ('{"audio_filepath": "wavs/1.wav"}', "no word"),
        ('{"command": "yes"}', "no path"),
        ('{"audio_filepath": "wavs/1.wav", "command": "x", "offset": 1, "duration": -1}', "from 1 to 0 s"),
    ],
)
def test_a_mistake_names_its_line(folder: Path, line: str, says: str) -> None:
    path = write_lines(folder / "clips.jsonl", '{"audio_filepath": "wavs/2.wav", "command": "go"}', "", line)
    with pytest.raises(UsageError, match=rf"clips.jsonl:3: {says}"):
        Read(path)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"[1, 2]", b"\xff\xfe", b'{"text": "yes"}', b"[{", b"{\x00"])
def test_a_file_that_is_no_manifest_is_refused(folder: Path, data: bytes) -> None:
    (folder / "clips.json").write_bytes(data)
    with pytest.raises(UsageError, match=r"clips.json"):
        Read(folder / "clips.json")
    assert not Read(folder).tables


def test_wekws_lists_and_the_words_of_its_numbers_are_read(folder: Path) -> None:
    rows = [{"key": f"u{n}", "txt": str(n - 1), "duration": 0.1, "wav": f"/data/wavs/{n + 1}.wav"} for n in (0, 1)]
    path = write_json_lines(folder / "data" / "train" / "data.list", rows)
    assert Read(path).names == ["-1/1.wav", "0/2.wav"]
    write_lines(folder / "data" / "dict" / "words.txt", "<filler> -1", "Hey_Snips 0")
    found = Read(path)
    assert found.names == ["Hey_Snips/2.wav", "filler/1.wav"]
    assert "words.txt" in found.notes
