"""`kws listen`: detects the words that the microphone records, as they are spoken."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from kws.commands.terminal import INTERRUPTED, OK, stop_request
from kws.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from kws.audio.microphone import Microphone
    from kws.commands.listen_display import ListenDisplay
    from kws.commands.listen_report import ListenReport
    from kws.streaming.events import DetectorSettings
    from kws.streaming.kept_clips import KeptClips
    from kws.streaming.listening import Listener
    from kws.streaming.scores import Scorer


def listen(arguments: argparse.Namespace) -> int:
    """Shows scores and events until Ctrl-C, or for --seconds."""
    from kws.audio.microphone import Microphone
    from kws.commands.listen_report import ListenReport
    from kws.corpus.takes import check_speaker
    from kws.streaming.listening import Listener

    seconds = math.inf if arguments.seconds is None else arguments.seconds
    if not seconds > 0:  # written so that a nan is refused too
        raise UsageError(f"--seconds {seconds:g}: wanted more than 0")
    settings = _settings(arguments)
    check_speaker(arguments.speaker)
    microphone = Microphone(arguments.device)  # refused before torch is loaded, which takes seconds
    scorer, clips = _load(arguments)
    listener = Listener(scorer, settings, clips)
    report = ListenReport(arguments.json, clips)
    with stop_request() as stopped, _display(listener, arguments.json) as report.display:
        error = _detect(microphone, seconds, listener, report, stopped)
        report.add(listener.finish())
    report.end()
    if error:
        raise error
    return INTERRUPTED if stopped() and seconds < math.inf else OK


def _settings(arguments: argparse.Namespace) -> DetectorSettings:
    """The preset, with the threshold that was given."""
    from kws.streaming import events

    preset = events.PRESETS.get(arguments.preset)
    if preset is None:
        near = did_you_mean(arguments.preset, events.PRESETS)
        raise UsageError(f"--preset {arguments.preset}: wanted one of {', '.join(events.PRESETS)}{near}")
    if arguments.threshold is None:
        return preset
    try:
        return dataclasses.replace(preset, threshold=arguments.threshold)
    except UsageError as error:
        raise UsageError(f"--threshold: {error}") from None


def _load(arguments: argparse.Namespace) -> tuple[Scorer, KeptClips | None]:
    """The scorer of the run, and where clips are kept."""
    import numpy as np
    import torch

    from kws.evaluation.trained import Trained
    from kws.streaming.kept_clips import KeptClips
    from kws.streaming.scorers import make_scorer, scorer_notes

    trained = Trained.from_run(arguments.run, arguments.checkpoint, torch.device("cpu"))
    for note in scorer_notes(trained):
        print(f"note: {note}", file=sys.stderr)
    make_scorer(trained).push(np.zeros(trained.samples, np.int16))  # the first computation takes longer
    if not arguments.keep:
        return make_scorer(trained), None
    started = time.strftime("%Y%m%dT%H%M%S")
    clips = KeptClips(arguments.keep, arguments.speaker, started, trained.samples)
    clips.make_folder()
    return make_scorer(trained), clips


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
