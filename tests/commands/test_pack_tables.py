"""`kws pack FOLDER DIR` with tables in it: found and noted; `--table` names one; a row without its file is a fault."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kws import cli
from tests.corpus.tables.tables_of_tests import write_audio, write_lines


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Twelve recordings in one folder, and two tables."""
    root = tmp_path / "source"
    write_audio(root, *(f"wavs/{number}.wav" for number in range(12)))
    rows = [f"wavs/{number}.wav,{('yes', 'no')[number % 2]},s{number}" for number in range(12)]
    write_lines(root / "all.csv", "file_name,label,speaker_id", *rows)
    write_lines(root / "few.csv", "file_name,label,speaker_id", *rows[:4], "wavs/gone.wav,yes,s9")
    return root


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of kws pack."""
    code = cli.main(["pack", *words, "--processes", "1"])
    streams = capsys.readouterr()
    return code, streams.out, streams.err


def test_the_table_that_is_named_is_packed(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, str(source), str(tmp_path / "out"))
    assert code == cli.USAGE
    assert "all.csv, few.csv" in err
    assert "--table" in err
    code, out, _ = run(capsys, str(source), str(tmp_path / "out"), "--table", "all.csv", "--json")
    packed = json.loads(out)
    assert code == cli.OK
    assert sum(packed["clips"].values()) == 12
    assert any("speaker_id" in note for note in packed["notes"])


def test_a_row_without_its_file_is_a_fault(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, str(source), str(tmp_path / "out"), "--table", "few.csv")
    assert code == cli.FAILED
    assert "gone.wav" in err
    assert "8 audio files" in out
    assert "wavs/11.wav" in (tmp_path / "out" / "index" / "left_out.tsv").read_text()
