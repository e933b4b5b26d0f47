"""`kws doctor` alone and under launchers, with a rank that is killed, and with a torch that does not import."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import require
from tests.multiproc.launching import ALONE, accelerate, finish, rank_environments, torchrun

pytestmark = pytest.mark.multiproc


def start(launcher: list[str], *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*launcher, "doctor", *arguments], env=os.environ | (env or {}), text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def rows(output: str) -> dict[str, dict[str, Any]]:
    """The rows by check, of the only table in the output."""
    (table,) = [json.loads(line) for line in output.splitlines() if line.startswith('{"ok"')]
    return {row["check"]: row for row in table["findings"]}


def bad(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {check: row["found"] for check, row in found.items() if row["verdict"] == "problem"}


@pytest.fixture
def broken(tmp_path: Path) -> dict[str, str]:
    """The environment of a process whose torch does not import."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('libcudart.so.13: cannot open it')\n")
    return {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}


@pytest.fixture
def frozen(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system that does not answer: whoever writes to it waits in the kernel and cannot be killed."""
    image, folder = tmp_path / "image", tmp_path / "frozen"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(32 << 20)
    commands = (["mkfs.ext4", "-q", image], ["mount", "-o", "loop", image, folder], ["fsfreeze", "-f", folder])
    try:
        mounted = all(not subprocess.run(command, capture_output=True, check=False).returncode for command in commands)
    except FileNotFoundError:
        mounted = False
    try:
        require("mount", mounted, "no file system may be mounted and frozen here")
        yield folder
    finally:
        for command in (["fsfreeze", "-u", folder], ["umount", "-l", folder]):
            with suppress(FileNotFoundError):
                subprocess.run(command, capture_output=True, check=False)


@pytest.mark.slow
def test_a_file_system_that_does_not_answer_is_a_row(frozen: Path, broken: dict[str, str]) -> None:
    process = start(ALONE, "--json", "--run", str(frozen / "run"), "--timeout", "5", env=broken)
    output, _ = process.communicate(timeout=200)  # it ends, while the child that it gave up waits
    found = rows(output)
    assert process.returncode == 2
    assert found["run folder"]["verdict"] == "problem"
    assert str(frozen) in found["run folder"]["found"]
    assert found["host names"]["verdict"] == "ok"


def test_a_torch_that_does_not_import_is_a_row_and_the_others_are_checked(
    broken: dict[str, str], tmp_path: Path
) -> None:
    code, output = finish(start(ALONE, "--json", "--run", str(tmp_path / "run"), env=broken))
    found = rows(output)
    assert code == 2, output
    assert set(bad(found)) == {"torch"}
    assert "libcudart.so.13" in found["torch"]["found"]
    assert found["process group"]["verdict"] == "not checked"
    assert found["run folder"]["verdict"] == "ok"
    assert not (tmp_path / "run").exists()


def test_a_set_without_a_config_and_a_bad_limit_are_one_line() -> None:
    for words in (("--set", "train.lr=1"), ("--timeout", "0")):
        code, output = finish(start(ALONE, *words))
        assert (code, output.count("\n")) == (2, 1), output
        assert words[0] in output


@pytest.mark.heavy
def test_alone_with_a_config_everything_but_several_processes_is_checked(config: Path, tmp_path: Path) -> None:
    cache = f"data.cache_dir={tmp_path / 'cache'}"
    code, output = finish(
        start(ALONE, str(config), "--set", cache, "--set", "data.cache_gb=0.1", "--run", str(tmp_path / "run"))
    )
    assert code == 0, output
    for check in ("ranks", "torch", "threads", "run folder", "shards", "cache", "step"):
        assert [line for line in output.splitlines() if line.startswith(check)], check
    assert "tc_resnet8" in output
    assert output.splitlines()[-1].startswith("ready")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param(torchrun(2), marks=pytest.mark.slow, id="torchrun"),
        pytest.param(accelerate(), marks=pytest.mark.heavy, id="accelerate"),
    ],
)
def test_under_a_launcher_all_reduce_is_measured_and_one_table_printed(
    launcher: list[str], config: Path, tmp_path: Path
) -> None:
    process = start(launcher, str(config), "--json", "--run", str(tmp_path / "run"), "--set", "train.processes=0")
    code, output = finish(process)
    found = rows(output)
    assert (code, bad(found)) == (0, {}), output
    assert found["ranks"]["found"] == "2 processes on 1 node"
    assert found["one run folder"]["verdict"] == "ok"
    assert "/s" in found["all-reduce in nodes"]["found"]
    assert "ranks" in found["all-reduce in a step"]["found"]


@pytest.mark.slow
def test_a_rank_that_is_killed_is_named_and_does_not_stop_the_examination(tmp_path: Path) -> None:
    first, second = rank_environments(2)
    leader = start(ALONE, "--json", "--run", str(tmp_path / "run"), "--timeout", "200", env=first)
    other = start(ALONE, "--json", "--run", str(tmp_path / "run"), "--timeout", "200", env=second)
    try:
        # It has connected: rank 0 has asked it to describe its machine, for which it waits for its child with torch.
        while not [place for place in psutil.Process(other.pid).net_connections() if place.status == "ESTABLISHED"]:
            assert leader.poll() is None
        other.send_signal(signal.SIGKILL)
        code, output = finish(leader)
    finally:
        finish(other)
    found = rows(output)
    assert code == 2, output
    assert set(bad(found)) == {"ranks"}
    assert found["ranks"]["ranks"] == [1]
    assert "ended" in found["ranks"]["found"]
    assert found["process group"]["verdict"] == "not checked"


@pytest.mark.slow
def test_a_launcher_that_ends_rank_0_gets_what_was_checked(tmp_path: Path) -> None:
    first, _ = rank_environments(2)
    leader = start(ALONE, "--json", "--run", str(tmp_path / "run"), env=first)
    place = psutil.Process(leader.pid)
    while not [each for each in place.net_connections() if each.status == "LISTEN"]:
        assert leader.poll() is None
    leader.send_signal(signal.SIGTERM)  # as torchrun does when another rank has ended
    code, output = finish(leader)
    assert code == 2, output
    assert "SIGTERM" in rows(output)["examination"]["found"]
