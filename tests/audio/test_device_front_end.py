"""The front end on a GPU that is not there (tests/fake_cuda.py): one device, and no wait."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kws.audio.augment import AugmentationChain
from kws.audio.features import SPECS, Features
from kws.config import preset
from tests.fake_cuda import DEVICE, fake_cuda, to_fake_cuda

pytestmark = pytest.mark.xdist_group("device")  # torch imports its compiler for fake tensors: once
SAMPLES, CLIPS = 8000, 7
QUICK = [("classic", "mel32"), ("modern", "mfcc40")]


@pytest.mark.parametrize(
    ("name", "features"),
    [
        pytest.param(name, features, marks=() if (name, features) in QUICK else pytest.mark.slow)
        for name in ("classic", "modern", "none")
        for features in SPECS
    ],
)
def test_every_chain_and_feature_runs_on_one_device(monkeypatch: pytest.MonkeyPatch, name: str, features: str) -> None:
    made, settings = Features(features), preset(name, features=features)
    shape = made.shape(SAMPLES)
    noise = np.ones(3 * SAMPLES, np.int16)
    lengths, draws = np.full(CLIPS, SAMPLES), np.arange(CLIPS)
    with fake_cuda(monkeypatch) as copies:
        to_fake_cuda(made)
        wave = torch.zeros(CLIPS, SAMPLES, dtype=torch.int16, device=DEVICE)
        if name == "none":
            found = made(wave)
            assert not copies.uploads
        else:
            chain = AugmentationChain(settings, made, 0, [noise], SAMPLES, DEVICE)
            copies.uploads.clear()  # noise and rooms, once
            found = chain(wave, lengths, draws, 0)
            assert len(copies.uploads) == 1
        assert (found.device, found.shape) == (DEVICE, (CLIPS, *shape))
