"""Packages that only some commands need: the others work without them, and those that need one say its name."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from kws.config import TrainConfig
from kws.corpus import archives, label_track
from kws.distributed import process_group
from kws.errors import UsageError
from kws.results import page_style
from tests.conftest import TINY, write_corpus

OPTIONAL = (
    "plotly", "praatio", "zstandard", "deepspeed", "espeakng_loader", "pyarrow", "sounddevice", "s3fs", "wandb",
    "librosa",
)  # fmt: skip
WITHOUT = f"""
import sys
sys.modules.update(dict.fromkeys({OPTIONAL}))
from kws.cli import main
for words in sys.stdin.read().splitlines():
    code = main(words.split("\\t"))
    if code:
        sys.exit(f"{{words}}: exit code {{code}}")
"""


@pytest.mark.slow
def test_packing_training_evaluation_prediction_and_verification_need_none_of_them(tmp_path: Path) -> None:
    words, shards, run = (
        write_corpus(tmp_path / "words", {"low": 60, "high": 60}),
        tmp_path / "shards",
        tmp_path / "run",
    )
    config = tmp_path / "config.toml"
    config.write_text("")
    settings = [word for one in (*TINY, f"data.shards={shards}", "data.ledger=true") for word in ("--set", one)]
    commands = (
        ("pack", words, shards), ("train", config, "--run", run, *settings), ("evaluate", run, "--split", "train"),
        ("predict", run, words), ("verify", run),
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], input="\n".join("\t".join(map(str, words)) for words in commands),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def read_zst(folder: Path) -> None:
    (folder / "words.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    next(archives.read(folder / "words.tar.zst"))


def read_textgrid(folder: Path) -> None:
    (folder / "words.TextGrid").write_text('File type = "ooTextFile"')
    label_track.read(folder / "words.TextGrid", 1.0)


def start_zero(folder: Path) -> None:
    with mock.patch.dict(os.environ), process_group.start(TrainConfig(zero=1, device="cpu", threads=1)):
        raise AssertionError("started without DeepSpeed")


@pytest.mark.parametrize(
    ("package", "use"),
    [
        ("zstandard", read_zst),
        ("praatio", read_textgrid),
        ("plotly", lambda folder: page_style.plot_scripts([{}])),
        ("deepspeed", start_zero),
    ],
)
def test_what_needs_one_that_is_missing_names_it(
    package: str, use: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=package):
        use(tmp_path)
