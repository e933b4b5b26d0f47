"""Shards equal those of WebDataset's own writer byte for byte, and their index rows equal those of scanning them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import webdataset as wds
from hypothesis import given
from hypothesis import strategies as st

from kws.audio import codec
from kws.data.index import COLUMNS
from kws.packing import scan, shard_writer
from kws.packing.journal import Clip
from tests.conftest import tone

KEYS = ["yes_a_nohash_0", "grün_b", "l" + 150 * "o" + "ng", "deep_" + 90 * "d"]


def shard_contents(folder: Path, audio_format: shard_writer.AudioFormat) -> shard_writer.ShardContents:
    clips, start = [], 0
    with (folder / "1.pcm").open("wb") as file:
        for number, key in enumerate(KEYS):
            pcm = tone(300, 1000 + number, seed=number)
            file.write(pcm.tobytes())
            clip = Clip(key, f"yes/{key}.wav", "yes", "ann", "1.pcm", start, len(pcm), codec.pcm_hash(pcm))
            clips.append(shard_writer.IndexedClip(clip, 0, 0))
            start += len(pcm)
    return shard_writer.ShardContents(folder, "train", 7, "digest", audio_format, True, clips)


@pytest.mark.parametrize("audio_format", get_args(shard_writer.AudioFormat))
def test_the_bytes_equal_those_of_webdatasets_writer(tmp_path: Path, audio_format: shard_writer.AudioFormat) -> None:
    written = shard_writer.write_shard(shard_contents(tmp_path, audio_format))
    theirs = io.BytesIO()
    with wds.TarWriter(theirs, mtime=0, encoder=False) as tar:
        for number, key in enumerate(KEYS):
            pcm = tone(300, 1000 + number, seed=number)
            data = codec.wav_bytes(pcm) if audio_format == "wav" else codec.flac_bytes(pcm)
            label = {"word": "yes", "speaker": "ann", "source": f"yes/{key}.wav"}
            tar.write({"__key__": key, audio_format: data, "json": json.dumps(label).encode()})
    ours = (tmp_path / written.name).read_bytes()
    assert ours == theirs.getvalue()
    assert [path.name for path in (tmp_path / "train").iterdir()] == ["000007.tar"]


def test_a_member_has_one_header(tmp_path: Path) -> None:
    written = shard_writer.write_shard(shard_contents(tmp_path, "wav"))
    with tarfile.open(tmp_path / written.name) as tar:
        first = tar.getmembers()[:2]
    assert [member.pax_headers for member in first] == [{}, {}]
    assert [member.offset_data - member.offset for member in first] == [512, 512]


@pytest.mark.parametrize("audio_format", get_args(shard_writer.AudioFormat))
def test_the_rows_equal_those_of_scanning_the_shard(tmp_path: Path, audio_format: shard_writer.AudioFormat) -> None:
    written = shard_writer.write_shard(shard_contents(tmp_path, audio_format))
    with (tmp_path / written.name).open("rb") as file:
        found = scan.scan_shard(file, written.name)
    assert (found.bytes, found.sha256, len(found.clips)) == (written.size, written.sha256, written.clips)
    rows = np.frombuffer(written.rows, np.uint64).reshape(-1, len(COLUMNS))
    assert rows.tolist() == scan.table_of_clips(found.clips, 7, {"yes": 0}, {"ann": 0}).tolist()


@given(st.lists(st.integers(1, 60_000), max_size=60), st.sampled_from(["wav", "flac"]))
def test_groups_keep_the_order_and_the_size(lengths: list[int], audio_format: str) -> None:
    clips = [shard_writer.IndexedClip(Clip(str(n), "", "", "", "", 0, samples, 0), 0, 0)
             for n, samples in enumerate(lengths)]  # fmt: skip
    groups = list(shard_writer.group_into_shards(iter(clips), 200_000, audio_format))  # type: ignore[arg-type]
    assert [clip for group in groups for clip in group] == clips
    assert all(groups)
    for group in groups:
        assert sum(one.clip.samples for one in group[:-1]) * (2 if audio_format == "wav" else 1) < 200_000
