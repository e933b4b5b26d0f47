"""Waveform to the network's input, in batches, where the network runs.

    int16 or float (B, T) -> float in [-1, 1) -> power spectrogram -> mel -> decibels or log -> (B, 1, F, N)

One definition serves training, evaluation and prediction.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from kws.audio import ta
from kws.audio.codec import SAMPLE_RATE_HZ
from kws.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Spec:
    """A mel spectrogram: lengths in samples, bands over low_hz..8000, and what becomes of the power."""

    n_fft: int
    window: int
    hop: int
    bands: int
    low_hz: float
    scale: str
    """`db`: decibels below the clip's own maximum, at most 80. `log`: natural log, the clip's mean taken off."""


SPECS = {
    "mel32": Spec(2048, 2048, 512, 32, 0.0, "db"),
    "mel40": Spec(2048, 2048, 512, 40, 0.0, "db"),
    "logmel40": Spec(512, 400, 160, 40, 20.0, "log"),
    "logmel40_30ms": Spec(512, 480, 160, 40, 20.0, "log"),
}
# Added to the power before the log: about the power of 16-bit rounding noise in a band, so that digital silence
# and a quiet room look alike.
_LOG_FLOOR = 1e-6
# Standard deviation of log-mel features of Speech Commands after the mean is taken off, rounded.
_LOG_SPREAD = 3.0


class Features(nn.Module):
    """Mel features by name: (B, T) int16 or float samples at 16 kHz -> (B, 1, F, N) float32.

    `mel32` and `mel40` equal librosa's `melspectrogram(n_fft=2048, hop_length=512)` in `power_to_db(ref=np.max)`.
    N is 1 + T / hop. Raises UsageError for a name that is none of SPECS.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        if name not in SPECS:
            raise UsageError(f"frontend.features: no {name!r}; there are {', '.join(SPECS)}")
        self.spec = spec = SPECS[name]
        bank = ta.functional.melscale_fbanks(
            spec.n_fft // 2 + 1, spec.low_hz, SAMPLE_RATE_HZ / 2, spec.bands, SAMPLE_RATE_HZ, "slaney", "slaney"
        )
        self.window: Tensor
        self.bank: Tensor
        self.register_buffer("window", torch.hann_window(spec.window), persistent=False)
        self.register_buffer("bank", bank.T.contiguous(), persistent=False)  # (F, n_fft / 2 + 1)

    def shape(self, samples: int) -> tuple[int, int, int]:
        """The shape of one clip's features, (1, F, N)."""
        return 1, self.spec.bands, 1 + samples // self.spec.hop

    def forward(self, wave: Tensor) -> Tensor:
        """(B, T) -> (B, 1, F, N)."""
        mel = torch.matmul(self.bank, self.power(to_float(wave)))
        scaled = _decibels(mel) if self.spec.scale == "db" else _log(mel)
        return scaled.unsqueeze(1)

    def power(self, wave: Tensor) -> Tensor:
        """Float samples (B, T) -> power spectrogram (B, n_fft / 2 + 1, N)."""
        spec = self.spec
        stft = torch.stft(
            wave, spec.n_fft, spec.hop, spec.window, self.window, center=True, pad_mode="constant", return_complex=True
        )
        # Not abs() ** 2: its square root cost as much as the transform itself (110 against 60 us a clip).
        return torch.addcmul(stft.real.square(), stft.imag, stft.imag)


def to_float(wave: Tensor) -> Tensor:
    """int16 samples -> float32 in [-1, 1); floats stay as they are."""
    return wave.float() / 32768.0 if wave.dtype == torch.int16 else wave


def _decibels(power: Tensor, floor_db: float = 80.0, least: float = 1e-10) -> Tensor:
    """(B, F, N) power -> dB against each clip's own maximum, cut at `floor_db` below it."""
    top = power.amax(dim=(1, 2), keepdim=True).clamp_min(least)
    return (10.0 * torch.log10(power.clamp_min(least) / top)).clamp_min(-floor_db)


def _log(power: Tensor) -> Tensor:
    log = torch.log(power + _LOG_FLOOR)
    return (log - log.mean(dim=(1, 2), keepdim=True)) / _LOG_SPREAD
