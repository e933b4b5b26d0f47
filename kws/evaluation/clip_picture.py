"""What the network sees of one clip: wave and features, as they are and as training varies them, in a picture."""

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
from kws.errors import UsageError
from kws.packing.clip_names import find_clip

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CPU = torch.device("cpu")
_INK, _WAVE = "#333333", "#0072B2"


def draw_clip(config: Config, name: str, draws: int, path: Path) -> None:
    """A PNG of the corpus's clip `name` (its key, or SPLIT/NUMBER): as it is, then `draws` ways in which the settings'
    training chain varies it. Raises UsageError where there is no such clip, or no place
    for the picture."""
    from matplotlib.figure import Figure

    training_set = TrainingSet(config)
    split, clip = find_clip(training_set.index, name)
    reader = Reader(training_set.index, split, cache_settings=CacheSettings.from_config(config.data))
    rows, lengths = reader.read_rows(np.full(max(1, draws), clip), training_set.read_samples)
    wave, plain, numbers = torch.from_numpy(rows[:draws]), torch.from_numpy(rows[:1]), np.arange(draws)
    plain = plain[:, : training_set.samples]
    features, chain = _front_end(training_set)
    with torch.inference_mode():
        lengths = lengths[:draws]
        waves = [plain[0].float() / 32768.0, *chain.waves(wave, lengths, numbers, 0)]
        seen = [features(plain)[0, 0], *(chain(wave, lengths, numbers, 0)[:, 0] if draws else [])]
        said = ["as it is: evaluation, prediction", *told(chain, numbers)]
    figure = Figure(figsize=(11.0, 1.9 * len(waves) + 0.7), layout="constrained")
    axes = figure.subplots(len(waves), 2, squeeze=False, sharex="col")
    loudest, levels = max(float(wave.abs().max()) for wave in waves), _levels(seen, config)
    for (left, right), wave, image, title in zip(axes, waves, seen, said, strict=True):
        _draw_wave(left, wave, loudest, title)
        _draw_features(right, image, config.frontend.features, levels)
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
        raise UsageError(f"{path}: cannot be written ({error.strerror}); give another --out") from error


def told(chain: AugmentationChain, draws: Ints) -> list[str]:
    """What the steps do to each draw of the first epoch, in words."""
    transforms, sampler, bank = chain.sampler.clip_transforms(draws, 0), chain.sampler, chain.bank
    rooms, noise, mix = (
        sampler.room_indices(draws, 0, NUM_ROOMS),
        sampler.added_noise(draws, 0),
        sampler.mixed_noise(draws, 0),
    )
    lines, shift_ms = [], sampler.shift_ms(draws, 0)
    for row, draw in enumerate(draws.tolist()):
        parts = [
            (transforms.gain[row] != 1.0, f"loudness {20.0 * np.log10(max(transforms.gain[row], 1e-9)):+.1f} dB"),
            (transforms.step[row] != 1.0, f"played at {transforms.step[row]:.2f}"),
            (abs(shift_ms[row]) >= 0.5, f"moved by {shift_ms[row]:+.0f} ms"),
            (rooms[row] >= 0, f"room {rooms[row]}"),
            (noise.applied[row] and bank.num_windows, f"noise {noise.level[row]:.0f} dB below"),
            (transforms.rate[row] != 1.0, f"stretched at {transforms.rate[row]:.2f}"),
            (transforms.shift[row] != 0, f"shifted by {transforms.shift[row]:+d} frames"),
            (mix.applied[row] and bank.num_rows, f"{mix.level[row]:.0%} noise"),
        ]
        lines.append(f"draw {draw}: " + (", ".join(text for there, text in parts if there) or "nothing before masks"))
    return lines


def _front_end(training_set: TrainingSet) -> tuple[Features, AugmentationChain]:
    config, caching = training_set.config, CacheSettings.from_config(training_set.config.data)
    chosen = config.frontend.features
    measured = config.frontend.normalise == "corpus"
    features = Features(
        chosen,
        normalisation.load_or_measure(training_set.index, chosen, training_set.samples, caching) if measured else None,
    )
    noises = read_noise(training_set.index, "train", caching)
    return features, AugmentationChain(config.frontend, features, config.train.seed, noises, training_set.samples, CPU)


def _levels(seen: list[Tensor], config: Config) -> tuple[float, float]:
    """The same colours in all pictures. The first cosine is loudness, which would hide the others."""
    rows = torch.stack(seen)[:, 1 if SPECS[config.frontend.features].scale == "mfcc" else 0 :]
    return float(rows.quantile(0.01)), float(rows.quantile(0.999))


def _draw_wave(axes: Axes, wave: Tensor, loudest: float, title: str) -> None:
    axes.plot(np.arange(len(wave)) / SAMPLE_RATE_HZ, wave.numpy(), linewidth=0.5, color=_WAVE)
    axes.set_ylim(-1.05 * loudest, 1.05 * loudest)
    axes.set_xlim(0, len(wave) / SAMPLE_RATE_HZ)
    axes.set_title(title, fontsize=8.5, loc="left", color=_INK)
    _dress(axes)


def _draw_features(axes: Axes, image: Tensor, name: str, levels: tuple[float, float]) -> None:
    bands, frames = image.shape
    seconds = frames * SPECS[name].hop / SAMPLE_RATE_HZ
    axes.imshow(
        image.numpy(), origin="lower", aspect="auto", interpolation="nearest", cmap="magma", vmin=levels[0],
        vmax=levels[1], extent=(0.0, seconds, 0.0, bands),
    )  # fmt: skip
    axes.set_title(f"{bands} x {frames}", fontsize=8.5, loc="left", color=_INK)
    axes.set_ylabel("cosine" if SPECS[name].scale == "mfcc" else "mel band", fontsize=8, color=_INK)
    _dress(axes)


def _dress(axes: Any) -> None:
    axes.tick_params(labelsize=7.5, colors=_INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
