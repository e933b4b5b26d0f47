"""The arguments of the commands on continuous audio: mix, spot and listen."""

from __future__ import annotations

import argparse
from typing import Any

from kws.commands.parser import add_command, path
from kws.commands.shared_arguments import add_device, add_network, add_seed


def add_mix(commands: Any) -> None:
    """`kws mix`."""
    mix = add_command(
        commands, "mix",
        "mix clips of a packed corpus with background sound into labelled continuous streams, to test detection on; "
        "run the same command again to resume",
        "kws mix data/mine streams --words stop,seven --background musan.tar.gz --hours 2",
    )  # fmt: skip
    mix.add_argument("shards", type=path, metavar="SHARDS", help="folder of a packed corpus")
    mix.add_argument("out", type=path, metavar="OUT", help="folder for the streams: FLAC, label tracks, mix.json")
    mix.add_argument(
        "--split", default="test",
        help="split whose clips are used: test (default), valid or train; clips whose speaker is in train too are left "
        "out",
    )  # fmt: skip
    mix.add_argument(
        "--words", metavar="FILE|A,B", help="the words of the label tracks (default: all words of the corpus)"
    )
    mix.add_argument(
        "--distractors", type=float, default=0.0, metavar="N",
        help="clips of the other words an hour, without labels (default 0)",
    )  # fmt: skip
    mix.add_argument(
        "--background", type=path, action="append", default=[], metavar="DIR|ARCHIVE",
        help="recordings of background sound: a folder, or an archive such as those of DiPCo, LibriSpeech, MUSAN and "
        "DEMAND; may be repeated, for equal shares of the time (default: generated noise)",
    )  # fmt: skip
    mix.add_argument(
        "--background-share", default="0:1", metavar="LOW:HIGH",
        help="which part of the time of each background is used: 0:0.3 for streams to choose a threshold on and 0.3:1 "
        "for those to report on (default 0:1)",
    )  # fmt: skip
    mix.add_argument(
        "--unpacked", type=path, metavar="DIR",
        help="folder for the contents of archives, to be used again (default: OUT.background)",
    )  # fmt: skip
    mix.add_argument("--hours", type=float, default=1.0, help="length of all streams together (default 1)")
    mix.add_argument("--minutes", type=float, default=10.0, help="longest length of a file (default 10)")
    mix.add_argument(
        "--words-per-hour", type=float, default=240.0, metavar="N", help="words with a label an hour (default 240)"
    )
    mix.add_argument(
        "--gap", type=float, default=2.0, metavar="SECONDS",
        help="shortest time from the end of the speech of a clip to the start of the next (default 2)",
    )  # fmt: skip
    mix.add_argument(
        "--snr", default="5:20", metavar="LOW:HIGH",
        help="level of a word above the background around it, in dB; negative values as --snr=-5:10 (default 5:20)",
    )  # fmt: skip
    mix.add_argument(
        "--level", default="-50:-30", metavar="LOW:HIGH",
        help="level of the background in dB of full scale, written as --level=-60:-40 (default -50:-30)",
    )  # fmt: skip
    mix.add_argument(
        "--rooms", type=float, default=0.5, metavar="SHARE", help="share of the clips in a synthetic room (default 0.5)"
    )
    mix.add_argument(
        "--reverb", default="0.1:0.6", metavar="LOW:HIGH", help="reverberation times in seconds (default 0.1:0.6)"
    )
    add_seed(mix)


def add_spot(commands: Any) -> None:
    """`kws spot`."""
    spot = add_command(
        commands, "spot", "find words in recordings of any length, and count hits and false accepts",
        "kws spot runs/mine meeting.flac --labels; with labels: kws spot runs/mine test/ --truth test/",
    )  # fmt: skip
    add_network(spot)
    spot.add_argument(
        "paths", type=path, nargs="+", metavar="AUDIO",
        help="recordings, or folders of them; - for raw 16-bit samples from stdin, as arecord -t raw writes them",
    )  # fmt: skip
    _add_detection(
        spot,
        "with --truth: choose the threshold with the fewest misses at so many false accepts an hour or fewer on these "
        "recordings, and store it for this run; without: use the threshold that was stored",
    )
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


def add_listen(commands: Any) -> None:
    """`kws listen`."""
    listen = add_command(
        commands, "listen", "detect words in what the microphone records, as they are spoken",
        "kws listen runs/quick --threshold 0.8 --keep clips",
    )  # fmt: skip
    add_network(listen)
    _add_detection(listen)
    add_device(listen)
    listen.add_argument("--seconds", type=float, metavar="S", help="end after so many seconds (default: at Ctrl-C)")
    listen.add_argument(
        "--keep", type=path, metavar="DIR",
        help="keep the clip around each event as DIR/WORD/FILE.wav, for kws pack, and those around near misses (half "
        "the threshold) in DIR/_near_misses_/WORD",
    )  # fmt: skip
    listen.add_argument(
        "--speaker", default="me", metavar="NAME", help="with --keep: who speaks, a part of the file names (default me)"
    )


def _add_detection(parser: argparse.ArgumentParser, at_help: str = "") -> None:
    """How scores become events: options of spot and listen. at_help: what --at does, where it also chooses."""
    thresholds = parser.add_mutually_exclusive_group()
    thresholds.add_argument(
        "--threshold", metavar="T|WORD=T,...",
        help="an event begins where the averaged probability reaches T, from 0 to 1; one for all words or one for each "
        "(default: the one that kws spot --at chose for this run, else 0.5)",
    )  # fmt: skip
    thresholds.add_argument(
        "--at", type=float, metavar="FA_PER_HOUR",
        help=at_help
        or "the threshold with at most so many false accepts an hour that kws spot --truth --at chose for this run",
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
