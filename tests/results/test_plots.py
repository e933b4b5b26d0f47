"""The figures for plotly."""

from __future__ import annotations

import json

from kws.metrics import summarise_confusion
from kws.results.plots import confusion_matrix, training_curves
from tests.results.made_runs import HOSTILE, epoch, start, step


def test_curves_have_the_recorded_values_and_mark_each_resume() -> None:
    events = [start(1, 0), step(1, 2.5), epoch(0, 3), step(4, float("nan")), start(2, 3), step(5, 0.5)]
    loss, accuracy, *others = training_curves(events)
    steps, train, valid = loss["data"]
    assert (steps["x"], steps["y"]) == ([1, 5], [2.5, 0.5])
    assert (train["x"], train["y"], valid["y"]) == ([3], [1.0], [1.1])
    assert [line["y"] for line in accuracy["data"]] == [[50.0] * 3, [50.0], [50.0]]
    assert [shape["x0"] for shape in loss["layout"]["shapes"]] == [3]
    assert [plot["layout"]["title"]["text"] for plot in others] == [
        "learning rate",
        "clips per second",
        "waiting for data, % of the step",
    ]
    json.dumps(loss, allow_nan=False)
    assert training_curves([start(1, 0)]) == []


def test_the_points_of_a_long_run_are_thinned() -> None:
    (line,) = training_curves([step(number) for number in range(1, 50_001)])[2]["data"]
    assert 1000 < len(line["x"]) <= 2000
    assert line["x"][0] == 1


def test_the_hover_text_of_a_cell_has_words_clips_and_share() -> None:
    plot = confusion_matrix(summarise_confusion([[9, 1], [0, 0]], ["yes", HOSTILE]))
    (heat,) = plot["data"]
    assert heat["hovertext"][0][0] == "true: yes<br>predicted: yes<br>9 clips, 90.0 % of yes"
    assert heat["text"] == [["9", "1"], ["", ""]]
    assert heat["z"] == [[round(0.9**0.5, 4), round(0.1**0.5, 4)], [0, 0]]
    assert HOSTILE not in json.dumps(plot)
    assert "&lt;img src=x onerror=alert(1)&gt;" in heat["hovertext"][0][1]
