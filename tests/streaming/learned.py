"""Networks that have learned something: weights and batch-norm statistics are not the initial ones."""

from __future__ import annotations

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws.audio.codec import SAMPLE_RATE_HZ
from kws.audio.features import Features
from kws.evaluation.trained import Trained
from kws.models.registry import build_model

WORDS = ("low", "rising", "silence")
SLOW_LEARNERS = ("bcresnet", "ds_cnn", "matchboxnet")


def clips(count: int, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """A tone, a rising tone or weak noise, somewhere in `samples` samples: int16 (B, T), and which, (B,)."""
    numbers = np.random.default_rng(seed)
    waves, kinds = numbers.normal(0, 20, (count, samples)), numbers.integers(0, len(WORDS), count)
    for wave, kind in zip(waves, kinds, strict=True):
        length = SAMPLE_RATE_HZ // 2
        time, start = np.arange(length) / SAMPLE_RATE_HZ, numbers.integers(0, samples - length + 1)
        hz = np.linspace(500, 500 if kind == 0 else 3000, length) * numbers.uniform(0.9, 1.1)
        if kind < 2:
            wave[start : start + length] += numbers.uniform(1000, 8000) * np.sin(np.pi * 2 * hz * time)
    return torch.from_numpy(waves.astype(np.int16)), torch.from_numpy(kinds)


@functools.cache
def learned(name: str, seconds: float = 1.0, features: str = "logmel40_stream", updates: int = 20) -> Trained:
    """The network `name` after some updates on `clips`, and what a scorer needs beside it."""
    torch.manual_seed(0)
    if updates and name.startswith(SLOW_LEARNERS):
        updates *= 2
    samples, made = round(seconds * SAMPLE_RATE_HZ), Features(features)
    network = build_model(name, len(WORDS), made.shape(samples)).train()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.3  # so that the running statistics keep up with so few updates
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for update in range(updates):
        wave, labels = clips(12, samples, update)
        loss = F.cross_entropy(network(made(wave)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    config = SimpleNamespace(model=SimpleNamespace(name=name))
    checkpoint = SimpleNamespace(path=Path("no_run/checkpoints/step-1"), name="step-1")
    found = SimpleNamespace(
        network=network.eval(), features=made, classes=WORDS, samples=samples, config=config, checkpoint=checkpoint,
        weights="model",
    )  # fmt: skip
    return cast(Trained, found)
