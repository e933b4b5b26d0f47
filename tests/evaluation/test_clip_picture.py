"""The picture of a clip. What it looks like is looked at; here: that it is there, and says what happened."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from kws.audio.augment import AugmentationChain
from kws.audio.features import Features
from kws.config import preset
from kws.data.index import Index
from kws.evaluation import clip_picture
from tests.conftest import tone

Kws = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize(
    "settings",
    [(), ("frontend.augment=classic", "frontend.features=mel32"), ("frontend.features=mfcc40", "frontend.augment=none"),
     ("frontend.normalise=corpus",)],
    ids=["modern", "classic", "mfcc, none", "normalised"],
)  # fmt: skip
def test_the_command_draws_a_clip(kws: Kws, tones: Index, tmp_path: Path, settings: tuple[str, ...]) -> None:
    out = tmp_path / "clip.png"
    changes = [word for setting in settings for word in ("--set", setting)]
    done = kws("inspect", tones.root, "--clip", "train/3", "--out", out, "--draws", 2, *changes)
    assert done.returncode == 0, done.stderr
    picture = imread(out)
    height, width, _ = picture.shape
    assert (height, width) > (500, 1000)
    assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 100


def test_a_config_chooses_the_front_end_and_no_draws_show_the_clip_alone(
    kws: Kws, tones: Index, tmp_path: Path
) -> None:
    config = tmp_path / "mine.toml"
    config.write_text('[frontend]\nfeatures = "mel40"\n')
    done = kws("inspect", tones.root, "--clip", "train/0", "--draws", 0, "--config", config, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert '"picture": "train_0.png"' in done.stdout
    assert imread(tmp_path / "train_0.png").shape[0] < 400


def test_a_clip_that_is_not_there_is_one_line(kws: Kws, tones: Index) -> None:
    done = kws("inspect", tones.root, "--clip", "nobody_nohash_0")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_a_picture_that_cannot_be_written_is_one_line(kws: Kws, tones: Index, tmp_path: Path) -> None:
    done = kws("inspect", tones.root, "--clip", "train/0", "--draws", "0", "--out", tmp_path / "none" / "clip.png")
    assert done.returncode == 2
    assert "clip.png: cannot be written (No such file or directory); give another --out" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_told_is_what_was_drawn() -> None:
    noise = [tone(100, 80_000)]
    for name in ("classic", "modern"):
        settings = preset(name)
        chain = AugmentationChain(settings, Features(settings.features), 0, noise, 16000, torch.device("cpu"))
        draws = np.arange(200)
        lines, course = clip_picture.told(chain, draws), chain.sampler.clip_transforms(draws, 0)
        for row, line in enumerate(lines):
            assert line.startswith(f"draw {row}: ")
            assert ("played at" in line) == (course.step[row] != 1.0)
            assert ("stretched at" in line) == (course.rate[row] != 1.0)
            assert ("frames" in line) == (course.shift[row] != 0)
            assert ("dB below" in line) == bool(chain.sampler.added_noise(draws, 0).applied[row])
            assert ("% noise" in line) == bool(chain.sampler.mixed_noise(draws, 0).applied[row])
            assert ("room" in line) == (chain.sampler.room_indices(draws, 0, 64)[row] >= 0)
            moved = chain.sampler.shift_ms(draws, 0)[row]
            assert (f"moved by {moved:+.0f} ms" in line) == (abs(moved) >= 0.5)
