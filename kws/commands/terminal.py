"""What all commands share: exit codes, the console for tables, progress bars, and how a command is stopped."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kws.distributed import signals
from kws.errors import StoppedError

OK, FAILED, USAGE, STOPPED, INTERRUPTED = 0, 1, 2, 75, 130
"""Exit codes. STOPPED: the work done so far is saved, and the same command resumes (sysexits.h: EX_TEMPFAIL)."""


def console() -> Any:
    """rich's console on stdout."""
    from rich.console import Console

    class RaisingConsole(Console):
        def on_broken_pipe(self) -> None:
            raise  # main() handles it; rich would exit with 1

    return RaisingConsole()


@contextmanager
def progress(label: str, hidden: bool = False, in_bytes: bool = False) -> Iterator[Callable[..., None]]:
    """Shows a progress bar on stderr if that is a terminal; yields show(done, total, label).

    `in_bytes`: done and total are bytes; the bar shows them and the transfer rate.
    """
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

    console, hidden = Console(stderr=True), hidden or not sys.stderr.isatty()
    columns = [*Progress.get_default_columns(), *([DownloadColumn(), TransferSpeedColumn()] if in_bytes else [])]
    # stdout is left alone: it may be redirected to a file.
    with Progress(*columns, console=console, transient=True, disable=hidden, redirect_stdout=False) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total, text=label: bar.update(task, completed=done, total=total, description=text)


@contextmanager
def stoppable(folder: Path) -> Iterator[None]:
    """Around work that can be resumed from what it has written to `folder`: turns Ctrl-C, SIGTERM and SIGHUP
    into a StoppedError with the reason."""

    def interrupt(number: int, _: object) -> None:
        raise KeyboardInterrupt

    with _on_end_signals(interrupt):
        try:
            yield
        except (KeyboardInterrupt, SystemExit) as stop:
            raise StoppedError(f"{folder}: stopped; run the same command again to resume") from stop


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Around a command that is not resumed: SIGTERM and SIGHUP raise StoppedError in it, so that its temporary files
    are removed. Ctrl-C raises KeyboardInterrupt, as ever."""

    def end(number: int, _: object) -> None:
        raise StoppedError(f"stopped by {signal.Signals(number).name}; run the same command again")

    with _on_end_signals(end):
        yield


@contextmanager
def stop_request() -> Iterator[Callable[[], bool]]:
    """Around work that has no end of its own: Ctrl-C, SIGTERM and SIGHUP only request a stop, and it checks with the
    yielded function whether one came. A second Ctrl-C raises KeyboardInterrupt."""
    asked = threading.Event()

    def ask(number: int, _: object) -> None:
        if number == signal.SIGINT and asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    with _on_signals(ask, signal.SIGINT, *_end_signals()):
        yield asked.is_set


@contextmanager
def _on_end_signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Handles SIGTERM and, unless nohup ignores it, SIGHUP in the with block."""
    with _on_signals(handler, *_end_signals()):
        yield


def _end_signals() -> list[signal.Signals]:
    return [number for number in (signal.SIGTERM, signal.SIGHUP) if not signals.is_ignored_hangup(number)]


@contextmanager
def _on_signals(handler: Callable[[int, Any], None], *numbers: signal.Signals) -> Iterator[None]:
    """Handles the signals in the with block; in the main thread only, as Python requires."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def text_table(title: str, names: Sequence[str], rows: Iterable[Sequence[str]], align: str) -> Any:
    """A terminal table; `align` has an "l" or an "r" for each column. No text in it is read as markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title) if title else None, header_style="bold", box=box.SIMPLE_HEAD)
    for name, side in zip(names, align, strict=True):
        table.add_column(Text(name), justify="left" if side == "l" else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


@contextmanager
def live_line() -> Iterator[Callable[[str], None]]:
    """Yields show(text), which replaces one line on stderr if that is a terminal and does nothing otherwise."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text: None
        return
    with Live(console=console, transient=True, auto_refresh=False, redirect_stdout=False) as live:
        yield lambda text: live.update(Text(text), refresh=True)


def meter(level_db: float, width: int = 30, floor_db: float = -60.0) -> str:
    """A level in dB of full scale as a text bar: `floor_db` is empty, 0 dB is full."""
    filled = round(min(1.0, max(0.0, 1 - level_db / floor_db)) * width)
    return f"{'█' * filled}{'·' * (width - filled)} {level_db:4.0f} dB"
