"""A file is replaced whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kws import files


def test_text_and_json_replace_a_file_and_leave_nothing_else(tmp_path: Path) -> None:
    for durable in (False, True):
        files.write_text(tmp_path / "a.txt", "größer\n", durable)
        files.write_json(tmp_path / "b.json", {"key": [1, 2]}, durable)
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "größer\n"
    assert json.loads((tmp_path / "b.json").read_text()) == {"key": [1, 2]}
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "b.json"}


def test_a_failed_write_keeps_the_old_file_and_removes_the_partial_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(OSError, match="disk"):
        write_half(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def write_half(path: Path) -> None:
    with files.replaced(path) as partial:
        partial.write_text("half of the n")
        raise OSError("disk")


def test_a_reader_never_sees_a_partial_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with files.replaced(path) as partial:
        partial.write_text("half")
        assert path.read_text() == "old"
        partial.write_text("new")
    assert path.read_text() == "new"


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        files.write_text(tmp_path / "nowhere" / "a.txt", "text")


def test_a_value_that_json_cannot_hold_leaves_the_old_file(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "a.json", {"a": Path})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}


def test_a_file_is_created_only_if_it_does_not_exist(tmp_path: Path) -> None:
    files.create_text(tmp_path / "a.txt", "first")
    with pytest.raises(FileExistsError):
        files.create_text(tmp_path / "a.txt", "second")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["first"]


def test_a_file_is_created_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    files.create_text(tmp_path / "a.txt", "first")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["first"]
