"""`kws inspect`: numbers, tables that fit a terminal, and the quality of the shuffle."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from kws import cli, counter_rng
from kws.data import index
from kws.data.index import Index, Split
from kws.packing import contents


def split_of(words: Sequence[int] | np.ndarray, shards: int) -> Split:
    """A split with nothing on disk: the words of its clips, cut into equal shards."""
    parts = np.array_split(np.asarray(words), shards)
    starts = np.cumsum([0, *map(len, parts)])
    columns = {name: np.zeros(starts[-1], dtype) for name, dtype in index.COLUMNS.items()}
    columns["word"][:] = np.concatenate(parts)
    columns["shard"][:] = np.repeat(np.arange(shards), list(map(len, parts)))
    entries = [index.Shard(f"{i}.tar", 0, len(part), int(starts[i]), "") for i, part in enumerate(parts)]
    cells = index.count_cells(columns["shard"], columns["word"], shards, int(columns["word"].max()) + 1)
    return Split("train", tuple(entries), columns, cells)


def words(clips: int = 24_000, kinds: int = 12) -> np.ndarray:
    """Some words with up to six times the clips of others, in order."""
    weights = np.linspace(1, 6, kinds)
    return np.repeat(np.arange(kinds), (weights / weights.sum() * clips).astype(int))


def as_printed(corpus: Index) -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    console.print(contents.words_table(corpus), contents.splits_table(corpus))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("shards", [1, 8, 60])
def test_shuffled_shards_are_as_good_as_an_ideal_shuffle(shards: int) -> None:
    mixed = contents.shuffle_quality(split_of(words()[counter_rng.permutation(len(words()), "packed")], shards))
    assert mixed == pytest.approx(1.0, abs=0.01)


def test_shards_sorted_by_word_are_detected() -> None:
    assert contents.shuffle_quality(split_of(words(), 60)) < contents.GOOD_SHUFFLE - 0.1
    assert contents.shuffle_quality(split_of(np.arange(24_000) // 200 % 12, 60)) < contents.GOOD_SHUFFLE, (
        "two words a shard"
    )


def test_order_inside_a_shard_does_not_matter() -> None:
    parts = np.array_split(words()[counter_rng.permutation(len(words()), "packed")], 30)
    assert (
        contents.shuffle_quality(split_of(np.concatenate([np.sort(part) for part in parts]), 30))
        > contents.GOOD_SHUFFLE
    )


@pytest.mark.parametrize("layout", [[0, 1] * 100, [0] * 5000], ids=["few clips", "one word"])
def test_the_quality_is_none_where_it_cannot_be_measured(layout: list[int]) -> None:
    assert contents.shuffle_quality(split_of(layout, 2)) is None


def test_inspect_reports_the_quality(tones: Index, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert contents.shuffle_lines(tones) == []  # too few clips
    corpus = Index(tmp_path, tuple("abcdefghijkl"), "0" * 32, {"train": split_of(words(), 60)})
    (line,) = contents.shuffle_lines(corpus)
    assert line.startswith("batches of train hold ")
    assert "data.window" in line
    assert cli.main(["inspect", str(tones.root), "--json"]) == cli.OK
    facts = json.loads(capsys.readouterr().out)
    assert facts["splits"]["train"]["mixedness"] is None
    assert facts["splits"]["train"]["clips"] == len(tones.split("train"))


def test_the_tables_fit_a_terminal(tones: Index) -> None:
    lines = as_printed(tones)
    assert max(map(len, lines)) <= 80
    (head,) = [line for line in lines if "imbalance" in line and "┃" in line]
    assert [cell.strip() for cell in head.strip("┃").split("┃")] == [
        "split", "clips", "speakers", "hours", "clip s", "shards", "MB", "imbalance",
    ]  # fmt: skip
    (train,) = [line for line in lines if line.startswith("│ train")]
    assert [cell.strip() for cell in train.strip("│").split("│")][:2] == ["train", str(len(tones.split("train")))]
    assert "│      1 │" in train, "all clips are one second long"
