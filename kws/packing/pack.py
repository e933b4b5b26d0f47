"""Packs a corpus into shards: recordings -> 16 kHz PCM16 in scratch files -> shuffle -> tars -> index.

    SRC (folder, tar, CSV) --decode, in workers--> DIR/.packing/*.pcm, journal --shuffle, audit for leaks-->
        --write, in workers--> DIR/.packing/SPLIT/NNNNNN.tar --> index --> moved to DIR/SPLIT, DIR/index

The order of the clips depends on their names alone (counter-based RNG), so that the same clips give the same bytes with
any number of processes. Progress is stored in a journal (kws/packing/journal.py), from which a killed packing resumes;
memory does not grow with the corpus. The index is moved last: until then there is no corpus in DIR.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from kws import counter_rng
from kws.corpus.negatives import Negatives
from kws.corpus.source import Recording, Sources
from kws.data import index as index_file
from kws.data.index import GROUPS, NEGATIVES, Index
from kws.distributed.worker_pool import WorkerLostError, Workers
from kws.errors import UnreadableError, UsageError, cannot_write
from kws.packing import decoding, leaks, publish, recording_notes, shard_writer, split_lists, split_notes, splits
from kws.packing.journal import Journal, contents_digest
from kws.packing.merge import ClipLookup, MergedIds, base_columns, new_columns, next_shard_number
from kws.packing.scan import clip_name_hash
from kws.packing.shard_writer import AudioFormat

PartNumber = tuple[int, int]
"""Number, from 1, and count of the parts of a corpus, one for each job. Names of recordings decide their part."""
WHOLE: PartNumber = (1, 1)
Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""


@dataclasses.dataclass
class PackReport:
    """What packing reports beside the shards: recordings left out, each with the reason, and notes."""

    skipped: list[str] = dataclasses.field(default_factory=list)
    num_skipped: int = 0
    """Number of those recordings; one line may stand for many."""
    notes: list[str] = dataclasses.field(default_factory=list)
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)
    """Number of files of the sources that were not packed, by ending or reason; publish.LEFT_OUT lists them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackOptions:
    """How to pack.

    shard_bytes: size of a shard, about. part: packs only that part of the recordings; each part is a similar mixture,
    and kws.packing.external_index makes one index for the shards of all parts. append: adds to the corpus in the
    folder. allow_leaks: leaks between splits are noted instead of refused. names: pattern of file names
    (kws.corpus.name_pattern), "" for none. percents, valid_speakers, test_speakers: see splits.SplitOptions. are_plain:
    the sources are known to hold WORD/FILE, so that archives are read only once. tables: names of the
    tables in source folders to read; empty: those that are found. negatives: folders of long recordings without the
    words (kws.corpus.negatives), which are packed as wav whatever the format.
    """

    audio_format: AudioFormat = "wav"
    shard_bytes: int = 64_000_000
    part: PartNumber = WHOLE
    percents: splits.Percents = (None, None)
    append: bool = False
    allow_leaks: bool = False
    names: str = ""
    are_plain: bool = False
    tables: tuple[str, ...] = ()
    valid_speakers: tuple[str, ...] = ()
    test_speakers: tuple[str, ...] = ()
    negatives: tuple[Path, ...] = ()

    @property
    def splits(self) -> splits.SplitOptions:
        """The settings that decide the splits."""
        return splits.SplitOptions(
            percents=self.percents, valid_speakers=self.valid_speakers, test_speakers=self.test_speakers
        )


class _UnfinishedError(UsageError):
    """Stops a packing that can resume: its scratch folder is kept."""


def pack(
    sources: Sequence[Path],
    out: Path,
    options: PackOptions = PackOptions(),
    progress: Progress = lambda stage, done, total: None,
    processes: int = 1,
) -> tuple[Index, PackReport]:
    """Packs the sources as one corpus into `out`, or adds them to the corpus there.

    Damaged recordings are left out and reported. Splits are those that the sources name, else by the official hash rule
    on the speaker; noise recordings go to the split `noise`. With several processes each of them imports the caller's
    main module, which must do nothing when imported. Raises UsageError; then `out` holds no corpus, or the old one.
    """
    with decoding.reading():
        corpus = Sources(sources, options.names, options.are_plain, options.tables)
    shares = options.splits.shares
    negatives = Negatives(options.negatives, (shares.valid, shares.test))
    is_new = not out.exists()
    made_of = json.dumps(
        [[str(path.absolute()) for path in sources], options.part, options.append, options.names, *options.tables]
        + [f"--negatives {path.absolute()}" for path in options.negatives]
    )
    try:
        publish.restore_index(out)
        finished = _finished(out, made_of, repr(options.splits))
        if finished:
            return finished, PackReport(notes=["was packed completely before"])
        base = _base(out, options.append)
        negatives.known_split = _units_of(base).get
        journal = Journal(out / ".packing")
    except (OSError, sqlite3.Error) as error:
        raise UsageError(cannot_write(_written(error, out), error, "nothing was packed")) from error
    try:
        publish.withdraw_shards(out, journal)
        journal.begin(made_of=made_of, base=base.content_id if base else "")
        with Workers(processes) as workers:
            return _Packing((corpus, negatives), out, options, journal, base, workers, progress).run()
    except WorkerLostError as error:
        fewer = f"use fewer --processes than {processes}, or end other programs"
        raise _unfinished(f"{out}: {error}; nothing was packed; {fewer}", journal) from error
    except (OSError, sqlite3.Error) as error:
        raise _unfinished(cannot_write(_written(error, out), error, "nothing was packed"), journal) from error
    except MemoryError as error:
        raise _unfinished(f"out of memory ({error}); nothing was packed; use fewer --processes", journal) from error
    except UnreadableError as error:  # a disk or server that fails now: what is decoded is kept
        raise _unfinished(f"{error}; nothing was packed", journal) from error
    except _UnfinishedError:
        raise
    except UsageError:
        journal.remove()
        raise
    finally:
        journal.close()
        if is_new and out.is_dir() and not any(out.iterdir()):
            out.rmdir()


def _unfinished(what: str, journal: Journal) -> _UnfinishedError:
    folder = journal.folder
    return _UnfinishedError(
        f"{what}; run the same command again to resume from what is in {folder} (or discard it: rm -r {folder})"
    )


def _written(error: Exception, out: Path) -> str:
    """The file that could not be written. All reading from sources has errors of its own (decoding.reading)."""
    name = error.filename if isinstance(error, OSError) else None
    return str(out) if name is None or Path(name).absolute().is_relative_to(out.absolute()) else str(name)


def _finished(out: Path, made_of: str, split_options: str) -> Index | None:
    """The corpus, where a packing of the same sources and splits was killed after everything was in place."""
    if not ((out / ".packing" / "journal").exists() and (out / "index" / "index.json").exists()):
        return None
    journal, index = Journal(out / ".packing"), index_file.load(out)
    is_finished, is_same = journal.get_fact("target") == index.content_id, journal.get_fact("made_of") == made_of
    is_same = is_same and journal.get_fact("splits") in (None, split_options)
    if is_finished:
        publish.finish(out, journal)
    journal.close()
    return index if is_finished and is_same else None


def _base(out: Path, append: bool) -> Index | None:
    """The corpus to add to; None for a new one. Raises UsageError where `out` cannot be used."""
    if append:
        base = index_file.load(out)
        if base.source:
            raise UsageError(
                f"{out}: an index of shards at {base.source}; --append needs the shards beside the index: pack all "
                "sources into a new folder"
            )
        return base
    check_free(out)
    return None


def _units_of(base: Index | None) -> dict[str, str]:
    """The units of the negatives of the corpus that is added to -> their splits."""
    if base is None:
        return {}
    return {
        base.speakers[number].decode(): split
        for split, group in base.negatives.items()
        for number in np.unique(group.columns["speaker"]).tolist()
    }


def check_free(out: Path) -> None:
    """Raises UsageError for a folder that holds anything but the scratch folders of an earlier packing or fetch."""
    if (out / "index" / "index.json").exists():
        raise UsageError(
            f"{out}: holds a packed corpus already; give another folder, add to it with --append, or remove it first"
        )
    if out.is_dir() and {path.name for path in out.iterdir()} - {".fetch"} and not (out / ".packing").exists():
        raise UsageError(f"{out}: not empty; give a new folder for the shards: kws pack SRC... DIR")


class _Packing:
    """One packing, from its sources to the finished corpus."""

    def __init__(
        self, sources: tuple[Sources, Negatives], out: Path, options: PackOptions, journal: Journal,
        base: Index | None, workers: Workers, progress: Progress,
    ) -> None:  # fmt: skip
        self._corpus, self._negatives = sources
        self._out, self._options, self._journal, self._base = out, options, journal, base
        self._workers, self._progress, self._report = workers, progress, PackReport()
        self._num_kept_shards = 0

    def run(self) -> tuple[Index, PackReport]:
        """The index of the corpus, and the report."""
        with (self._journal.folder / publish.LEFT_OUT).open("w", encoding="utf-8") as listing:
            self._corpus.list_left_out(listing)
            self._negatives.left_out = self._corpus.found.left_out
            num_kept, num_recordings = self._decode()
            self._choose_clips(num_recordings)
        if self._base and not self._journal.count():
            self._report.notes.append("nothing new: the corpus is unchanged")
            self._journal.remove()
            return self._base, self._report
        ids = MergedIds(self._journal.words(), self._journal.speakers(), self._base)
        self._audit(ids)
        self._report.notes += recording_notes.of_similar_words(ids.words)
        self._write(ids)
        self._note_resumed(num_kept, num_recordings)
        self._journal.set_fact("splits", repr(self._options.splits))
        return publish.publish_corpus(self._out, self._journal, self._base, ids), self._report

    # --- decoding ---------------------------------------------------------------------------------------------

    def _decode(self) -> tuple[int, int]:
        """Decodes all recordings. Returns how many had been decoded by an earlier call, and how many there are."""
        with decoding.reading():
            total = self._corpus.total_bytes + self._negatives.total_bytes
        done, num_kept, num_recordings = 0, 0, 0

        def advance(numbered: decoding.NumberedRecording) -> None:
            nonlocal done
            done += numbered.size
            self._progress("decode", min(done, total), total)

        def missing() -> Iterator[decoding.NumberedRecording]:
            nonlocal num_kept, num_recordings
            recordings = itertools.chain(self._corpus, self._negatives)
            for numbered in decoding.number_recordings(filter(self._is_in_part, recordings)):
                num_recordings += 1
                if self._journal.is_decoded(numbered.seq, numbered.mark):
                    num_kept += 1
                    advance(numbered)
                else:
                    yield numbered

        for rows in self._workers.map(decoding.decode, decoding.chunks(self._journal.folder, missing(), advance)):
            self._journal.add_recordings(rows)
        return num_kept, num_recordings

    def _is_in_part(self, recording: Recording) -> bool:
        return self._is_name_in_part(recording.name)

    def _is_name_in_part(self, name: str) -> bool:
        """Whether a name belongs to the part that is packed. Names with the same key are in the same part."""
        number, count = self._options.part
        return counter_rng.digest("part", decoding.clip_key(name)) % count == number - 1

    # --- which recordings become clips, in which split ---------------------------------------------------------

    def _choose_clips(self, num_recordings: int) -> None:
        """Decides splits and keys, and takes each clip once. Raises UsageError for two recordings of one name."""
        journal, report = self._journal, self._report
        try:
            is_whole = self._options.part == WHOLE
            report.notes += split_lists.check(self._corpus.found, journal, self._is_name_in_part, is_whole)
        except UsageError as error:
            raise _unfinished(str(error), journal) from error
        rule = splits.SplitRule(self._options.splits, self._corpus.found, self._base)
        journal.assign_clips(num_recordings, rule.split_of, _suffix)
        for origin, name, reason in journal.faults():
            report.skipped.append(f"{origin}: {name}: {reason}")
            self._corpus.found.left_out.damaged(origin, name, reason)
        report.skipped += self._corpus.ignored
        report.num_skipped = self._corpus.found.left_out.num_faults
        report.notes += self._corpus.notes + self._negatives.notes + self._corpus.found.left_out.notes()
        report.left_out = dict(self._corpus.found.left_out.counts)
        report.notes += recording_notes.of_duplicates(journal)
        if not journal.words() and not (self._base and journal.count()):
            paths = ", ".join(map(str, self._corpus.paths))
            example = next((f", such as {name}: {reason}" for _, name, reason in journal.faults()), "")
            raise UsageError(f"{paths}: no readable clip ({journal.count_faults()} damaged{example})")
        report.notes += self._check_named(rule)
        if self._base:
            self._exclude_known(self._base)
        self._balance(rule)
        report.notes += recording_notes.of_remarks(journal)
        self._note_splits(rule)

    def _check_named(self, rule: splits.SplitRule) -> list[str]:
        """Raises an error after which the decoded recordings are kept: a name is quickly corrected."""
        try:
            return rule.check_named(self._journal, is_whole=self._options.part == WHOLE)
        except UsageError as error:
            raise _unfinished(str(error), self._journal) from error

    def _exclude_known(self, base: Index) -> None:
        """Leaves out clips that the corpus has already. Raises UsageError for another recording of the same name."""
        lookup = ClipLookup(base)
        known, elsewhere = list[str](), list[str]()
        for split in GROUPS:
            for clip in self._journal.clips(split):
                found = lookup.find(clip_name_hash(clip.key))
                if found is None:
                    continue
                sound, old_split = found
                if sound != clip.sound:
                    raise UsageError(f"{clip.name} has the name of another recording in {base.root}; rename it")
                known.append(clip.name)
                if old_split != split and (clip.speaker or self._corpus.found.gives_splits):  # a file was perhaps moved
                    elsewhere.append(f"{clip.name}: {old_split} there, {split} now")
        self._journal.exclude(known)
        self._report.notes += recording_notes.of_known(known, elsewhere)

    def _balance(self, rule: splits.SplitRule) -> None:
        """Moves speakers so that no word and no split is empty, where splits are made by hash of the whole corpus."""
        if self._corpus.found.gives_splits or self._options.part != WHOLE:
            return
        moves = splits.balance_splits(self._journal, rule, self._base)
        if moves:
            self._report.notes.append(split_notes.moved(moves, set(self._journal.speakers())))

    def _note_splits(self, rule: splits.SplitRule) -> None:
        notes, found, options = self._report.notes, self._corpus.found, self._options
        if not self._journal.words():  # only negatives are added
            return
        notes += split_notes.of_words(self._journal, self._base)
        if found.names_training:
            notes += split_notes.without_split(self._journal)
        if found.gives_splits and options.percents != (None, None):
            notes.append("--valid and --test have no effect: the sources give splits")
        notes += split_notes.of_packing(
            self._journal, self._base, rule.options, not found.gives_splits, options.part != WHOLE
        )

    # --- the audit for leaks ----------------------------------------------------------------------------------

    def _audit(self, ids: MergedIds) -> None:
        """Refuses (or with `allow_leaks` notes) leaks between the splits of old and new clips together."""
        old = base_columns(self._base, ids) if self._base else []
        new = [new_columns(self._journal, group, ids) for group in GROUPS if group != "noise"]

        def name_of(place: leaks.Place) -> str:
            number, row = place
            group = [*old, *new][number].name
            return f"{self._out}: {group}/{row}" if number < len(old) else self._journal.name_at(group, row)

        parts = [*old, *new]
        lines = leaks.describe(leaks.find_leaks(parts, ids.speakers), parts, name_of)
        if lines and not self._options.allow_leaks:
            raise _unfinished(
                f"{self._out}: {'; '.join(lines)}; remove one of each (or fix the lists), "
                "or pack them anyway with --allow-leaks", self._journal,
            )  # fmt: skip
        self._report.notes += lines

    # --- writing ----------------------------------------------------------------------------------------------

    def _write(self, ids: MergedIds) -> None:
        """Writes all shards to the scratch folder, except those that an earlier call wrote with the same contents."""
        total = self._journal.count()
        done = 0

        def missing() -> Iterator[shard_writer.ShardContents]:
            nonlocal done
            for split in GROUPS:
                for shard in self._shards(split, ids):
                    if self._journal.is_written(split, shard.number, shard.digest):
                        self._num_kept_shards += 1
                        done += len(shard.clips)
                    else:
                        self._journal.delete_shards(split, shard.number, shard.number)
                        yield shard

        for written in self._workers.map(shard_writer.write_shard, missing()):
            self._journal.add_shard(written)
            done += written.clips
            self._progress("write", done, total)

    def _shards(self, split: str, ids: MergedIds) -> Iterator[shard_writer.ShardContents]:
        """The contents of each shard of a split or of its negatives."""
        options, journal = self._options, self._journal
        audio_format = "wav" if split in NEGATIVES.values() else options.audio_format  # windows are read from anywhere
        clips = (
            shard_writer.IndexedClip(clip, ids.word_ids[clip.word], ids.speaker_ids[clip.speaker])
            for clip in journal.clips(split)
        )
        number = next_shard_number(self._base, split)
        for group in shard_writer.group_into_shards(clips, options.shard_bytes, audio_format):
            digest = contents_digest(audio_format, group)
            yield shard_writer.ShardContents(
                journal.folder, split, number, digest, audio_format, journal.resumed, group
            )
            number += 1
        journal.delete_shards(split, number)

    def _note_resumed(self, num_kept: int, num_recordings: int) -> None:
        if self._journal.discarded:
            self._report.notes.append("discarded an unfinished packing of other sources")
        elif num_kept or self._num_kept_shards:
            shards = f", {self._num_kept_shards:,} shards were written" if self._num_kept_shards else ""
            self._report.notes.insert(
                0, f"resumed: {num_kept:,} of {num_recordings:,} recordings were decoded already{shards}"
            )


def _suffix(name: str) -> str:
    return "-" + hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()[:8]
