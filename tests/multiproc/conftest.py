from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kws.data.index import Index
from tests.multiproc.launching import SETTINGS, finish, start


@pytest.fixture(scope="session")
def config(tones: Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.toml"
    path.write_text(SETTINGS.replace("[data]", f'[data]\nshards = "{tones.root}"'))
    return path


@pytest.fixture
def train(config: Path, tmp_path: Path) -> Callable[..., Path]:
    """train(launcher, name, *settings) runs to the end and returns the run folder."""

    def run(launcher: list[str], name: str, *settings: str) -> Path:
        process = start(launcher, config, tmp_path / name, *settings)
        code, output = finish(process)
        assert code == 0, output
        return tmp_path / name

    return run
