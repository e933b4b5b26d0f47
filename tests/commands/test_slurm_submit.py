"""`kws launch`: the sbatch commands, and what is refused before the job waits in the queue."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kws import cli
from kws.commands.slurm_submit import Submission, submit
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
def _in_the_project_folder(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_one_config_becomes_a_job_with_its_resources_that_reads_a_copy(make: Make, tmp_path: Path) -> None:
    run = tmp_path / "run"
    submission = Submission(configs=[make("a")], run=run, nodes=2, gpus=4, time="12:00:00", options=["--partition=gpu"],
                  changes=["train.lr=0.1"])  # fmt: skip
    (line,) = submit(submission, dry_run=True)
    assert line == (
        f"sbatch --parsable --job-name=a --output={run}/slurm/%j.log --nodes=2 --ntasks-per-node=4 --gpus-per-node=4 "
        f"--time=12:00:00 --partition=gpu {run}/slurm/train.sbatch {run}/slurm/a.toml --run {run} --set train.lr=0.1"
    )
    assert not run.exists()


def test_several_configs_become_an_array_followed_by_a_comparison(make: Make, tmp_path: Path) -> None:
    submission = Submission(configs=[make("a"), make("b"), make("c")], run=tmp_path / "three", tasks=2)
    array, compare = submit(submission, dry_run=True)
    copies = tmp_path / "three" / "slurm"
    assert "--array=0-2" in array.split()
    assert "--nodes=1 --ntasks-per-node=2" in array
    assert "gpus" not in array
    assert array.endswith(f"{copies}/array.sbatch {tmp_path}/three {copies}/a.toml {copies}/b.toml {copies}/c.toml")
    assert "--dependency=afterany:NUMBER" in compare
    assert compare.endswith(f"slurm/compare.sbatch {tmp_path}/three")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"nodes": 3}, "1, 2, 4, 8"),
        ({"changes": ["train.epohcs=3"]}, "train.epochs"),
        ({"changes": ["data.shards=nowhere"]}, "nowhere"),
    ],
)
def test_what_would_fail_after_the_queue_is_refused_before_it(
    change: dict[str, object], named: str, make: Make, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=named):
        submit(Submission(configs=[make("a")], run=tmp_path / "run", **change), dry_run=False)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_a_run_with_other_settings_and_one_in_use_are_refused(make: Make, tmp_path: Path) -> None:
    from kws import settings_file
    from kws.run import folder as run_folder
    from kws.run import lock

    run, path = tmp_path / "run", make("a")
    submission = Submission(configs=[path], run=run)
    run_folder.record_settings(run, settings_file.load(path), {})
    (run / "checkpoints" / "step-00000001").mkdir(parents=True)
    held = lock.acquire(run)
    with pytest.raises(UsageError, match=str(os.getpid())):
        submit(submission, dry_run=True)
    held.release()
    assert len(submit(submission, dry_run=True)) == 1, "the same settings resume"
    with pytest.raises(UsageError, match=r"train\.seed"):
        submit(Submission(configs=[path], run=run, changes=["train.seed=5"]), dry_run=True)


def test_configs_that_would_use_the_same_folder_or_none_are_refused(make: Make, tmp_path: Path) -> None:
    path = make("a")
    with pytest.raises(UsageError, match="same name"):
        submit(Submission(configs=[path, path], run=tmp_path / "runs"), dry_run=True)
    with pytest.raises(UsageError, match="--run"):
        submit(Submission(configs=[path, make("b")]), dry_run=True)


def test_without_slurm_it_is_a_usage_error(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["launch", "slurm", str(make("a")), "--run", str(tmp_path / "run")]) == 2
    assert "sbatch" in capsys.readouterr().err


def test_from_any_folder_the_shipped_scripts_are_submitted_and_find_their_kws(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = submit(Submission(configs=[make("a"), make("b")], run=Path("runs"), changes=["train.lr=0.1"]), dry_run=True)
    assert lines[0].count("runs/slurm/") == 4  # the log, the script, two configs
    with pytest.raises(UsageError, match="sbatch"):
        submit(Submission(configs=[make("a"), make("b")], run=Path("runs")), dry_run=False)
    assert (tmp_path / "runs" / "slurm" / "nodes.yaml").read_bytes() == (ROOT / "launch" / "nodes.yaml").read_bytes()
    # As Slurm starts it: from a spool folder, with nothing of this environment but the folder of submission.
    job = {"PATH": "/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    script = (tmp_path / "runs" / "slurm" / "compare.sbatch").read_text()
    done = subprocess.run(["bash", "-c", script, "-", "runs"], cwd="/", env=job, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("kws: ")


def test_scripts_of_ones_own_in_the_current_folder_are_preferred(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slurm").mkdir()
    own = (ROOT / "slurm" / "train.sbatch").read_text().replace("--time=12:00:00", "--time=1:00:00")
    (tmp_path / "slurm" / "train.sbatch").write_text(own)
    with pytest.raises(UsageError, match="sbatch"):
        submit(Submission(configs=[make("a")], run=Path("run")), dry_run=False)
    copied = (tmp_path / "run" / "slurm" / "train.sbatch").read_text()
    assert "--time=1:00:00" in copied
    before, after = copied.split(f"KWS_SLURM={tmp_path}/run/slurm\n")
    assert "#SBATCH" in before
    assert "#SBATCH" not in after


def test_submitting_imports_no_torch(make: Make, tmp_path: Path) -> None:
    code = (
        "import sys; from kws import cli; "
        f"assert cli.main(['launch', 'slurm', {str(make('a'))!r}, '--run', {str(tmp_path)!r}, '--dry-run']) == 0; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, stdout=subprocess.DEVNULL).returncode == 0
