"""kws installed from its wheel, without a checkout: packs, trains, evaluates and submits from a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from kws import shipped_files
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheel")]
SOURCES = ("kws", "configs", "launch", "slurm", "shards", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
Run = Callable[..., str]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel of this checkout, built and installed without a network. Its dependencies are
    those of the environment that runs the tests, whose site-packages a .pth file adds after its own: such a line adds
    the folder alone, and not the editable kws that a .pth file in there names."""
    root = tmp_path_factory.mktemp("wheel")
    (root / "source").mkdir()
    for name in SOURCES:  # a copy, because setuptools writes into the folder that it builds
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, root / "source" / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    alone = ["--no-deps", "--no-index"]
    call([*pip, "wheel", *alone, "--no-build-isolation", "--wheel-dir", root, root / "source"])
    venv.create(root / "env", symlinks=True)
    (wheel,) = root.glob("kws-*.whl")
    call([*pip, "--python", root / "env" / "bin" / "python", "install", *alone, wheel])
    (site,) = (root / "env" / "lib").glob("python3*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return root / "env"


def call(command: list[object], **more: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600, **more)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return done  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def run(environment: Path) -> Run:
    """run("kws", "train", ...) runs a program of the environment in a folder with nothing of the checkout around it."""
    folder = environment.parent / "elsewhere"
    folder.mkdir()
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "KWS_RUNS")}
    kept["PATH"] = f"{environment}/bin:/usr/local/bin:/usr/bin:/bin"

    def call_there(program: str, *words: object) -> str:
        command = [environment / "bin" / program, *words]
        return call(command, cwd=folder, env=kept).stdout

    return call_there


@pytest.fixture(scope="module")
def shards(run: Run) -> str:
    run("kws", "synth", "spoken", "--words", "yes,no", "--voices", 12)
    run("kws", "pack", "spoken", "shards")
    return "data.shards=shards"


def test_the_package_and_its_files_are_those_of_the_environment(run: Run, environment: Path) -> None:
    where = run("python", "-c", "import kws; print(kws.__file__)")
    assert where.startswith(str(environment))
    listed = json.loads(run("kws", "configs", "--json"))
    assert sorted(item["name"] for item in listed) == shipped_files.config_names()
    assert all(item["path"].startswith(f"{environment}/share/kws/configs/") for item in listed)
    for kind in ("launch", "slurm"):
        names = {Path(item["path"]).name for item in json.loads(run("kws", "configs", f"--{kind}", "--json"))}
        assert names >= {"launch": {"cpu2.yaml", "nodes.yaml"}, "slurm": {"train.sbatch", "start.sh"}}[kind]
    assert "train.warmup_epochs" in run("kws", "settings", "warmup")


def test_a_shipped_config_is_trained_by_its_name_on_two_processes_and_evaluated(run: Run, shards: str) -> None:
    """The launch file is a copy of the shipped one. One training for both, because each of its processes takes 10 s."""
    run("kws", "configs", "--launch", "--copy", "launch")
    launcher = ("-m", "accelerate.commands.launch", "--config_file", "launch/cpu2.yaml")
    # Without augmentation, whose compiled loops a fresh environment has to compile.
    settings = (shards, "data.workers=0", "train.epochs=1", "frontend.augment=none")
    changes = [word for setting in settings for word in ("--set", setting)]
    shown = run("python", *launcher, "-m", "kws", "train", "quick", *changes)
    assert "2 processes" in shown
    assert "accuracy" in json.loads(run("kws", "evaluate", "runs/quick", "--json"))


def test_a_copied_config_is_the_shipped_one_with_its_comments(run: Run, environment: Path) -> None:
    run("kws", "configs", "quick", "--copy", "mine")
    folder = environment.parent / "elsewhere"
    shipped = environment / "share" / "kws" / "configs" / "quick.toml"
    assert (folder / "mine" / "quick.toml").read_bytes() == shipped.read_bytes()


def test_jobs_for_slurm_are_submitted_with_the_shipped_scripts(run: Run, shards: str) -> None:
    words = ("launch", "slurm", "quick", "res8", "--run", "runs/two", "--dry-run", "--set", shards)
    array, compare = run("kws", *words).splitlines()
    assert "runs/two/slurm/array.sbatch runs/two runs/two/slurm/quick.toml runs/two/slurm/res8.toml" in array
    assert compare.endswith("runs/two/slurm/compare.sbatch runs/two")
