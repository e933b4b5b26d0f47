"""Runs that differ in their seed alone: which belong together, mean, deviation, and the difference of two groups."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from kws.config import Config, DataConfig, ModelConfig, TrainConfig
from kws.metrics import difference_of_means
from kws.results import compare, compare_text
from kws.results.seed_groups import seed_groups
from kws.settings_file import to_toml
from tests.results.test_compare import make


@dataclasses.dataclass(frozen=True)
class Run:
    run: Path
    config: Config
    accuracy: float


def run(name: str, seed: int, accuracy: float, shards: str = "a", **train: float) -> Run:
    config = Config(data=DataConfig(shards=shards), train=TrainConfig(seed=seed, **train))  # type: ignore[arg-type]
    return Run(Path(name), config, accuracy)


def test_only_the_seed_and_where_a_run_ran_may_differ_in_a_group() -> None:
    lines = [
        run("b1", 1, 0.9), run("b0", 0, 0.8, shards="elsewhere", threads=2), run("b0 again", 0, 0.1),
        run("lr", 0, 0.9, lr=0.1),
        run("e0", 0, 0.95, ema=0.9), run("e5", 5, 0.93, ema=0.9), run("e3", 3, 0.97, ema=0.9),
    ]  # fmt: skip
    first, second = seed_groups(lines, lambda _: None)
    assert [line.run.name for line in first.runs] == ["e0", "e3", "e5"]
    assert first.seeds == (0, 3, 5)
    assert (first.mean, first.deviation) == (pytest.approx(0.95), pytest.approx(0.02))
    assert [line.run.name for line in second.runs] == ["b0", "b1"]
    assert [line.run.name for line in second.repeated] == ["b0 again"]
    assert (first.difference, second.difference) == (None, None)


def made(generator: np.random.Generator, seeds: int, clips: np.ndarray, shift: float) -> np.ndarray:
    """Runs that recognise clips of different difficulty; each seed is a little better or worse on all of them."""
    logits = clips[None] + shift + 0.3 * generator.standard_normal((seeds, 1))
    recognised: np.ndarray = generator.random(logits.shape) < 1 / (1 + np.exp(-logits))
    return recognised


def test_the_interval_contains_the_difference_of_equal_recipes_in_19_of_20_cases() -> None:
    generator, contains = np.random.default_rng(5), []
    for _ in range(400):
        clips = 3.0 + 2.0 * generator.standard_normal(300)
        _, low, high = difference_of_means(made(generator, 3, clips, 0.0), made(generator, 4, clips, 0.0))
        contains.append(low <= 0.0 <= high)
    assert 0.94 <= np.mean(contains) <= 0.999


def test_a_better_recipe_is_found_and_pairing_by_clip_helps() -> None:
    generator = np.random.default_rng(6)
    clips = np.where(np.arange(2000) % 10 == 0, -8.0, 8.0)  # a tenth of the clips is hopeless for all
    first, second = made(generator, 4, clips, 0.0), made(generator, 4, clips, 0.0)
    second[:, :40] = False
    value, low, high = difference_of_means(first, second)
    assert value == pytest.approx(0.018, abs=2e-3)
    assert 0.01 < low < value < high < 0.03
    unpaired = 2 * np.sqrt(2 * 0.1 * 0.9 / 2000)
    assert high - low < 2 * unpaired
    assert difference_of_means(second, first) == pytest.approx((-value, -high, -low))


@pytest.mark.parametrize("shapes", [((1, 9), (2, 9)), ((2, 9), (2, 8)), ((9,), (9,)), ((2, 1), (2, 1))])
def test_fewer_than_two_runs_and_other_clips_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="difference_of_means"):
        difference_of_means(np.ones(shapes[0]), np.ones(shapes[1]))


def test_equal_runs_have_a_difference_without_spread() -> None:
    assert difference_of_means(np.ones((2, 5)), np.ones((3, 5))) == (0.0, 0.0, 0.0)


def with_seed(folder: Path, network: str, seed: int, wrong: list[int]) -> Path:
    make(folder, network, wrong)
    config = Config(model=ModelConfig(name=network), train=TrainConfig(seed=seed))
    (folder / "config.toml").write_text(to_toml(config))
    return folder


def test_kws_compare_shows_groups_of_seeds_below_the_runs(tmp_path: Path) -> None:
    good = [with_seed(tmp_path / f"good{seed}", "tc_resnet8", seed, [seed]) for seed in (0, 1, 2)]
    bad = [with_seed(tmp_path / f"bad{seed}", "resnet32", seed, list(range(5 + seed))) for seed in (0, 1)]
    alone = make(tmp_path / "alone", "ds_cnn_s", [3])
    found = compare.compare([alone, *bad, *good])
    ((first, second),) = found.seeds
    assert (first.runs[0].network, first.mean) == ("tc_resnet8", pytest.approx(59 / 60))
    assert second.difference is not None
    assert second.difference.value == pytest.approx((54.5 - 59) / 60)
    assert second.difference.low < second.difference.value < second.difference.high
    texts = dict(zip(compare_text.SEED_COLUMNS, compare_text.seed_cells(second), strict=True))
    assert (texts["seeds"], texts["mean %"], texts["to the best"]) == ("0, 1", "90.83", "-7.50")
    rows = {Path(row["run"]).name: row for row in json.loads(json.dumps(found.as_json()))}
    assert rows["good1"]["seeds"]["n"] == 3
    assert rows["bad0"]["seeds"]["difference"] == pytest.approx(-0.075)
    assert "seeds" not in rows["alone"]
    text = compare_text.markdown(found)
    assert compare_text.SEED_TITLE in text
    assert "good0, good1, good2" in text
    assert any("other seeds" in note for note in compare_text.notes(found))
    assert len(compare_text.tables(found)) == 2


def test_without_the_results_of_the_clips_there_is_no_interval(tmp_path: Path) -> None:
    runs = [with_seed(tmp_path / f"{name}{s}", name, s, [s]) for name in ("tc_resnet8", "resnet32") for s in (0, 1)]
    (runs[0] / "eval" / "test.clips.npz").unlink()
    ((_, second),) = compare.compare(runs).seeds
    assert second.difference is None
