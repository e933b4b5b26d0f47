"""The Multilingual Spoken Words Corpus: splits, speakers, invalid rows, partial downloads, its WAV form."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.corpus.tables.tables_of_tests import Read, write_audio, write_lines

ROWS = (
    "TRAIN,yes/common_voice_en_1.opus,yes,True,anna,FEMALE",
    "DEV,yes/common_voice_en_2.opus,yes,True,bert,MALE",
    "TEST,no/common_voice_en_1.opus,no,True,carl,NAN",
    "TRAIN,no/common_voice_en_4.opus,no,False,NA,NAN",
    "TEST,gone/common_voice_en_5.opus,gone,True,dora,NAN",
)


@pytest.fixture(params=["opus", "wav"])
def corpus(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    names = [row.split(",")[1].replace("opus", request.param) for row in ROWS[:4]]
    write_audio(tmp_path / "clips", *names)
    write_lines(tmp_path / "en_splits.csv", "SET,LINK,WORD,VALID,SPEAKER,GENDER", *ROWS)
    return tmp_path


def test_splits_speakers_and_valid_rows_are_read(corpus: Path) -> None:
    found = Read(corpus)
    assert {name.partition(".")[0]: split for name, split in found.splits.items()} == {
        "yes/common_voice_en_1": "train", "yes/common_voice_en_2": "valid", "no/common_voice_en_1": "test",
    }  # fmt: skip
    assert sorted(found.speakers.values()) == ["anna", "bert", "carl"]
    assert [row.is_fault for row in found.left_out] == [False, False]
    assert "not VALID" in found.left_out[0].reason


def test_one_table_for_each_split_is_read_like_the_whole(corpus: Path) -> None:
    whole = Read(corpus).splits
    for name in ("train", "dev", "test"):
        rows = [row.split(",", 1)[1] for row in ROWS if row.lower().startswith(name)]
        write_lines(corpus / f"en_{name}.csv", "LINK,WORD,VALID,SPEAKER,GENDER", *rows)
    assert Read(corpus).splits == whole
    (corpus / "en_splits.csv").unlink()
    assert Read(corpus).splits == whole
