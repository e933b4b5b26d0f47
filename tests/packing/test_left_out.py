"""Every file of a source is packed, or counted and listed; lists of splits that do not fit are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile

from kws import cli
from kws.audio import codec
from kws.corpus.source import Sources
from kws.errors import UsageError
from kws.packing import pack
from kws.packing.decoding import clip_key
from tests.conftest import tone

FORMATS = {".wave": ("WAV", "PCM_16"), ".oga": ("OGG", "VORBIS"), ".snd": ("AU", "PCM_16"), ".aifc": ("AIFF", "PCM_16"),
           ".rec": ("WAV", "PCM_16")}  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for word, hz in (("yes", 300), ("no", 500)):
        (tmp_path / "wav" / word).mkdir(parents=True)
        for number in range(4):
            pcm = tone(hz, 800, seed=hz + number)
            (tmp_path / "wav" / word / f"s{number}_nohash_0.wav").write_bytes(codec.wav_bytes(pcm))
    return tmp_path / "wav"


def listed(out: Path) -> dict[str, str]:
    rows = (out / "index" / "left_out.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return {name: reason for _, name, reason in (row.split("\t") for row in rows)}


def test_the_content_decides_and_all_else_is_counted(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, (ending, (kind, subtype)) in enumerate(FORMATS.items()):
        name = source / "yes" / f"t{number}_nohash_0{ending}"
        soundfile.write(name, tone(700, 800, seed=number), 16000, format=kind, subtype=subtype)
    hidden = ("__MACOSX/yes/._a.wav", ".git/config", "yes/.DS_Store", "no/Thumbs.db")
    others = ("README", "yes/notes.txt", "no/picture.jpg", "odd\nname.txt")
    near = "_near_misses_/yes/s0_nohash_0.wav"
    (source / near).parent.mkdir(parents=True)
    (source / near).write_bytes(codec.wav_bytes(tone(900, 800)))
    for name in (*hidden, *others):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b"\0\5\26\7" + bytes(100))
    assert cli.main(["pack", str(source), str(tmp_path / "out"), "--json"]) == cli.OK
    facts = json.loads(capsys.readouterr().out)
    assert sum(facts["clips"].values()) == 8 + len(FORMATS)
    assert facts["left_out"] == {"hidden": 4, "near misses": 1, ".txt": 2, ".jpg": 1, "without ending": 1}
    assert set(listed(tmp_path / "out")) == {*hidden, near, *others[:3], "odd\\nname.txt"}


def test_nothing_left_out_leaves_no_list_and_the_list_is_no_part_of_the_corpus(source: Path, tmp_path: Path) -> None:
    clean, _ = pack.pack([source], tmp_path / "clean")
    assert not (clean.root / "index" / "left_out.tsv").exists()
    (source / "notes.txt").write_text("mine")
    noted, report = pack.pack([source], tmp_path / "noted")
    assert noted.content_id == clean.content_id
    assert report.left_out == {".txt": 1}


def test_a_damaged_file_is_listed_and_an_appended_corpus_keeps_the_list(source: Path, tmp_path: Path) -> None:
    (source / "yes" / "broken.wav").write_bytes(b"")
    pack.pack([source], tmp_path / "out")
    more = tmp_path / "more" / "yes"
    more.mkdir(parents=True)
    (more / "s9_nohash_0.wav").write_bytes(codec.wav_bytes(tone(900, 800)))
    (more / "notes.txt").write_text("mine")
    pack.pack([tmp_path / "more"], tmp_path / "out", pack.PackOptions(append=True))
    assert set(listed(tmp_path / "out")) == {"yes/broken.wav", "yes/notes.txt"}


@pytest.mark.parametrize("form", ["./{}", "\ufeff{}", "{}\r", "wav/{}", "  {}"])
def test_entries_of_lists_are_understood_in_other_forms(source: Path, form: str) -> None:
    (source / "testing_list.txt").write_text(form.format("yes/s1_nohash_0.wav") + "\n")
    corpus = Sources([source])
    list(corpus)
    assert corpus.found.listed == {"yes/s1_nohash_0.wav": "test"}


def test_entries_without_an_ending_or_with_backslashes_are_understood(source: Path, tmp_path: Path) -> None:
    (source / "testing_list.txt").write_text("yes\\s1_nohash_0.wav\nno/s1_nohash_0\n")
    corpus, _ = pack.pack([source], tmp_path / "out")
    assert len(corpus.splits["test"]) == 2


def test_a_list_of_which_nothing_fits_is_refused(source: Path, tmp_path: Path) -> None:
    (source / "testing_list.txt").write_text("data/audio/a.wav\ndata/audio/b.wav\n")
    with pytest.raises(UsageError, match=r"testing_list.txt: .*'data/audio/a.wav'.*_nohash_0.wav") as refused:
        pack.pack([source], tmp_path / "out")
    assert "resume" in str(refused.value)


def test_repeated_file_names_in_folders_of_speakers_and_splits_are_all_packed(source: Path, tmp_path: Path) -> None:
    for word in ("yes", "no"):
        for split in ("train", "val", "test"):
            path = tmp_path / "own" / split / word / "0.wav"
            path.parent.mkdir(parents=True)
            path.write_bytes(codec.wav_bytes(tone(200 + 10 * len(str(path)), 800, seed=len(split) * len(word))))
    corpus, _ = pack.pack([tmp_path / "own"], tmp_path / "out", pack.PackOptions(allow_leaks=True))
    assert {name: len(split) for name, split in corpus.splits.items()} == {
        "train": 2,
        "valid": 2,
        "test": 2,
        "noise": 0,
    }


def test_a_pattern_for_whole_paths_gives_word_speaker_and_split(source: Path) -> None:
    corpus = Sources([source], "{word}/{speaker}_{}_{}")
    assert {(one.word, one.speaker) for one in corpus} == {(w, f"s{n}") for w in ("yes", "no") for n in range(4)}
    with pytest.raises(UsageError, match="--names"):
        list(Sources([source], "{speaker}/{}/{word}/{}"))


def test_names_too_long_for_a_file_system_get_a_shorter_key() -> None:
    keys = {clip_key(f"yes/{'ä' * 120}{number}.wav") for number in range(3)}
    assert len(keys) == 3
    assert all(len(f"{key}-12345678.json".encode()) <= 255 for key in keys)
