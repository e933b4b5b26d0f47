"""Shuffled int16 batches from local shards: ours, litdata, stock WebDataset, one file per clip, and plain memcpy.

    python benchmarks/stream.py [--quick] [--data DIR]

All read the same clips of the train split in random order into batches of 64, int16 (64, 16000), on one core:

- ours        the balanced plan and the reader of `kws train`: first the pass that checks every clip's crc32
              (data.verify=first), then the steady state, in the process itself (data.workers=0)
- loader      the same through 1 and 2 threads that read ahead (data.workers)
- litdata     litdata.StreamingDataset(shuffle=True) of the clips' samples as bytes; left out where it is not installed
- webdataset  wds.WebDataset(shards).shuffle(1000).decode().map(...).batched(64), with the fastest way to decode the
              wav: its bytes after the header; also with two loader processes
- librosa, soundfile   one WAV file per clip, librosa.load(sr=16000) and soundfile.read(dtype="int16")
- memcpy      the same bytes copied from memory into a batch, one copy per clip
- flac        shards of FLAC, decoded in the process and in 1, 2 and 4 threads; not with --quick

The ways are measured in alternating rounds, and the fastest of each counts, because other programs can only slow it
down. Bars: 0.85 of memcpy, 2 times litdata, 20 times webdataset, and through the loader 0.7 of the process itself.

Without --data, clips of noise are packed into a temporary folder.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import itertools
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Literal

import librosa
import numpy as np
import soundfile
import torch
import webdataset as wds
from rich.console import Console
from rich.table import Table

from kws import counter_rng
from kws.audio import codec
from kws.data import index
from kws.data.excerpt import Excerpt
from kws.data.plan import Plan, PlanSettings
from kws.data.reader import Reader
from kws.data.stream import SlotReader, stream_batches
from kws.packing import pack

BATCH, SAMPLES, SHUFFLE, EPOCH = 64, 16000, 1000, 1_000_000
Way = Callable[[], Iterator[int]]
"""Reads batches without end; yields the number of clips of each."""


# --- the clips ------------------------------------------------------------------------------------------------


def make_clips(folder: Path, clips: int, audio_format: Literal["wav", "flac"] = "wav") -> index.Index:
    """A packed corpus of one-second noise clips, 35 words with unequal counts."""
    noise = (np.random.default_rng(0).standard_normal(1 << 20) * 3000).astype(np.int16)
    for number in range(clips):
        word = int(35 * (number * 0.6180339887498949 % 1.0) ** 1.5)
        start = number * 7919 % (len(noise) - SAMPLES)
        path = folder / "wav" / f"word{word:02d}" / f"{number % 500:08x}_nohash_{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(codec.wav_bytes(noise[start : start + SAMPLES]))
    return pack.pack([folder / "wav"], folder / "shards", pack.PackOptions(audio_format=audio_format))[0]


def write_files(corpus: index.Index, folder: Path, clips: int) -> list[Path]:
    """Writes the first clips of the train split as one WAV file each."""
    reader = Reader(corpus, "train")
    folder.mkdir()
    paths = [folder / f"{clip}.wav" for clip in range(min(clips, len(corpus.split("train"))))]
    for clip, path in enumerate(paths):
        path.write_bytes(codec.wav_bytes(reader.read(clip)))
    return paths


# --- the ways to read them ------------------------------------------------------------------------------------


def ours(reader: SlotReader, corpus: index.Index) -> Generator[int, None, None]:
    """Epochs of the balanced plan, without end."""
    for epoch in itertools.count():
        plan = Plan(corpus.split("train"), range(len(corpus.words)), PlanSettings("balanced", 1, BATCH, 0), epoch)
        with contextlib.closing(stream_batches(lambda plan=plan: plan.rank_slots(0, 1), reader)) as batches:  # type: ignore[misc]
            for batch in batches:
                yield batch.wave.size(0)


def every_clip_once(reader: SlotReader, corpus: index.Index) -> Iterator[int]:
    """One pass over the whole split, which checks every clip."""
    plan = Plan(corpus.split("train"), range(len(corpus.words)), PlanSettings("natural", 1, BATCH, 0), 0)
    for batch in stream_batches(lambda: plan.rank_slots(0, 1), reader):
        yield batch.wave.size(0)


def webdataset(corpus: index.Index, workers: int = 0) -> Iterator[int]:
    """The stock pipeline, without end."""
    numbers = {word: number for number, word in enumerate(corpus.words)}
    urls = [str((corpus.root / shard.name).absolute()) for shard in corpus.split("train").shards]
    data = wds.WebDataset(urls, shardshuffle=100, nodesplitter=None, empty_check=False).shuffle(SHUFFLE)
    data = data.decode(wds.handle_extension("wav", wav_samples)).to_tuple("wav", "json")
    data = data.map(functools.partial(padded, numbers)).batched(BATCH, partial=False).repeat()
    loader = wds.WebLoader(data, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None)
    for wave, _labels in loader:
        yield len(wave)


def wav_samples(data: bytes) -> codec.Pcm:
    """The samples after the header."""
    return np.frombuffer(data, dtype="<i2", offset=codec.WAV_HEADER_BYTES)


def padded(numbers: dict[str, int], sample: tuple[codec.Pcm, dict[str, str]]) -> tuple[codec.Pcm, int]:
    """A clip of SAMPLES samples, and its label."""
    wave, label = sample
    whole = np.zeros(SAMPLES, np.int16)
    whole[: len(wave)] = wave[:SAMPLES]
    return whole, numbers[label["word"]]


def write_litdata(corpus: index.Index, folder: Path) -> None:
    """Writes the train split for litdata: the word's number as two bytes, then the samples."""
    from litdata.streaming.writer import BinaryWriter

    folder.mkdir()
    split, reader = corpus.split("train"), Reader(corpus, "train")
    writer = BinaryWriter(str(folder), chunk_bytes="64MB")
    for clip in range(len(split)):
        writer.add_item(clip, np.int16(split.values("word", clip)).tobytes() + reader.read(clip).tobytes())
    writer.done()
    writer.merge()


def litdata(folder: Path) -> Iterator[int]:
    """Epochs of a shuffled StreamingDataset, without end."""
    from litdata import StreamingDataset

    data = StreamingDataset(str(folder), shuffle=True)
    samples = itertools.chain.from_iterable(itertools.repeat(data))
    while True:
        wave, labels = np.empty((BATCH, SAMPLES), np.int16), np.empty(BATCH, np.int64)
        for row, sample in enumerate(itertools.islice(samples, BATCH)):
            pcm = np.frombuffer(sample, "<i2")
            labels[row], kept = pcm[0], min(len(pcm) - 1, SAMPLES)
            wave[row, :kept], wave[row, kept:] = pcm[1 : kept + 1], 0
        torch.from_numpy(wave), torch.from_numpy(labels)
        yield BATCH


def files(paths: list[Path], load: Callable[[Path], codec.Pcm]) -> Iterator[int]:
    """One file per clip, in random order."""
    for epoch in itertools.count():
        for places in chunks(len(paths), epoch):
            wave = np.zeros((len(places), SAMPLES), np.int16)
            for row, place in enumerate(places):
                pcm = load(paths[place])[:SAMPLES]
                wave[row, : len(pcm)] = pcm
            torch.from_numpy(wave)
            yield len(wave)


def chunks(count: int, *key: int) -> list[list[int]]:
    """Random order in full batches; the remainder is left out."""
    order = counter_rng.permutation(count, "bench", *key)
    return order[: max(1, count // BATCH) * BATCH].reshape(-1, min(BATCH, count)).tolist()


def with_librosa(path: Path) -> codec.Pcm:
    """Loads with librosa and converts back to int16."""
    samples, _ = librosa.load(path, sr=16000)
    return (samples * 32768).astype(np.int16)


def with_soundfile(path: Path) -> codec.Pcm:
    """The fastest reader of single files."""
    return np.asarray(soundfile.read(path, dtype="int16")[0])


def memcpy(corpus: index.Index) -> Iterator[int]:
    """Copies the same number of bytes from memory into a batch, clip by clip in random order."""
    reader, count = Reader(corpus, "train"), min(len(corpus.split("train")), 8192)
    source = np.zeros((count, SAMPLES), np.int16)
    for clip in range(count):
        pcm = reader.read(clip)[:SAMPLES]
        source[clip, : len(pcm)] = pcm
    for epoch in itertools.count():
        for places in chunks(count, epoch):
            wave = np.empty((len(places), SAMPLES), np.int16)
            for row, place in enumerate(places):
                wave[row] = source[place]
            yield len(wave)


# --- measuring ------------------------------------------------------------------------------------------------


def rate(batches: Iterator[int], seconds: float) -> float:
    """Clips per second during this many seconds, or until the batches end."""
    start, clips = time.perf_counter(), 0
    for count in batches:
        clips += count
        if time.perf_counter() - start > seconds:
            break
    return clips / (time.perf_counter() - start)


def best_rates(ways: dict[str, Iterator[int]], rounds: int, seconds: float) -> dict[str, float]:
    """The fastest of alternating rounds of each way. A short first round warms up and is not counted."""
    found = dict.fromkeys(ways, 0.0)
    for turn in range(rounds + 1):
        for name, way in ways.items():
            clips_per_s = rate(way, seconds if turn else seconds / 4)
            found[name] = max(found[name], clips_per_s if turn else 0.0)
    return found


def slot_reader(corpus: index.Index, workers: int = 0, verify: str = "first") -> SlotReader:
    """The reader of `kws train`."""
    reader = Reader(corpus, "train", verify=verify)
    return SlotReader(reader, range(len(corpus.words)), Excerpt(SAMPLES), workers=workers)


def measure(corpus: index.Index, folder: Path, clips: int, rounds: int, seconds: float) -> dict[str, float]:
    """Clips per second of every way."""
    paths = write_files(corpus, folder / "files", clips)
    next(ours(slot_reader(corpus), corpus))  # numba compiles at the first use
    reader, unchecked = slot_reader(corpus), slot_reader(corpus, verify="never")
    first = {"never": rate(every_clip_once(unchecked, corpus), 60), "first": rate(every_clip_once(reader, corpus), 60)}
    ways = {"ours": ours(reader, corpus), "memcpy": memcpy(corpus)}
    for workers in (1, 2):
        ways[f"ours, loader, {workers} threads"] = ours(slot_reader(corpus, workers), corpus)
    if importlib.util.find_spec("litdata"):
        write_litdata(corpus, folder / "litdata")
        ways["litdata"] = litdata(folder / "litdata")
    else:
        print("litdata is not installed: left out", file=sys.stderr)
    ways |= {
        "webdataset": webdataset(corpus),
        "librosa": files(paths, with_librosa),
        "soundfile": files(paths, with_soundfile),
    }
    found = best_rates(ways, rounds, seconds)
    # Alone, because idle loader processes would go on to fill their queues.
    found |= best_rates({"webdataset, 2 processes": webdataset(corpus, 2)}, max(1, rounds - 1), seconds * 2)
    return found | {"ours, first pass": first["first"], "ours, first pass, verify=never": first["never"]}


def measure_flac(folder: Path, rounds: int, seconds: float) -> dict[str, float]:
    """Clips per second from shards of FLAC. Each round is a new stream: one that waits would read ahead meanwhile."""
    corpus, found = make_clips(folder, 2000, "flac"), dict[str, float]()
    for _, workers in itertools.product(range(rounds), (0, 1, 2, 4)):
        reader = slot_reader(corpus, workers, "never")
        with contextlib.closing(ours(reader, corpus)) as batches:
            name = f"flac, {workers} threads"
            found[name] = max(found.get(name, 0.0), rate(batches, seconds))
    return found


def show(found: dict[str, float], clips: int) -> None:
    """Prints the table."""
    table = Table("way", "clips/s", "us/clip", "ours is", title=f"batches of {BATCH}, {clips:,} clips, one core")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, value in sorted(found.items(), key=lambda item: -item[1]):
        table.add_row(name, f"{value:,.0f}", f"{1e6 / value:.1f}", f"{found['ours'] / value:.2f} x")
    table.caption = (
        f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; "
        "bars: 0.85 of memcpy, 2 x litdata, 20 x webdataset, loader 0.7 of ours"
    )
    Console(width=100).print(table)


def main() -> None:
    """Prints the table, and as the last line one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a packed corpus; default: clips of noise")
    parser.add_argument("--quick", action="store_true", help="fewer clips, shorter rounds: under a minute")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
    clips, rounds, seconds = (3000, 2, 0.7) if arguments.quick else (20_000, 5, 3.0)
    with tempfile.TemporaryDirectory() as folder:
        corpus = index.load(arguments.data) if arguments.data else make_clips(Path(folder), clips)
        found = measure(corpus, Path(folder), clips, rounds, seconds)
        if not arguments.quick:
            found |= measure_flac(Path(folder) / "flac", rounds, seconds)
    show(found, len(corpus.split("train")))
    facts = {
        "clips_per_s": found["ours"],
        "ratio_webdataset": found["ours"] / found["webdataset"],
        "ratio_files_librosa": found["ours"] / found["librosa"],
        "ratio_files_soundfile": found["ours"] / found["soundfile"],
        "ratio_memcpy": found["ours"] / found["memcpy"],
        "ratio_litdata": found["ours"] / found["litdata"] if "litdata" in found else None,
        "ratio_loader": found["ours, loader, 1 threads"] / found["ours"],
        "clips_per_s_first_pass": found["ours, first pass"],
        "all": found,
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
