"""Shared by all tests: small corpora, a training in this process, the `kws` command, and skips that CI forbids."""

from __future__ import annotations

import contextlib
import ctypes.util
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from kws.audio import codec
from kws.data import index
from kws.machine import usable_cores
from kws.packing import pack

ROOT = Path(__file__).parent.parent
TINY = (
    "model.name=tc_resnet8", "frontend.features=mel32", "data.workers=0", "train.epochs=1", "train.global_batch=32",
    "train.micro_batch=8", "train.device=cpu", "train.threads=1", "train.processes=0",
)  # fmt: skip
REAL = Path(os.environ.get("KWS_REAL_DATA", ROOT.parent / "shared" / "data"))


def pytest_configure() -> None:
    """Runs torch with one thread. With two threads in each of several pytest workers on few cores, threads wait for one
    another: a network of tests/models took 13 s instead of 1.4. Commands that tests start set their own number."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    # pytest's workers and the commands that tests start keep compiled modules: without them, a worker takes 8 s of a
    # core more, and each start of `kws train` one.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores: Slurm, a browser and ranks that wait for one another leave cores idle."""
    return usable_cores() + 1


def require(kind: str, available: bool, why: str) -> None:
    """Skips the test where something is not available; fails instead if the variable KWS_REQUIRE names `kind`."""
    if available:
        return
    if kind in os.environ.get("KWS_REQUIRE", "").split(","):
        pytest.fail(f"KWS_REQUIRE names {kind}, but {why}")
    pytest.skip(why)


def tone(hz: float, samples: int = 16000, level: float = 0.3, seed: int = 0) -> codec.Pcm:
    """A sine with a little noise, int16 (samples,)."""
    time = np.arange(samples) / codec.SAMPLE_RATE_HZ
    wave = level * np.sin(2 * np.pi * hz * time) + 0.01 * np.random.default_rng(seed).standard_normal(samples)
    return (wave * 32767).astype(np.int16)


def write_corpus(
    root: Path, words: dict[str, int], speakers: int = 12, samples: int = 16000, noise_seconds: int = 4
) -> Path:
    """A folder in the layout of Speech Commands with `words[word]` clips of each word, which has its own pitch."""
    number = 0
    for place, (word, clips) in enumerate(words.items()):
        (root / word).mkdir(parents=True)
        for take in range(clips):
            number += 1
            name = f"{number % speakers:08x}_nohash_{take}.wav"
            pcm = tone(200 * (place + 1) * (1 + 0.01 * (take % 5)), samples, seed=number)
            (root / word / name).write_bytes(codec.wav_bytes(pcm))
    if noise_seconds:
        (root / "_background_noise_").mkdir()
        hiss = (np.random.default_rng(0).standard_normal(noise_seconds * 16000) * 1000).astype(np.int16)
        (root / "_background_noise_" / "hiss.wav").write_bytes(codec.wav_bytes(hiss))
    return root


def tiny_settings(shards: Path, epochs: int, global_batch: int) -> str:
    """TOML for a run that takes seconds; further lines can be appended to its last section, train."""
    return (
        f'[model]\nname = "tc_resnet8"\n[frontend]\nfeatures = "mel32"\n[data]\nshards = "{shards}"\nworkers = 0\n'
        f'[train]\nepochs = {epochs}\nglobal_batch = {global_batch}\nmicro_batch = 8\ndevice = "cpu"\nthreads = 1\n'
    )


def train_here(run: Path, *settings: str) -> tuple[int, str]:
    """Trains in this process, which costs a tenth of starting the command; returns the exit code and the output.

    The defaults with a tiny network, one epoch and no threads that read ahead; `settings` as after --set.
    """
    from kws import settings_file
    from kws.distributed import process_group
    from kws.training.trainer import Trainer

    chosen, output = settings_file.from_overrides([*TINY, *settings]), io.StringIO()
    with contextlib.redirect_stdout(output), process_group.start(chosen.train) as ranks:
        code = Trainer(chosen, run, ranks).run()
    return code, output.getvalue()


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """What a test, or a library under it, sets in the environment ends with the test: accelerate sets
    ACCELERATE_USE_DEEPSPEED for a run with ZeRO in this process, and commands of later tests would inherit it."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU, and a GPU where the machine has one."""
    if request.param == "cuda":
        require("gpu", torch.cuda.is_available(), "torch sees no GPU")
    return torch.device(request.param)


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> index.Index:
    """A packed corpus of three words with unequal counts, in several small shards."""
    folder = tmp_path_factory.mktemp("tones")
    source = write_corpus(folder / "wav", {"low": 120, "mid": 60, "high": 30}, speakers=30)
    corpus, _ = pack.pack([source], folder / "shards", pack.PackOptions(shard_bytes=1_000_000))
    return corpus


@pytest.fixture(scope="session")
def tones_run(tones: index.Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder: one epoch on the tones. Tests that use it belong to xdist_group("tones_run"), so that it is made
    once; none changes it."""
    folder = tmp_path_factory.mktemp("run") / "tiny"
    assert train_here(folder, f"data.shards={tones.root}")[0] == 0
    return folder


@pytest.fixture(scope="session")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> index.Index:
    """A packed corpus of clips of 0.25 s, with noise in which no sample value occurs twice. Clips of 0.1 s can be cut
    from the noise for every split, except from the last recording, which only the train split can use."""
    folder = tmp_path_factory.mktemp("noisy")
    source = write_corpus(folder / "wav", {"low": 70, "mid": 50, "high": 40}, 40, samples=4000, noise_seconds=0)
    numbers = np.random.default_rng(0).permutation(59_000) - 29_500
    (source / "_background_noise_").mkdir()
    for number, part in enumerate(np.split(numbers.astype(np.int16), [30_000, 50_000])):
        (source / "_background_noise_" / f"{number}.wav").write_bytes(codec.wav_bytes(part))
    corpus, _ = pack.pack([source], folder / "shards", pack.PackOptions(shard_bytes=200_000))
    return corpus


@pytest.fixture(scope="session")
def ffmpeg() -> str:
    """The path of ffmpeg."""
    path = shutil.which("ffmpeg")
    require("ffmpeg", path is not None, "ffmpeg is not installed")
    return str(path)


@pytest.fixture(scope="session")
def real_mini(tmp_path_factory: pytest.TempPathFactory) -> index.Index:
    """864 real clips of Speech Commands, packed."""
    archive = REAL / "speech_commands_mini.tar.gz"
    require("real", archive.exists(), f"the real clips are not at {REAL} (set KWS_REAL_DATA)")
    corpus, _ = pack.pack([archive], tmp_path_factory.mktemp("real") / "mini")
    return corpus


@pytest.fixture
def microphone_file(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """microphone_file(pcm, name="default") gives the environment in which ALSA's device of that name records these
    samples, with its file plugin; the default device records silence if the name is another."""
    there = bool(find_spec("sounddevice") and ctypes.util.find_library("portaudio"))
    require("microphone", there, "sounddevice or PortAudio is absent (apt-get install libportaudio2)")

    def environment(pcm: codec.Pcm, name: str = "default") -> dict[str, str]:
        (tmp_path / "microphone.raw").write_bytes(pcm.tobytes())
        plugin = f'type file\n slave.pcm null\n file /dev/null\n infile "{tmp_path}/microphone.raw"\n format raw'
        devices = {"null": "type null", "default": "type null", name: plugin}  # PortAudio aborts without a default
        (tmp_path / "asound.conf").write_text("".join(f"pcm.!{key} {{\n {devices[key]}\n}}\n" for key in devices))
        return {"ALSA_CONFIG_PATH": str(tmp_path / "asound.conf")}

    return environment


@pytest.fixture
def kws() -> Callable[..., subprocess.CompletedProcess[str]]:
    """kws("train", path, env={...}) runs the command in its own process and returns a CompletedProcess."""

    def run(*arguments: object, env: dict[str, str] | None = None, **more: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kws", *map(str, arguments)]
        return subprocess.run(  # type: ignore[call-overload, no-any-return]
            command, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=300, **more
        )

    return run
