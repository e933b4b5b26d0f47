"""`kws mix`: labelled continuous streams from a packed corpus and background sound."""

from __future__ import annotations

import argparse
import json
import sys

from kws.commands.terminal import FAILED, OK, progress, stoppable
from kws.errors import UsageError


def mix(arguments: argparse.Namespace) -> int:
    """Mixes the streams; the same command again makes what is missing."""
    from kws.packing.external_index import read_words
    from kws.streaming.mixing import mix
    from kws.streaming.mixing.settings import MixSettings

    settings = MixSettings(
        split=arguments.split, words=tuple(read_words(arguments.words)) if arguments.words else (),
        hours=arguments.hours, words_per_hour=arguments.words_per_hour,
        distractors_per_hour=arguments.distractors, gap_s=arguments.gap, snr_db=_range("--snr", arguments.snr),
        background_db=_range("--level", arguments.level),
        background_share=_range("--background-share", arguments.background_share), rooms=arguments.rooms,
        room_seconds=_range("--reverb", arguments.reverb), file_minutes=arguments.minutes, seed=arguments.seed,
    )  # fmt: skip
    with stoppable(arguments.out), progress("mixing") as show:
        report = mix.mix(
            arguments.shards, arguments.out, settings, arguments.background, arguments.unpacked,
            lambda done, total, what: show(done, total or None, what),
        )  # fmt: skip
    code, counts = FAILED if report.faults else OK, report.counts()
    if arguments.json:
        print(json.dumps({
            "files": len(report.manifest["files"]), "hours": report.hours, "words": counts, "kept": report.kept,
            "id": report.manifest["id"], "notes": report.notes, "faults": report.faults,
        }))  # fmt: skip
        return code
    for note in report.notes:
        print(f"note: {note}")
    for fault in report.faults:
        print(f"left out: {fault}", file=sys.stderr)
    files, words = len(report.manifest["files"]), len(counts)
    kept = f" ({report.kept} there before)" if report.kept else ""
    print(
        f"{arguments.out}: {report.hours:.2f} h in {files} file{'s' * (files != 1)}{kept}, "
        f"{sum(counts.values())} labels of {words} word{'s' * (words != 1)}; "
        f"next: kws spot RUN {arguments.out} --truth {arguments.out}"
    )
    return code


def _range(option: str, text: str) -> tuple[float, float]:
    """5:20 -> (5.0, 20.0); 10 -> (10.0, 10.0)."""
    low, colon, high = text.partition(":")
    try:
        return float(low), float(high if colon else low)
    except ValueError:
        raise UsageError(f"{option} {text}: wanted LOW:HIGH, such as 5:20, or one number") from None
