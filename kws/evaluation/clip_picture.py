"""Draws one clip as the network sees it: waveform and features, without augmentation and with it, as a PNG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kws.audio.augment import AugmentationChain
from kws.audio.augment_parameters import Ints
from kws.audio.codec import SAMPLE_RATE_HZ
from kws.audio.features import SPECS, Features
from kws.audio.noise import NUM_ROOMS
from kws.config import Config
from kws.data import normalisation
from kws.data.reader import Reader, read_noise
from kws.data.store import CacheSettings
from kws.data.training_set import TrainingSet
from kws.errors import UsageError, cannot_write
from kws.packing.clip_names import find_clip

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CPU = torch.device("cpu")
_INK, _WAVE = "#333333", "#0072B2"


def draw_clip(config: Config, name: str, draws: int, path: Path) -> None:
    """Writes a PNG of the corpus's clip `name` (its key, or SPLIT/NUMBER): the clip itself, then `draws` augmented
    variants of it, as training would draw them.

    Raises UsageError where there is no such clip, and where `path` cannot be written.
    """
    from matplotlib.figure import Figure

    training_set = TrainingSet(config)
    split, clip = find_clip(training_set.index, name)
    reader = Reader(training_set.index, split, cache_settings=CacheSettings.from_config(config.data))
    rows, lengths = reader.read_rows(np.full(max(1, draws), clip), training_set.excerpt, training_set.read_samples)
    plain = torch.from_numpy(rows[:1, : training_set.samples])
    wave, lengths, numbers = torch.from_numpy(rows[:draws]), lengths[:draws], np.arange(draws)
    features, chain = _front_end(training_set)
    with torch.inference_mode():
        waves = [plain[0].float() / 32768.0, *chain.waves(wave, lengths, numbers, 0)]
        images = [features(plain)[0, 0], *(chain(wave, lengths, numbers, 0)[:, 0] if draws else [])]
        titles = ["no augmentation (evaluation, prediction)", *describe_augmentation(chain, numbers, lengths)]
    figure = Figure(figsize=(11.0, 1.9 * len(waves) + 0.7), layout="constrained")
    axes = figure.subplots(len(waves), 2, squeeze=False, sharex="col")
    loudest, colour_range = max(float(wave.abs().max()) for wave in waves), _colour_range(images, config)
    for (left, right), wave, image, title in zip(axes, waves, images, titles, strict=True):
        _draw_wave(left, wave, loudest, title)
        _draw_features(right, image, config.frontend.features, colour_range)
    word = training_set.index.words[int(training_set.index.split(split).values("word", clip))]
    figure.suptitle(
        f"{word}: {reader.name(clip)} ({split}/{clip}) through {config.frontend.features}, "
        f"chain {config.frontend.augment}", fontsize=11, color=_INK,
    )  # fmt: skip
    axes[-1][0].set_xlabel("seconds", fontsize=9, color=_INK)
    axes[-1][1].set_xlabel("seconds", fontsize=9, color=_INK)
    try:
        figure.savefig(path, dpi=110, format="png")
    except OSError as error:
        raise UsageError(cannot_write(path, error, "give another --out")) from error


def describe_augmentation(chain: AugmentationChain, draws: Ints, lengths: Ints | None = None) -> list[str]:
    """One line per draw of the first epoch, of recordings of these lengths (B,): the augmentation parameters of the
    steps that change it."""
    sampler, bank = chain.sampler, chain.bank
    transforms, rooms = sampler.clip_transforms(draws, 0, lengths), sampler.room_indices(draws, 0, NUM_ROOMS)
    noise, mix = sampler.added_noise(draws, 0), sampler.mixed_noise(draws, 0)
    lines, shift_ms = [], sampler.shift_ms(draws, 0)
    begins_ms = -transforms.start / transforms.step * 1000 / SAMPLE_RATE_HZ
    for row, draw in enumerate(draws.tolist()):
        parts = [
            (transforms.gain[row] != 1.0, f"loudness {20.0 * np.log10(max(transforms.gain[row], 1e-9)):+.1f} dB"),
            (transforms.step[row] != 1.0, f"played at {transforms.step[row]:.2f}"),
            (abs(shift_ms[row]) >= 0.5, f"moved by {shift_ms[row]:+.0f} ms"),
            (sampler.places and lengths is not None, f"begins at {begins_ms[row]:.0f} ms"),
            (rooms[row] >= 0, f"room {rooms[row]}"),
            (noise.applied[row] and bank.num_windows, f"noise {noise.level[row]:.0f} dB below"),
            (transforms.rate[row] != 1.0, f"stretched at {transforms.rate[row]:.2f}"),
            (transforms.shift[row] != 0, f"shifted by {transforms.shift[row]:+d} frames"),
            (mix.applied[row] and bank.num_rows, f"{mix.level[row]:.0%} noise"),
        ]
        lines.append(f"draw {draw}: " + (", ".join(text for applied, text in parts if applied) or "masks only"))
    return lines


def _front_end(training_set: TrainingSet) -> tuple[Features, AugmentationChain]:
    config = training_set.config
    cache = CacheSettings.from_config(config.data)
    name = config.frontend.features
    normalised = config.frontend.normalise == "corpus"
    statistics = (
        normalisation.load_or_measure(training_set.index, name, training_set.excerpt, cache) if normalised else None
    )
    features = Features(name, statistics)
    noises = read_noise(training_set.index, "train", cache)
    return features, AugmentationChain(config.frontend, features, config.train.seed, noises, training_set.samples, CPU)


def _colour_range(images: list[Tensor], config: Config) -> tuple[float, float]:
    """Lowest and highest value of the colour scale, the same for all images.

    Without the first cosine of MFCCs: it is the loudness, whose range would hide the others.
    """
    rows = torch.stack(images)[:, 1 if SPECS[config.frontend.features].scale == "mfcc" else 0 :]
    return float(rows.quantile(0.01)), float(rows.quantile(0.999))


def _draw_wave(axes: Axes, wave: Tensor, loudest: float, title: str) -> None:
    axes.plot(np.arange(len(wave)) / SAMPLE_RATE_HZ, wave.numpy(), linewidth=0.5, color=_WAVE)
    axes.set_ylim(-1.05 * loudest, 1.05 * loudest)
    axes.set_xlim(0, len(wave) / SAMPLE_RATE_HZ)
    axes.set_title(title, fontsize=8.5, loc="left", color=_INK)
    _style_axes(axes)


def _draw_features(axes: Axes, image: Tensor, name: str, colour_range: tuple[float, float]) -> None:
    bands, frames = image.shape
    seconds = frames * SPECS[name].hop / SAMPLE_RATE_HZ
    axes.imshow(
        image.numpy(), origin="lower", aspect="auto", interpolation="nearest", cmap="magma", vmin=colour_range[0],
        vmax=colour_range[1], extent=(0.0, seconds, 0.0, bands),
    )  # fmt: skip
    axes.set_title(f"{bands} x {frames}", fontsize=8.5, loc="left", color=_INK)
    axes.set_ylabel("cosine" if SPECS[name].scale == "mfcc" else "mel band", fontsize=8, color=_INK)
    _style_axes(axes)


def _style_axes(axes: Any) -> None:
    axes.tick_params(labelsize=7.5, colors=_INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
