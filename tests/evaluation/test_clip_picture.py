"""The picture of a clip: its size, its titles, and the errors. How it looks is not tested."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from kws import cli
from kws.audio.augment import AugmentationChain
from kws.audio.features import Features
from kws.config import preset
from kws.data.index import Index
from kws.evaluation import clip_picture
from tests.conftest import tone


def inspect(*arguments: object) -> int:
    return cli.main(["inspect", *map(str, arguments)])


@pytest.mark.parametrize(
    "settings",
    [
        ("frontend.normalise=corpus",),
        pytest.param(("frontend.augment=classic", "frontend.features=mel32"), marks=pytest.mark.slow),
        pytest.param(("frontend.features=mfcc40", "frontend.augment=none"), marks=pytest.mark.slow),
    ],
    ids=["modern, normalised", "classic", "mfcc, none"],
)
def test_the_command_draws_a_clip(tones: Index, tmp_path: Path, settings: tuple[str, ...]) -> None:
    out = tmp_path / "clip.png"
    changes = [word for setting in settings for word in ("--set", setting)]
    assert inspect(tones.root, "--clip", "train/3", "--out", out, "--draws", 2, *changes) == cli.OK
    picture = imread(out)
    height, width, _ = picture.shape
    assert (height, width) > (500, 1000)
    assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 100


def test_the_config_chooses_the_front_end_and_zero_draws_show_the_clip_alone(
    tones: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "mine.toml"
    config.write_text('[frontend]\nfeatures = "mel40"\n')
    monkeypatch.chdir(tmp_path)
    assert inspect(tones.root, "--clip", "train/0", "--draws", 0, "--config", config, "--json") == cli.OK
    assert json.loads(capsys.readouterr().out) == {"picture": "train_0.png"}
    assert imread(tmp_path / "train_0.png").shape[0] < 400


@pytest.mark.parametrize(("options", "named"), [(("--clip", "nobody_nohash_0"), "nobody_nohash_0"),
                         (("--clip", "train/0", "--draws", "0", "--out", "none/clip.png"), "--out")])  # fmt: skip
def test_an_unknown_clip_and_an_unwritable_picture_are_usage_errors_of_one_line(
    tones: Index, options: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inspect(tones.root, *options) == cli.USAGE
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


def test_titles_name_exactly_the_steps_that_change_a_draw() -> None:
    noise = [tone(100, 80_000)]
    for name in ("classic", "modern"):
        settings = preset(name)
        chain = AugmentationChain(settings, Features(settings.features), 0, noise, 16000, torch.device("cpu"))
        draws = np.arange(200)
        lines, transforms = clip_picture.describe_augmentation(chain, draws), chain.sampler.clip_transforms(draws, 0)
        for row, line in enumerate(lines):
            assert line.startswith(f"draw {row}: ")
            assert ("played at" in line) == (transforms.step[row] != 1.0)
            assert ("stretched at" in line) == (transforms.rate[row] != 1.0)
            assert ("frames" in line) == (transforms.shift[row] != 0)
            assert ("dB below" in line) == bool(chain.sampler.added_noise(draws, 0).applied[row])
            assert ("% noise" in line) == bool(chain.sampler.mixed_noise(draws, 0).applied[row])
            assert ("room" in line) == (chain.sampler.room_indices(draws, 0, 64)[row] >= 0)
            moved = chain.sampler.shift_ms(draws, 0)[row]
            assert (f"moved by {moved:+.0f} ms" in line) == (abs(moved) >= 0.5)
