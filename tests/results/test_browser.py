"""The report page in a real browser: plots, hover texts, audio players, no errors. How it looks is judged by people:
KWS_SCREENSHOTS names a folder for screenshots."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kws.results.report import write_report
from tests.chromium import PROGRAM, Page
from tests.conftest import require, tone
from tests.results.made_runs import HOSTILE, fill

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
WORDS = ["yes", "no", HOSTILE, "</script><script>alert(3)</script>"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run made by hand, with names hostile to HTML and two saved mistakes."""
    run = tmp_path_factory.mktemp("run") / "first & <best>"
    (run / "eval").mkdir(parents=True)
    (run / "config.toml").write_text('url = "https://example.org/<script>alert(2)</script>"\n')
    fill(run, WORDS)
    np.savez(
        run / "eval" / "test.mistakes.npz", clips=[0, 7], truth=[0, 2], predicted=[1, 3], probability=[0.9, 0.5],
        likely=[0.01, 0.02], names=np.array(["a", HOSTILE]), wave=np.stack([tone(300), tone(600)]),
        lengths=[16000, 8000], features=np.random.default_rng(0).random((2, 40, 101)).astype(np.float16),
    )  # fmt: skip
    return write_report(run)[0]


@pytest.fixture(scope="module", params=[
    pytest.param((1280, False), id="light"),
    pytest.param((1280, True), id="dark", marks=pytest.mark.slow),
    pytest.param((390, False), id="phone", marks=pytest.mark.slow),
])  # fmt: skip
def page(report: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Page]:
    require("browser", PROGRAM is not None, "there is no Chromium")
    width, dark = request.param
    with Page(tmp_path_factory.mktemp("profile"), width, 900, dark) as found:
        found.open(report)
        if "KWS_SCREENSHOTS" in os.environ:
            found.screenshot(Path(os.environ["KWS_SCREENSHOTS"]) / f"report-{width}-{dark}.png", whole=True)
        yield found


def place_of(page: Page, selector: str) -> tuple[float, float]:
    """Scrolls an element into view; returns the position of its middle."""
    x, y = page.js(
        f"(() => {{ const e = document.querySelector({selector!r}); e.scrollIntoView({{block: 'center'}}); "
        "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
    )
    return x, y


def test_the_page_draws_all_plots_without_errors_and_runs_no_name(page: Page) -> None:
    assert (
        page.js("document.querySelectorAll('.js-plotly-plot').length") == 9
    )  # five curves, two matrices, two of times
    assert page.js("[...document.querySelectorAll('.js-plotly-plot')].every(plot => plot.querySelector('.main-svg'))")
    assert page.js("document.querySelectorAll('img[src=x], a, iframe, form').length") == 0
    assert page.js("document.querySelectorAll('script').length") == 3
    assert page.js("document.querySelector('h1').textContent") == "first & <best>"
    assert page.js(f"document.body.innerText.includes({HOSTILE!r})")
    assert page.js("document.documentElement.scrollWidth <= innerWidth"), "the page itself never scrolls sideways"
    assert page.errors == []


def test_hovering_over_a_cell_shows_its_words_and_clips(page: Page) -> None:
    x, y = place_of(page, "#plot-5 .nsewdrag")
    width = page.js("document.querySelector('#plot-5 .nsewdrag').getBoundingClientRect().width")
    page.move(x - width * 3 / 8, y)  # the first column; the middle is the edge of two rows
    shown = page.js(
        "new Promise(done => { const look = () => {"
        " const t = document.querySelector('#plot-5 .hoverlayer').textContent;"
        " t ? done(t) : setTimeout(look, 50); }; look(); })"
    )
    assert "predicted: yes" in shown
    assert "clips, " in shown
    assert page.errors == []


def test_the_players_play_the_saved_mistakes(page: Page) -> None:
    assert page.js(
        "Promise.all([...document.querySelectorAll('audio')].map(a => a.readyState ? a.duration : "
        "new Promise(done => a.addEventListener('loadedmetadata', () => done(a.duration)))))"
    ) == pytest.approx([1.0, 0.5], abs=0.01)
    played = "(async () => { const a = document.querySelector('audio'); await a.play(); "
    played += "while (!a.currentTime) await new Promise(done => a.addEventListener('timeupdate', done, {once: true})); "
    played += "return a.currentTime; })()"
    assert page.js(played) > 0
    assert page.js("[...document.querySelectorAll('img.sound')].every(i => i.naturalWidth === 101)")
    assert page.errors == []


def test_colours_follow_the_system_theme(page: Page) -> None:
    dark = page.js("matchMedia('(prefers-color-scheme: dark)').matches")
    before = page.js("getComputedStyle(document.querySelector('#plot-0 .main-svg')).backgroundColor")
    assert before == ("rgb(30, 35, 41)" if dark else "rgb(255, 255, 255)")
    other = [{"name": "prefers-color-scheme", "value": "light" if dark else "dark"}]
    page.call("Emulation.setEmulatedMedia", features=other)
    assert page.js(
        "new Promise(done => { const look = () => {"
        " const colour = getComputedStyle(document.querySelector('#plot-0 .main-svg')).backgroundColor;"
        f" colour === {before!r} ? setTimeout(look, 50) : done(true); }}; look(); }})"
    )
    page.call("Emulation.setEmulatedMedia", features=[other[0] | {"value": "dark" if dark else "light"}])
