"""What the documents tell others to write is what kws reads."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kws.audio import codec
from kws.data.index import COLUMNS, VERSION
from kws.packing import external_index, scan
from tests.conftest import ROOT, tone


def test_shards_written_by_the_code_of_docs_data_md_are_indexed(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), re.DOTALL)
    written: dict[str, object] = {}
    exec(code, written)
    for split, speaker in (("train", "anna"), ("test", "bert")):
        (tmp_path / split).mkdir()
        words = ["yes", "no", "turn left"]
        clips = [(f"{word}-{speaker}", codec.wav_bytes(tone(300 + 9 * len(word))), word, speaker) for word in words]
        written["shard"](tmp_path / split / "000000.tar", clips)  # type: ignore[operator]
    corpus, report = external_index.index_shards(str(tmp_path))
    assert report.skipped == []
    assert corpus.words == ("no", "turn left", "yes")
    assert [len(corpus.splits[name]) for name in ("train", "test")] == [3, 3]
    assert {name.decode() for name in corpus.speakers} == {"anna", "bert"}
    assert scan.verify(corpus) == (6, [])


def test_every_column_of_the_index_is_described() -> None:
    text = (ROOT / "docs" / "data.md").read_text()
    table = text[text.index("| column | type |") :]
    for name, dtype in COLUMNS.items():
        row = next(line for line in table.splitlines() if f"`{name}`" in line)
        assert dtype.__name__ in row
    assert f'"version": {VERSION}' in text


@pytest.mark.slow
def test_the_clip_of_docs_architecture_md_is_followed_by_its_numbers(tmp_path: Path) -> None:
    """Runs the commands of the worked example; floats may differ between processors, whole numbers not."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    commands, shown = re.findall(r"```\n(.*?)```", text, re.DOTALL)[:2]
    script = "set -e\n" + commands.replace("launch/", f"{ROOT}/launch/").replace("configs/", f"{ROOT}/configs/")
    script = script.replace("docs/follow", f"{ROOT}/docs/follow")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    printed = done.stdout.splitlines()[-len(shown.splitlines()) :]
    for line, wanted in zip(printed, shown.splitlines(), strict=True):
        assert re.sub(r"-?\d+\.\d+", "_", line) == re.sub(r"-?\d+\.\d+", "_", wanted)
