"""`kws listen`: detects the words that the microphone records, as they are spoken."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from kws.commands.terminal import INTERRUPTED, OK, stop_request
from kws.errors import UsageError

if TYPE_CHECKING:
    from kws.audio.microphone import Microphone
    from kws.commands.listen_display import ListenDisplay
    from kws.commands.listen_report import ListenReport
    from kws.streaming.kept_clips import KeptClips
    from kws.streaming.listening import Listener
    from kws.streaming.scores import Scorer
    from kws.streaming.spotting import Spotter


def listen(arguments: argparse.Namespace) -> int:
    """Shows scores and events until Ctrl-C, or for --seconds."""
    from kws.audio.microphone import Microphone
    from kws.commands.listen_report import ListenReport
    from kws.commands.spotting import detection_of, make_spotter, print_notes, threshold_line
    from kws.corpus.takes import check_speaker
    from kws.streaming.listening import Listener

    seconds = math.inf if arguments.seconds is None else arguments.seconds
    if not seconds > 0:  # written so that a nan is refused too
        raise UsageError(f"--seconds {seconds:g}: wanted more than 0")
    check_speaker(arguments.speaker)
    microphone = Microphone(arguments.device)  # refused before torch is loaded, which takes seconds
    spotter = make_spotter(arguments)
    found = detection_of(arguments, spotter)
    print_notes([threshold_line(found)])
    clips = _clips(arguments, spotter.trained.samples) if arguments.keep else None
    listener = Listener(_ready_scorer(spotter), found.settings, clips)
    report = ListenReport(arguments.json, clips)
    with stop_request() as stopped, _display(listener, arguments.json) as report.display:
        error = _detect(microphone, seconds, listener, report, stopped)
        report.add(listener.finish())
    report.end()
    if error:
        raise error
    return INTERRUPTED if stopped() and seconds < math.inf else OK


def _ready_scorer(spotter: Spotter) -> Scorer:
    """A scorer, made after another one has computed a score: the first score takes longer."""
    import numpy as np

    spotter.new_scorer().push(np.zeros(spotter.trained.samples, np.int16))
    return spotter.new_scorer()


def _clips(arguments: argparse.Namespace, samples: int) -> KeptClips:
    """Where clips are kept, whose folder is made."""
    from kws.streaming.kept_clips import KeptClips

    clips = KeptClips(arguments.keep, arguments.speaker, time.strftime("%Y%m%dT%H%M%S"), samples)
    clips.make_folder()
    return clips


@contextlib.contextmanager
def _display(listener: Listener, as_json: bool) -> Iterator[ListenDisplay | None]:
    """The live display on stderr; None where that is no terminal, or JSON goes to the same one."""
    from rich.console import Console

    from kws.commands.listen_display import ListenDisplay, ScoreBars

    console = Console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal or (as_json and sys.stdout.isatty()):
        yield None
        return
    with ListenDisplay(ScoreBars(listener.words, listener.thresholds), console) as display:
        yield display


def _detect(
    microphone: Microphone, seconds: float, listener: Listener, report: ListenReport, stopped: Callable[[], bool]
) -> UsageError | None:
    """Takes blocks of the microphone until the end or a stop request; returns the error of a microphone that fails."""
    from kws.streaming.listening import recorded_blocks

    try:
        with microphone, recorded_blocks(microphone, seconds) as blocks:
            for block in blocks:
                report.add(listener.push(block.pcm))
                report.add_block(block)
                if stopped():
                    break
    except UsageError as error:
        return error
    return None
