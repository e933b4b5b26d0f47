"""Reference implementation of the preset `classic`: one clip at a time, plain librosa and numpy.

The tests compare kws/audio with it step by step, for given parameters; benchmarks/frontend.py compares the speed.
"""

from __future__ import annotations

import dataclasses

import librosa
import numpy as np
import numpy.typing as npt

from kws.audio.augment_parameters import TransformParameters

N_FFT, HOP, RATE_HZ = 2048, 512, 16_000
Floats = npt.NDArray[np.floating]


@dataclasses.dataclass
class Steps:
    """Parameters of the steps; None: the step is not applied."""

    amplitude: float | None = None
    speed: float | None = None
    stretch: float | None = None
    shift: int | None = None


def steps_of(transforms: TransformParameters, row: int) -> Steps:
    """One row of the parameters, in the form of the functions below."""
    gain, step, rate, shift = transforms.gain[row], transforms.step[row], transforms.rate[row], transforms.shift[row]
    return Steps(
        None if gain == 1.0 else float(gain),
        None if step == 1.0 else float(1.0 / step - 1.0),
        None if rate == 1.0 else float(rate - 1.0),
        None if shift == 0 else int(shift),
    )


def amplitude(samples: Floats, factor: float) -> Floats:
    """Step 1: gain."""
    return samples * samples.dtype.type(factor)


def speed(samples: Floats, by: float) -> Floats:
    """Step 2: linear interpolation at step 1 / (1 + by)."""
    places = np.arange(0, len(samples), 1.0 / (1.0 + by))
    return np.interp(places, np.arange(len(samples)), samples).astype(samples.dtype)


def fixed(samples: Floats, length: int = RATE_HZ) -> Floats:
    """Step 3: pad with zeros or cut."""
    return samples[:length] if len(samples) >= length else np.pad(samples, (0, length - len(samples)))


def stft(samples: Floats) -> npt.NDArray[np.complex64]:
    """Step 4: (1025, 32)."""
    return librosa.stft(samples, n_fft=N_FFT, hop_length=HOP)


def stretch(spectrum: npt.NDArray[np.complex64], by: float) -> npt.NDArray[np.complex64]:
    """Step 5: phase vocoder at rate 1 + by."""
    return librosa.phase_vocoder(spectrum, rate=1.0 + by, hop_length=HOP)


def shift(spectrum: npt.NDArray[np.complex64], frames: int) -> npt.NDArray[np.complex64]:
    """Step 6: later by `frames`; the gap is zeros."""
    moved = np.zeros_like(spectrum)
    if frames >= 0:
        moved[:, frames:] = spectrum[:, : spectrum.shape[1] - frames]
    else:
        moved[:, :frames] = spectrum[:, -frames:]
    return moved


def fixed_frames(spectrum: npt.NDArray[np.complex64], count: int) -> npt.NDArray[np.complex64]:
    """Step 7: pad with zeros or cut to `count` frames."""
    return spectrum[:, :count] if spectrum.shape[1] >= count else librosa.util.fix_length(spectrum, size=count, axis=1)


def mel(spectrum: npt.NDArray[np.complex64], bands: int) -> Floats:
    """Step 9, after the noise was mixed in: decibels below the maximum, (bands, 32)."""
    bank = librosa.filters.mel(sr=RATE_HZ, n_fft=N_FFT, n_mels=bands)
    return librosa.power_to_db(bank @ (np.abs(spectrum) ** 2), ref=np.max)


def to_frames(samples: Floats, steps: Steps, length: int = RATE_HZ) -> npt.NDArray[np.complex64]:
    """Steps 1 to 7: float samples (T,) -> (1025, 32)."""
    if steps.amplitude is not None:
        samples = amplitude(samples, steps.amplitude)
    if steps.speed is not None:
        samples = speed(samples, steps.speed)
    spectrum = stft(fixed(samples, length))
    count = spectrum.shape[1]
    if steps.stretch is not None:
        spectrum = stretch(spectrum, steps.stretch)
    if steps.shift is not None:
        spectrum = shift(spectrum, steps.shift)
    return fixed_frames(spectrum, count)


def training_features(
    samples: Floats, steps: Steps, noise: Floats | None, noise_steps: Steps, share: float, bands: int = 32
) -> Floats:
    """The whole chain: (bands, 32)."""
    spectrum = to_frames(samples, steps)
    if noise is not None:
        spectrum = (1.0 - share) * spectrum + share * to_frames(noise, noise_steps)
    return mel(spectrum, bands)


def evaluation_features(samples: Floats, bands: int = 32) -> Floats:
    """Features of the valid and test splits: (bands, 32)."""
    power = librosa.feature.melspectrogram(y=fixed(samples), sr=RATE_HZ, n_fft=N_FFT, hop_length=HOP, n_mels=bands)
    return librosa.power_to_db(power, ref=np.max)
