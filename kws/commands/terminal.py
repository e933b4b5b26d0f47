"""What a person sees of every command: tables on the terminal, a bar on what takes long; and the exit codes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kws.errors import StoppedError

OK, FAILED, USAGE, STOPPED, INTERRUPTED = 0, 1, 2, 75, 130


def console() -> Any:
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise  # `main` knows what it means; rich would leave with 1

    return Plain()


@contextmanager
def progress(what: str, hidden: bool = False, in_bytes: bool = False) -> Iterator[Callable[..., None]]:
    """A bar on stderr where that is a terminal, nothing elsewhere; of bytes with how many there are, and their rate."""
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

    console, hidden = Console(stderr=True), hidden or not sys.stderr.isatty()
    columns = [*Progress.get_default_columns(), *([DownloadColumn(), TransferSpeedColumn()] if in_bytes else [])]
    # What is printed meanwhile must not take the way of the bar: it may be meant for a file.
    with Progress(*columns, console=console, transient=True, disable=hidden, redirect_stdout=False) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total, label=what: bar.update(task, completed=done, total=total, description=label)


@contextmanager
def stoppable(place: Path) -> Iterator[None]:
    """Around what keeps, in `place`, all that it has done: Ctrl-C and SIGTERM become a StoppedError that says so."""

    def leave(number: int, _: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        raise StoppedError(f"{place}: stopped; the same again goes on from what is done") from stop
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def live_line() -> Iterator[Callable[[str], None]]:
    """One line on stderr that is written anew, where that is a terminal; nothing elsewhere."""
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
    """A level against full scale as a bar: -60 dB is empty, 0 dB full."""
    filled = round(min(1.0, max(0.0, 1 - level_db / floor_db)) * width)
    return f"{'█' * filled}{'·' * (width - filled)} {level_db:4.0f} dB"
