"""Which errors are a line for the user, and what the line names."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from kws.errors import UsageError, filename_in_error, mistakes_error, user_message


def test_usage_errors_and_a_full_disk_are_lines_and_failures_are_not() -> None:
    assert user_message(UsageError("a line")) == "a line"
    full = user_message(OSError(errno.ENOSPC, "No space left on device", "a/file"))
    assert full is not None
    assert full.startswith("a/file: No space left on device")
    assert user_message(OSError(errno.EINVAL, "Invalid argument", "a/file")) is None
    assert user_message(ValueError("a bug")) is None


def test_an_error_of_an_open_file_gets_its_name_and_keeps_one_that_it_has() -> None:
    for name, wanted in ((None, "given"), ("own", "own")):
        with pytest.raises(OSError, match=wanted) as caught, filename_in_error(Path("given")):
            raise OSError(errno.EIO, "Input/output error", name)
        assert caught.value.filename == wanted


def test_many_mistakes_are_one_error_and_those_beyond_the_limit_are_counted() -> None:
    assert str(mistakes_error(["one", "two"])).splitlines() == ["one", "two"]
    lines = str(mistakes_error([f"line {number}" for number in range(15)], most=10)).splitlines()
    assert len(lines) == 11
    assert "5" in lines[-1]
