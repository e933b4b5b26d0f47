"""Archives of word folders: zip, tar.zst and archives inside a folder give the same recordings as the folder."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from kws.audio import codec
from kws.corpus import archives
from kws.corpus.source import Sources
from kws.errors import UsageError
from tests.conftest import tone

CLIPS = {f"{word}/{person}_nohash_0.wav": codec.wav_bytes(tone(300, 400)) for word in ("yes", "grün")
         for person in ("anna", "bert")}  # fmt: skip
LIST = "grün/anna_nohash_0.wav\n".encode()
FILES = CLIPS | {"testing_list.txt": LIST}


def folder_of(root: Path) -> Path:
    for name, data in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def zip_of(path: Path, prefix: str = "", method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in FILES.items():
            archive.writestr(f"{prefix}{name}", data)
    return path


def zst_of(path: Path) -> Path:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, data in FILES.items():
            member = tarfile.TarInfo(f"./corpus/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    path.write_bytes(zstandard.compress(plain.getvalue()))
    return path


def contents(path: Path) -> tuple[dict[str, list[int]], dict[str, str]]:
    corpus = Sources([path])
    return {one.name: one.decode().tolist() for one in corpus}, corpus.found.listed


@pytest.mark.parametrize(
    "make",
    [
        lambda path: zip_of(path / "words.zip"),
        lambda path: zip_of(path / "words.zip", "my words/", zipfile.ZIP_STORED),
        lambda path: zst_of(path / "words.tar.zst"),
    ],
)
def test_an_archive_is_read_like_its_folder(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    assert contents(make(tmp_path)) == contents(folder_of(tmp_path / "folder"))


def test_a_folder_that_only_holds_archives_is_read_like_them(tmp_path: Path) -> None:
    (tmp_path / "downloads").mkdir()
    zip_of(tmp_path / "downloads" / "words.zip")
    assert contents(tmp_path / "downloads") == contents(folder_of(tmp_path / "folder"))
    corpus = Sources([tmp_path / "downloads"])
    list(corpus)
    assert any("words.zip" in note for note in corpus.notes)


def test_an_archive_beside_recordings_is_left_out_and_counted(tmp_path: Path) -> None:
    zip_of(folder_of(tmp_path / "folder") / "words.zip")
    corpus = Sources([tmp_path / "folder"])
    assert len(list(corpus)) == len(CLIPS)
    assert corpus.found.left_out.counts[".zip"] == 1


class OldInfo(zipfile.ZipInfo):
    """A member whose name is written in UTF-8, but not marked as such."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802
        return self.filename.encode(), 0


def test_names_in_a_zip_without_the_mark_of_utf8_and_with_backslashes(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "old.zip", "w") as archive:
        for name, data in CLIPS.items():
            archive.writestr(OldInfo(name.replace("/", "\\")), data)
    assert sorted(archives.member_names(tmp_path / "old.zip")) == sorted(CLIPS)


class DosInfo(zipfile.ZipInfo):
    """A name in code page 850, as Windows writes it, without a mark for its encoding."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802  # the name in the library
        return self.filename.encode("cp850"), self.flag_bits & ~0x800


def test_names_in_a_zip_whose_encoding_is_guessed_are_noted(tmp_path: Path) -> None:
    for name, folder in (("plain.zip", "gruen"), ("dos.zip", "grün")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(DosInfo(f"{folder}/1.wav"), codec.wav_bytes(tone(300, 800)))
        corpus = Sources([tmp_path / name])
        assert [recording.name for recording in corpus] == [f"{folder}/1.wav"]
        assert any("437" in note for note in corpus.notes) == (name == "dos.zip")


def test_archives_without_word_folders_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "yes.zip", "w") as archive:
        archive.writestr("1.wav", codec.wav_bytes(tone(300, 800)))
    with pytest.raises(UsageError, match=r"yes\.zip.*unpack"):
        list(Sources([tmp_path]))


def encrypted(path: Path) -> None:
    data = bytearray(zip_of(path).read_bytes())
    for magic, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = data.find(magic)
        while at >= 0:
            data[at + flags] |= 1
            at = data.find(magic, at + 4)
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(zip_of(path).read_bytes()[:-100])


def flipped(path: Path) -> None:
    data = bytearray(zip_of(path, method=zipfile.ZIP_STORED).read_bytes())
    data[200] ^= 1
    path.write_bytes(data)


def cut_zst(path: Path) -> None:
    path.write_bytes(zst_of(path).read_bytes()[:-200])


@pytest.mark.parametrize(
    ("damage", "told"),
    [(encrypted, "encrypted"), (cut, "damaged"), (flipped, "damaged"), (cut_zst, "damaged")],
)
def test_a_damaged_or_encrypted_archive_is_refused_by_name(
    tmp_path: Path, damage: Callable[[Path], None], told: str
) -> None:
    damage(tmp_path / "words.bin")
    with pytest.raises(UsageError, match=rf"words\.bin: {told}"):
        list(Sources([tmp_path / "words.bin"]))


@pytest.mark.parametrize(("magic", "name"), [(b"7z\xbc\xaf\x27\x1c", "7z"), (b"Rar!\x1a\x07", "rar")])
def test_other_archives_are_named(tmp_path: Path, magic: bytes, name: str) -> None:
    (tmp_path / "words").write_bytes(magic + bytes(100))
    with pytest.raises(UsageError, match=name):
        list(Sources([tmp_path / "words"]))
