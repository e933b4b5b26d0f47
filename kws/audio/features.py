"""Waveforms to mel features, the network's input, in batches on the network's device.

    int16 or float (B, T) -> float in [-1, 1) -> frames, window, FFT -> (B, N, K) -> mel (B, N, F) -> decibels, log
    or cosine transform -> normalisation -> (B, 1, F, N)

Training, evaluation and prediction share this one definition. Internally frames come before bins: a frame is a row in
memory, so that kws/audio/frames.py moves and mixes whole rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kws.audio import ta
from kws.audio.codec import SAMPLE_RATE_HZ
from kws.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Spec:
    """Parameters of mel features: lengths in samples, bands from low_hz to 8000 Hz."""

    n_fft: int
    window: int
    hop: int
    bands: int
    low_hz: float
    scale: str
    """How mel power is scaled. `db`: decibels relative to the clip's maximum, at least -80. `log`: natural logarithm
    minus the clip's mean. `mfcc`: cosine transform of decibels, as many coefficients as bands. `fixed`: natural
    logarithm on one scale for all clips."""
    centred: bool = True
    """Whether frame k is centred on sample k * hop, with zeros outside the clip, so that N = 1 + T // hop. Otherwise it
    begins there and is inside the clip: N = 1 + (T - window) // hop."""

    @property
    def streams(self) -> bool:
        """Whether frames can be scaled as samples come in: the scale uses no statistics of the clip."""
        return self.scale == "fixed"

    @property
    def frame_samples(self) -> int:
        """Number of samples that a frame is cut with."""
        return self.n_fft if self.centred else self.window

    @property
    def frame_start(self) -> int:
        """First sample of frame 0, relative to the clip's: 0, or negative where frames are centred."""
        return -(self.n_fft // 2) if self.centred else 0

    def num_frames(self, samples: int) -> int:
        """N for a clip of `samples` samples. A clip shorter than an uncentred frame gets zeros at its end."""
        return 1 + (samples if self.centred else max(0, samples - self.window)) // self.hop


SPECS = {
    "mel32": Spec(2048, 2048, 512, 32, 0.0, "db"),
    "mel40": Spec(2048, 2048, 512, 40, 0.0, "db"),
    "logmel40": Spec(512, 400, 160, 40, 20.0, "log"),
    "logmel40_30ms": Spec(512, 480, 160, 40, 20.0, "log"),
    "mfcc40": Spec(512, 480, 160, 40, 20.0, "mfcc"),
    "logmel40_stream": Spec(512, 400, 160, 40, 20.0, "fixed", centred=False),
}
# Added to the power before the log, so that digital silence, rounding noise and the quietest rooms give similar values.
_LOG_FLOOR = 1e-6
# Standard deviation of log-mel features of Speech Commands after the mean is subtracted, rounded.
_LOG_SPREAD = 3.0
# Mean and standard deviation of log-mel features of Speech Commands (-10.6, 3.9), rounded: one scale for all clips.
_FIXED_MEAN, _FIXED_SPREAD = -10.0, 4.0
CPU_CLIPS = 4
"""Number of clips that are transformed at once on a CPU, so that their frames stay in its cache. Measured on an EPYC
with 1 MB of L2 cache per core: 177 us a clip, against 210 us with 16 clips at once."""
BandStatistics = tuple[list[float], list[float]]
"""Mean and standard deviation of each band over the train split, (F,) each."""


class Features(nn.Module):
    """Mel features by name: (B, T) int16 or float samples at 16 kHz -> (B, 1, F, N) float32.

    `mel32` and `mel40` equal librosa's `melspectrogram(n_fft=2048, hop_length=512)` in `power_to_db(ref=np.max)`,
    `mfcc40` its `mfcc(n_mfcc=40, n_mels=40, n_fft=512, win_length=480, hop_length=160, fmin=20)`. `logmel40_stream`
    takes no statistics of the clip, and no frame reaches over the clip's ends, so its frames of a part of a recording
    are those of the recording. N is `spec.num_frames(T)`. `statistics`: normalise each band by these; None: no
    normalisation. Raises UsageError for a name not in SPECS.
    """

    def __init__(self, name: str, statistics: BandStatistics | None = None) -> None:
        super().__init__()
        if name not in SPECS:
            raise UsageError(f"frontend.features: no {name!r}; there are {', '.join(SPECS)}")
        self.name, self.spec = name, SPECS[name]
        spec = self.spec
        # As in torch.stft, the window of a centred frame gets zeros on both sides where the transform is longer.
        left = (spec.frame_samples - spec.window) // 2
        window = nn.functional.pad(torch.hann_window(spec.window), (left, spec.frame_samples - spec.window - left))
        self.window: Tensor
        self.cosines: Tensor
        self.statistics: Tensor  # (2, F): mean and standard deviation
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("cosines", ta.functional.create_dct(spec.bands, spec.bands, "ortho"), persistent=False)
        self.register_buffer("statistics", _statistics_tensor(statistics, spec.bands), persistent=False)
        self._normalises = statistics is not None
        self._register_filters(_mel_filters(spec))

    def normalise_by(self, statistics: BandStatistics) -> None:
        """From now on, normalises each band by its mean and standard deviation."""
        self.statistics.copy_(_statistics_tensor(statistics, self.spec.bands))
        self._normalises = True

    def is_same_as(self, other: Features) -> bool:
        """Whether the other features have the same values for every wave."""
        if (self.name, self._normalises) != (other.name, other._normalises):
            return False
        return not self._normalises or torch.equal(self.statistics, other.statistics)

    def _register_filters(self, filters: Tensor) -> None:
        """Splits the filters (K, F) into lower and upper bands, each over the bins that they use: half the work."""
        self._edges: list[tuple[int, int]] = []
        half = -(-filters.shape[1] // 16) * 8
        for part, columns in enumerate(torch.split(filters, half, dim=1)):
            used = columns.sum(dim=1).nonzero()
            low, high = int(used[0]), int(used[-1]) + 1
            self._edges.append((low, high))
            self.register_buffer(f"filters{part}", columns[low:high].contiguous(), persistent=False)
            # For spectra as they are in memory, real and imaginary parts in turn.
            self.register_buffer(f"paired{part}", columns[low:high].repeat_interleave(2, dim=0), persistent=False)

    def shape(self, samples: int) -> tuple[int, int, int]:
        """Shape of the features of one clip of `samples` samples, (1, F, N)."""
        return 1, self.spec.bands, self.spec.num_frames(samples)

    def forward(self, wave: Tensor) -> Tensor:
        """(B, T) -> (B, 1, F, N)."""
        mel = [self.mel_of_spectrum(self._transform(to_float(part))) for part in self._parts(wave)]
        return self.scaled(torch.cat(mel))

    def spectrum(self, wave: Tensor) -> Tensor:
        """Float samples (B, T) -> complex (B, N, n_fft / 2 + 1); outside the clip are zeros."""
        return torch.cat([self._transform(part) for part in self._parts(wave)])

    def _parts(self, wave: Tensor) -> Sequence[Tensor]:
        return torch.split(wave, CPU_CLIPS) if wave.device.type == "cpu" else (wave,)

    def _transform(self, wave: Tensor) -> Tensor:
        spec, samples = self.spec, wave.shape[1]
        after = max(0, spec.window - samples)
        padded = nn.functional.pad(wave, (spec.n_fft // 2, spec.n_fft // 2) if spec.centred else (0, after))
        return self._spectrum_of_frames(padded.unfold(1, spec.frame_samples, spec.hop))

    def _spectrum_of_frames(self, frames: Tensor) -> Tensor:
        spectrum: Tensor = torch.fft.rfft(frames * self.window, n=self.spec.n_fft)
        return spectrum

    def mel_of_frames(self, frames: Tensor) -> Tensor:
        """Frames of float samples (B, N, frame_samples) -> mel power (B, N, F)."""
        return self.mel_of_spectrum(self._spectrum_of_frames(frames))

    def mel_of_spectrum(self, spectrum: Tensor) -> Tensor:
        """Complex (B, N, K) -> mel power (B, N, F)."""
        # The filters sum the squares of real and imaginary parts, which saves a pass over the spectrum.
        return self._filter(torch.view_as_real(spectrum).flatten(-2).square(), "paired", 2)

    def mel_of_power(self, power: Tensor) -> Tensor:
        """Power (B, N, K) -> mel power (B, N, F)."""
        return self._filter(power, "filters", 1)

    def _filter(self, power: Tensor, kind: str, per_bin: int) -> Tensor:
        parts = [
            torch.matmul(power[..., low * per_bin : high * per_bin], self.get_buffer(f"{kind}{part}"))
            for part, (low, high) in enumerate(self._edges)
        ]
        return torch.cat(parts, dim=-1)

    def scaled(self, mel: Tensor) -> Tensor:
        """Mel power (B, N, F) -> the network's input, (B, 1, F, N)."""
        scales = {"db": _decibels, "log": _log, "mfcc": self._cepstrum, "fixed": _fixed_log}
        scaled: Tensor = scales[self.spec.scale](mel)
        if self._normalises:
            scaled = (scaled - self.statistics[0]) / self.statistics[1]
        return scaled.transpose(1, 2).unsqueeze(1).contiguous()

    def _cepstrum(self, mel: Tensor) -> Tensor:
        level = 10.0 * torch.log10(mel.clamp_min(1e-10))
        kept = level.maximum(level.amax(dim=(1, 2), keepdim=True) - 80.0)
        return torch.matmul(kept, self.cosines)


def _mel_filters(spec: Spec) -> Tensor:
    """Slaney's mel filters, each of unit area, (K, F)."""
    filters: Tensor = ta.functional.melscale_fbanks(
        spec.n_fft // 2 + 1, spec.low_hz, SAMPLE_RATE_HZ / 2, spec.bands, SAMPLE_RATE_HZ, "slaney", "slaney"
    )
    return filters


def _statistics_tensor(statistics: BandStatistics | None, bands: int) -> Tensor:
    return torch.tensor(statistics if statistics else ((0.0,) * bands, (1.0,) * bands), dtype=torch.float32)


def to_float(wave: Tensor) -> Tensor:
    """int16 samples -> float32 in [-1, 1); floats are returned unchanged."""
    return wave.float() / 32768.0 if wave.dtype == torch.int16 else wave


def _decibels(power: Tensor, floor_db: float = 80.0, least: float = 1e-10) -> Tensor:
    """Power (B, N, F) -> dB relative to each clip's maximum, at least -`floor_db`."""
    top = power.amax(dim=(1, 2), keepdim=True).clamp_min(least)
    return (10.0 * torch.log10(power.clamp_min(least) / top)).clamp_min(-floor_db)


def _log(power: Tensor) -> Tensor:
    log = torch.log(power + _LOG_FLOOR)
    return (log - log.mean(dim=(1, 2), keepdim=True)) / _LOG_SPREAD


def _fixed_log(power: Tensor) -> Tensor:
    return (torch.log(power + _LOG_FLOOR) - _FIXED_MEAN) / _FIXED_SPREAD
