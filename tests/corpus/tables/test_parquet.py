"""Parquet as Hugging Face's datasets write it: bytes, class labels, splits by file names, streamed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kws.audio import codec
from kws.corpus.source import Sources
from kws.errors import UsageError
from kws.packing import pack
from tests.conftest import tone
from tests.corpus.tables.tables_of_tests import Read, write_audio

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

WORDS = ["no", "yes", "_silence_"]


def write_parquet(path: Path, columns: dict[str, Any], labels: bool = True, **options: Any) -> Path:
    """A Parquet file; with `labels`, with the names of a ClassLabel in its metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if labels:
        features = {"label": {"names": WORDS, "_type": "ClassLabel"}, "audio": {"_type": "Audio"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, **options)
    return path


def audio(count: int, first: int = 0, paths: bool = True) -> list[dict[str, Any]]:
    """Tones, each of another pitch."""
    sounds = [codec.wav_bytes(tone(200 + 20 * number, 1600)) for number in range(first, first + count)]
    return [{"bytes": data, "path": f"{first + n}_nohash_0.wav" if paths else None} for n, data in enumerate(sounds)]


def test_splits_labels_and_speakers_are_read_and_packed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for first, name in enumerate(("train-00000-of-00002", "train-00001-of-00002", "validation-00000", "test-00000")):
        columns = {"audio": audio(2, 2 * first), "label": [0, 1], "speaker_id": [f"s{first}", f"t{first}"]}
        write_parquet(source / "data" / f"{name}.parquet", columns)
    found = Read(source)
    assert sorted(found.splits.values()) == ["test"] * 2 + ["train"] * 4 + ["valid"] * 2
    assert found.speakers["no/0_nohash_0.wav"] == "s0"
    assert {clip.name: clip.data for clip in found.clips}["no/0_nohash_0.wav"] == audio(1)[0]["bytes"]
    assert len({clip.name for clip in found.clips}) == 8


def test_a_file_given_by_its_path_is_packed_and_resumed(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "words.parquet", {"audio": audio(20, paths=False), "label": [0, 1] * 10})
    corpus = Sources([path])
    recordings = list(corpus)
    assert {recording.word for recording in recordings} == {"no", "yes"}
    assert len(set(recordings)) == len({recording.name for recording in recordings}) == 20
    assert corpus.total_bytes > 0
    index, report = pack.pack([path], tmp_path / "out")
    assert sum(map(len, index.splits.values())) == 20
    assert not report.skipped


def test_text_strings_paths_and_samples_are_read(tmp_path: Path) -> None:
    write_audio(tmp_path, "1.wav", "2.wav")
    files = write_parquet(tmp_path / "metadata.parquet", {"file_name": ["1.wav", "2.wav"], "text": ["a", "b"]}, False)
    assert Read(files).names == ["a/1.wav", "b/2.wav"]
    plain = write_parquet(tmp_path / "plain.parquet", {"Audio": [audio(1)[0]["bytes"]], "word": ["a"]}, False)
    assert Read(plain).clips[0].data
    unembedded = {"audio": [{"bytes": None, "path": "1.wav"}], "label": [1]}
    schema = pa.schema({"audio": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "label": pa.int64()})
    pq.write_table(pa.table(unembedded, schema), tmp_path / "unembedded.parquet")
    assert Read(tmp_path / "unembedded.parquet").clips[0].path == "1.wav"
    samples = {"array": (np.sin(np.arange(8000) / 5) / 2).tolist(), "sampling_rate": 8000}
    clip = Read(write_parquet(tmp_path / "samples.parquet", {"audio": [samples], "label": [1]})).clips[0]
    assert clip.data
    assert len(codec.decode(clip.data)) == 16000


def test_background_noise_keeps_its_meaning(tmp_path: Path) -> None:
    found = Read(write_parquet(tmp_path / "a.parquet", {"audio": audio(2), "label": [1, 2]}))
    assert found.names == ["_background_noise_/1_nohash_0.wav", "yes/0_nohash_0.wav"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"PAR1" + bytes(100) + b"PAR1", "damaged"),
        (b"", "damaged"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    ],
)
def test_what_is_no_parquet_is_refused_with_its_name(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=rf"a.parquet: .*{says}"):
        Read(path)
    assert says in Read(tmp_path).problem


def test_a_table_without_audio_is_refused_with_its_columns(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"columns id, label"):
        Read(write_parquet(tmp_path / "a.parquet", {"id": [1], "label": [1]}))


def test_without_pyarrow_the_extra_is_named(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", {"audio": audio(1), "label": [1]})
    program = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from pathlib import Path; from kws.corpus.tables import finding\n"
        f"finding.open_table(Path({str(tmp_path / 'a.parquet')!r}))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "kws[parquet]" in result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "big.parquet"
    data = np.random.default_rng(0).bytes(64_000)
    schema = pa.schema({"audio": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "label": pa.int64()})
    with pq.ParquetWriter(path, schema) as writer:
        for _ in range(40):
            rows = [{"bytes": data[n:] + data[:n], "path": f"{n}.wav"} for n in range(100)]
            writer.write_table(pa.table({"audio": rows, "label": [1] * 100}, schema))
    program = (
        "import resource\nfrom pathlib import Path; from kws.corpus.tables import finding\n"
        "from kws.corpus.tables.clips import Clips\n"
        f"clips = Clips(finding.open_table(Path({str(path)!r}))).read()\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "first = None\n"
        "for number, _ in enumerate(clips):\n    first = first or (number > 400 and peak()) or None\n"
        "print(number, first, peak())"
    )
    number, first, last = map(
        int, subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout.split()
    )
    assert number == 3999
    assert last < first + 60  # the file has 256 MB
