"""Splits of a packing: speakers by name, words in every split, unknown speakers, and the notes about them."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest

from kws import cli
from kws.audio import codec
from kws.corpus.source import split_by_hash
from kws.data import index as index_file
from kws.data.index import Index
from kws.errors import UsageError
from kws.packing import contents, pack
from kws.packing.pack import PackOptions
from tests.conftest import tone

PEOPLE = ("anna", "bert", "carla", "dora", "emil", "fritz")


def write(
    folder: Path, words: tuple[str, ...] = ("yes", "no"), people: tuple[str, ...] = PEOPLE, takes: int = 1
) -> Path:
    """Recordings named PERSON_nohash_TAKE, or WORD and TAKE for the person "", each of another sound."""
    for word in words:
        (folder / "wav" / word).mkdir(parents=True, exist_ok=True)
        for take, person in enumerate(people * takes):
            pcm = tone(300, 800, seed=zlib.crc32(f"{word}{take}".encode()))
            name = f"{person}_nohash_{take}.wav" if person else f"{word}{take}.wav"
            (folder / "wav" / word / name).write_bytes(codec.wav_bytes(pcm))
    return folder / "wav"


def speakers(corpus: Index, split: str) -> set[str]:
    return {corpus.speakers[number].decode() for number in corpus.splits[split].columns["speaker"]}


def test_speakers_by_name_are_in_their_split_and_alone_in_it(tmp_path: Path) -> None:
    options = PackOptions(test_speakers=("anna", "bert"), valid_speakers=("carla",))
    corpus, report = pack.pack([write(tmp_path)], tmp_path / "out", options)
    assert [speakers(corpus, split) for split in ("train", "valid", "test")] == [
        {"dora", "emil", "fritz"}, {"carla"}, {"anna", "bert"},
    ]  # fmt: skip
    assert any("by name: 3 of the speakers" in note for note in report.notes)


def test_with_a_percentage_the_hash_adds_others(tmp_path: Path) -> None:
    people = tuple(f"person{number}" for number in range(40))
    source = write(tmp_path, people=people)
    corpus, _ = pack.pack([source], tmp_path / "out", PackOptions(test_speakers=("person0",), percents=(None, 20.0)))
    assert speakers(corpus, "test") == {"person0"} | {name for name in people if split_by_hash(name, 10, 20) == "test"}
    alone, _ = pack.pack([source], tmp_path / "alone", PackOptions(test_speakers=("person0",)))
    assert speakers(alone, "test") == {"person0"}
    valid = {name for name in people if split_by_hash(name) == "valid"} - {"person0"}
    assert speakers(alone, "valid") == valid, "the hash of the others is as before"


def test_a_name_that_no_recording_has_is_refused_and_corrected_without_decoding_again(tmp_path: Path) -> None:
    source = write(tmp_path)
    with pytest.raises(UsageError, match=r"--test-speakers.*ana.*anna"):
        pack.pack([source], tmp_path / "out", PackOptions(test_speakers=("ana",)))
    with pytest.raises(UsageError, match=r"--valid-speakers.*xyz.*bert, carla"):
        pack.pack([source], tmp_path / "out", PackOptions(valid_speakers=("xyz",)))
    corpus, report = pack.pack([source], tmp_path / "out", PackOptions(test_speakers=("anna",)))
    assert speakers(corpus, "test") == {"anna"}
    assert "resumed" in report.notes[0]


def test_a_speaker_in_two_splits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="anna"):
        pack.pack([write(tmp_path)], tmp_path / "out", PackOptions(test_speakers=("anna",), valid_speakers=("anna",)))


def test_names_against_the_lists_of_the_sources_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path)
    (source / "validation_list.txt").write_text("yes/anna_nohash_0.wav\nno/anna_nohash_0.wav\n")
    with pytest.raises(UsageError, match="anna in valid"):
        pack.pack([source], tmp_path / "out", PackOptions(test_speakers=("anna",)))
    corpus, _ = pack.pack([source], tmp_path / "out", PackOptions(test_speakers=("bert",)))
    assert [speakers(corpus, split) for split in ("valid", "test")] == [{"anna"}, {"bert"}]


def test_a_table_gives_the_splits_of_recordings_that_a_folder_has_too(tmp_path: Path) -> None:
    source = write(tmp_path, people=("anna", "bert", "carla"))
    rows = [f"wav/{word}/anna_nohash_0.wav,{word},anna,test" for word in ("yes", "no")]
    (tmp_path / "clips.csv").write_text("\n".join(["path,word,speaker,split", *rows]))
    corpus, report = pack.pack([source, tmp_path / "clips.csv"], tmp_path / "out")
    assert [speakers(corpus, split) for split in ("train", "test")] == [{"bert", "carla"}, {"anna"}]
    assert not any("no split is given" in note for note in report.notes)


def test_a_split_that_changed_counts_when_a_packing_resumes(tmp_path: Path) -> None:
    source, table = write(tmp_path, people=("anna", "bert", "carla")), tmp_path / "clips.csv"
    people = [(path, word) for word in ("yes", "no") for path in sorted((source / word).iterdir())]

    def give(test: str) -> None:
        rows = [f"{path},{word},{'test' if test in path.name else 'train'}" for path, word in people]
        table.write_text("\n".join(["path,word,split", *rows]))

    give("anna")
    with pytest.raises(UsageError, match="emil"):  # what is decoded is kept
        pack.pack([table], tmp_path / "out", PackOptions(valid_speakers=("emil",)))
    give("bert")
    corpus, _ = pack.pack([table], tmp_path / "out")
    assert speakers(corpus, "test") == {"bert"}


def test_appended_recordings_stay_in_the_split_of_their_speaker(tmp_path: Path) -> None:
    corpus, _ = pack.pack([write(tmp_path / "a")], tmp_path / "out", PackOptions(test_speakers=("anna", "bert")))
    more = write(tmp_path / "b", words=("stop",))
    with pytest.raises(UsageError, match="--valid-speakers anna"):
        pack.pack([more], corpus.root, PackOptions(append=True, valid_speakers=("anna",)))
    before = {name: split for split in ("train", "valid", "test") for name in speakers(corpus, split)}
    larger, _ = pack.pack([more], corpus.root, PackOptions(append=True))
    assert {name: split for split in ("train", "valid", "test") for name in speakers(larger, split)} == before


def test_no_word_and_no_split_is_empty(tmp_path: Path) -> None:
    source = write(tmp_path, words=("yes", "no"), people=("anna", "bert", "carla"))
    corpus, report = pack.pack([source], tmp_path / "out")
    assert all((corpus.splits[split].cells.sum(axis=0) == 1).all() for split in ("train", "valid", "test"))
    assert any("moved" in note for note in report.notes)


def test_words_that_no_move_can_help_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    source = write(tmp_path, words=("rare",), people=("anna",))
    corpus, report = pack.pack([source], tmp_path / "out")
    assert any("'rare' in valid, test" in note for note in report.notes)
    assert corpus.split("train").cells.sum(axis=0)[list(corpus.words).index("rare")] == 1


def test_a_part_is_split_by_hash_alone(tmp_path: Path) -> None:
    source = write(tmp_path, people=("anna", "bert", "carla"))
    corpus, report = pack.pack([source], tmp_path / "out", PackOptions(part=(1, 2)))
    for split in ("train", "valid", "test"):
        assert all(split_by_hash(name) == split for name in speakers(corpus, split))
    assert any("--part" in note for note in report.notes)


def test_unknown_speakers_are_called_unknown(tmp_path: Path) -> None:
    none, report = pack.pack([write(tmp_path / "none", people=("",) * 12)], tmp_path / "out")
    assert any("no speakers are known" in note for note in report.notes)
    assert not any("hash of the speaker" in note for note in report.notes)
    facts = contents.corpus_facts(none)
    assert {row["speakers"] for row in facts["splits"].values()} == {0}
    assert sum(row["clips_by_unknown"] for row in facts["splits"].values()) == 24
    some, report = pack.pack([write(tmp_path / "some", people=("", *PEOPLE))], tmp_path / "partly")
    assert any("2 of 14 clips" in note for note in report.notes)
    assert sum(row["speakers"] for row in contents.corpus_facts(some)["splits"].values()) == len(PEOPLE)


def test_one_speaker_with_most_clips_is_named(tmp_path: Path) -> None:
    people = ("anna",) * 30 + PEOPLE
    _, report = pack.pack([write(tmp_path, people=people)], tmp_path / "out")
    assert any("anna alone has 62 of 72" in note for note in report.notes)


def test_the_command_takes_names_and_files_and_says_what_a_small_test_means(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = write(tmp_path), str(tmp_path / "out")
    (tmp_path / "names.txt").write_text("carla\n\n dora \n")
    names = ["--test-speakers", "anna,bert", "--valid-speakers", str(tmp_path / "names.txt")]
    assert cli.main(["pack", str(source), out, *names, "--processes", "1"]) == 0
    assert "test has 4 clips" in capsys.readouterr().out
    corpus = index_file.load(tmp_path / "out")
    assert [speakers(corpus, split) for split in ("valid", "test")] == [{"carla", "dora"}, {"anna", "bert"}]
    assert cli.main(["inspect", out, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert any("test has 4 clips" in note for note in facts["notes"])
    assert facts["splits"]["test"]["speakers"] == 2
