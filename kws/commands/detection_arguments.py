"""The arguments of the commands on continuous audio: spot, and how scores become events."""

from __future__ import annotations

import argparse
from typing import Any

from kws.commands.parser import add_checkpoint, add_command, path


def add_spot(commands: Any) -> None:
    spot = add_command(
        commands, "spot", "find words in recordings of any length, and count hits and false accepts",
        "kws spot runs/mine meeting.flac --labels; with labels: kws spot runs/mine test/ --truth test/",
    )  # fmt: skip
    spot.add_argument("run", type=path, help="run folder")
    add_checkpoint(spot)
    spot.add_argument(
        "paths", type=path, nargs="+", metavar="AUDIO",
        help="recordings, or folders of them; - for raw 16-bit samples from stdin, as arecord -t raw writes them",
    )  # fmt: skip
    add_detection(spot)
    spot.add_argument(
        "--truth", type=path, metavar="LABELS",
        help="the words in the recordings: a folder of label tracks (Audacity, TextGrid) named like the recordings, "
        "a single track, or a CSV with file, word, start, end; results go to RUN/spot/NAME and kws report",
    )  # fmt: skip
    spot.add_argument(
        "--name", metavar="NAME", help="with --truth: name of the result (default: that of the first AUDIO)"
    )
    spot.add_argument("--csv", type=path, metavar="FILE", help="also write the events to this file")
    spot.add_argument(
        "--labels",
        action="store_true",
        help="also write an Audacity label track beside each recording: FILE.events.txt",
    )
    spot.add_argument("--rate", type=int, default=16_000, metavar="HZ", help="sample rate of stdin (default 16000)")
    spot.add_argument("--channels", type=int, default=1, metavar="N", help="channels of stdin (default 1)")


def add_detection(parser: argparse.ArgumentParser) -> None:
    """How scores become events: shared by spot and listen."""
    thresholds = parser.add_mutually_exclusive_group()
    thresholds.add_argument(
        "--threshold", metavar="T|WORD=T,...",
        help="probability that is an event, from 0 to 1, of every word or for each (default: the one that --at chose "
        "for this run, else 0.5)",
    )  # fmt: skip
    thresholds.add_argument(
        "--at", type=float, metavar="FA_PER_HOUR",
        help="with --truth: choose the threshold with so many false accepts an hour on these recordings, and store it "
        "for this run; without: use the threshold that was stored",
    )  # fmt: skip
    parser.add_argument(
        "--preset", metavar="NAME",
        help="detect and count as another tool: esphome, microwakeword, mlperf-tiny, openwakeword, picovoice, wekws "
        "(docs/detection.md)",
    )  # fmt: skip
    parser.add_argument(
        "--smooth-ms", type=float, metavar="MS", help="probabilities are averaged over this time (default 300)"
    )
    parser.add_argument(
        "--refractory-ms", type=float, metavar="MS", help="no event for this time after one (default 1000)"
    )
    parser.add_argument(
        "--scorer", choices=("auto", "window", "stream"), default="auto",
        help="window: the network on the last clip, every --hop-ms; stream: frame by frame, for networks that stream; "
        "auto (default): stream where the network can",
    )  # fmt: skip
    parser.add_argument("--hop-ms", type=float, default=100.0, metavar="MS", help="step of the window (default 100)")
