"""The recordings of background sound in folders and archives, cut into parts, without utterances of the target words.

    folder, archive or file -> recordings -> transcripts, label tracks: the times of target words
                            -> the rest of each recording, in parts of at most a minute, of which streams are made

A path below an archive means that part of it: musan.tar.gz/musan/noise.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kws import counter_rng
from kws.audio import codec
from kws.audio.audio_files import find_audio
from kws.audio.codec import SAMPLE_RATE_HZ
from kws.corpus import archives, label_track
from kws.errors import UsageError, unreadable
from kws.streaming.mixing import unpacking
from kws.streaming.mixing.known_layouts import KnownLayout, Utterance, layout_of, split_words
from kws.streaming.mixing.known_sounds import WHOLE, KnownSounds

PART_S, SHORTEST_S = 60.0, 0.5
"""Longest and shortest part of a recording."""
_MARGIN_S = 0.5
"""Seconds that are left out before and after an utterance with a target word."""
Span = tuple[float, float]
"""Start and end, in seconds."""
Parts = npt.NDArray[np.int64]
Progress = Callable[[int, int, str], None]
"""Called with the amount done, the total (0: unknown) and a description."""


@dataclasses.dataclass(frozen=True)
class Rules:
    """Which recordings and which parts of them may be in the background.

    targets: the words of each label; utterances with all words of one are left out. known: the recordings of the
    corpus. share: the part of the time of each source that is used, so that other streams can use the rest.
    """

    targets: Sequence[frozenset[str]]
    known: KnownSounds | None = None
    share: Span = (0.0, 1.0)


@dataclasses.dataclass
class Source:
    """The recordings of one --background.

    recordings: their paths below `roots`, by number. parts: (P, 3): number of the recording, first sample and number of
    samples at 16 kHz. corpora: recordings of each known corpus. faults: recordings that cannot be read, and why.
    """

    name: str
    recordings: list[Path] = dataclasses.field(default_factory=list)
    names: list[str] = dataclasses.field(default_factory=list)
    parts: Parts = dataclasses.field(default_factory=lambda: np.zeros((0, 3), np.int64))
    corpora: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    licences: dict[str, str] = dataclasses.field(default_factory=dict)
    faults: list[str] = dataclasses.field(default_factory=list)
    without_transcript: int = 0
    with_words_s: float = 0.0
    too_short: int = 0
    other_channels: int = 0
    in_corpus: int = 0

    @property
    def hours(self) -> float:
        """Sound that can be used."""
        return float(self.parts[:, 2].sum()) / SAMPLE_RATE_HZ / 3600

    def notes(self) -> Iterator[str]:
        """Lines for the user."""
        known = ", ".join(self.corpora)
        count = len(self.recordings)
        yield (
            f"background {self.name}: {count:,} recording{'s' * (count != 1)}{f' ({known})' if known else ''}, "
            f"{self.hours:.2f} h"
        )
        if self.other_channels:
            yield (
                f"{self.name}: {self.other_channels:,} files are left out: other channels of the same time, of which "
                "one is used"
            )
        if self.with_words_s:
            yield (
                f"{self.name}: {self.with_words_s / 60:.1f} min are left out: their transcripts have the words of the "
                "label tracks"
            )
        if self.without_transcript:
            yield (
                f"{self.name}: {self.without_transcript:,} recordings have no transcript; a word of the label tracks "
                "in their speech would count as a false accept"
            )
        if self.in_corpus:
            yield (
                f"{self.name}: {self.in_corpus:,} recordings are left out or used in part, because other splits of "
                "the corpus contain them"
            )
        if self.too_short:
            yield f"{self.name}: {self.too_short:,} recordings are shorter than {SHORTEST_S:g} s and not used"

    def facts(self) -> dict[str, object]:
        """For the manifest; without paths, which differ between machines."""
        return {
            "name": self.name, "recordings": len(self.recordings), "hours": round(self.hours, 6),
            "corpora": self.licences, "left_out": self.faults, "with_words_s": round(self.with_words_s, 3),
            "without_transcript": self.without_transcript, "too_short": self.too_short,
            "in_corpus": self.in_corpus,
        }  # fmt: skip


def open_source(path: Path, rules: Rules, unpacked: Path, progress: Progress) -> Source:
    """Finds the recordings of one --background, unpacking archives below the folder `unpacked`.

    Raises UsageError where there is no usable sound.
    """
    source = Source(path.name)
    for root in _roots(path, unpacked, progress):
        _add_recordings(source, root, rules, progress)
    source.parts = _share(source, rules.share)
    if not len(source.parts):
        why = f"; {source.faults[0]}" if source.faults else ""
        raise UsageError(
            f"--background {path}: no usable sound of {SHORTEST_S:g} s in {len(source.recordings)} recordings{why}"
        )
    return source


def _roots(path: Path, unpacked: Path, progress: Progress) -> list[Path]:
    """The folders and files with the recordings of a --background: itself, or what its archives are unpacked to."""
    archive = next((place for place in (path, *path.parents) if place.is_file()), None)
    if archive is not None and archives.is_archive(archive.name):
        return [_unpacked(archive, unpacked, progress) / path.relative_to(archive)]
    if not path.is_dir():
        return [path]
    try:
        inside = sorted(file for file in path.iterdir() if file.is_file() and archives.is_archive(file.name))
    except OSError as error:
        raise unreadable(error, path) from error
    roots = [_unpacked(file, unpacked / path.name, progress) for file in inside]
    return roots if roots and not _has_audio(path) else [path, *roots]


def _has_audio(folder: Path) -> bool:
    try:
        return bool(find_audio([folder]))
    except UsageError:
        return False


def _unpacked(archive: Path, folder: Path, progress: Progress) -> Path:
    name = archive.name
    while archives.is_archive(name) or name.endswith(".tar"):
        name = name.rpartition(".")[0]
    target = folder / (name.removesuffix(".tar") or archive.name)
    unpacking.unpack(archive, target, lambda count: progress(count, 0, f"unpacking {archive.name}"))
    return target


def _add_recordings(source: Source, root: Path, rules: Rules, progress: Progress) -> None:
    paths, parts = find_audio([root]), [source.parts]
    for done, path in enumerate(paths):
        progress(done, len(paths), f"backgrounds: {source.name}")
        name = path.relative_to(root).as_posix() if path != root else path.name
        layout = layout_of(path.as_posix())
        if layout and path != root and not layout.used.search(name):
            source.other_channels += 1
            continue
        try:
            spans = _usable(source, path, layout, rules)
        except codec.AudioError as error:
            source.faults.append(f"{name}: {error}")
            continue
        parts.append(_parts(len(source.recordings), spans))
        source.recordings.append(path)
        source.names.append(name)
    source.parts = np.concatenate(parts)


def _usable(source: Source, path: Path, layout: KnownLayout | None, rules: Rules) -> list[Span]:
    """The stretches of a recording that may be used; counts in `source` what may not. Raises codec.AudioError."""
    try:
        with path.open("rb") as file:
            seconds = codec.duration_s(file)
        part = rules.known.part(path, seconds) if rules.known else WHOLE
    except OSError as error:
        raise unreadable(error, path) from error
    utterances = layout.transcript(path) if layout else _labels(path, seconds)
    spans = list(_without_words(utterances or (), rules.targets, seconds))
    if layout:
        source.corpora[layout.name] += 1
        source.licences[layout.name] = layout.licence
    source.without_transcript += utterances is None
    source.with_words_s += seconds - sum(end - start for start, end in spans)
    source.too_short += seconds < SHORTEST_S
    source.in_corpus += part != WHOLE
    return list(_inside(spans, part[0] * seconds, part[1] * seconds))


def _labels(path: Path, seconds: float) -> list[Utterance] | None:
    """The labels of the label track beside a recording; None where there is none."""
    track = label_track.find_track(path)
    if track is None:
        return None
    labels = label_track.read(track, seconds)
    return [Utterance(label.start, label.end, split_words(label.word)) for label in labels]


def _without_words(
    utterances: Sequence[Utterance], targets: Sequence[frozenset[str]], seconds: float
) -> Iterator[Span]:
    """Start and end, in seconds, of the stretches without an utterance that contains all words of a target."""
    excluded = sorted(
        (spoken.start_s, spoken.end_s) for spoken in utterances if any(target <= spoken.words for target in targets)
    )
    start = 0.0
    for first, last in excluded:
        if first - _MARGIN_S > start:
            yield start, min(first - _MARGIN_S, seconds)
        start = max(start, last + _MARGIN_S)
    if start < seconds:
        yield start, seconds


def _share(source: Source, share: Span) -> Parts:
    """The parts in this share of the time of all parts, with the recordings in an order of their names' hashes."""
    if share == (0.0, 1.0):
        return source.parts
    order = np.argsort([counter_rng.digest("mix-share", name) for name in source.names], kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    parts = source.parts[np.argsort(place[source.parts[:, 0]], kind="stable")]
    middles = (np.cumsum(parts[:, 2]) - parts[:, 2] / 2) / max(1, parts[:, 2].sum())
    found: Parts = parts[(share[0] <= middles) & (middles < share[1])]
    return found


def _inside(spans: Sequence[Span], low: float, high: float) -> Iterator[Span]:
    """The parts of the spans between `low` and `high`."""
    for start, end in spans:
        if max(start, low) < min(end, high):
            yield max(start, low), min(end, high)


def _parts(recording: int, spans: Sequence[Span]) -> Parts:
    """The parts of a recording: each span in equal parts of at most PART_S."""
    parts = list[tuple[int, int, int]]()
    for start_s, end_s in spans:
        start, end = math.ceil(start_s * SAMPLE_RATE_HZ), math.floor(end_s * SAMPLE_RATE_HZ)
        if end - start < SHORTEST_S * SAMPLE_RATE_HZ:
            continue
        count = math.ceil((end - start) / (PART_S * SAMPLE_RATE_HZ))
        edges = [start + (end - start) * number // count for number in range(count + 1)]
        parts += [(recording, low, high - low) for low, high in itertools.pairwise(edges)]
    return np.array(parts, np.int64).reshape(-1, 3)
