"""The open-set figure in the terminal and on the report page."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from kws.results.open_set import has_open_set
from kws.results.report import open_set_table, write_report
from tests.results.made_runs import HOSTILE, Row, fill, result_of


def with_figure(sound: str) -> Row:
    def shares(name: str, values: list[float | None]) -> Row:
        return {name: values, "interval95": [[0.1, 0.3]] * len(values)}

    figure = {
        "thresholds": [0.5, 0.9],
        "sounds": [{"sound": sound, "n": 1000, "of": 6931, **shares("taken", [0.2, 0.125])}],
        "words": {"n": 30, **shares("missed", [0.05, None])},
        "digital_silence": {"word": sound, "probability": 0.78},
    }
    return result_of(["yes", "no"]) | {"open_set": figure}


def test_the_terminal_shows_shares_with_their_intervals() -> None:
    console = Console(file=io.StringIO(), width=120)
    console.print(open_set_table(with_figure("[foreign] words")))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for wanted in ("[foreign] words", "1,000 of 6,931", "12.5 %", "10.0 to 30.0", "78.0 %"):
        assert wanted in text
    assert open_set_table(result_of(["yes", "no"])) == ""


def test_the_page_has_the_table_with_escaped_names(tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    (tmp_path / "config.toml").write_text("")
    fill(tmp_path, ["yes", "no"])
    assert not has_open_set({"open_set": "damaged"})
    (tmp_path / "eval" / "test.json").write_text(json.dumps(with_figure(HOSTILE)))
    page = write_report(tmp_path)[0].read_text()
    assert "Open set" in page
    assert "12.5" in page
    assert HOSTILE not in page
