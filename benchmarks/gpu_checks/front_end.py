"""Check 1: the front end on the device against float64 on the CPU, and a noise bank of more than 2^31 samples."""

from __future__ import annotations

import numpy as np
import psutil
import torch

from benchmarks.gpu_checks.check import Context, Finding, Skip
from kws.audio.augment import AugmentationChain
from kws.audio.features import SPECS, Features
from kws.audio.noise import NoiseBank
from kws.config import preset
from tests.audio.float64_chain import Reference, Sounds, sounds

SAMPLES, ROOM, SEED, EPOCH = 16_000, 20_001, 3, 2
DB = 10.0 / np.log(10.0)
SCALE_DB = {"db": 1.0, "mfcc": 1.0, "log": 3.0 * DB, "fixed": 4.0 * DB}
"""dB in one unit of the features: natural logarithms are divided by 3 or 4."""
OUTLIERS = 0.01
"""Of the clips: in bins 60 dB below the strongest, float32 leaves the vocoder's phases uncertain, on any device."""


def check(context: Context) -> Finding:
    """Three chains with each kind of features; then the large noise bank."""
    finding, made = Finding(), sounds(context.sized(64, 6), SAMPLES, ROOM)
    for chain in ("none", "classic", "modern"):
        apart = np.concatenate([_differences(context, made, chain, name) for name in SPECS])
        outliers = float((apart > 0.01).mean())
        found = f"{chain}: {np.quantile(apart, 1 - OUTLIERS):.4f} dB in 99 % of the clips, at most {apart.max():.3f}"
        finding.add(found, **{f"{chain}_db": float(apart.max()), f"{chain}_over_0.01_db": outliers})
        finding.expect(outliers <= OUTLIERS, f"{chain}: {outliers:.1%} of the clips differ by more than 0.01 dB")
    with finding.part("large noise bank"):
        _large_bank(context, finding)
    return finding


def _differences(context: Context, made: Sounds, chain: str, name: str) -> np.ndarray:
    """The largest difference in dB of each clip, (B,)."""
    device, settings = torch.device(context.device), preset(chain, features=name)
    features, draws = Features(name).to(device), np.arange(7000, 7000 + len(made.waves))
    ours = AugmentationChain(settings, features, SEED, made.noises, SAMPLES, device)
    with torch.no_grad():
        found = ours(torch.from_numpy(made.waves).to(device), made.lengths, draws, EPOCH).double().cpu()
        exact = Reference(settings, name, SEED, made.noises, SAMPLES)(made.waves, made.lengths, draws, EPOCH)
    apart = (found - exact).abs().amax(dim=(1, 2, 3)).numpy()
    return np.asarray(apart * SCALE_DB[SPECS[name].scale])


def _large_bank(context: Context, finding: Finding) -> None:
    """Windows and rows beyond sample 2^31 of a bank must be those of the recording."""
    samples = context.sized(2**31 + 4_000_000, 4_000_000)
    need = 3 * 2 * samples  # the recording, the bank's copy of it, and slack
    if psutil.virtual_memory().available < need:
        raise Skip(f"needs {need / 1e9:.0f} GB of memory")
    if context.on_gpu and torch.cuda.mem_get_info()[0] < 2 * 2 * samples:
        raise Skip(f"needs {4 * samples / 1e9:.0f} GB on the GPU")
    period = (np.arange(1_000_003) * 7919 % 65_521 - 32_760).astype(np.int16)
    bank = NoiseBank([np.resize(period, samples)], SAMPLES, torch.device(context.device))
    for count, distance, take in ((bank.num_windows, 1, bank.windows), (bank.num_rows, SAMPLES, bank.rows)):
        numbers = np.asarray([0, count // 2, count - 1])
        found = take(
            torch.from_numpy(numbers).to(context.device)
        ).cpu()  # of one recording, a window's number is its start
        places = numbers[:, None] * distance + np.arange(SAMPLES)
        wanted = torch.from_numpy(period[places % len(period)]).float() / 32768.0
        finding.expect(torch.equal(found, wanted), f"a noise bank of {samples:,} samples returns other samples")
    finding.add(f"noise bank of {samples:,} samples: its last window is right")
