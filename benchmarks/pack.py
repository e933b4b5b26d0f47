"""Packing a corpus: clips a second from a folder and from a tar.gz, against `tar` alone, and the memory it takes.

    python benchmarks/pack.py [--quick] [--clips N] [--data DIR]

- tar         `tar cf` of the folder of clips to a file: the same reading, the same writing, nothing else
- ours        kws.data.pack as `kws pack` calls it, in a fresh Python whose start is not counted, from the folder and
              from a tar.gz of it, with one process and with as many as there are cores

Ours writes the samples twice (scratch and shards), waits for the disk at every shard, and ends with the index. Rounds
take turns, and the fastest of each counts. Memory is the sum over all its processes of what each has in memory, shared
pages divided between those that share them, at N and at 4 N clips: it must not grow with them.

Without --data, which takes the clips of a packed corpus's training split, they are seconds of noise, no two alike.
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

import numpy as np
from rich.console import Console
from rich.table import Table

from kws.audio import codec
from kws.data import index, pack
from kws.workers import usable_cores

SAMPLES, WORDS, SPEAKERS = 16000, 35, 500


# --- the clips ------------------------------------------------------------------------------------------------


def sounds(data: Path | None, clips: int) -> Iterator[bytes]:
    """WAV files."""
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
    """One file a clip, in the layout of Speech Commands; how many there are."""
    number = 0
    for number, sound in enumerate(sounds(data, clips), 1):
        path = folder / f"word{number % WORDS:02d}" / f"{number % SPEAKERS:08x}_nohash_{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sound)
    return number


def make_archive(folder: Path, path: Path) -> None:
    """Packed lightly: what counts is that it is unpacked."""
    with (
        path.open("wb") as file,
        subprocess.Popen(["tar", "cf", "-", "-C", folder, "."], stdout=subprocess.PIPE) as tar,
    ):
        subprocess.run(["gzip", "-1"], stdin=tar.stdout, stdout=file, check=True)


# --- measuring ------------------------------------------------------------------------------------------------


def tar_alone(folder: Path, out: Path) -> float:
    """Seconds."""
    start = time.perf_counter()
    subprocess.run(["tar", "cf", out, "-C", folder, "."], check=True)
    seconds = time.perf_counter() - start
    out.unlink()
    return seconds


def packed(source: Path, out: Path, processes: int) -> tuple[float, float]:
    """Seconds and peak MB of a packing in a Python of its own."""
    command = [sys.executable, __file__, "--pack", str(source), str(out), str(processes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        peak = Peak(process.pid)
        output, _ = process.communicate()
    peak_mb = peak.stop()
    if process.returncode:
        raise SystemExit(f"packing {source} ended with {process.returncode}")
    shutil.rmtree(out)
    return float(output), peak_mb


def pack_once(source: Path, out: Path, processes: int) -> None:
    """What `packed` starts: prints the seconds."""
    start = time.perf_counter()
    # Noise repeats itself after a million clips, and a corpus that is measured may be packed as it was published.
    pack.pack([source], out, processes=processes, allow_leaks=True)
    print(time.perf_counter() - start)


class Peak:
    """The most memory that a process and its children had at any of the times looked, ten a second."""

    def __init__(self, process: int) -> None:
        self._process, self._peak_kb, self._done = process, 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._done.wait(0.1):
            self._peak_kb = max(self._peak_kb, sum(map(memory_kb, family(self._process))))

    def stop(self) -> float:
        """MB."""
        self._done.set()
        self._thread.join()
        return self._peak_kb / 1000


def family(process: int) -> list[int]:
    """The process and all below it."""
    found = [process]
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
            found += family(int(child))
    return found


def memory_kb(process: int) -> int:
    """Its proportional set size; 0 for one that has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def measure(folder: Path, archive: Path, scratch: Path, rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """The fastest seconds of each way, and the peak memory of ours."""
    cores = usable_cores()
    ways = {
        f"{kind}, {processes} process{'es' if processes > 1 else ''}": (source, processes)
        for kind, source in (("folder", folder), ("tar.gz", archive))
        for processes in dict.fromkeys((1, cores))
    }
    seconds, peaks = dict.fromkeys(["tar", *ways], float("inf")), dict[str, float]()
    for _ in range(rounds):
        seconds["tar"] = min(seconds["tar"], tar_alone(folder, scratch / "all.tar"))
        for name, (source, processes) in ways.items():
            took, peak_mb = packed(source, scratch / "shards", processes)
            seconds[name], peaks[name] = min(seconds[name], took), max(peaks.get(name, 0.0), peak_mb)
    return seconds, peaks


def show(seconds: dict[str, float], peaks: dict[str, float], clips: int) -> None:
    """The table for people."""
    table = Table("way", "clips/s", "us a clip", "tar's time / its", "peak MB", title=f"{clips:,} clips of a second")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, took in seconds.items():
        peak = f"{peaks[name]:,.0f}" if name in peaks else ""
        table.add_row(name, f"{clips / took:,.0f}", f"{1e6 * took / clips:.0f}", f"{seconds['tar'] / took:.2f}", peak)
    table.caption = f"load average {os.getloadavg()[0]:.1f} on {usable_cores()} cores"
    Console(width=100).print(table)


def main() -> None:
    """Prints the table, and last one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a packed corpus; default: clips of noise")
    parser.add_argument("--clips", type=int, help="so many (default 20,000)")
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
        seconds, peaks = measure(scratch / "wav", scratch / "wav.tar.gz", scratch, rounds)
        cores = usable_cores()
        fewer = scratch / "fewer"
        for path in sorted((scratch / "wav").glob("*/*"))[::4]:
            (fewer / path.parent.name).mkdir(parents=True, exist_ok=True)
            (fewer / path.parent.name / path.name).hardlink_to(path)
        _, peak_quarter_mb = packed(fewer, scratch / "shards", cores)
    show(seconds, peaks, clips)
    folder, archive = (f"{kind}, {cores} process{'es' if cores > 1 else ''}" for kind in ("folder", "tar.gz"))
    facts = {
        "clips_per_s": clips / seconds[folder],
        "ratio_tar": seconds["tar"] / seconds[folder],
        "peak_mb": peaks[folder],
        "peak_mb_quarter": peak_quarter_mb,
        "clips_per_s_1_process": clips / seconds["folder, 1 process"],
        "clips_per_s_tar_gz": clips / seconds[archive],
        "ratio_tar_tar_gz": seconds["tar"] / seconds[archive],
        "clips": clips,
        "processes": cores,
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
