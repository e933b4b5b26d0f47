"""Makes the files of `kws mix`: audio, label tracks and the manifest mix.json. Each is replaced atomically.

    OUT/stream-000.flac, .txt ... -> OUT/.mix/000.json: what is in the file -> OUT/mix.json, when all files are there

A file is complete when its .mix/NNN.json exists, which is written last. After a kill the same command makes the rest.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import soundfile  # type: ignore[import-untyped]
from rich.filesize import decimal

from kws import files
from kws.audio.codec import SAMPLE_RATE_HZ
from kws.data import index as index_file
from kws.data.index import Index
from kws.data.reader import Reader
from kws.errors import UsageError, cannot_write, filename_in_error
from kws.streaming.mixing.background import Progress, Rules, Source, open_source
from kws.streaming.mixing.clips import ClipDraws, UsableClips, choose_words, usable_clips
from kws.streaming.mixing.known_layouts import split_words
from kws.streaming.mixing.known_sounds import KnownSounds
from kws.streaming.mixing.placement import Placed, file_samples, place
from kws.streaming.mixing.render import Mixed, Renderer
from kws.streaming.mixing.settings import MixSettings
from kws.streaming.mixing.timeline import Backgrounds, Piece, Timeline

MANIFEST, _PARTS, _ID = "mix.json", ".mix", "id.json"
_VERSION = 1
Facts = dict[str, Any]


@dataclasses.dataclass
class MixReport:
    """The streams that were made. faults: background recordings that cannot be read. kept: number of files that were
    complete before."""

    manifest: Facts
    notes: list[str]
    faults: list[str]
    kept: int

    @property
    def hours(self) -> float:
        """Length of all files together."""
        return float(sum(file["seconds"] for file in self.manifest["files"])) / 3600

    def counts(self) -> collections.Counter[str]:
        """Number of times that each word is in the label tracks."""
        return collections.Counter(
            word["word"] for file in self.manifest["files"] for word in file["words"] if word["target"]
        )


def mix(
    shards: Path, out: Path, settings: MixSettings, backgrounds: Sequence[Path], unpacked: Path | None = None,
    progress: Progress = lambda done, total, what: None,
) -> MixReport:  # fmt: skip
    """Makes the streams in the folder `out`; files of them that are complete are kept.

    backgrounds: folders, archives and files of background sound; none: generated noise. unpacked: folder for the
    contents of archives; None: beside `out`. Raises UsageError where the settings are impossible, or where `out` has
    other streams or other files.
    """
    corpus = index_file.load(shards)
    words = _Words(corpus, settings)
    labels = [split_words(corpus.words[number]) for number in words.targets.words]
    rules = Rules(labels, KnownSounds(corpus, settings.split), settings.background_share)
    unpacked = unpacked or out.absolute().with_name(f"{out.absolute().name}.background")
    sources = [open_source(path, rules, unpacked, progress) for path in backgrounds]
    facts = _facts(corpus, settings, words.usable, sources)
    folder, planned = _StreamFolder(out, facts), Backgrounds(settings, sources)
    mixer = _Mixer(words, planned, folder, progress)
    report = MixReport(facts, [*words.usable.notes(), *words.notes()], [], 0)
    for source in sources:
        report.notes += source.notes()
        report.faults += [f"{source.name}/{fault}" for fault in source.faults]
    if not sources:
        report.notes.append("the background is generated noise; for real sound give --background DIR")
    entries = []
    for file in range(settings.num_files):
        placed = place(settings, words.targets, words.distractors, file)
        pieces = planned.pieces(file_samples(settings))
        entry = folder.entry(file)
        report.kept += entry is not None
        entries.append(entry or mixer.make(file, placed, pieces))
    facts["files"] = entries
    folder.finish(facts)
    report.notes += [*words.end_notes(), *planned.repeats(), *_loss_notes(entries)]
    return report


class _Words:
    """The clips of a corpus that become words of the streams."""

    def __init__(self, corpus: Index, settings: MixSettings) -> None:
        self.corpus, self.settings = corpus, settings
        self.usable = usable_clips(corpus, settings.split)
        self.reader = Reader(corpus, settings.split)
        targets, others = choose_words(corpus, settings.words)
        draws = [
            ClipDraws(self.reader, corpus, self.usable, numbers, (kind, settings.seed))
            for kind, numbers in (("target", targets), ("distractor", others))
        ]
        self.targets, self.distractors = draws
        if not self.targets.words:
            raise UsageError(
                f"{corpus.root}: no clips of {', '.join(self.targets.lacking)} in {settings.split}; wanted clips by "
                "speakers who are not in train: pack recordings of more speakers, or choose other --words or --split"
            )
        if settings.distractors_per_hour and not self.distractors.words:
            raise UsageError("--distractors: no words are left for them; choose the words of the tracks with --words")

    def notes(self) -> list[str]:
        """Lines for the user that are known before anything is drawn."""
        lacking = self.targets.lacking
        return [f"no clips of {', '.join(lacking)} in {self.settings.split}"] if lacking else []

    def end_notes(self) -> list[str]:
        """Lines for the user on the clips that were drawn."""
        lines, inaudible = [], len(self.targets.inaudible) + len(self.distractors.inaudible)
        if inaudible:
            lines.append(f"{inaudible:,} clips are left out: no speech is found in them")
        for draws, what in ((self.targets, "words"), (self.distractors, "distractors")):
            if draws.most_uses > 1:
                lines.append(f"some clips of the {what} are used {draws.most_uses} times, since there are no more")
        return lines

    def facts(self, word: Mixed) -> Facts:
        """A word for the manifest. Times are those of its speech."""
        split, placed = self.corpus.split(self.settings.split), word.placed
        return {
            "word": self.corpus.words[int(split.values("word", placed.clip))], "target": placed.is_target,
            "clip": self.reader.name(placed.clip),
            "speaker": self.corpus.speakers[int(split.values("speaker", placed.clip))].decode(errors="replace"),
            "start_s": placed.at / SAMPLE_RATE_HZ, "end_s": placed.end / SAMPLE_RATE_HZ,
            "clip_start_s": placed.speech.start / SAMPLE_RATE_HZ, "snr_db": round(word.snr_db - word.loss_db, 2),
            "drawn_snr_db": round(word.snr_db, 2), "background_db": round(word.background_db, 2), "room": word.room,
        }  # fmt: skip


class _StreamFolder:
    """The folder of the streams. Raises UsageError where it has other streams or other files."""

    def __init__(self, out: Path, facts: Facts) -> None:
        self.out, self._parts, self._id = out, out / _PARTS, facts["id"]
        known = _read(out / MANIFEST) or _read(self._parts / _ID)
        if self._has_files() and (known is None or known.get("id") != self._id):
            other = "other streams" if known else "other files"
            raise UsageError(f"{out}: holds {other}; give another folder for streams with these settings")
        self._entries = dict(enumerate((_read(out / MANIFEST) or {}).get("files", ())))

    def begin(self) -> None:
        """Makes the folder, and removes the partial files of a process that was killed."""
        try:
            self._parts.mkdir(parents=True, exist_ok=True)
            for left in self.out.glob(".*.partial"):
                left.unlink()
            files.write_json(self._parts / _ID, {"id": self._id})
        except OSError as error:
            raise UsageError(cannot_write(self.out, error, "give another folder")) from error

    def _has_files(self) -> bool:
        """Whether there is anything but what a mix that completed no file leaves behind."""
        made = [name for name in files.names_in(self._parts) if name != _ID]
        return bool(made or [name for name in files.names_in(self.out) if name != _PARTS and name[-8:] != ".partial"])

    def audio(self, file: int) -> Path:
        """The audio of a file."""
        return self.out / f"stream-{file:03d}.flac"

    @contextlib.contextmanager
    def open_audio(self, file: int) -> Iterator[soundfile.SoundFile]:
        """A new audio file, which appears under its name when the with block ends without an error."""
        path = self.audio(file)
        with filename_in_error(path), files.replaced(path) as partial:
            try:
                with soundfile.SoundFile(partial, "w", SAMPLE_RATE_HZ, 1, "PCM_16", format="FLAC") as sound:
                    yield sound
            except soundfile.SoundFileError as error:  # without the reason
                free = shutil.disk_usage(self.out).free
                raise UsageError(cannot_write(path, error, f"{decimal(free)} are free there")) from error

    def entry(self, file: int) -> Facts | None:
        """The manifest's entry of a complete file; None where it is not complete, or was changed or removed."""
        entry = self._entries.get(file) or _read(self._part(file))
        if entry is None:
            return None
        audio = self.audio(file)
        tracks = {audio: entry["sha256"], audio.with_suffix(".txt"): entry["labels_sha256"]}
        return (
            entry if all(path.is_file() and files.sha256(path) == wanted for path, wanted in tracks.items()) else None
        )

    def add(self, file: int, entry: Facts) -> None:
        """Marks a file as complete."""
        files.write_json(self._part(file), entry)

    def finish(self, facts: Facts) -> None:
        """Writes the manifest."""
        files.write_json(self.out / MANIFEST, facts, durable=True)
        shutil.rmtree(self._parts, ignore_errors=True)

    def _part(self, file: int) -> Path:
        return self._parts / f"{file:03d}.json"


@dataclasses.dataclass(frozen=True)
class _Mixer:
    """Makes files."""

    words: _Words
    backgrounds: Backgrounds
    folder: _StreamFolder
    progress: Progress

    def make(self, file: int, placed: Sequence[Placed], pieces: Sequence[Piece]) -> Facts:
        """Makes a file with its label track; returns its entry of the manifest."""
        self.folder.begin()
        settings, path = self.words.settings, self.folder.audio(file)
        renderer, samples = Renderer(settings, self.words.reader), file_samples(settings)
        total, done = samples * settings.num_files, samples * file
        with self.folder.open_audio(file) as sound:
            for block in renderer.blocks(Timeline(self.backgrounds, pieces), placed, samples):
                sound.write(block)
                done += len(block)
                self.progress(done, total, f"mixing file {file + 1} of {settings.num_files}")
        words, labels = [self.words.facts(word) for word in renderer.words], path.with_suffix(".txt")
        lines = [f"{word['start_s']:.7f}\t{word['end_s']:.7f}\t{word['word']}\n" for word in words if word["target"]]
        files.write_text(labels, "".join(lines))
        entry = {
            "name": path.name, "seconds": samples / SAMPLE_RATE_HZ, "sha256": files.sha256(path), "labels": labels.name,
            "labels_sha256": files.sha256(labels), "clipped_samples": renderer.clipped, "words": words,
            "background": [self.backgrounds.facts(piece) for piece in pieces],
        }  # fmt: skip
        self.folder.add(file, entry)
        return entry


def _facts(corpus: Index, settings: MixSettings, usable: UsableClips, sources: Sequence[Source]) -> Facts:
    """The head of the manifest, with an id of all that the streams depend on."""
    facts = {
        "format": "kws-mix", "version": _VERSION, "id": "", "settings": dataclasses.asdict(settings),
        "corpus": {
            "content_id": corpus.content_id, "split": settings.split, "clips": len(usable.rows),
            "speakers_in_train": usable.speakers_in_train, "copies_in_train": usable.copies_in_train,
            "unknown_speakers": usable.unknown_speakers,
        },
        "backgrounds": [source.facts() for source in sources],
    }  # fmt: skip
    recordings = [[source.names, source.parts.tolist()] for source in sources]
    facts["id"] = hashlib.sha256(json.dumps([facts, recordings]).encode()).hexdigest()[:32]
    return facts


def _loss_notes(entries: Sequence[Facts]) -> list[str]:
    lower = sum(word["snr_db"] < word["drawn_snr_db"] for entry in entries for word in entry["words"])
    clipped = sum(entry["clipped_samples"] for entry in entries)
    notes = []
    if lower:
        notes.append(f"{lower:,} words are quieter than drawn, so that nothing clips (snr_db in {MANIFEST})")
    if clipped:
        notes.append(f"{clipped:,} samples are clipped, where reverberation of one word meets the next")
    return notes


def _read(path: Path) -> Facts | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return found if isinstance(found, dict) else None
