"""Fixtures of several tests of kws/data."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kws.data import index
from kws.data.index import Index
from kws.data.store import CacheSettings
from kws.transport import RetryPolicy
from tests.data.web import Web, serve

NO_DELAY = RetryPolicy(timeout_s=20.0, delays_s=(0.01, 0.01, 0.01, 0.02, 0.02))


@pytest.fixture
def copy(tones: Index, tmp_path: Path) -> Index:
    """A copy of the tones that a test may damage."""
    return index.load(Path(shutil.copytree(tones.root, tmp_path / "copy")))


@pytest.fixture
def caching(tmp_path: Path) -> CacheSettings:
    """A cache of the test's own, and retries without a delay."""
    return CacheSettings(str(tmp_path / "cache"), retry=NO_DELAY, full_timeout_s=0.2)


@pytest.fixture
def web(tones: Index, tmp_path: Path) -> Iterator[Web]:
    """The tones on an http server, without their index. The test may change the files."""
    folder = tmp_path / "served"
    shutil.copytree(tones.root, folder, ignore=shutil.ignore_patterns("index"))
    with serve(folder) as server:
        yield server
