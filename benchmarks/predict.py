"""`kws predict` on 2,000 files, compared with the speed of the network alone.

    python benchmarks/predict.py [--quick] [--data DIR] [--model NAME]

In one process with one torch thread, on the same clips:

- network    features and network on batches of 64 that are ready in memory: the limit
- predict    from files to words, as `kws predict` does it: threads decode ahead of the network
- one by one each file is read, decoded and put through the network before the next

The ways are measured in alternating rounds, and the median round of each counts: speed, and processor time of all
threads. For WAV files at 16 kHz, and for files that need decoding and resampling (FLAC at 44.1 kHz). The weights are
random. Without --data the clips are noise.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import soundfile
import soxr
import torch
from rich.console import Console
from rich.table import Table

from kws.audio import codec
from kws.config import Config, DataConfig, ModelConfig
from kws.corpus import tasks
from kws.data import index
from kws.data.reader import Reader
from kws.evaluation.predict import BATCH, Recognizer
from kws.evaluation.trained import Trained
from kws.machine import keep_freed_memory
from kws.models import registry
from kws.run.checkpoint import Checkpoint, Checkpoints

CPU = torch.device("cpu")


def clips_of(folder: Path | None, count: int) -> list[codec.Pcm]:
    """Clips spread over the test split of a corpus, or one-second clips of noise."""
    if folder is None:
        rng = np.random.default_rng(0)
        return [(rng.standard_normal(16000) * 3000).astype(np.int16) for _ in range(count)]
    corpus = index.load(folder)
    reader = Reader(corpus, "test")
    return [reader.read(int(row)) for row in np.linspace(0, len(corpus.split("test")) - 1, count).astype(int)]


def write(clips: list[codec.Pcm], folder: Path, ending: str) -> list[Path]:
    """Writes the clips as files of this type."""
    folder.mkdir()
    paths = []
    for number, clip in enumerate(clips):
        path = folder / f"{number:05}.{ending}"
        if ending == "wav":
            path.write_bytes(codec.wav_bytes(clip))
        else:
            data = io.BytesIO()
            soundfile.write(data, soxr.resample(clip.astype(np.float32) / 32768, 16000, 44100), 44100, format="FLAC")
            path.write_bytes(data.getvalue())
        paths.append(path)
    return paths


def recognizer_of(model: str, folder: Path) -> tuple[Recognizer, Trained]:
    """A network with random weights, loaded as from a checkpoint."""
    config = Config(data=DataConfig(clip_seconds=1.0), model=ModelConfig(name=model))
    network = registry.build_model(model, 35, (1, 40, 101))
    words = [f"word{number}" for number in range(35)]
    state = {"task": tasks.words_task(words).tree(), "words": words}
    path = Checkpoints(folder).save(network.state_dict(), {}, state, "step-00000000")
    trained = Trained(config, Checkpoint(path, state), CPU)
    return Recognizer(trained), trained


def network_alone(trained: Trained, clips: list[codec.Pcm]) -> Callable[[], None]:
    """The limit: no files, no decoding, no copying."""
    rows = [np.pad(clip[:16000], (0, 16000 - len(clip[:16000]))) for clip in clips]
    ready = [torch.from_numpy(np.stack(rows[at : at + BATCH])) for at in range(0, len(rows), BATCH)]

    def run() -> None:
        with torch.inference_mode():
            for wave in ready:
                trained.network(trained.features(wave)).softmax(dim=1)

    return run


def measure(ways: dict[str, tuple[Callable[[], object], int]], rounds: int) -> dict[str, tuple[float, float]]:
    """Files per second, and microseconds of processor time per file, of each way (a function, and files per call).

    Medians over rounds. The processor time depends less on other programs on the machine.
    """
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds + 1):  # the first round warms up
        for name, (way, files) in ways.items():
            start, used = time.perf_counter(), time.process_time()
            way()
            seconds, used = time.perf_counter() - start, time.process_time() - used
            found[name].append((files / seconds, 1e6 * used / files))
    return {name: tuple(map(median, zip(*values[1:], strict=True))) for name, values in found.items()}


def main() -> None:
    """Prints a table, and as the last line one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a packed corpus; default: clips of noise")
    parser.add_argument("--model", default="tc_resnet8", help="default tc_resnet8, one of the fastest")
    parser.add_argument("--quick", action="store_true", help="fewer files, fewer rounds: under a minute")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    count, rounds = (500, 3) if arguments.quick else (2000, 7)
    clips = clips_of(arguments.data, count)
    with tempfile.TemporaryDirectory() as name:
        recognizer, trained = recognizer_of(arguments.model, Path(name))
        wav, flac = (write(clips, Path(name) / ending, ending) for ending in ("wav", "flac"))
        few = count // 8
        found = measure({
            "network": (network_alone(trained, clips), count),
            "predict wav": (lambda: list(recognizer.files(wav, [])), count),
            "predict flac": (lambda: list(recognizer.files(flac, [])), count),
            "one by one wav": (lambda: [recognizer(codec.decode(path.read_bytes())) for path in wav[:few]], few),
            "one by one flac": (lambda: [recognizer(codec.decode(path.read_bytes())) for path in flac[:few]], few),
        }, rounds)  # fmt: skip
    speed, used = ({name: pair[part] for name, pair in found.items()} for part in (0, 1))
    table = Table(
        "way",
        "files/s",
        "of the network's own",
        "CPU us a file",
        title=f"{count} files, {arguments.model}, one torch thread",
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for way in found:
        table.add_row(way, f"{speed[way]:,.0f}", f"{speed[way] / speed['network']:.2f} x", f"{used[way]:,.0f}")
    Console().print(table)
    print(json.dumps({
        "files": count,
        "network_clips_per_s": speed["network"],
        "ratio_network": speed["predict wav"] / speed["network"],
        "ratio_network_cpu": used["network"] / used["predict wav"],
        "ratio_network_flac": speed["predict flac"] / speed["network"],
        "ratio_one_by_one": speed["predict wav"] / speed["one by one wav"],
        "files_per_s": speed,
        "cpu_us_a_file": used,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
