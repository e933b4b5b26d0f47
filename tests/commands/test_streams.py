"""Commands whose stdout or stderr is closed, full or in another encoding, and those started among a user's files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kws.commands.streams import Output
from tests.conftest import ROOT, write_corpus


def shell(line: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs a line of sh, in which $KWS is the command, in `folder`."""
    environment = {**os.environ, "KWS": f"{sys.executable} -m kws", "PYTHONPATH": str(ROOT), **env}
    return subprocess.run(
        ["sh", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.mark.parametrize(
    ("line", "code"),
    [
        pytest.param("$KWS configs >&-", 0, marks=pytest.mark.slow),
        ("$KWS configs >&- 2>&-", 0),
        pytest.param("$KWS train none.toml 2>&-", 2, marks=pytest.mark.slow),
        pytest.param("$KWS configs >/dev/full", 2, marks=pytest.mark.slow),
        ("$KWS train none.toml 2>/dev/full", 2),
        pytest.param("{ $KWS configs; echo $? >&2; } | true; exit 0", 0, marks=pytest.mark.slow),
    ],
)
def test_a_closed_or_full_stream_changes_no_exit_code_and_is_no_traceback(line: str, code: int, tmp_path: Path) -> None:
    done = shell(line, tmp_path)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    if "/dev/full" in line and "2>" not in line:
        assert done.stderr.startswith("kws: stdout: ")
    if "| true" in line:
        assert done.stderr.strip() == "0"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_closed_stdout_does_not_get_into_a_file(tmp_path: Path) -> None:
    write_corpus(tmp_path / "wav", {"yes": 6, "no": 6}, noise_seconds=0)
    assert shell("exec $KWS pack wav out --processes 1 >&- 2>&-", tmp_path).returncode == 0
    assert shell("$KWS verify out", tmp_path).returncode == 0


def test_a_lasting_output_without_a_reader_drops_what_is_written(capfd: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as stream:
        output = Output(stream, "stdout", lasting=True)
        for _ in range(3):
            print("a line", file=output)  # type: ignore[call-overload]
        output.flush()
        assert isinstance(output.failed, BrokenPipeError)
    assert capfd.readouterr().err.count("\n") == 1  # printed once


def test_an_output_that_is_not_lasting_raises_once_and_names_itself() -> None:
    with Path("/dev/full").open("w") as stream:
        output = Output(stream, "stdout", lasting=False)
        output.write("text")
        with pytest.raises(OSError, match="stdout") as caught:
            output.flush()
        assert caught.value.filename == "stdout"
        output.write("more")
        output.flush()


@pytest.mark.slow
def test_names_and_output_survive_a_locale_without_utf8(tmp_path: Path) -> None:
    write_corpus(tmp_path / "wav", {"grün": 12, "нет": 12}, noise_seconds=0)
    ascii_only = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    packed = shell("$KWS pack wav out --processes 1 --json", tmp_path, **ascii_only)
    assert packed.returncode == 0
    assert json.loads(packed.stdout)["faults"] == []
    shown = shell("$KWS inspect out", tmp_path, **ascii_only)
    assert shown.returncode == 0
    assert shown.stdout.isascii()
    assert "grün" in json.loads((tmp_path / "out" / "index" / "index.json").read_text(encoding="utf-8"))["words"]


@pytest.mark.slow
def test_modules_of_the_current_folder_are_not_imported(tmp_path: Path) -> None:
    write_corpus(tmp_path / "data", {"yes": 6, "no": 6}, noise_seconds=0)
    for name in ("random.py", "json.py", "data/__init__.py", "kws/yes/readme", "torch/__init__.py", "numpy.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit('the wrong module')\n")
    done = shell("$KWS pack data out --processes 2", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
