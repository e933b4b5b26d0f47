"""The other jobs: packing in parts, one job per architecture and their comparison, another evaluation."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from kws.data import index
from kws.packing import pack
from tests.conftest import write_corpus
from tests.multiproc.launching import ROOT
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import Training

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm")]


@pytest.mark.slow
def test_packed_in_parts_by_an_array_and_merged(cluster: Cluster, environment: dict[str, str], tmp_path: Path) -> None:
    source, out = write_corpus(tmp_path / "wav", {"low": 30, "high": 20}, 10, samples=4000), tmp_path / "out"
    logged = (f"--chdir={ROOT}", f"--output={tmp_path}/log-%a", "--cpus-per-task=1")
    number = cluster.sbatch(*logged, "--array=1-3", "slurm/pack.sbatch", str(source), str(out), env=environment)
    merge = cluster.sbatch(
        *logged, f"--dependency=afterany:{number}", "slurm/pack.sbatch", "--merge", str(out), env=environment
    )
    assert cluster.ended(merge)["ExitCode"] == "0:0", (tmp_path / "log-0").read_text()
    whole, _ = pack.pack([source], tmp_path / "whole")
    together = index.load(out)
    assert {name: len(split) for name, split in together.splits.items()} == {
        name: len(split) for name, split in whole.splits.items()
    }


@pytest.mark.slow
def test_a_packing_with_a_part_missing_is_not_merged(
    cluster: Cluster, environment: dict[str, str], tmp_path: Path
) -> None:
    source = write_corpus(tmp_path / "wav", {"low": 30, "high": 20}, 10, samples=4000)
    pack.pack([source], tmp_path / "out" / "part-1-of-2", pack.PackOptions(part=(1, 2)))
    log = tmp_path / "log"
    number = cluster.sbatch(
        f"--chdir={ROOT}", f"--output={log}", "slurm/pack.sbatch", "--merge", str(tmp_path / "out"), env=environment
    )
    assert cluster.ended(number)["ExitCode"] == "2:0"
    assert "all parts" in log.read_text()


@pytest.mark.slow
def test_one_job_per_architecture_and_their_comparison(
    cluster: Cluster, config: Path, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = []
    for name in ("tc_resnet8", "matchboxnet_3x1x64", "ds_cnn_s"):
        configs.append(tmp_path / f"{name}.toml")
        configs[-1].write_text(config.read_text().replace("tc_resnet8", name))
    monkeypatch.chdir(tmp_path)  # no checkout: the scripts and start.sh are copied into the runs' folder
    runs = tmp_path / "runs"
    words = ["launch", "slurm", *map(str, configs), "--run", str(runs), "--tasks", "1", "--set", "train.epochs=2"]
    output = cluster.on("login", sys.executable, "-m", "kws", *words, "--sbatch=--cpus-per-task=1", env=environment)
    array, compare = [line.removeprefix("job ") for line in output.splitlines() if line.startswith("job ")]
    for path in configs:
        path.unlink()  # the jobs have copies
    assert cluster.ended(compare, 600)["ExitCode"] == "0:0", (runs / "slurm" / f"{compare}.log").read_text()
    table = (runs / "slurm" / f"{compare}.log").read_text()
    for number, path in enumerate(configs):
        log = (runs / "slurm" / f"{array}_{number}.log").read_text()
        assert f"job {array}_{number}, start 1: {runs}/{path.stem}" in log
        assert path.stem in table
        assert (runs / path.stem / "eval" / "test.json").exists()
    assert (runs / "comparison" / "comparison.csv").exists()


@pytest.mark.heavy
def test_one_job_of_an_array_is_requeued_and_not_the_others(
    cluster: Cluster, config: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    names = []
    for name in ("a", "b"):
        (tmp_path / f"{name}.toml").write_text(config.read_text())
        names.append(str(tmp_path / f"{name}.toml"))
    number = cluster.sbatch(
        "--array=0-1", f"--chdir={ROOT}", f"--output={tmp_path}/log-%a", "--cpus-per-task=1", "slurm/array.sbatch",
        str(tmp_path / "runs"), *names, "--set", "train.epochs=20", "--set", "train.eval_epochs=20", env=environment,
    )  # fmt: skip
    jobs = [Training(cluster, f"{number}_{at}", tmp_path / "runs" / "ab"[at], tmp_path / f"log-{at}") for at in (0, 1)]
    for job in jobs:
        job.trained(8)
    # The number of an array's last job is the array's.
    (last,) = [job for job in jobs if cluster.job(job.number)["JobId"] == number]
    (last.run / "stop").touch()
    assert [job.ended()[::2] for job in jobs] == [("COMPLETED", "1" if job is last else "0") for job in jobs]


@pytest.mark.heavy
def test_a_finished_run_is_evaluated_again(
    cluster: Cluster, whole: Training, environment: dict[str, str], tmp_path: Path
) -> None:
    number = cluster.sbatch(
        "--nodes=2", "--ntasks-per-node=1", f"--chdir={ROOT}", f"--output={tmp_path}/log", "slurm/evaluate.sbatch",
        str(whole.run), "--split", "valid", env=environment,
    )  # fmt: skip
    assert cluster.ended(number)["ExitCode"] == "0:0", (tmp_path / "log").read_text()
    summary = json.loads((whole.run / "eval" / "valid.json").read_text())
    found = [row["ema_valid_accuracy"] for row in whole.events("epoch") if "ema_valid_accuracy" in row]
    assert summary["accuracy"] == pytest.approx(max(found)), "as on four ranks during the training"
