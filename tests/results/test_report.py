"""The report page and the terminal tables, of run folders made by hand."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from kws.errors import UsageError
from kws.metrics import summarise_confusion
from kws.results.report import class_table, pair_table, write_report
from tests.results.made_runs import HOSTILE, fill, result_of, start, step


def shown(table: object) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_an_evaluation_without_mistakes_has_no_empty_table() -> None:
    assert isinstance(pair_table(summarise_confusion([[3, 0], [0, 2]], ["yes", "no"])), str)


def test_words_in_the_class_table_are_not_markup() -> None:
    text = shown(class_table(summarise_confusion([[3, 1], [0, 0]], ["[red]", "[/]"])))
    assert "[red]" in text
    assert "[/]" in text
    assert "75.0 %" in text


# --- page --------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Collects the tags, links, event handlers and scripts of a page."""

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
    """The page without the plotting library and the script that uses it."""
    return re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "first & <best>"
    (folder / "eval").mkdir(parents=True)
    (folder / "config.toml").write_text('name = "<script>alert(2)</script>"\nurl = "https://example.org"\n')
    return folder


def test_the_page_of_a_finished_run(run: Path) -> None:
    fill(run, ["yes", "no", "up"])
    result = result_of(["yes", "no", "up"])
    path, _ = write_report(run)
    page = path.read_text(encoding="utf-8")
    assert path == run / "report.html"
    assert page.startswith("<!doctype html>")
    for text in ("93,000", "87.50 %", f"{100 * result['accuracy']:.2f} %", "46 s", "over 2 starts", "viewport"):
        assert text in page
    assert without_scripts(page).count("data:image/png;base64,") == 2
    assert page.index("Evaluation: test") < page.index("Evaluation: valid")
    assert "prefers-color-scheme: dark" in page
    assert "killed" in page  # the end of the first attempt
    assert not list(run.glob(".report*"))


def test_the_most_confused_pair_is_the_first_row(run: Path) -> None:
    result = summarise_confusion([[9, 0, 1], [7, 3, 0], [0, 2, 8]], ["yes", "no", "up"])
    (run / "eval" / "test.json").write_text(json.dumps(result))
    page = write_report(run)[0].read_text(encoding="utf-8")
    table = page[page.index("Most confused pairs") :]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", table)
    assert cells[:8] == ["no", "yes", "7", "70.0 %", "up", "no", "2", "20.0 %"]


def test_hostile_names_are_escaped(run: Path) -> None:
    fill(run, [HOSTILE, "quote\"'>", "</style><script>"])
    page = write_report(run)[0].read_text(encoding="utf-8")
    seen = Page(page)
    assert HOSTILE not in page
    assert "\\u003cimg" not in page, "names in plots are escaped too"
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "<title>first &amp; &lt;best&gt;</title>" in page
    figures, library, own = seen.scripts
    assert json.loads(figures)
    assert "plotly" in library[:1000]
    assert own.strip().startswith("const figures")
    assert seen.handlers == []
    assert seen.tags.count("img") == 2


def test_the_policy_allows_only_the_scripts_of_the_page(run: Path) -> None:
    fill(run, ["yes", "no"])
    page = write_report(run)[0].read_text(encoding="utf-8")
    _, *scripts = Page(page).scripts
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    allowed = re.findall(r"'sha256-([^']*)'", policy)
    assert [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts] == allowed
    assert "unsafe" not in policy.partition("script-src")[2]
    assert policy.startswith("default-src 'none';")


def test_a_page_without_plots_has_no_script(run: Path) -> None:
    page = write_report(run)[0].read_text(encoding="utf-8")
    assert Page(page).scripts == []
    assert "script-src 'none'" in page
    assert len(page) < 10_000


def test_the_page_fetches_nothing(run: Path) -> None:
    fill(run, ["yes", "no"])
    page = without_scripts(write_report(run)[0].read_text(encoding="utf-8"))
    seen = Page(page)
    assert seen.links
    assert all(link.startswith("data:image/png;base64,") for link in seen.links)
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*https?://""", page)
    assert "url(" not in page
    assert "@import" not in page


@pytest.mark.parametrize("text", ["", '{"event": "st', json.dumps(start(1, 0)) + "\n" + json.dumps(step(1)) + "\n"])
def test_the_page_of_a_run_that_has_just_started(run: Path, text: str) -> None:
    (run / "metrics.jsonl").write_text(text)
    (run / "run.json").write_text('{"ranks": null')
    page = write_report(run)[0].read_text(encoding="utf-8")
    assert "Not evaluated" in page
    assert "unknown" in page  # the state


def test_a_folder_with_only_a_config_is_a_run(run: Path) -> None:
    assert "&lt;script&gt;alert(2)" in write_report(run)[0].read_text(encoding="utf-8")


def test_writing_the_page_again_replaces_it(run: Path) -> None:
    (run / "report.html").write_text("old")
    assert write_report(run)[0].read_text(encoding="utf-8") != "old"


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(str(tmp_path))) as caught:
        write_report(tmp_path)
    assert "config.toml" in str(caught.value)
    assert "--run" in str(caught.value)
    assert not list(tmp_path.iterdir())
