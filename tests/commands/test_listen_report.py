from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from kws.audio.microphone import Block
from kws.commands.listen_display import ScoreBars
from kws.commands.listen_report import ListenReport
from kws.streaming.events import Event
from kws.streaming.listening import ChunkResult

FOUND = ChunkResult(None, [Event(1.5, "yes", 0.9)], [Event(0.5, "no", 0.4)], [Path("clips/yes/me_nohash_1.wav")])
BLOCKS = [Block(np.full(8_000, 100, np.int16), lost) for lost in (False, True, False, True)]


def report(as_json: bool, capsys: pytest.CaptureFixture[str]) -> tuple[list[str], list[str]]:
    """The lines on stdout and stderr of two seconds in which samples were lost twice."""
    written = ListenReport(as_json, None)
    for block in BLOCKS:
        written.add_block(block)
    written.add(FOUND)
    written.end()
    captured = capsys.readouterr()
    return captured.out.splitlines(), captured.err.splitlines()


def test_overruns_are_said_once_and_counted_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = report(as_json=False, capsys=capsys)
    assert [line.split() for line in out[:2]] == [["1.50", "s", "yes", "90.0%"], ["0.50", "s", "(no:", "near", "miss)"]]
    assert out[2] == "2.0 s, 1 event (yes 1), 1 near miss, 2 overruns"
    assert len(err) == 1
    assert "overrun" in err[0]


def test_json_has_an_object_for_each_event_near_miss_and_file(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.loads(line) for line in report(as_json=True, capsys=capsys)[0]]
    assert rows == [
        {"kind": "event", "time_s": 1.5, "word": "yes", "probability": 0.9},
        {"kind": "near_miss", "time_s": 0.5, "word": "no", "probability": 0.4},
        {"kind": "kept", "file": "clips/yes/me_nohash_1.wav"},
        {"kind": "end", "seconds": 2.0, "events": {"yes": 1}, "near_misses": {"no": 1}, "overruns": 2, "kept": 1},
    ]


def shown(bars: ScoreBars, width: int, height: int) -> list[str]:
    console = Console(width=width, file=None, record=True, quiet=False)
    with console.capture() as captured:
        console.print(bars.table(width, height))
    return captured.get().rstrip("\n").split("\n")


def test_a_bar_shows_the_score_the_highest_of_the_last_second_and_the_threshold() -> None:
    bars = ScoreBars(["yes", "no"], np.array([0.8, 0.5]))
    bars.push(1.0, np.array([0.5, 0.0]))
    bars.push(1.9, np.array([0.1, 0.0]))
    yes, no = shown(bars, 80, 10)
    assert yes.split() == ["yes", "██▒▒▒▒▒▒▒▒·····│····", "10%", "(50%)"]
    assert no.split() == ["no", "·········│··········", "0%", "(0%)"]
    bars.push(2.1, np.array([0.1, 0.0]))
    assert shown(bars, 80, 10)[0].split()[-1] == "(10%)"


def test_many_words_take_several_columns_and_where_these_are_too_few_the_highest_are_shown() -> None:
    words = [f"w{number}" for number in range(30)]
    bars = ScoreBars(words, np.full(30, 0.5))
    bars.push(1.0, np.linspace(0.0, 0.9, 30))
    assert len(shown(bars, 200, 10)) == 10
    text = "\n".join(shown(bars, 60, 5))
    assert [word for word in words if f" {word} " in text] == words[-5:]
