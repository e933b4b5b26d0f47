"""kws.results.report on run folders made by hand: what is read, what is drawn, what the page says."""

import base64
import hashlib
import io
import json
import re
import warnings
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from kws.errors import UsageError
from kws.metrics import confusion_matrix, summarise_confusion
from kws.results import records
from kws.results.pictures import draw_confusion
from kws.results.records import read_events
from kws.results.report import class_table, write_report
from kws.run import lock

HOSTILE = "<img src=x onerror=alert(1)>"
Row = dict[str, Any]


def start(attempt: int, step: int, epoch: int = 0, time: float = 0) -> Row:
    return {"event": "start", "time": time, "attempt": attempt, "epoch": epoch, "step": step, "world_size": 2}


def step(number: int, loss: float = 1.0, time: float = 0) -> Row:
    row = {"event": "step", "time": time, "epoch": number // 10, "step": number, "loss": loss, "accuracy": 0.5}
    return row | {"lr": 1e-3, "clips_per_s": 700.0, "data_wait": 0.02}


def epoch(number: int, at: int, valid: float = 0.5, time: float = 0) -> Row:
    row = {"event": "epoch", "time": time, "epoch": number, "step": at, "train_loss": 1.0, "train_accuracy": 0.5}
    return row | {"valid_loss": 1.1, "valid_accuracy": valid, "lr": 1e-3, "seconds": 9.0, "clips_per_s": 700.0}


def write_lines(path: Path, rows: list[Row], tail: str = "") -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return path


def result_of(words: list[str], seed: int = 0) -> Row:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, len(words), 40 * len(words))
    wrong = np.where(rng.random(truth.size) < 0.1, (truth + 1) % len(words), truth)
    extra = {"split": "test", "loss": 0.3, "top5": 0.99, "checkpoint": "best", "network": "net", "epoch": 3, "step": 30}
    return summarise_confusion(confusion_matrix(truth, wrong, len(words)), words) | extra


def png_size(data: bytes) -> tuple[int, int]:
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


# --- read_events -------------------------------------------------------------------------------------------


def test_a_resume_undoes_the_rows_it_repeats(tmp_path: Path) -> None:
    first = [start(1, 0), *(step(n, loss=1) for n in range(1, 8)), epoch(0, 3), epoch(1, 6)]
    second = [start(2, 3, epoch=1), *(step(n, loss=2) for n in range(4, 6)), epoch(1, 5)]
    events = read_events(write_lines(tmp_path / "m.jsonl", first + second))
    assert [(row["step"], row["loss"]) for row in events if row["event"] == "step"] == [
        (1, 1),
        (2, 1),
        (3, 1),  # done before the checkpoint, and not repeated
        (4, 2),
        (5, 2),
    ]
    assert [(row["epoch"], row["step"]) for row in events if row["event"] == "epoch"] == [(0, 3), (1, 5)]
    assert [row["attempt"] for row in events if row["event"] == "start"] == [1, 2]


def test_the_later_of_two_rows_for_the_resumed_step_wins(tmp_path: Path) -> None:
    rows = [start(1, 0), step(0, 1), step(1, 1), step(2, 1), start(2, 1), step(1, 2)]
    events = read_events(write_lines(tmp_path / "m.jsonl", rows))
    assert [(row["step"], row["loss"]) for row in events if row["event"] == "step"] == [(0, 1), (1, 2)]


def test_a_start_from_nothing_undoes_everything(tmp_path: Path) -> None:
    rows = [start(1, 0), step(0), step(1), epoch(0, 2), start(2, 0)]
    assert {row["event"] for row in read_events(write_lines(tmp_path / "m.jsonl", rows))} == {"start"}


def test_half_and_damaged_lines_are_skipped(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m.jsonl", [start(1, 0), step(1)])
    with path.open("ab") as file:
        file.write(b'{"event": "st\n\xff\xfe\n[1]\n3\n{"event": "step", "loss": 1}\n{"no": "event"}\n\n')
        file.write(json.dumps(step(2)).encode() + b'\n{"event": "step", "step": 3, "lo')
    assert [row["step"] for row in read_events(path)] == [0, 1, 2]


def test_no_file_is_no_events(tmp_path: Path) -> None:
    assert read_events(tmp_path / "none.jsonl") == []


# --- pictures ----------------------------------------------------------------------------------------------


def test_the_matrix_grows_with_its_classes(tmp_path: Path) -> None:
    sizes = []
    for count in (2, 12, 36):
        draw_confusion(result_of([f"word{n}" for n in range(count)]), tmp_path / "c.png")
        sizes.append(png_size((tmp_path / "c.png").read_bytes()))
    assert all(400 < side < 4000 for size in sizes for side in size)
    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize("words", [["only"], ["$x^2", "$\\frac$ {", "a\nb"], [HOSTILE * 9, ""]])
def test_any_word_can_be_drawn(tmp_path: Path, words: list[str]) -> None:
    draw_confusion(result_of(words), tmp_path / "c.png")
    empty = summarise_confusion(np.zeros((len(words), len(words)), dtype=int), words)
    draw_confusion(empty, tmp_path / "c.png")


@pytest.mark.parametrize(
    "events",
    [
        [],
        [start(2, 5)],
        [start(1, 0), step(1)],
        [start(1, 0), epoch(0, 10)],
        [start(1, 0), {"event": "step", "step": 1}, {"event": "epoch", "epoch": 0, "step": 1}],
        [start(1, 0), *map(step, range(1, 200)), epoch(1, 100), start(2, 100), epoch(2, 200), step(260, float("nan"))],
    ],
    ids=["nothing", "resumed only", "one step", "one epoch", "no numbers", "resumed"],
)
def test_curves_of_any_state(tmp_path: Path, events: list[Row]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = curves_png(events)
    width, height = png_size(drawn)
    assert 1000 < height < width < 2000


# --- terminal ----------------------------------------------------------------------------------------------


def shown(table: object) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_class_table_takes_no_word_for_markup() -> None:
    text = shown(class_table(summarise_confusion([[3, 1], [0, 0]], ["[red]", "[/]"])))
    assert "[red]" in text
    assert "[/]" in text
    assert "75.0 %" in text


# --- page --------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.scripts += [""] if tag == "script" else []

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and self.scripts and not self.scripts[-1]:
            self.scripts[-1] = data


def without_scripts(page: str) -> str:
    """What is the project's own of it: without the library that draws."""
    return re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "first & <best>"
    (folder / "eval").mkdir(parents=True)
    (folder / "config.toml").write_text('name = "<script>alert(2)</script>"\nurl = "https://example.org"\n')
    return folder


def fill(run: Path, words: list[str]) -> None:
    ranks = [{"rank": 0, "host": HOSTILE, "device": "cpu", "slots": "0-3"}, {"rank": 1, "host": "h2", "pid": 7}]
    facts = {"versions": {"numpy": "2.4"}, "hardware": {"cpu": HOSTILE}, "ranks": ranks, "network": HOSTILE}
    (run / "run.json").write_text(json.dumps(facts | {"parameters": 93000, "corpus_id": HOSTILE}))
    (run / "status.json").write_text(json.dumps({"state": HOSTILE, "code": 0, "step": 20}))
    rows = [start(1, 0), *(step(n, time=n) for n in range(1, 15)), epoch(0, 10, time=12)]
    rows += [start(2, 10, 1, time=100), step(20, time=130), epoch(1, 20, 0.875, time=131)]
    write_lines(run / "metrics.jsonl", [*rows, {"event": "end", "time": 132, "step": 20, "state": "finished"}], "{")
    for split in ("valid", "test"):
        (run / "eval" / f"{split}.json").write_text(json.dumps(result_of(words) | {"split": split}))
    (run / "eval" / "half.json").write_text('{"classes": ["a"')


def test_the_page_of_a_whole_run(run: Path) -> None:
    fill(run, ["yes", "no", "up"])
    result = result_of(["yes", "no", "up"])
    path, _ = write_report(run)
    page = path.read_text(encoding="utf-8")
    assert path == run / "report.html"
    assert page.startswith("<!doctype html>")
    for text in ("93,000", "87.50 %", f"{100 * result['accuracy']:.2f} %", "46 s", "over 2 starts", "viewport"):
        assert text in page
    assert without_scripts(page).count("data:image/png;base64,") == 3
    assert page.index("Evaluation: test") < page.index("Evaluation: valid")
    assert "prefers-color-scheme: dark" in page
    assert "killed, or still running" in page  # how the first attempt ended
    assert not list(run.glob(".report*"))


def test_the_most_confused_pair_stands_first(run: Path) -> None:
    result = summarise_confusion([[9, 0, 1], [7, 3, 0], [0, 2, 8]], ["yes", "no", "up"])
    (run / "eval" / "test.json").write_text(json.dumps(result))
    page = write_report(run)[0].read_text(encoding="utf-8")
    table = page[page.index("Most confused pairs") :]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", table)
    assert cells[:8] == ["no", "yes", "7", "70.0 %", "up", "no", "2", "20.0 %"]


def test_hostile_names_stay_text(run: Path) -> None:
    fill(run, [HOSTILE, "quote\"'>", "</style><script>"])
    page = write_report(run)[0].read_text(encoding="utf-8")
    seen = Page(page)
    assert HOSTILE not in page
    assert "\\u003cimg" not in page, "in a plot a name is text too"
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "<title>first &amp; &lt;best&gt;</title>" in page
    figures, library, own = seen.scripts  # those that the page has of itself
    assert json.loads(figures)
    assert "plotly" in library[:1000]
    assert own.strip().startswith("const figures")
    assert seen.handlers == []
    assert seen.tags.count("img") == 3


def test_no_script_runs_but_the_pages_own(run: Path) -> None:
    fill(run, ["yes", "no"])
    page = write_report(run)[0].read_text(encoding="utf-8")
    _, *scripts = Page(page).scripts
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    allowed = re.findall(r"'sha256-([^']*)'", policy)
    assert [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts] == allowed
    assert "unsafe" not in policy.partition("script-src")[2]
    assert policy.startswith("default-src 'none';")


def test_a_page_without_anything_to_draw_has_no_script(run: Path) -> None:
    page = write_report(run)[0].read_text(encoding="utf-8")
    assert Page(page).scripts == []
    assert "script-src 'none'" in page
    assert len(page) < 10_000


def test_the_page_asks_nothing_of_the_outside(run: Path) -> None:
    fill(run, ["yes", "no"])
    page = without_scripts(write_report(run)[0].read_text(encoding="utf-8"))
    seen = Page(page)
    assert seen.links
    assert all(link.startswith("data:image/png;base64,") for link in seen.links)
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*https?://""", page)
    assert "url(" not in page
    assert "@import" not in page


@pytest.mark.parametrize("text", ["", '{"event": "st', json.dumps(start(1, 0)) + "\n" + json.dumps(step(1)) + "\n"])
def test_the_page_of_a_run_that_has_barely_begun(run: Path, text: str) -> None:
    (run / "metrics.jsonl").write_text(text)
    (run / "run.json").write_text('{"ranks": null')
    page = write_report(run)[0].read_text(encoding="utf-8")
    assert "Not evaluated yet." in page
    assert "unknown" in page  # the state


def test_a_config_alone_is_a_run(run: Path) -> None:
    assert "&lt;script&gt;alert(2)" in write_report(run)[0].read_text(encoding="utf-8")


def test_writing_again_replaces_the_page(run: Path) -> None:
    (run / "report.html").write_text("old")
    assert write_report(run)[0].read_text(encoding="utf-8") != "old"


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(str(tmp_path))) as caught:
        write_report(tmp_path)
    assert "config.toml" in str(caught.value)
    assert "kws report" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_run_that_was_killed_does_not_say_that_it_runs(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"state": "running", "step": 3}')
    assert records.read_status(tmp_path) == {"state": "killed", "step": 3}
    held = lock.acquire(tmp_path)
    assert records.read_status(tmp_path)["state"] == "running"
    held.release()
    (tmp_path / "status.json").write_text('{"state": "preempted"}')
    assert records.read_status(tmp_path)["state"] == "preempted"
