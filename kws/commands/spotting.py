"""`kws spot`: finds words in recordings and pipes, shows events as a table, and counts them where there are labels."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kws.commands.terminal import FAILED, OK, console, progress, text_table
from kws.errors import UsageError

if TYPE_CHECKING:
    from kws.streaming.detection import Detection, DetectionOptions
    from kws.streaming.recordings import Recordings
    from kws.streaming.spotting import Spotter

_MOST_ROWS = 200
"""Events shown on the terminal."""


def spot(arguments: argparse.Namespace) -> int:
    """Finds words in continuous audio."""
    from kws.streaming.audio_stream import PIPE

    if PIPE in map(str, arguments.paths):
        return _spot_pipe(arguments)
    return _spot_labelled(arguments) if arguments.truth else _spot_files(arguments)


def _detection_options(arguments: argparse.Namespace) -> DetectionOptions:
    """The options of continuous_arguments.py for detection."""
    from kws.streaming.detection import DetectionOptions

    return DetectionOptions(
        preset=arguments.preset or "", threshold=arguments.threshold or "", per_hour=arguments.at,
        smooth_ms=arguments.smooth_ms, refractory_ms=arguments.refractory_ms,
    )  # fmt: skip


def make_spotter(arguments: argparse.Namespace) -> Spotter:
    """The network of the run that the arguments name. Prints a note where the time between scores is rounded."""
    import torch

    from kws.evaluation.trained import Trained
    from kws.streaming.scorers import scorer_notes
    from kws.streaming.spotting import Spotter

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trained = Trained.from_run(arguments.run, arguments.checkpoint, device)
    print_notes(scorer_notes(trained, arguments.scorer, arguments.hop_ms))
    return Spotter(trained, arguments.scorer, arguments.hop_ms)


def detection_of(arguments: argparse.Namespace, spotter: Spotter) -> Detection:
    """The detection that the arguments and the stored thresholds of the run define."""
    from kws.streaming.detection import detection

    return detection(arguments.run, _detection_options(arguments), spotter.network, spotter.words)


def print_notes(notes: Iterable[str]) -> None:
    """Prints a line for each note on stderr."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


# --- a pipe -----------------------------------------------------------------------------------------------------------


def _spot_pipe(arguments: argparse.Namespace) -> int:
    """Prints each event of the raw samples on stdin at once."""
    from kws.streaming.audio_stream import RawFormat, raw_blocks
    from kws.streaming.event_files import event_row, write_csv

    if len(arguments.paths) > 1 or arguments.truth or arguments.labels:
        raise UsageError("-: stands for the raw samples on stdin, alone and without --truth and --labels")
    if sys.stdin.isatty():
        raise UsageError(
            "-: stdin is a terminal; wanted raw samples: arecord -t raw -f S16_LE -r 16000 -c 1 | kws spot RUN -"
        )
    form = RawFormat(arguments.rate, arguments.channels)
    spotter = make_spotter(arguments)
    found = detection_of(arguments, spotter)
    rows = list[dict[str, Any]]()
    print_notes([threshold_line(found)])
    for event in spotter.events(raw_blocks(cast(io.BufferedReader, sys.stdin.buffer), form), found.settings):
        row = event_row(Path("-"), event)
        rows += [row] if arguments.csv else []
        text = json.dumps(row) if arguments.json else f"{event.time_s:9.2f} s  {event.word}  {event.probability:.1%}"
        print(text, flush=True)
    if arguments.csv:
        write_csv(arguments.csv, rows)
    return OK


# --- recordings -------------------------------------------------------------------------------------------------------


def _spot_files(arguments: argparse.Namespace) -> int:
    from kws.audio.audio_files import find_audio
    from kws.results.formats import duration
    from kws.streaming import event_files
    from kws.streaming.recordings import RecordingReader, Recordings

    paths = find_audio(arguments.paths)
    spotter = make_spotter(arguments)
    found = detection_of(arguments, spotter)
    rows, tracks, seconds = list[dict[str, Any]](), list[Path](), list[float]()

    def use(reader: RecordingReader) -> None:
        events = list(spotter.events(reader.blocks(), found.settings))
        new = [event_files.event_row(reader.path, event) for event in events]
        rows.extend(new)
        seconds.append(reader.seconds)
        if arguments.labels:
            tracks.append(event_files.write_track(reader.path, events, spotter.window_s))
        if arguments.json:
            print("".join(f"{json.dumps(row)}\n" for row in new), end="", flush=True)

    with progress("spotting") as show:
        recordings = Recordings(paths, show)
        recordings.read(use)
    if arguments.csv:
        event_files.write_csv(arguments.csv, rows)
    if not arguments.json:
        _show_events(rows)
        print(f"{len(rows)} event{'s' * (len(rows) != 1)} in {duration(sum(seconds))}; {threshold_line(found)}")
        _print_files(tracks, arguments.csv)
    print_notes(recordings.notes())
    return _left_out(recordings, arguments.json)


def _left_out(recordings: Recordings, as_json: bool) -> int:
    """Prints the recordings that were left out; the exit code."""
    for skipped in recordings.left_out:
        print(f"left out: {skipped}", file=sys.stderr)
        if as_json:
            print(json.dumps({"file": str(skipped.path), "error": skipped.reason}))
    return FAILED if recordings.left_out else OK


def threshold_line(found: Detection) -> str:
    """The threshold and where it comes from."""
    return f"threshold {found.threshold_text} ({found.source})"


def _print_files(tracks: Sequence[Path], table: Path | None) -> None:
    if tracks:
        more = f" and {len(tracks) - 1} more" if tracks[1:] else ""
        print(f"{tracks[0]}{more}: label tracks for Audacity (File > Import > Labels)")
    if table:
        print(f"{table}: the events")


def _show_events(rows: Sequence[dict[str, Any]]) -> None:
    from kws.audio.audio_files import printable
    from kws.results.formats import clock_time

    cells = [
        (printable(Path(row["file"])), clock_time(row["time_s"]), row["word"], f"{row['probability']:.1%}")
        for row in rows[:_MOST_ROWS]
    ]
    if cells:
        console().print(text_table("", ("file", "time", "word", "probability"), cells, "lrlr"))
    if len(rows) > _MOST_ROWS:
        print(f"and {len(rows) - _MOST_ROWS:,} more events: --csv FILE, --json and --labels have all")


# --- recordings with labels -------------------------------------------------------------------------------------------


def _spot_labelled(arguments: argparse.Namespace) -> int:
    from kws.audio.audio_files import find_audio
    from kws.streaming import event_files, spot_evaluation, spot_result, truth
    from kws.streaming.labelled_spotting import LabelledSpotting
    from kws.streaming.recordings import Recordings

    paths = find_audio(arguments.paths)
    name = arguments.name or arguments.paths[0].resolve().stem
    spot_result.check_name(name)
    spotter = make_spotter(arguments)
    spotting = LabelledSpotting(arguments.run, name, spotter, _detection_options(arguments))
    labels = truth.read(arguments.truth, paths, spotter.trained.classes)
    with progress("spotting") as show:
        recordings = Recordings(paths, show)
        measured = spotting.measure(recordings, labels)
    folder, result = spotting.write(measured)
    if arguments.csv:
        event_files.write_csv(arguments.csv, measured.evaluation.rows(), spot_evaluation.COLUMNS)
    tracks = measured.evaluation.write_tracks(spotter.window_s) if arguments.labels else []
    if arguments.json:
        print(json.dumps(result))
    else:
        _show_result(result)
        print(f"{folder}: result.json, events.csv, det.png, clips; next: kws report {arguments.run}")
        _print_files(tracks, arguments.csv)
    print_notes(note for note in measured.notes if not note.startswith("left out"))
    return _left_out(recordings, arguments.json)


def _show_result(result: dict[str, Any]) -> None:
    from kws.results.spot_section import RATE_COLUMNS, WORD_COLUMNS, facts, rate_cells, rates_title, word_cells

    if result["at"]:
        console().print(text_table(rates_title(result), RATE_COLUMNS, rate_cells(result["at"]), "rrrrr"))
    title = f"At the threshold {result['threshold']}"
    console().print(text_table(title, WORD_COLUMNS, word_cells(result["figures"]), "lrrrrrr"))
    print("\n".join(facts(result)))
