"""The benchmarks run, and print as their last line one JSON object with the expected keys. Values are not judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kws.data import index
from tests.conftest import ROOT

KEYS = {
    "stream.py": {"clips_per_s", "ratio_webdataset", "ratio_files_librosa", "ratio_memcpy", "ratio_loader"},
    "plan_scale.py": {"seconds", "peak_gb", "resume_ratio"},
    "overhead.py": {"overhead", "checkpoint_stall_steps"},
    "torture.py": {"kills"},
    "frontend.py": {"ratio_train", "ratio_eval"},
    "remote.py": {"ratio_curl_http", "ratio_curl_s3"},
    "pack.py": {"clips_per_s", "ratio_tar", "peak_mb"},
    "predict.py": {"ratio_network", "ratio_network_cpu", "ratio_one_by_one"},
    "spot.py": {"realtime_window", "realtime_stream", "max_difference"},
}


def last_line(script: str, *arguments: object) -> dict[str, float]:
    command = [sys.executable, str(ROOT / "benchmarks" / script), "--quick", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=Path("/"))
    assert done.returncode == 0, done.stderr
    facts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return facts


FAST = ("plan_scale.py", "frontend.py", "pack.py")


@pytest.mark.parametrize("own", [pytest.param(True, marks=pytest.mark.heavy), False], ids=["own clips", "--data"])
@pytest.mark.parametrize(
    "script", [pytest.param(name, marks=pytest.mark.slow if name in FAST else pytest.mark.heavy) for name in KEYS]
)
def test_a_benchmark_ends_with_its_keys(script: str, own: bool, tones: index.Index) -> None:
    facts = last_line(script, *([] if own else ["--data", tones.root]))
    assert facts.keys() >= KEYS[script]
    assert all(facts[key] > 0 for key in KEYS[script] - {"overhead"})


@pytest.mark.parametrize("only", [
    pytest.param("3", marks=pytest.mark.slow), pytest.param("", marks=pytest.mark.heavy, id="all"),
])  # fmt: skip
def test_the_acceptance_run_has_a_self_test_without_a_gpu(only: str, tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "gpu.py"),
        "--device",
        "cpu",
        "--quick",
        "--out",
        str(tmp_path),
    ]
    command += ["--only", only] if only else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, cwd=Path("/"))
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert sorted(row["number"] for row in rows) == ([0, *map(int, only.split(","))] if only else [*range(15)])
    assert {row["verdict"] for row in rows} == {"self-test"}
    assert (facts["passed"], facts["failed"]) == (0, 0), "without a GPU nothing is proved"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.slow
def test_without_a_gpu_the_acceptance_run_says_so(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert "--device cpu" in done.stderr
    assert "Traceback" not in done.stderr
