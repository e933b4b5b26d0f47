"""Verifying a corpus finds every kind of damage, and names the shard and the clip."""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from kws.audio import codec
from kws.data import index
from kws.data.index import Index
from kws.errors import UsageError
from kws.packing import pack, scan
from tests.conftest import write_corpus


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("scan")
    source = write_corpus(folder / "wav", {"low": 20, "high": 16}, speakers=18, samples=2000)
    return pack.pack([source], folder / "shards", pack.PackOptions(shard_bytes=60_000))[0]


@pytest.fixture
def corpus(packed: Index, tmp_path: Path) -> Index:
    """A copy that may be damaged."""
    return index.load(Path(shutil.copytree(packed.root, tmp_path / "shards")))


def refused(corpus: Index, match: str) -> None:
    (fault,) = scan.verify(index.load(corpus.root)).faults
    assert re.search(match, fault)
    assert fault.startswith(f"{corpus.root}/")
    assert "\n" not in fault


def scan_file(path: Path) -> scan.ScannedShard:
    with path.open("rb") as file:
        return scan.scan_shard(file, str(path))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def rewrite(path: Path, change: Callable[[str, bytes], bytes]) -> None:
    """The tar again with each member's bytes changed."""
    with tarfile.open(path) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    with tarfile.open(path, "w") as tar:
        for member, data in members:
            data = change(member.name, data)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def test_an_undamaged_corpus_passes_with_its_number_of_clips(corpus: Index) -> None:
    seen: list[int] = []
    assert scan.verify(corpus, done=seen.append) == (37, [])
    assert seen == sorted(seen)
    assert seen[-1] == 37


def test_a_flipped_byte_in_the_audio_is_found(corpus: Index) -> None:
    split = corpus.split("train")
    flip(corpus.root / split.shards[1].name, int(split.columns["offset"][split.shards[1].start + 1]) + 99)
    key = scan_file(corpus.root / split.shards[1].name).clips[1].key
    refused(corpus, rf"train/000001.tar: clip {key}: crc32, sound differ")


def test_a_flipped_byte_in_a_flac_header_is_found(tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "wav", {"low": 8}, speakers=8, samples=2000)
    corpus, _ = pack.pack([source], tmp_path / "flac", pack.PackOptions(audio_format="flac"))
    assert scan.verify(corpus) == (9, [])
    split = corpus.split("train")
    flip(corpus.root / split.shards[0].name, int(split.columns["offset"][0]))
    refused(corpus, r"train/000000.tar: clip low_\w+: damaged audio")


def test_a_flipped_byte_in_a_tar_header_is_found(corpus: Index) -> None:
    split = corpus.split("train")
    flip(corpus.root / split.shards[0].name, int(split.columns["offset"][1]) - 512)
    refused(corpus, r"train/000000.tar: ")


def test_a_flipped_byte_in_the_padding_is_found(corpus: Index) -> None:
    split = corpus.split("valid")
    flip(corpus.root / split.shards[0].name, int(split.columns["offset"][0] + split.columns["length"][0]) + 5)
    refused(corpus, r"valid/000000.tar: sha256 differs")


def test_a_flipped_byte_behind_the_end_of_the_tar_is_found(corpus: Index) -> None:
    path = corpus.root / corpus.split("valid").shards[0].name
    flip(path, path.stat().st_size - 1)
    refused(corpus, r"valid/000000.tar: damaged tar \(closing blocks at byte \d+, but more data up to byte \d+\)")


@pytest.mark.parametrize("change", ["flipped", "zeros"])
def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(corpus: Index, change: str) -> None:
    split = corpus.split("train")
    path = corpus.root / split.shards[1].name
    with tarfile.open(path) as tar:
        at = tar.getmembers()[4].offset
    if change == "flipped":
        flip(path, at + 3)
    else:
        data = path.read_bytes()
        path.write_bytes(data[:at] + bytes(512) + data[at + 512 :])
    with tarfile.open(path) as tar:
        assert len(tar.getnames()) < 2 * split.shards[1].clips, "Python's tarfile silently stops there"
    how = {"flipped": rf"bad checksum at byte {at}", "zeros": rf"closing blocks at byte {at}, but more data"}[change]
    refused(corpus, rf"train/000001.tar: damaged tar \({how}")


def test_every_damaged_shard_is_named_and_the_others_counted(corpus: Index) -> None:
    split = corpus.split("train")
    for shard in (split.shards[0], split.shards[2]):
        for clip in (0, 1, 3):
            flip(corpus.root / shard.name, int(split.columns["offset"][shard.start + clip]) + 99)
    (corpus.root / corpus.split("test").shards[0].name).unlink()
    clips, faults = scan.verify(corpus)
    assert [fault.partition(": ")[0].removeprefix(f"{corpus.root}/") for fault in faults] == [
        "train/000000.tar", "train/000002.tar", "test/000000.tar",
    ]  # fmt: skip
    assert all("crc32, sound differ" in fault and "3 more faults" in fault for fault in faults[:2])
    assert clips == 37 - split.shards[0].clips - split.shards[2].clips - len(corpus.split("test"))


@pytest.mark.parametrize("keep", [0.0, 0.7, pytest.param(0.3, marks=pytest.mark.slow)])
def test_a_truncated_shard_is_found(corpus: Index, keep: float) -> None:
    path = corpus.root / corpus.split("train").shards[0].name
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    refused(corpus, r"train/000000.tar: damaged tar \((empty header|unexpected end of data|truncated header)")


def test_a_shard_truncated_between_clips_is_found(corpus: Index) -> None:
    split = corpus.split("train")
    path = corpus.root / split.shards[0].name
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-2].offset
    path.write_bytes(path.read_bytes()[:last])
    refused(corpus, r"000000.tar: damaged tar \(empty header at byte \d+\)")
    with path.open("ab") as file:
        file.write(bytes(1024))  # now it ends as a tar does
    refused(
        corpus, rf"000000.tar: clip {split.shards[0].clips - 1} of train is not where the index has it.* 2 more faults"
    )


def test_a_missing_shard_is_found(corpus: Index) -> None:
    (corpus.root / "train" / "000002.tar").unlink()
    refused(corpus, r"train/000002.tar: cannot be read \(No such file or directory\)")


@pytest.mark.parametrize(
    ("label", "match"),
    [
        (b'{"word": "low", "speaker": "x"}', "speaker differ"),
        (b'{"speaker": "x"}', "wanted a json member with the word"),
        (b"[1]", "wanted a json member with the word"),
        (b"\xff{", "wanted a json member with the word"),
    ],
)
def test_another_label_is_found(corpus: Index, label: bytes, match: str) -> None:
    rewrite(corpus.root / "train" / "000000.tar", lambda name, data: label if name.endswith("json") else data)
    refused(corpus, rf"train/000000.tar: (clip|sample) \w+: .*{match}")


def test_labels_swapped_between_words_are_found(corpus: Index) -> None:
    def swap(name: str, data: bytes) -> bytes:
        if not name.endswith("json"):
            return data
        label = json.loads(data)
        return json.dumps(label | {"word": {"low": "high", "high": "low"}[label["word"]]}).encode()

    rewrite(corpus.root / "train" / "000000.tar", swap)
    refused(corpus, r"train/000000.tar: clip \w+: .*word.* differ from the index")


def test_a_sample_with_two_audio_members_is_refused(corpus: Index, tmp_path: Path) -> None:
    path = tmp_path / "two.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("a.wav", "a.flac", "a.json"):
            tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(UsageError, match=r"two.tar: sample a: 2 audio members, wanted one"):
        scan_file(path)


def test_the_index_of_another_corpus_is_found(corpus: Index, tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "wav", {"low": 20, "high": 16}, speakers=18, samples=2001)
    other, _ = pack.pack([source], tmp_path / "other", pack.PackOptions(shard_bytes=60_000))
    shutil.rmtree(corpus.root / "index")
    shutil.copytree(other.root / "index", corpus.root / "index")
    clips, faults = scan.verify(index.load(corpus.root))
    assert (clips, len(faults)) == (1, sum(len(split.shards) for split in corpus.splits.values()) - 1), (
        "noise is the same"
    )


@pytest.mark.parametrize(("column", "keep"), [("offset", 0), ("word", 100), ("cells", 140)])
def test_a_damaged_index_is_refused_when_it_is_loaded(corpus: Index, column: str, keep: int) -> None:
    path = corpus.root / "index" / "train" / f"{column}.npy"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UsageError, match="damaged index"):
        index.load(corpus.root)


def test_an_index_of_another_version_is_refused(corpus: Index) -> None:
    path = corpus.root / "index" / "index.json"
    path.write_text(path.read_text().replace('"version": 2', '"version": 99'))
    with pytest.raises(UsageError, match=r"index\.json: version 99"):
        index.load(corpus.root)


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="kws pack"):
        index.load(tmp_path)


def test_an_unknown_split_is_refused_with_the_known_ones(corpus: Index) -> None:
    with pytest.raises(UsageError, match=r"'dev'.*train, valid, test, noise"):
        corpus.split("dev")


def test_scanned_clips_have_the_offsets_of_their_audio(corpus: Index) -> None:
    path = corpus.root / "train" / "000000.tar"
    for row in scan_file(path).clips:
        data = path.read_bytes()[row.offset : row.offset + row.length]
        assert row.plain
        assert len(codec.decode(data)) == row.samples == 2000
