import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kws import cli
from kws.commands.slurm_submit import Order, launch
from kws.data.index import Index
from kws.errors import UsageError
from tests.conftest import ROOT

TOML = """
[data]
shards = "{shards}"
[model]
name = "tc_resnet8"
[train]
global_batch = 32
micro_batch = 4
"""
Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("KWS_RUNS", raising=False)


@pytest.fixture
def make(tones: Index, tmp_path: Path) -> Make:
    """make(name) writes a config of 8 slots."""

    def write(name: str) -> Path:
        path = tmp_path / f"{name}.toml"
        path.write_text(TOML.format(shards=tones.root))
        return path

    return write


def test_one_config_is_a_job_of_the_shape_asked_for_that_reads_its_copy(make: Make, tmp_path: Path) -> None:
    run = tmp_path / "run"
    order = Order(configs=[make("a")], run=run, nodes=2, gpus=4, time="12:00:00", options=["--partition=gpu"],
                  changes=["train.lr=0.1"])  # fmt: skip
    (line,) = launch(order, dry=True)
    assert line == (
        f"sbatch --parsable --job-name=a --output={run}/slurm/%j.log --nodes=2 --ntasks-per-node=4 --gpus-per-node=4 "
        f"--time=12:00:00 --partition=gpu {run}/slurm/train.sbatch {run}/slurm/a.toml --run {run} --set train.lr=0.1"
    )
    assert not run.exists()


def test_several_configs_are_an_array_and_a_comparison_after_it(make: Make, tmp_path: Path) -> None:
    order = Order(configs=[make("a"), make("b"), make("c")], run=tmp_path / "three", tasks=2)
    array, compare = launch(order, dry=True)
    copies = tmp_path / "three" / "slurm"
    assert "--array=0-2" in array.split()
    assert "--nodes=1 --ntasks-per-node=2" in array
    assert "gpus" not in array
    assert array.endswith(f"{copies}/array.sbatch {tmp_path}/three {copies}/a.toml {copies}/b.toml {copies}/c.toml")
    assert "--dependency=afterany:NUMBER" in compare
    assert compare.endswith(f"slurm/compare.sbatch {tmp_path}/three")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"nodes": 3}, "1, 2, 4, 8 processes, not 3"),
        ({"changes": ["train.epohcs=3"]}, "train.epochs"),
        ({"changes": ["data.shards=nowhere"]}, "nowhere: no packed corpus there"),
    ],
)
def test_what_would_fail_after_hours_in_the_queue_is_refused_before(
    change: dict[str, object], said: str, make: Make, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        launch(Order(configs=[make("a")], run=tmp_path / "run", **change), dry=False)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_a_run_of_other_settings_and_one_in_use_are_refused(make: Make, tmp_path: Path) -> None:
    from kws import config
    from kws.run import folder as run_folder
    from kws.run import lock

    run, path = tmp_path / "run", make("a")
    order = Order(configs=[path], run=run)
    run_folder.record_settings(run, config.load(path), {})
    (run / "checkpoints" / "step-00000001").mkdir(parents=True)
    held = lock.acquire(run)
    with pytest.raises(UsageError, match=f"in use by process {os.getpid()}"):
        launch(order, dry=True)
    held.release()
    assert len(launch(order, dry=True)) == 1, "the same settings go on"
    with pytest.raises(UsageError, match=r"train\.seed: 0 there, 5 now"):
        launch(Order(configs=[path], run=run, changes=["train.seed=5"]), dry=True)


def test_configs_that_would_share_a_folder_or_have_none_are_refused(make: Make, tmp_path: Path) -> None:
    path = make("a")
    with pytest.raises(UsageError, match="two configs of the same name"):
        launch(Order(configs=[path, path], run=tmp_path / "runs"), dry=True)
    with pytest.raises(UsageError, match="--run: wanted"):
        launch(Order(configs=[path, make("b")]), dry=True)


def test_elsewhere_than_in_the_project_and_without_slurm_a_line_says_so(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make("a")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["launch", "slurm", str(path), "--run", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.startswith("kws: sbatch: not found")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["launch", "slurm", str(path)]) == 2
    assert "no slurm/train.sbatch here; go to the project's folder first" in capsys.readouterr().err


def test_launching_needs_no_torch(make: Make, tmp_path: Path) -> None:
    code = (
        "import sys; from kws import cli; "
        f"assert cli.main(['launch', 'slurm', {str(make('a'))!r}, '--run', {str(tmp_path)!r}, '--dry-run']) == 0; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, stdout=subprocess.DEVNULL).returncode == 0
