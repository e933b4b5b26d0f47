"""Recipes are found by name, checked strictly, and compared with archives and corpora."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from kws import shipped_files
from kws.corpus import recipe
from kws.errors import UsageError

WHOLE = 'words = ["a", "b"]\n[clips]\ntrain = 3\ntest = 1\n'


@pytest.mark.parametrize("path", sorted(shipped_files.folder("shards").glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_is_found_by_its_name(path: Path) -> None:
    found = recipe.find(path.stem)
    assert found == recipe.load(path)
    assert found.name == path.stem
    assert found.words
    assert found.clips["train"] > 0


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^sc2: no such recipe.* demo, .*speech_commands_v0.02"):
        recipe.find("sc2")
    with pytest.raises(UsageError, match=r"none\.toml: no such recipe"):
        recipe.find(str(tmp_path / "none.toml"))


def test_optional_keys_have_defaults(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(WHOLE, encoding="utf-8")
    found = recipe.find(str(path))
    assert (found.url, found.bytes, found.allow_leaks, found.sha256) == ("", None, False, {})
    assert found.archive_name("https://host/x/them.tar.gz?token=1") == "them.tar.gz"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("words = [", "at end of document"),
        ('words = ["a"]', "'clips'"),
        (f'bytes = "3"\n{WHOLE}', "bytes = '3', wanted a whole number"),
        (f'allow_leaks = "no"\n{WHOLE}', "allow_leaks = 'no', wanted true or false"),
        (f"url = 3\n{WHOLE}", "url = 3, wanted a string"),
    ],
)
def test_an_invalid_recipe_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=f"^{path}: not a recipe .*{message}"):
        recipe.load(path)


def test_an_archive_of_any_file_name_is_checked(tmp_path: Path) -> None:
    archive, path = tmp_path / "copy.tgz", tmp_path / "mine.toml"
    archive.write_bytes(b"sound")
    sha256 = hashlib.sha256(b"sound").hexdigest()
    path.write_text(f'bytes = 5\n{WHOLE}[sha256]\n"mine.tar.gz" = "{sha256}"\n', encoding="utf-8")
    seen: list[tuple[int, int, str]] = []
    recipe.load(path).check_archive(archive, lambda *done: seen.append(done))
    assert seen == [(5, 5, "checking")]
    for data, message in ((b"soun", "found 4 bytes, wanted 5"), (b"Sound", f"found sha256 .*, wanted {sha256}")):
        archive.write_bytes(data)
        with pytest.raises(UsageError, match=f"^{archive}: {message}"):
            recipe.load(path).check_archive(archive)


def test_archives_that_the_recipe_lists_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'{WHOLE}[sha256]\n"mine.tar.gz" = "{"0" * 64}"\n', encoding="utf-8")
    for name in ("mine.tar.gz", "other.tar.gz"):
        (tmp_path / name).write_bytes(b"sound")
    recipe.check_archives(recipe.load(path), [tmp_path / "other.tar.gz", tmp_path])
    with pytest.raises(UsageError, match=r"mine.tar.gz: found sha256 .*, wanted 0{64}"):
        recipe.check_archives(recipe.load(path), [tmp_path / "mine.tar.gz"])


def test_each_difference_to_a_corpus_is_a_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(WHOLE, encoding="utf-8")
    wanted = recipe.load(path)
    assert recipe.differences(wanted, ["b", "a"], {"train": 3, "test": 1}) == []
    found = recipe.differences(wanted, ["b", "c"], {"train": 2, "test": 1, "noise": 5})
    assert [line.partition(":")[0] for line in found] == ["word a", "word c", "train"]
