"""kws evaluate on several ranks: the same bytes of JSON, the same predictions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.multiproc.conftest import one_worker
from tests.multiproc.launching import finish, fork_ranks

pytestmark = pytest.mark.multiproc


def take_results(run: Path) -> dict[str, bytes]:
    """Every file that an evaluation has written, read and removed."""
    found = {path.name: path.read_bytes() for path in (run / "eval").glob("*.json")}
    saved = {path.name: dict(np.load(path)) for path in (run / "eval").glob("*.npz")}
    for path in (run / "eval").iterdir():
        path.unlink()
    return found | {f"{name}/{key}": value.tobytes() for name, part in saved.items() for key, value in part.items()}


def evaluate(ranks: int, run: Path, *options: str) -> dict[str, bytes]:
    outcomes = [finish(rank) for rank in fork_ranks(ranks, "evaluate", str(run), *options)]
    assert [code for code, _ in outcomes] == [0] * ranks, outcomes
    assert [output.count("mean recall") for _, output in outcomes] == [1] + [0] * (ranks - 1), "one rank prints"
    return take_results(run)


@one_worker
def test_one_and_two_ranks_find_the_same_bits(pair: Path, kws_here: Callable[..., int]) -> None:
    assert kws_here("evaluate", pair) == 0
    one = take_results(pair)
    outcomes = [finish(rank) for rank in fork_ranks(2, "evaluate", str(pair))]
    assert [code for code, _ in outcomes] == [0, 0], outcomes
    printed = [output for _, output in outcomes]
    assert [text.count("mean recall") for text in printed] == [1, 0]
    assert len(one) == 15  # JSON, five arrays of the clips, nine of the mistakes
    assert take_results(pair) == one


@pytest.mark.slow
def test_one_two_and_three_processes_find_the_same_bits_with_crops_too(train: Callable[..., Path]) -> None:
    run = train(1, "run", "train.epochs=1", "data.workers=0")
    for options in ((), ("--crop", "--split", "train")):
        one, two, three = (evaluate(ranks, run, *options) for ranks in (1, 2, 3))
        assert len(one) == 15
        assert one == two == three
