"""The front end compared with librosa: the presets classic and modern, and the features of evaluation, on one core.

    python benchmarks/frontend.py [--quick] [--data DIR]

In one process with one thread, on the same clips and with the same augmentation parameters:

- librosa   tests/audio/librosa_chain.py: one clip at a time, with plain librosa and numpy
- ours      kws.audio, in batches of 64, as `kws train` and `kws evaluate` call it
- rfft      only the FFT of the same frames, one per clip: the lower limit

The ways are measured in alternating rounds, and the median round counts. The results are compared before anything is
timed. After that, the share of each step, measured alone. Targets: 5 times librosa for the augmentation chain and for
evaluation features. With a GPU: clips/s there, and the chain's share of a training slot of WRN-28-10 as its config
trains it: slot size, precision, layout (target 5 %).

Without --data the clips are noise.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import librosa
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))  # for the reference in tests/

from kws import settings_file
from kws.audio.augment import AugmentationChain
from kws.audio.augment_parameters import AugmentationSampler
from kws.audio.codec import Pcm
from kws.audio.features import Features, to_float
from kws.audio.frames import CompiledFrameSteps
from kws.audio.noise import NoiseBank
from kws.audio.waves import CompiledWaveTransform
from kws.config import preset
from kws.data import index
from kws.data.excerpt import Excerpt
from kws.data.reader import Reader, read_noise
from kws.machine import keep_freed_memory
from kws.models import registry
from tests.audio import librosa_chain
from tests.audio.librosa_chain import steps_of

ROOT = Path(__file__).resolve().parent.parent
BATCH, SAMPLES, SEED = 64, 16000, 0
CPU = torch.device("cpu")
Clips = tuple[torch.Tensor, np.ndarray[Any, Any], list[Pcm]]
"""int16 (B, 16000), how many samples of each row are the clip's, and noise recordings."""


# --- the clips ------------------------------------------------------------------------------------------------


def clips_of(folder: Path | None, count: int) -> Clips:
    """Clips spread over the train split of a corpus, or noise."""
    rng = np.random.default_rng(0)
    if folder is None:
        wave = (rng.standard_normal((count, SAMPLES)) * 3000).astype(np.int16)
        return (
            torch.from_numpy(wave),
            np.full(count, SAMPLES),
            [(rng.standard_normal(60 * SAMPLES) * 900).astype(np.int16)],
        )
    corpus = index.load(folder)
    clips = np.linspace(0, len(corpus.split("train")) - 1, count).astype(int)
    wave, lengths = Reader(corpus, "train").read_rows(clips, Excerpt(SAMPLES))
    return torch.from_numpy(wave), lengths, read_noise(corpus, "train")


# --- librosa with the parameters that ours draws --------------------------------------------------------------


def librosa_training(clips: Clips, precision: type = np.float32) -> Callable[[int], np.ndarray[Any, Any]]:
    """One draw as features (32, 32), by the reference. In float32 its phase vocoder has an error of 0.003 dB."""
    wave, lengths, noises = clips
    settings, count = preset("classic", features="mel32"), len(wave)
    sampler, bank = AugmentationSampler(settings, SEED, SAMPLES), NoiseBank(noises, SAMPLES, CPU)
    draws = np.arange(count)
    transforms, noise_transforms, mix = (
        sampler.clip_transforms(draws, 0),
        sampler.noise_transforms(draws, 0),
        sampler.mixed_noise(draws, 0),
    )
    rows = bank.rows(torch.from_numpy((mix.position * bank.num_rows).astype(np.int64))).numpy()
    floats = [wave[row, : lengths[row]].numpy().astype(precision) / 32768 for row in range(count)]

    def features(row: int) -> np.ndarray[Any, Any]:
        noise = rows[row] if mix.applied[row] else None
        own, other = steps_of(transforms, row), steps_of(noise_transforms, row)
        return librosa_chain.training_features(floats[row], own, noise, other, mix.level[row])

    return features


# --- measuring ------------------------------------------------------------------------------------------------


def rounds_of(ways: dict[str, tuple[Callable[[int], Any], int]], rounds: int) -> dict[str, float]:
    """Microseconds per clip of each way (a function of the round's number, and clips per call), median over rounds."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):  # the first round warms up
        for name, (way, clips) in ways.items():
            start = time.perf_counter()
            way(number)
            found[name].append((time.perf_counter() - start) / clips * 1e6)
    return {name: median(values[1:]) for name, values in found.items()}


def compare(clips: Clips, rounds: int, each: int) -> tuple[dict[str, float], float]:
    """Microseconds per clip of every way, and the largest difference in dB between our features and librosa's."""
    wave, lengths, noises = clips
    count, draws, features = len(wave), np.arange(len(wave)), Features("mel32")
    classic = AugmentationChain(preset("classic", features="mel32"), features, SEED, noises, SAMPLES, CPU)
    modern_features = Features("logmel40")
    modern = AugmentationChain(preset("modern"), modern_features, SEED, noises, SAMPLES, CPU)
    reference, exact = librosa_training(clips), librosa_training(clips, np.float64)
    ours = classic(wave, lengths, draws, 0)[:, 0].numpy()
    difference = max(float(np.abs(exact(row) - ours[row]).max()) for row in range(0, count, 4))
    floats, bare = to_float(wave).numpy(), torch.from_numpy(frames_of(wave))

    def by_batches(way: Callable[[slice], Any]) -> Callable[[int], None]:
        def run(_: int) -> None:
            for at in range(0, count, BATCH):
                way(slice(at, at + BATCH))

        return run

    return rounds_of({
        "librosa, classic": (lambda n: [reference((n * each + k) % count) for k in range(each)], each),
        "ours, classic": (by_batches(lambda at: classic(wave[at], lengths[at], draws[at], 0)), count),
        "librosa, evaluation": (
            lambda n: [librosa_chain.evaluation_features(floats[(n * each + k) % count]) for k in range(each)], each,
        ),
        "ours, evaluation": (by_batches(lambda at: features(wave[at])), count),
        "ours, modern": (by_batches(lambda at: modern(wave[at], lengths[at], draws[at], 0)), count),
        "ours, logmel40": (by_batches(lambda at: modern_features(wave[at])), count),
        "rfft": (lambda _: torch.fft.rfft(bare), len(bare)),
    }, rounds), difference  # fmt: skip


def frames_of(wave: torch.Tensor) -> np.ndarray[Any, Any]:
    """The windowed frames of one batch, (64, 32, 2048)."""
    padded = np.pad(to_float(wave[:BATCH]).numpy(), ((0, 0), (1024, 1024)))
    cut = librosa.util.frame(padded, frame_length=2048, hop_length=512, axis=1)
    return np.ascontiguousarray(cut * np.hanning(2049)[:-1].astype(np.float32))


def shares(clips: Clips, rounds: int) -> dict[str, float]:
    """Microseconds per clip of each step of the preset classic, measured alone with its usual probability."""
    wave, lengths, noises = (part[:BATCH] for part in clips)
    features, draws = Features("mel32"), np.arange(BATCH)
    sampler, bank = (
        AugmentationSampler(preset("classic", features="mel32"), SEED, SAMPLES),
        NoiseBank(noises, SAMPLES, CPU),
    )
    transforms, noise_transforms, mix = (
        sampler.clip_transforms(draws, 0),
        sampler.noise_transforms(draws, 0),
        sampler.mixed_noise(draws, 0),
    )
    mixed = np.flatnonzero(mix.applied)
    rows = bank.rows(torch.from_numpy((mix.position[mixed] * bank.num_rows).astype(np.int64)))
    own = noise_transforms.select(mixed)
    partner = np.full(BATCH, -1)
    partner[mixed] = BATCH + np.arange(len(mixed))
    of_clips = CompiledWaveTransform.from_parameters(transforms, lengths)
    of_noise = CompiledWaveTransform.from_parameters(own, np.full(len(mixed), SAMPLES))

    def play(_: int = 0) -> torch.Tensor:
        return torch.cat([of_clips.apply(wave, SAMPLES), of_noise.apply(rows, SAMPLES)])

    waves = play()
    spectra = features.spectrum(waves)
    steps = CompiledFrameSteps.from_parameters(
        transforms.concatenate(own), partner, mix.level, features.shape(SAMPLES)[2]
    )
    power = steps.power(spectra)
    mel = features.mel_of_power(power)
    return rounds_of({
        "parameters": (
            lambda n: (
                sampler.clip_transforms(draws, n), sampler.noise_transforms(draws, n), sampler.mixed_noise(draws, n),
            ), BATCH,
        ),
        "1-3 amplitude, speed, fixed length": (play, BATCH),
        "4 window and transform": (lambda _: features.spectrum(waves), BATCH),
        "5-8 stretch, shift, noise, power": (lambda _: steps.power(spectra), BATCH),
        "9 mel": (lambda _: features.mel_of_power(power), BATCH),
        "9 decibels": (lambda _: features.scaled(mel), BATCH),
    }, rounds * 4)  # fmt: skip


def beside_training(clips: Clips, device: torch.device, name: str = "wrn_28_10") -> dict[str, Any]:
    """Clips/s of the preset classic on the device, and its share of a training slot of the network: with the slot size,
    precision and memory layout of its config."""
    config = settings_file.load(ROOT / "configs" / f"{name}.toml")
    batch, kind = config.train.micro_batch, {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.train.precision)
    layout = torch.channels_last if config.train.channels_last else torch.contiguous_format
    wave = clips[0].repeat(-(-batch // len(clips[0])), 1)[:batch].to(device)
    lengths, draws = np.full(batch, SAMPLES), np.arange(batch)
    features = Features("mel32").to(device)
    chain = AugmentationChain(preset("classic", features="mel32"), features, SEED, clips[2], SAMPLES, device)
    network = registry.build_model(name, 35, features.shape(SAMPLES)).to(device)
    network = network.to(memory_format=layout)  # type: ignore[call-overload]
    labels = torch.zeros(batch, dtype=torch.long, device=device)

    def slot() -> None:
        with torch.no_grad():
            seen = chain(wave, lengths, draws, 0).to(memory_format=layout)
        with torch.autocast(device.type, kind, enabled=kind is not None):
            logits = network(seen)
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()

    alone, whole = (seconds_of(way, device) for way in (lambda: chain(wave, lengths, draws, 0), slot))
    return {
        "gpu_clips_per_s": batch / alone, f"gpu_share_of_{name}": alone / whole, "gpu_slot_clips": batch,
        "gpu_precision": config.train.precision,
    }  # fmt: skip


def seconds_of(way: Callable[[], Any], device: torch.device, times: int = 10) -> float:
    """Mean seconds of a call, after three to warm up."""
    settle = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for _ in range(3):
        way()
    settle()
    start = time.perf_counter()
    for _ in range(times):
        way()
    settle()
    return (time.perf_counter() - start) / times


def show(found: dict[str, float], steps: dict[str, float], difference: float) -> None:
    """Prints the tables."""
    table = Table("way", "us/clip", "clips/s", "librosa takes", title="one core, median round")
    parts = Table("step of the preset classic", "us/clip", "share", title="each measured alone")
    for column in (*table.columns[1:], *parts.columns[1:]):
        column.justify = "right"
    for name, value in found.items():
        base = found.get(name.replace("ours", "librosa"))
        table.add_row(name, f"{value:,.0f}", f"{1e6 / value:,.0f}", f"{base / value:.1f} x" if base else "")
    for name, value in steps.items():
        parts.add_row(name, f"{value:,.1f}", f"{value / sum(steps.values()):.0%}")
    table.caption = (
        f"greatest difference from librosa {difference:.4f} dB; bars 5 x; "
        f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    console = Console(width=100)
    console.print(table)
    console.print(parts)


def main() -> None:
    """Prints the tables, and as the last line one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a packed corpus; default: clips of noise")
    parser.add_argument("--quick", action="store_true", help="fewer clips, fewer rounds: under a minute")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    count, rounds, each = (128, 5, 16) if arguments.quick else (512, 15, 48)
    clips = clips_of(arguments.data, count)
    with torch.inference_mode():
        found, difference = compare(clips, rounds, each)
        steps = shares(clips, rounds)
    show(found, steps, difference)
    facts = {
        "ratio_train": found["librosa, classic"] / found["ours, classic"],
        "ratio_eval": found["librosa, evaluation"] / found["ours, evaluation"],
        "ratio_rfft_train": found["rfft"] / found["ours, classic"],
        "ratio_rfft_eval": found["rfft"] / found["ours, evaluation"],
        "difference_db": difference,
        "us_a_clip": found,
        "us_a_step": steps,
    }
    print(json.dumps(facts | (beside_training(clips, torch.device("cuda")) if torch.cuda.is_available() else {})))


if __name__ == "__main__":
    main()
