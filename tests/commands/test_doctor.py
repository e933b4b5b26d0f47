"""The table of `kws doctor` at the widths of a log file and of a wide terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from kws import cli
from kws.commands.doctor import table
from kws.doctor.findings import not_checked, ok, problem

ROWS = [
    ok("torch", "2.13.0+cpu, built for CPUs", "one build on all ranks"),
    problem(
        "clocks", "node2 (ranks 2-3): clock 61 s ahead of node1", "less than 1 s apart", "synchronise them", [2, 3]
    ),
    not_checked("config", "shards, cache and a step: no CONFIG given", "kws doctor CONFIG"),
]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_every_row_says_what_was_found_wanted_and_what_to_do(width: int) -> None:
    out = io.StringIO()
    Console(file=out, width=width).print(table(ROWS, width))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    words = text.split()
    for row in ROWS:
        assert {*row.check.split(), *row.found.split(), *row.wanted.split(), *row.advice.split()} <= set(words)
    assert words.count("problem") == 1


@pytest.mark.parametrize("seconds", ["0", "nan", "inf", "1e10"])
def test_a_timeout_without_meaning_is_refused(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--timeout", seconds]) == 2
    assert "--timeout" in capsys.readouterr().err
