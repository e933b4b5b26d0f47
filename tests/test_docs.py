"""What the documents tell others to write is what kws reads."""

from __future__ import annotations

import re
from pathlib import Path

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
