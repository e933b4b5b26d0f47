"""Packing a corpus: clips per second from a folder and from a tar.gz, compared with `tar` alone; and memory.

    python benchmarks/pack.py [--quick] [--clips N] [--data DIR]

- tar         `tar cf` of the folder of clips: the same reading and writing, and nothing else
- ours        kws.packing.pack as `kws pack` calls it, in a new Python process whose start is not counted, from the
              folder and from a tar.gz of it, with one process and with one per core

We write the samples twice (scratch and shards), fsync every shard, and write the index at the end. The ways are
measured in alternating rounds, and the fastest of each counts. Memory is the sum of the proportional set sizes of all
processes, at N and at 4 N clips: it must not grow with their number.

Without --data, which takes the clips from the train split of a packed corpus, the clips are noise, all different.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from kws.audio import codec
from kws.data import index
from kws.machine import usable_cores
from kws.packing import pack

SAMPLES, WORDS, SPEAKERS = 16000, 35, 500


# --- the clips ------------------------------------------------------------------------------------------------


def sounds(data: Path | None, clips: int) -> Iterator[bytes]:
    """Yields WAV files."""
    if data is None:
        noise = (np.random.default_rng(0).standard_normal((1 << 20) + SAMPLES) * 3000).astype(np.int16)
        for number in range(clips):
            start = number * 7919 % (1 << 20)
            yield codec.wav_bytes(noise[start : start + SAMPLES])
        return
    corpus = index.load(data)
    split = corpus.split("train")
    for row in range(min(clips, len(split))):
        start, length = (int(split.columns[name][row]) for name in ("offset", "length"))
        with (corpus.root / split.shards[int(split.columns["shard"][row])].name).open("rb") as file:
            file.seek(start)
            yield codec.wav_bytes(codec.decode(file.read(length)))


def make_folder(folder: Path, data: Path | None, clips: int) -> int:
    """Writes one file per clip, in the layout of Speech Commands; returns their number."""
    number = 0
    for number, sound in enumerate(sounds(data, clips), 1):
        path = folder / f"word{number % WORDS:02d}" / f"{number % SPEAKERS:08x}_nohash_{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sound)
    return number


def make_archive(folder: Path, path: Path) -> None:
    """Writes a tar.gz with light compression: only decompression matters here."""
    with (
        path.open("wb") as file,
        subprocess.Popen(["tar", "cf", "-", "-C", folder, "."], stdout=subprocess.PIPE) as tar,
    ):
        subprocess.run(["gzip", "-1"], stdin=tar.stdout, stdout=file, check=True)


# --- measuring ------------------------------------------------------------------------------------------------


def tar_alone(folder: Path, out: Path) -> float:
    """Seconds that `tar cf` takes."""
    start = time.perf_counter()
    subprocess.run(["tar", "cf", out, "-C", folder, "."], check=True)
    seconds = time.perf_counter() - start
    out.unlink()
    return seconds


class Cost(NamedTuple):
    """The cost of one packing: seconds, seconds of processor time of all its processes, and their memory in MB."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


def packed(source: Path, out: Path, processes: int) -> Cost:
    """Packs in a new Python process and measures it."""
    command = [sys.executable, __file__, "--pack", str(source), str(out), str(processes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        peak = Peak(process.pid)
        output, _ = process.communicate()
    peak_mb = peak.stop()
    if process.returncode:
        raise SystemExit(f"packing {source} ended with {process.returncode}")
    shutil.rmtree(out)
    seconds, cpu_seconds = map(float, output.split())
    return Cost(seconds, cpu_seconds, peak_mb)


def pack_once(source: Path, out: Path, processes: int) -> None:
    """The process that `packed` starts: prints its seconds, and its seconds of processor time."""
    start, used = time.perf_counter(), sum(os.times()[:4])
    # Leaks are allowed: the noise repeats after a million clips, and a published corpus may have leaks.
    pack.pack([source], out, pack.PackOptions(allow_leaks=True), processes=processes)
    print(time.perf_counter() - start, sum(os.times()[:4]) - used)


class Peak:
    """Samples the memory of a process and its children ten times a second and keeps the maximum."""

    def __init__(self, process: int) -> None:
        self._process, self._peak_kb, self._done = process, 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._done.wait(0.1):
            self._peak_kb = max(self._peak_kb, sum(map(memory_kb, family(self._process))))

    def stop(self) -> float:
        """Stops sampling; returns the maximum in MB."""
        self._done.set()
        self._thread.join()
        return self._peak_kb / 1000


def family(process: int) -> list[int]:
    """The process and all its descendants."""
    found = [process]
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
            found += family(int(child))
    return found


def memory_kb(process: int) -> int:
    """Proportional set size of a process in kB; 0 where it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def measure(folder: Path, archive: Path, scratch: Path, rounds: int) -> tuple[float, dict[str, Cost]]:
    """Seconds of tar, and the cost of each way to pack: the smallest times and the largest memory of the rounds."""
    cores = usable_cores()
    ways = {
        f"{kind}, {processes} process{'es' if processes > 1 else ''}": (source, processes)
        for kind, source in (("folder", folder), ("tar.gz", archive))
        for processes in dict.fromkeys((1, cores))
    }
    tar_seconds, costs = float("inf"), {name: list[Cost]() for name in ways}
    for _ in range(rounds):
        tar_seconds = min(tar_seconds, tar_alone(folder, scratch / "all.tar"))
        for name, (source, processes) in ways.items():
            costs[name].append(packed(source, scratch / "shards", processes))
    return tar_seconds, {name: least(found) for name, found in costs.items()}


def least(found: list[Cost]) -> Cost:
    """The smallest times and the largest memory of several rounds."""
    seconds, cpu_seconds, peaks_mb = zip(*found, strict=True)
    return Cost(min(seconds), min(cpu_seconds), max(peaks_mb))


def show(tar_seconds: float, costs: dict[str, Cost], clips: int) -> None:
    """Prints the table."""
    table = Table("way", "clips/s", "us a clip", "processor us", "tar's time / its", "peak MB",
                  title=f"{clips:,} clips of one second")  # fmt: skip
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("tar", f"{clips / tar_seconds:,.0f}", f"{1e6 * tar_seconds / clips:.0f}", "", "1.00", "")
    for name, cost in costs.items():
        table.add_row(
            name, f"{clips / cost.seconds:,.0f}", f"{1e6 * cost.seconds / clips:.0f}",
            f"{1e6 * cost.cpu_seconds / clips:.0f}", f"{tar_seconds / cost.seconds:.2f}", f"{cost.peak_mb:,.0f}",
        )  # fmt: skip
    table.caption = f"load average {os.getloadavg()[0]:.1f} on {usable_cores()} cores"
    Console(width=100).print(table)


def main() -> None:
    """Prints the table, and as the last line one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a packed corpus; default: clips of noise")
    parser.add_argument("--clips", type=int, help="number of clips (default 20,000)")
    parser.add_argument("--quick", action="store_true", help="fewer clips, one round: under a minute")
    parser.add_argument("--pack", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.pack:
        source, out, processes = arguments.pack
        pack_once(Path(source), Path(out), int(processes))
        return
    clips, rounds = (2000, 1) if arguments.quick else (20_000, 2)
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        clips = make_folder(scratch / "wav", arguments.data, arguments.clips or clips)
        make_archive(scratch / "wav", scratch / "wav.tar.gz")
        tar_seconds, costs = measure(scratch / "wav", scratch / "wav.tar.gz", scratch, rounds)
        cores = usable_cores()
        fewer = scratch / "fewer"
        for path in sorted((scratch / "wav").glob("*/*"))[::4]:
            (fewer / path.parent.name).mkdir(parents=True, exist_ok=True)
            (fewer / path.parent.name / path.name).hardlink_to(path)
        quarter = packed(fewer, scratch / "shards", cores)
    show(tar_seconds, costs, clips)
    folder, archive = (costs[f"{kind}, {cores} process{'es' if cores > 1 else ''}"] for kind in ("folder", "tar.gz"))
    facts = {
        "clips_per_s": clips / folder.seconds,
        "ratio_tar": tar_seconds / folder.seconds,
        "peak_mb": folder.peak_mb,
        "peak_mb_quarter": quarter.peak_mb,
        "clips_per_s_1_process": clips / costs["folder, 1 process"].seconds,
        "clips_per_s_tar_gz": clips / archive.seconds,
        "ratio_tar_tar_gz": tar_seconds / archive.seconds,
        "clips": clips,
        "processes": cores,
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
