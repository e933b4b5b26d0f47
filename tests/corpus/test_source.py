"""Recordings from folders and archives: names, words, speakers, official splits, and damage."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from kws.audio import codec
from kws.corpus import source
from kws.corpus.source import Recording, Sources
from kws.errors import UsageError
from kws.packing import pack
from tests.conftest import REAL, require, tone, write_corpus

MINI = REAL / "speech_commands_mini.tar.gz"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = write_corpus(tmp_path / "wav", {"yes": 3, "turn left": 2})
    (root / "testing_list.txt").write_text("yes/00000001_nohash_0.wav\r\n\n")
    (root / "validation_list.txt").write_text("turn left/00000004_nohash_0.wav\n")
    return root


def archive(folder: Path, prefix: str = ".", mode: str = "w:gz") -> Path:
    path = folder.with_suffix(".archive")
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        tar.add(folder, prefix)
    return path


def names(*paths: Path) -> list[str]:
    return sorted(recording.name for recording in Sources(paths))


def test_the_word_of_a_recording_is_its_folder() -> None:
    assert Recording("turn left/0a7c2a8d_nohash_0.wav", Path("x.tar"), b"").word == "turn left"


@pytest.mark.parametrize(
    ("name", "speaker"),
    [
        ("yes/ab12_nohash_3.wav", "ab12"),
        ("yes/take.one.flac", ""),
        ("yes/anna", ""),
        ("yes/a_nohash_b_nohash_0.wav", "a"),
        ("yes/_nohash_0.wav", ""),
    ],
)
def test_the_speaker_is_the_part_before_nohash(name: str, speaker: str) -> None:
    assert source.speaker_from_name(name) == speaker


@pytest.mark.parametrize(
    ("prefix", "mode"),
    [(".", "w:gz"), ("a/b", "w"), ("speech_commands_v0.02", "w:bz2"), (".", "w:xz")],
)
def test_an_archive_holds_the_same_recordings_as_its_folder(folder: Path, prefix: str, mode: str) -> None:
    there, packed = Sources([folder]), Sources([archive(folder, prefix, mode)])
    assert {r.name: r.decode().tolist() for r in there} == {r.name: r.decode().tolist() for r in packed}
    assert there.found.listed == packed.found.listed != {}


def test_lists_are_read_with_any_line_ends(folder: Path) -> None:
    corpus = Sources([folder])
    list(corpus)
    assert corpus.found.listed == {"yes/00000001_nohash_0.wav": "test", "turn left/00000004_nohash_0.wav": "valid"}


def test_audio_outside_word_folders_is_reported_and_left_out(folder: Path) -> None:
    for place in ("loose.wav", "_rejected_/x.wav", ".trash/y.wav", "yes/phone.m4a"):
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).write_bytes(b"x")
    corpus = Sources([folder])
    assert len(list(corpus)) == 7  # the damaged m4a is found when it is decoded
    said = "\n".join(corpus.ignored)
    assert all(f"{place}: not" in said for place in ("loose.wav", "_rejected_/x.wav"))
    assert ".trash" not in said
    assert corpus.found.left_out.counts["hidden"] == 1


def test_links_to_folders_are_followed_without_loops(folder: Path, tmp_path: Path) -> None:
    (folder / "yes").rename(tmp_path / "elsewhere")
    (folder / "yes").symlink_to(tmp_path / "elsewhere")
    (folder / "turn left" / "again").symlink_to(folder)
    assert len([name for name in names(folder) if name.startswith("yes/")]) == 3


def test_broken_links_are_reported(folder: Path) -> None:
    (folder / "yes" / "gone.wav").symlink_to(folder / "nowhere.wav")
    corpus = Sources([folder])
    list(corpus)
    assert len(corpus.ignored) == 1
    assert corpus.ignored[0].startswith(f"{folder}: yes/gone.wav: ")


def test_links_in_archives_are_reported(folder: Path) -> None:
    (folder / "yes" / "same.wav").hardlink_to(folder / "yes" / "00000001_nohash_0.wav")
    corpus = Sources([archive(folder)])
    list(corpus)
    assert len(corpus.ignored) == 1
    assert "a link" in corpus.ignored[0]


def test_names_that_are_not_utf8_are_reported_in_printable_text(folder: Path) -> None:
    (folder / "yes" / "\udcff.wav").write_bytes(b"x")
    corpus = Sources([folder])
    list(corpus)
    assert len(corpus.ignored) == 1
    assert "not UTF-8" in corpus.ignored[0].encode().decode()


def test_an_unreadable_file_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UsageError, match=r"/wav/\S+: cannot be read \(Permission denied\)"):
        names(folder)


def test_a_missing_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone: no such folder"):
        Sources([tmp_path / "gone"])


def test_a_source_without_audio_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"empty: .*WORD/FILE.wav"):
        names(folder, tmp_path / "empty")


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def cut_between_members(data: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return data[: tar.getmembers()[5].offset]


def break_a_header(data: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        at = tar.getmembers()[5].offset
    return data[:at] + b"?" + data[at + 1 :]


def nothing(data: bytes) -> bytes:
    return b""


def noise(data: bytes) -> bytes:
    return b"no archive at all " * 100


@pytest.mark.parametrize("damage", [cut, cut_between_members, break_a_header, nothing, noise])
def test_a_damaged_tar_is_refused_also_where_tarfile_takes_it_for_the_end(
    folder: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = archive(folder, mode="w")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UsageError, match=r"wav.archive: damaged after \d+ members"):
        names(path)


@pytest.mark.parametrize("where", [0.5, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.2, 0.9, 1.0))])
@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress])
def test_a_flipped_bit_in_a_compressed_archive_is_found(
    folder: Path, where: float, compress: Callable[[bytes], bytes]
) -> None:
    path = archive(folder, mode="w")
    data = bytearray(compress(path.read_bytes()))
    data[int(where * (len(data) - 6))] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(UsageError, match="damaged after"):
        names(path)


def test_a_truncated_compressed_archive_is_refused(folder: Path) -> None:
    path = archive(folder)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UsageError, match="damaged after"):
        names(path)


@pytest.mark.parametrize(
    ("speaker", "split"), [("0585b66d", "train"), ("1e9e6bdd", "train"), ("0d82fd99", "valid"), ("63f7a489", "test")]
)
def test_the_split_of_a_speaker_by_the_hash_rule(speaker: str, split: str) -> None:
    assert source.split_by_hash(speaker) == split


def test_the_shares_of_the_hash_rule() -> None:
    speakers = [f"{number:08x}" for number in range(2000)]
    shares = [sum(source.split_by_hash(s, valid, 30) == "valid" for s in speakers) / 2000 for valid in (0, 25, 100)]
    assert shares == [0.0, pytest.approx(0.25, abs=0.03), 1.0]


def test_the_hash_rule_agrees_with_the_official_lists() -> None:
    require("real", MINI.exists(), f"the real clips are not at {REAL} (set KWS_REAL_DATA)")
    corpus = Sources([MINI])
    found = [r.name for r in corpus if r.word != source.NOISE_FOLDER]
    assert len(corpus.found.listed) >= 250
    wanted = {name: corpus.found.listed.get(name, "train") for name in found}
    assert {name: source.split_by_hash(source.speaker_from_name(name)) for name in found} == wanted


def test_a_folder_that_names_no_word_is_reported_with_one_line(folder: Path) -> None:
    (folder / "_old_").mkdir()
    for number in range(2000):
        (folder / "_old_" / f"{number}.wav").write_bytes(b"")
    corpus = Sources([folder])
    list(corpus)
    assert len(corpus.ignored) == 1
    assert corpus.ignored[0].startswith(f"{folder}: _old_/0.wav: ")
    assert "1,999 more" in corpus.ignored[0]


def test_an_audio_file_and_a_packed_corpus_are_no_sources(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"give its folder"):
        Sources([next((folder / "yes").iterdir())])
    packed, _ = pack.pack([folder], tmp_path / "shards")
    with pytest.raises(UsageError, match=r"packed already.*--append"):
        Sources([packed.root])


def test_names_are_in_unicode_normal_form_c(tmp_path: Path) -> None:
    whole, apart = (unicodedata.normalize(form, "gehört/jörg_nohash_0.wav") for form in ("NFC", "NFD"))
    root = tmp_path / "wav"
    for name in (whole, apart.replace("0", "1")):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(codec.wav_bytes(tone(300)))
    (root / "testing_list.txt").write_text(apart)
    corpus = Sources([root])
    assert {(one.word, one.speaker) for one in corpus} == {("gehört", "jörg")}
    assert corpus.found.listed == {whole: "test"}
    table = tmp_path / "clips.csv"
    table.write_text(f"path,word,speaker\nwav/{whole},ja,jörg\nwav/{apart.replace('0', '1')},{apart[:7]},")
    assert [(one.word, one.speaker) for one in Sources([table])] == [("ja", "jörg"), ("gehört", "jörg")]
