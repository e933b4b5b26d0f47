"""A corpus to shards: recordings -> 16 kHz PCM16 in one scratch file -> keyed shuffle -> tars -> index.

    SRC (folder, tar, tar.gz) --decode, threads--> DIR/.packing/pcm --shuffled by key--> DIR/SPLIT/NNNNNN.tar

The order hangs on the clips' names alone, so the same clips give the same bytes. The index is written last: a killed
packing leaves nothing that looks finished, and the next one starts clean.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import webdataset as wds  # type: ignore[import-untyped]

from kws import keyed
from kws.audio import codec
from kws.corpus.source import NOISE_FOLDER, Recording, Sources, split_by_hash, split_key
from kws.data import index as index_file
from kws.data import scan
from kws.data.index import SPLITS, Index
from kws.errors import UsageError

SHARD_BYTES = 64_000_000
AudioFormat = Literal["wav", "flac"]
Part = tuple[int, int]
"""Number and count, from (1, 1): so many jobs share a corpus, each taking the recordings that their names deal it."""
WHOLE: Part = (1, 1)
Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, total)."""


@dataclasses.dataclass
class Report:
    """What packing did beside the shards: inputs left out, each with its reason, and things worth saying."""

    skipped: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class _Clip:
    """One decoded recording in the scratch file; `start` and `samples` in samples."""

    name: str
    word: str
    speaker: str
    start: int
    samples: int
    sha1: bytes


def pack(
    sources: Sequence[Path],
    out: Path,
    audio_format: AudioFormat = "wav",
    shard_bytes: int = SHARD_BYTES,
    progress: Progress = lambda what, done, total: None,
    part: Part = WHOLE,
    names: str = "",
) -> tuple[Index, Report]:
    """Packs the sources as one corpus into `out`. Raises UsageError for what stops it: no shards are left then.

    Damaged recordings are left out and listed in the report. Splits are those of the official lists, else of the
    official hash rule on the speaker; noises go to the split `noise`. `part`: only that of the recordings, each part a
    like mixture of all; kws.data.foreign makes one index for the shards of all parts. `names`: as Sources has it.
    """
    _check_free(out)
    corpus, report, scratch, made = Sources(sources, names), Report(), out / ".packing", not out.exists()
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
        clips = _decode_all(corpus, part, scratch / "pcm", report, progress)
        if not any(clip.word != NOISE_FOLDER for clip in clips):
            raise UsageError(f"{', '.join(map(str, sources))}: no readable clip ({len(report.skipped)} damaged)")
        members = _assign(clips, corpus, part, report)
        samples = np.memmap(scratch / "pcm", dtype=np.int16, mode="r")
        _write_splits(members, samples, scratch, audio_format, shard_bytes, progress)
        index = _publish(scratch, out, clips, progress)
    except OSError as error:
        raise UsageError(f"{out}: cannot be written ({error.strerror}); nothing was packed") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if made and out.is_dir() and not any(out.iterdir()):
            out.rmdir()  # nothing came of it
    return index, report


def _check_free(out: Path) -> None:
    """Refuses a folder that holds anything, but for what a killed packing left there."""
    if (out / "index" / "index.json").exists():
        raise UsageError(f"{out}: holds a packed corpus already; give another folder, or remove this one first")
    if out.is_dir() and any(out.iterdir()) and not (out / ".packing").exists():
        raise UsageError(f"{out}: not empty; give a new folder for the shards: kws pack SRC... DIR")


def _decode_all(corpus: Sources, part: Part, path: Path, report: Report, progress: Progress) -> list[_Clip]:
    """A part's recordings as PCM16 in one file, in the sources' order; identical copies once."""
    clips: dict[str, tuple[_Clip, Path]] = {}
    done, total, start = 0, corpus.total_bytes, 0
    with path.open("wb") as file:
        for recording, future in _in_order(recording for recording in corpus if _in_part(recording.name, part)):
            done += recording.size
            progress("decode", min(done, total), total)
            try:
                samples = future.result()
            except codec.AudioError as error:
                report.skipped.append(f"{recording.origin}: {recording.name}: {error}")
                continue
            clip = _Clip(recording.name, recording.word, recording.speaker, start, len(samples), _sha1(samples))
            if _is_new(clip, recording.origin, clips, report):
                file.write(samples.tobytes())
                start += len(samples)
    report.skipped += corpus.ignored
    return [clip for clip, _ in clips.values()]


def _in_part(name: str, part: Part) -> bool:
    """Names that would give the same key are in the same part."""
    number, count = part
    return keyed.digest("part", _key(name)) % count == number - 1


def _in_order(corpus: Iterable[Recording]) -> Iterator[tuple[Recording, Future[codec.Pcm]]]:
    """Decodes ahead in threads (libsndfile and soxr release the lock), a bounded number, keeping the order."""
    waiting: collections.deque[tuple[Recording, Future[codec.Pcm]]] = collections.deque()
    with ThreadPoolExecutor() as pool:
        for recording in corpus:
            waiting.append((recording, pool.submit(recording.decode)))
            if len(waiting) > 256:
                yield waiting.popleft()
        yield from waiting


def _is_new(clip: _Clip, origin: Path, clips: dict[str, tuple[_Clip, Path]], report: Report) -> bool:
    if clip.name not in clips:
        clips[clip.name] = (clip, origin)
        return True
    other, first = clips[clip.name]
    if other.sha1 != clip.sha1:
        raise UsageError(f"{origin}: {clip.name} is another recording than the one of that name in {first}; rename one")
    report.notes.append(f"{origin}: {clip.name}: same as in {first}, taken once")
    return False


def _sha1(samples: codec.Pcm) -> bytes:
    return hashlib.sha1(samples.tobytes(), usedforsecurity=False).digest()


def _key(name: str) -> str:
    """WORD/FILE.wav as a key of WebDataset, without dots."""
    return re.sub(r"[^\w-]+", "_", name.rpartition(".")[0].strip("_"))


def _assign(clips: Sequence[_Clip], corpus: Sources, part: Part, report: Report) -> dict[str, list[tuple[str, _Clip]]]:
    """Each split's clips with their keys, in the keyed order."""
    members: dict[str, list[tuple[str, _Clip]]] = {split: [] for split in SPLITS}
    keys: set[str] = set()
    for clip in sorted(clips, key=lambda clip: clip.name):
        key = _key(clip.name)
        if key in keys:
            key = f"{key}-{hashlib.sha1(clip.name.encode(), usedforsecurity=False).hexdigest()[:8]}"
        keys.add(key)
        members[_split_of(clip, corpus)].append((key, clip))
    for split in SPLITS:
        members[split].sort(key=lambda pair: (keyed.digest("pack", pair[0]), pair[0]))
    absent = {name for name in corpus.split_of if _in_part(name, part)} - {clip.name for clip in clips}
    _note_lists(len(absent), bool(corpus.split_of), members, report)
    return members


def _split_of(clip: _Clip, corpus: Sources) -> str:
    if clip.word == NOISE_FOLDER:
        return "noise"
    if corpus.split_of:
        return corpus.split_of.get(clip.name, "train")
    return split_by_hash(split_key(clip.name, clip.speaker))


def _note_lists(absent: int, lists: bool, members: dict[str, list[tuple[str, _Clip]]], report: Report) -> None:
    if absent:
        report.notes.append(f"the official lists name {absent} clips that are not in the sources")
    if not lists:
        report.notes.append("no official lists: split by the hash of the speaker, 80/10/10 %")
    if not members["test"]:
        report.notes.append("no clip fell to the test split: evaluate with --split valid, or pack more speakers")
    splits_of: dict[str, set[str]] = collections.defaultdict(set)
    for split in ("train", "valid", "test"):
        for _, clip in members[split]:
            splits_of[clip.speaker or clip.name].add(split)
    shared = sorted(speaker for speaker, splits in splits_of.items() if len(splits) > 1)
    if shared:
        report.notes.append(
            f"{len(shared)} speakers are in more than one split (such as {shared[0]}): the test is easier"
        )


def _write_splits(
    members: dict[str, list[tuple[str, _Clip]]],
    samples: np.ndarray[tuple[int, ...], np.dtype[np.int16]],
    folder: Path,
    audio_format: AudioFormat,
    shard_bytes: int,
    progress: Progress,
) -> None:
    encode = codec.wav_bytes if audio_format == "wav" else codec.flac_bytes
    done, total = 0, sum(map(len, members.values()))
    for split in SPLITS:
        (folder / split).mkdir()
        # Tar pads headers and members to 512 bytes: about 2 kB a clip beside its audio.
        number, room, tar = 0, 0, None
        for key, clip in members[split]:
            data = encode(samples[clip.start : clip.start + clip.samples])
            if tar is None or room < len(data):
                tar = _next_shard(tar, folder / split / f"{number:06d}.tar")
                number, room = number + 1, shard_bytes
            room -= len(data) + 2048
            label = {"word": clip.word, "speaker": clip.speaker, "source": clip.name}
            tar.write({"__key__": key, audio_format: data, "json": json.dumps(label).encode()})
            done += 1
            progress("write", done, total)
        if tar is not None:
            tar.close()


def _next_shard(last: wds.TarWriter | None, path: Path) -> wds.TarWriter:
    if last is not None:
        last.close()
    # Absolute: WebDataset takes what stands before a colon for a protocol.
    return wds.TarWriter(str(path.absolute()), mtime=0.0, encoder=False)


def _publish(scratch: Path, out: Path, clips: Sequence[_Clip], progress: Progress) -> Index:
    """Indexes the finished shards and moves all to its place, the index last: it makes the corpus whole."""
    words = sorted({clip.word for clip in clips} - {NOISE_FOLDER})
    speakers = sorted({clip.speaker for clip in clips})
    splits = {}
    for name in SPLITS:
        paths = sorted((scratch / name).glob("*.tar"))
        show = functools.partial(_show_indexed, progress, name, len(clips))
        splits[name] = scan.build_split(scratch, name, paths, words, speakers, show)
    index_file.write(scratch, words, speakers, splits)
    for name in (*SPLITS, "index"):
        shutil.rmtree(out / name, ignore_errors=True)  # what a killed packing left
        (scratch / name).replace(out / name)
    return index_file.load(out)


def _show_indexed(progress: Progress, split: str, total: int, done: int) -> None:
    progress(f"index {split}", done, total)
