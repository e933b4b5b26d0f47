"""Corpora of background sound whose official layout is known: which files are used, and their transcripts.

    name of a file below its source -> KnownLayout -> is it used; licence; its transcript -> utterances with their words

corpus        its files                                                     used
DiPCo         Dipco/audio/{dev,eval}/S01_U01.CH1.wav, S01_P01.wav ...       channel 1 of device U01, once a session
LibriSpeech   LibriSpeech/test-clean/1089/134686/1089-134686-0000.flac      all
MUSAN         musan/{music,speech,noise}/SOURCE/KIND-SOURCE-0000.wav        all
DEMAND        DKITCHEN/ch01.wav ... ch16.wav                                channel 1

The channels of DiPCo and DEMAND were recorded at the same time: if all were used, the same sound would be repeated.
DiPCo and LibriSpeech have transcripts, so that utterances with the target words can be left out; the others have none.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kws.corpus.recording import raise_unreadable
from kws.errors import UsageError


class Utterance(NamedTuple):
    """Words of a transcript, with start and end in seconds of the recording; end: inf for all of it."""

    start_s: float
    end_s: float
    words: frozenset[str]


def _no_transcript(path: Path) -> None:
    return None


class KnownLayout(NamedTuple):
    """name, licence, address: for notes and the manifest. audio: pattern for the ends of the paths of its recordings.
    others: the same for its transcripts, lists and licences. used: for the recordings that are used, by default all.
    transcript: returns the utterances of a recording; None where it has no transcript."""

    name: str
    licence: str
    address: str
    audio: re.Pattern[str]
    others: re.Pattern[str]
    used: re.Pattern[str] = re.compile("")
    transcript: Callable[[Path], list[Utterance] | None] = _no_transcript


def layout_of(name: str) -> KnownLayout | None:
    """The layout that the path of a recording belongs to."""
    return next((layout for layout in LAYOUTS if layout.audio.search(name)), None)


def split_words(text: str) -> frozenset[str]:
    """The words of a text, in small letters."""
    return frozenset(word.strip("'") for word in re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.casefold()))


def _librispeech(path: Path) -> list[Utterance] | None:
    """A recording is one utterance; a file for each chapter has a line for each: 1089-134686-0000 HE HOPED THERE ..."""
    texts = _librispeech_chapter(path.with_name(f"{path.stem.rpartition('-')[0]}.trans.txt"))
    return [Utterance(0.0, float("inf"), texts[path.stem])] if path.stem in texts else None


@functools.lru_cache(16)
def _librispeech_chapter(path: Path) -> dict[str, frozenset[str]]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise_unreadable(error, path)
    return {name: split_words(text) for name, _, text in (line.partition(" ") for line in lines)}


def _dipco(path: Path) -> list[Utterance] | None:
    """audio/dev/S02_U01.CH1.wav -> transcriptions/dev/S02.json: a list of utterances, with times for each device."""
    session, _, device = path.name.partition("_")
    track = path.parents[2] / "transcriptions" / path.parent.name / f"{session}.json"
    try:
        entries = json.loads(track.read_text(encoding="utf-8"))
        return [_dipco_utterance(entry, device.partition(".")[0]) for entry in entries]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise_unreadable(error, track)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{track}: damaged ({error}); wanted the transcript as it is in DipCo.tgz") from error


def _dipco_utterance(entry: Any, device: str) -> Utterance:
    start, end = (_clock(entry[key], device) for key in ("start_time", "end_time"))
    return Utterance(start, end, split_words(entry["words"]))


def _clock(times: Any, device: str) -> float:
    """0:02:12.79 -> 132.79; `times` has it for each device, or for the close microphones alone."""
    text = times if isinstance(times, str) else times.get(device) or times["close-talk"]
    hours, minutes, seconds = text.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(f"(?:^|/){text}$")


LAYOUTS: Sequence[KnownLayout] = (
    KnownLayout(
        "DiPCo", "CDLA-Permissive-1.0", "https://zenodo.org/records/8122551",
        _pattern(r"audio/(?:dev|eval)/S\d\d_(?:U\d\d\.CH\d|P\d\d)\.wav"),
        _pattern(r"(?:transcriptions/(?:dev|eval)/S\d\d\.json|(?:LICENSE|README)[^/]*)"),
        used=_pattern(r"S\d\d_U01\.CH1\.wav"), transcript=_dipco,
    ),
    KnownLayout(
        "LibriSpeech", "CC BY 4.0", "https://www.openslr.org/12",
        _pattern(r"\d+/\d+/\d+-\d+-\d{4}\.flac"),
        _pattern(r"(?:\d+-\d+\.trans\.txt|(?:LICENSE|README|SPEAKERS|CHAPTERS|BOOKS)\.TXT)"),
        transcript=_librispeech,
    ),
    KnownLayout(
        "MUSAN", "CC BY 4.0; the LICENSE files in its folders name that of each file", "https://www.openslr.org/17",
        _pattern(r"(?:music|speech|noise)-[a-z-]+-\d{4}\.wav"), _pattern(r"(?:LICENSE|ANNOTATIONS|README)"),
    ),
    KnownLayout(
        "DEMAND", "CC BY-SA 3.0 by its documentation, CC BY 4.0 by its page", "https://zenodo.org/records/1227121",
        _pattern(r"[A-Z0-9]{4,}/ch\d\d\.wav"), _pattern(r"(?:LICENSE|README)[^/]*"), used=_pattern(r"ch01\.wav"),
    ),
)  # fmt: skip
