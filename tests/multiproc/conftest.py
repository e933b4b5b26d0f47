from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kws import cli
from kws.data.index import Index
from kws.distributed.signals import STOP_SIGNALS
from tests.conftest import train_here
from tests.multiproc.launching import SETTINGS, Launcher, finish, finish_ranks, start, start_ranks

GENTLE = (
    "train.epochs=6", "train.eval_epochs=3", "train.lr=0.0001", "train.ema=0.9", "train.clip_grad_norm=0.5",
    "data.workers=0",
)  # fmt: skip
"""30 steps; small ones, so that the rounding of another order of additions does not grow."""

one_worker = pytest.mark.xdist_group("pair")
"""For tests that use `pair`: one pytest worker runs them, and trains it once."""


@pytest.fixture(scope="session")
def config(tones: Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.toml"
    path.write_text(SETTINGS.replace("[data]", f'[data]\nshards = "{tones.root}"'))
    return path


@pytest.fixture
def train(config: Path, tmp_path: Path) -> Callable[..., Path]:
    """train(launcher, name, *settings) runs to the end and returns the run folder."""

    def run(launcher: Launcher, name: str, *settings: str) -> Path:
        process = start(launcher, config, tmp_path / name, *settings)
        code, output = finish(process)
        assert code == 0, output
        return tmp_path / name

    return run


@pytest.fixture
def kws_here() -> Iterator[Callable[..., int]]:
    """kws_here("train", path, ...) runs a command in this process, which has imported torch already."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield lambda *words: cli.main([str(word) for word in words])
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def teachers(tones: Index, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The setting for two teachers: one with the features of SETTINGS and averaged weights, one with other features."""
    folder = tmp_path_factory.mktemp("teachers")
    common = (f"data.shards={tones.root}", "data.epoch_clips=64", "frontend.augment=none")
    assert train_here(folder / "same", *common, "train.ema=0.5")[0] == 0
    assert train_here(folder / "other", *common, "frontend.features=mfcc40")[0] == 0
    return f"train.teacher={folder / 'same'}, {folder / 'other'}"


@pytest.fixture(scope="session")
def pair(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two ranks, to its end. Tests that use it are marked `one_worker`."""
    folder = tmp_path_factory.mktemp("pair") / "run"
    finish_ranks(start_ranks(2, config, folder, *GENTLE))
    return folder
