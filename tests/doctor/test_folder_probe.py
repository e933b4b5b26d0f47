"""The run folder and the shards as a probe sees them; in this process, which costs a tenth of a child."""

from __future__ import annotations

from pathlib import Path

import pytest

from kws.data.index import Index
from kws.doctor import folder_probe, shard_probe
from kws.errors import UsageError

Answer = dict[str, object]


def probe(do: str, **task: object) -> Answer:
    answers: list[Answer] = []
    folder_probe.work({"do": do} | task, answers.append)
    (answer,) = answers
    return answer


def test_the_marker_is_made_seen_and_removed_and_the_run_folder_is_not_created(tmp_path: Path) -> None:
    run, token = tmp_path / "runs" / "a", "0123456789abcdef"
    assert probe("mark", folder=str(run), token=token) == {"folder": str(tmp_path)}
    for rank in (0, 2):
        look = probe("look", folder=str(tmp_path), token=token, rank=rank)
        assert look["sees"]
        assert look["type"]
    found = probe("collect", folder=str(tmp_path), token=token, ranks=[0, 2])
    assert found == {"seen": [0, 2]}
    assert list(tmp_path.iterdir()) == []


def test_a_marker_that_is_not_there_is_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_probe, "_LOOK_S", 0.0)
    assert not probe("look", folder=str(tmp_path), token="0" * 16, rank=1)["sees"]


def test_a_folder_is_written_measured_and_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_probe, "WRITTEN_BYTES", 8 << 20)
    found = probe("write", folder=str(tmp_path / "new"))
    assert found["bytes_s"] > 0  # type: ignore[operator]
    assert found["free"] > 0  # type: ignore[operator]
    assert list(tmp_path.iterdir()) == []


def test_the_cache_is_measured_where_the_settings_use_one(
    tones: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_probe, "WRITTEN_BYTES", 4 << 20)
    task = {"shards": str(tones.root), "cache_gb": 2.0}
    assert probe("cache", cache_dir="", **task) == {}
    found = probe("cache", cache_dir=str(tmp_path / "cache"), **task)
    assert found["needed"] == 2 * 10**9
    assert found["folder"] == str(tmp_path / "cache")


def test_all_bytes_of_small_shards_are_read_once_by_the_ranks_together(tones: Index) -> None:
    answers: list[Answer] = []
    for rank in (0, 1):
        shard_probe.work({"shards": str(tones.root), "rank": rank, "world_size": 2}, answers.append)
    assert sum(int(str(answer["bytes"])) for answer in answers) == sum(s.bytes for s in tones.split("train").shards)
    assert {answer["corpus_id"] for answer in answers} == {tones.content_id}


def test_shards_that_are_missing_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        shard_probe.work({"shards": str(tmp_path), "rank": 0, "world_size": 1}, lambda answer: None)
