"""A corpus to shards: recordings -> 16 kHz PCM16 in scratch files -> keyed shuffle -> tars -> index.

    SRC (folder, tar, tar.gz) --decode, workers--> DIR/.packing/*.pcm, journal --shuffled by key--> audited
        --write, workers--> DIR/.packing/SPLIT/NNNNNN.tar --> index --> all to its place: DIR/SPLIT, DIR/index

The order hangs on the clips' names alone, so the same clips give the same bytes, on any number of processes. What is
done stands in the journal (kws/packing/journal.py): a packing that was killed goes on there, and memory does not grow with
the corpus. The index is put in place last: until then nothing looks finished.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from kws import counter_rng
from kws.corpus.source import NOISE_FOLDER, Recording, Sources, split_by_hash, split_key
from kws.data import index as index_file
from kws.data.index import SPLITS, Index
from kws.distributed.worker_pool import WorkerLostError, Workers
from kws.errors import UsageError
from kws.packing import decoding, journal, leaks, publish, shard_writer
from kws.packing.journal import Journal
from kws.packing.merge import Known, Numbering, new_part, next_number, old_parts
from kws.packing.scan import name_id
from kws.packing.shard_writer import AudioFormat

SHARD_BYTES = 64_000_000
Part = tuple[int, int]
"""Number and count, from (1, 1): so many jobs share a corpus, each taking the recordings that their names deal it."""
WHOLE: Part = (1, 1)
Percents = tuple[float, float]
"""Of the speakers, in valid and in test."""
OFFICIAL: Percents = (10.0, 10.0)
Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, total)."""


@dataclasses.dataclass
class Report:
    """What packing did beside the shards: inputs left out, each with its reason, and things worth saying."""

    skipped: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Options:
    """How to pack. `append`: to the corpus that is there. `allow_leaks`: what the audit finds is noted, not refused."""

    audio_format: AudioFormat = "wav"
    shard_bytes: int = SHARD_BYTES
    part: Part = WHOLE
    percents: Percents = OFFICIAL
    append: bool = False
    allow_leaks: bool = False


class _UnfinishedError(UsageError):
    """Stops a packing that can go on: its scratch folder stays."""


def pack(
    sources: Sequence[Path],
    out: Path,
    audio_format: AudioFormat = "wav",
    shard_bytes: int = SHARD_BYTES,
    progress: Progress = lambda what, done, total: None,
    part: Part = WHOLE,
    percents: Percents = OFFICIAL,
    append: bool = False,
    allow_leaks: bool = False,
    processes: int = 1,
    names: str = "",
) -> tuple[Index, Report]:
    """Packs the sources as one corpus into `out`, or adds them to the one there. Raises UsageError for what stops it:
    then there is no corpus, or the old one.

    Damaged recordings are left out and listed in the report. Splits are those of the official lists, else of the
    official hash rule on the speaker; noises go to the split `noise`. `part`: only that of the recordings, each part a
    like mixture of all; kws.packing.external_index makes one index for the shards of all parts. `names`: as Sources has it. With
    several processes the caller's main module is imported by each: it must do nothing when imported.
    """
    options = Options(audio_format, shard_bytes, part, percents, append, allow_leaks)
    corpus, made = Sources(sources, names), not out.exists()
    made_of = json.dumps([[str(path.absolute()) for path in sources], part, append, names])
    try:
        publish.recover(out)
        done = _finished(out, made_of)
        if done:
            return done, Report(notes=["was packed to the end before"])
        base = _base(out, append)
        book = Journal(out / ".packing")
    except (OSError, sqlite3.Error) as error:
        raise UsageError(f"{out}: cannot be written ({_why(error)}); nothing was packed") from error
    try:
        publish.take_back(out, book)
        book.begin(made_of=made_of, base=base.content_id if base else "")
        with Workers(processes) as workers:
            return _Packing(corpus, out, options, book, base, workers, progress).run()
    except WorkerLostError as error:
        raise _unfinished(f"{out}: {error}; nothing was packed", book) from error
    except (OSError, sqlite3.Error) as error:
        raise _unfinished(f"{out}: cannot be written ({_why(error)}); nothing was packed", book) from error
    except _UnfinishedError:
        raise
    except UsageError:
        book.remove()
        raise
    finally:
        book.close()
        if made and out.is_dir() and not any(out.iterdir()):
            out.rmdir()  # nothing came of it


def _unfinished(what: str, book: Journal) -> _UnfinishedError:
    folder = book.folder
    return _UnfinishedError(f"{what}; the same again goes on from what is in {folder} (or give it up: rm -r {folder})")


def _why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _finished(out: Path, made_of: str) -> Index | None:
    """The corpus, where a packing of the same sources was killed after all was in place."""
    if not ((out / ".packing" / "journal").exists() and (out / "index" / "index.json").exists()):
        return None
    book, index = Journal(out / ".packing"), index_file.load(out)
    ended, same = book.fact("target") == index.content_id, book.fact("made_of") == made_of
    if ended:
        book.remove()
    book.close()
    return index if ended and same else None


def _base(out: Path, append: bool) -> Index | None:
    """The corpus to add to. Refuses a folder that holds anything else, but for what a killed packing left there."""
    if append:
        base = index_file.load(out)
        if base.source:
            raise UsageError(f"{out}: an index of shards at {base.source}; --append needs them beside it: pack anew")
        return base
    check_free(out)
    return None


def check_free(out: Path) -> None:
    """Refuses a folder that holds anything, but for what a killed packing or a fetch left there."""
    if (out / "index" / "index.json").exists():
        raise UsageError(
            f"{out}: holds a packed corpus already; give another folder, add to it with --append, or remove it first"
        )
    if out.is_dir() and {path.name for path in out.iterdir()} - {".fetch"} and not (out / ".packing").exists():
        raise UsageError(f"{out}: not empty; give a new folder for the shards: kws pack SRC... DIR")


class _Packing:
    """One packing, from its sources to the finished corpus."""

    def __init__(
        self, corpus: Sources, out: Path, options: Options, book: Journal, base: Index | None, workers: Workers,
        progress: Progress,
    ) -> None:  # fmt: skip
        self._corpus, self._out, self._options, self._book, self._base = corpus, out, options, book, base
        self._workers, self._progress, self._report = workers, progress, Report()
        self._kept_shards = 0

    def run(self) -> tuple[Index, Report]:
        """The corpus, and what is to be said about it."""
        kept, total = self._decode()
        self._settle(total)
        if self._base and not self._book.count():
            self._report.notes.append("nothing new: the corpus is as it was")
            self._book.remove()
            return self._base, self._report
        numbering = Numbering(self._book.words(), self._book.speakers(), self._base)
        self._audit(numbering)
        self._note_alike(numbering.words)
        self._write(numbering)
        self._say_what_was_there(kept, total)
        return publish.publish(self._out, self._book, self._base, numbering), self._report

    # --- decoding ---------------------------------------------------------------------------------------------

    def _decode(self) -> tuple[int, int]:
        """All recordings to the journal. How many were there before, and how many there are."""
        total, kept, count = self._corpus.total_bytes, 0, 0
        done = 0

        def passed(one: decoding.Marked) -> None:
            nonlocal done
            done += one.size
            self._progress("decode", min(done, total), total)

        def wanted() -> Iterator[decoding.Marked]:
            nonlocal kept, count
            for one in decoding.marked(filter(self._is_mine, self._corpus)):
                count += 1
                if self._book.has(one.seq, one.mark):
                    kept += 1
                    passed(one)
                else:
                    yield one

        for rows in self._workers.map(decoding.decode, decoding.chunks(self._book.folder, wanted(), passed)):
            self._book.add(rows)
        return kept, count

    def _is_mine(self, recording: Recording) -> bool:
        return self._in_part(recording.name)

    def _in_part(self, name: str) -> bool:
        """Names that would give the same key are in the same part."""
        number, count = self._options.part
        return counter_rng.digest("part", decoding.key_of(name)) % count == number - 1

    # --- what becomes a clip, and where it goes ---------------------------------------------------------------

    def _settle(self, total: int) -> None:
        """Keys and splits; clips that are there twice go in once."""
        book, report = self._book, self._report
        book.settle(total, self._split_of, _suffix)
        report.skipped += [f"{origin}: {name}: {why}" for origin, name, why in book.faults()]
        report.skipped += self._corpus.ignored
        for origin, name, first, same in book.twice():
            if not same:
                raise UsageError(
                    f"{origin}: {name} is another recording than the one of that name in {first}; rename one"
                )
            report.notes.append(f"{origin}: {name}: same as in {first}, taken once")
        if not book.words():
            paths = ", ".join(map(str, self._corpus.paths))
            some = next((f", such as {name}: {why}" for _, name, why in book.faults()), "")
            raise UsageError(f"{paths}: no readable clip ({book.count_faults()} damaged{some})")
        if self._base:
            self._leave_out_known(self._base)
        self._note_splits()

    def _split_of(self, name: str, word: str, speaker: str) -> str:
        if word == NOISE_FOLDER:
            return "noise"
        if self._corpus.split_of:
            return self._corpus.split_of.get(name, "train")
        return split_by_hash(split_key(name, speaker), *self._options.percents)

    def _leave_out_known(self, base: Index) -> None:
        """What has the name and the sound of a clip of the corpus is that clip; another sound is refused."""
        known = Known(base)
        there, elsewhere = list[str](), list[str]()
        for split in SPLITS:
            for clip in self._book.clips(split):
                found = known.find(name_id(clip.key))
                if found is None:
                    continue
                sound, old_split = found
                if sound != clip.sound:
                    raise UsageError(
                        f"{clip.name} is another recording than the one of that name in {base.root}; rename it"
                    )
                there.append(clip.name)
                elsewhere += [f"{clip.name}: {old_split} there, {split} now"] * (old_split != split)
        self._book.leave_out(there)
        self._note_known(there, elsewhere)

    def _note_known(self, there: Sequence[str], elsewhere: Sequence[str]) -> None:
        for clips, what in (
            (there, "recordings are in the corpus already ({}): taken once"),
            (elsewhere, "of them are in another split there ({}): they stay in it; pack anew to move them"),
        ):
            some = ", ".join(clips[:3]) + (", ..." if clips[3:] else "")
            if clips:
                self._report.notes.append(f"{len(clips):,} {what.format(some)}")

    def _note_splits(self) -> None:
        notes, listed = self._report.notes, self._corpus.split_of
        absent = sum(self._in_part(name) and not self._book.has_name(name) for name in listed)
        if absent:
            notes.append(f"splits are given for {absent} clips that are not in the sources")
        if "train" in listed.values():  # a table, which has a split in every line, beside sources that have none
            unsaid = sum(clip.name not in listed for clip in self._book.clips("train"))
            if unsaid:
                notes.append(f"no split is given for {unsaid:,} clips: they are for training")
        valid, test = self._options.percents
        if not listed:
            notes.append(
                f"no splits are given: split by the hash of the speaker, {100 - valid - test:g}/{valid:g}/{test:g} %"
            )
        elif self._options.percents != OFFICIAL:
            notes.append("the splits that are given decide, not --valid and --test")
        for split, then in (("valid", "training needs one; give splits"), ("test", "evaluate with --split valid")):
            if not (self._book.count(split) or (self._base and len(self._base.splits.get(split, ())))):
                notes.append(f"no clip fell to the {split} split: {then}, or pack more speakers")

    def _note_alike(self, words: Sequence[str]) -> None:
        """Two spellings of one word are two classes, which nobody may want."""

        def plain(word: str) -> str:
            return word.casefold().strip()

        alike = itertools.groupby(sorted(words, key=lambda word: (plain(word), word)), plain)
        for group in (list(same) for _, same in alike):
            if len(group) > 1:
                self._report.notes.append(
                    f"{' and '.join(map(repr, group))} are {len(group)} words; rename one if they are the same"
                )

    # --- the audit --------------------------------------------------------------------------------------------

    def _audit(self, numbering: Numbering) -> None:
        """Refuses, or only notes, what a test would share with training; old clips and new ones together."""
        old = old_parts(self._base, numbering) if self._base else []
        new = [new_part(self._book, split, numbering) for split in SPLITS if split != "noise"]

        def name_of(place: leaks.Place) -> str:
            number, row = place
            split = [*old, *new][number].split
            return f"{self._out}: {split}/{row}" if number < len(old) else self._book.name_at(split, row)

        parts = [*old, *new]
        lines = leaks.described(leaks.find(parts, numbering.speakers), parts, name_of)
        if lines and not self._options.allow_leaks:
            raise _unfinished(
                f"{self._out}: {'; '.join(lines)}; take one of each away (or mend the lists), "
                "or pack all the same with --allow-leaks", self._book,
            )  # fmt: skip
        self._report.notes += lines

    # --- writing ----------------------------------------------------------------------------------------------

    def _write(self, numbering: Numbering) -> None:
        """All shards to the scratch folder; those of an earlier call are kept where they would be the same."""
        total = self._book.count()
        done = 0

        def jobs() -> Iterator[shard_writer.Shard]:
            nonlocal done
            for split in SPLITS:
                for shard in self._shards(split, numbering):
                    if self._book.is_written(split, shard.number, shard.digest):
                        self._kept_shards += 1
                        done += len(shard.clips)
                    else:
                        self._book.forget_shards(split, shard.number, shard.number)
                        yield shard

        for written in self._workers.map(shard_writer.write, jobs()):
            self._book.add_shard(written)
            done += written.clips
            self._progress("write", done, total)

    def _shards(self, split: str, numbering: Numbering) -> Iterator[shard_writer.Shard]:
        """What each shard of a split holds."""
        words, speakers, audio_format = numbering.word_ids, numbering.speaker_ids, self._options.audio_format
        clips = (
            shard_writer.Numbered(clip, words[clip.word], speakers[clip.speaker]) for clip in self._book.clips(split)
        )
        number = next_number(self._base, split)
        for lot in shard_writer.dealt(clips, self._options.shard_bytes, audio_format):
            digest = journal.digest(audio_format, lot)
            yield shard_writer.Shard(self._book.folder, split, number, digest, audio_format, self._book.goes_on, lot)
            number += 1
        self._book.forget_shards(split, number)

    def _say_what_was_there(self, kept: int, total: int) -> None:
        if self._book.anew:
            self._report.notes.append("what a killed packing of other sources had done was thrown away")
        elif kept or self._kept_shards:
            shards = f", {self._kept_shards:,} shards written" if self._kept_shards else ""
            self._report.notes.insert(0, f"goes on: {kept:,} of {total:,} recordings were decoded already{shards}")


def _suffix(name: str) -> str:
    return "-" + hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()[:8]
