"""`kws compare` on run folders made by hand, with known confusion matrices and counts."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from kws import cli
from kws.config import Config, ModelConfig
from kws.corpus import tasks
from kws.errors import UsageError
from kws.metrics import confusion_matrix, mcnemar_p, summarise_confusion
from kws.results import compare, compare_text
from kws.settings_file import to_toml
from tests.results.made_runs import HOSTILE, epoch, start, write_lines

WORDS = ["a", "b", "c"]
TRUTH = np.repeat([0, 1, 2], 20)


def make(
    folder: Path, network: str, wrong: list[int], split: str = "test", crop: int | None = None, **facts: Any
) -> Path:
    """A run whose network is wrong on these clips of TRUTH, and with crops on the first `crop` clips."""
    (folder / "eval").mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(to_toml(Config(model=ModelConfig(name=network))))
    (folder / "run.json").write_text(json.dumps({"ranks": [{"device": "cpu"}, {"device": "cpu"}]}))
    rows = [start(1, 0, time=100.0), *(epoch(n, 10 * n, time=100.0 + 1800 * n) for n in (1, 2))]
    write_lines(folder / "metrics.jsonl", rows)
    predicted = TRUTH.copy()
    predicted[wrong] = (predicted[wrong] + 1) % 3
    extra = {
        "split": split, "crop": False, "parameters": 66_272, "multiply_adds": 1_600_000, "corpus_id": "c" * 32,
        "checkpoint": "step-20", **facts,
    }  # fmt: skip
    result = summarise_confusion(confusion_matrix(TRUTH, predicted, 3), WORDS) | extra
    (folder / "eval" / f"{split}.json").write_text(json.dumps(result))
    probabilities = np.eye(3, dtype=np.float32)[predicted]
    np.savez(folder / "eval" / f"{split}.clips.npz", clips=np.arange(60), truth=TRUTH, probabilities=probabilities)
    if crop is not None:
        predicted = TRUTH.copy()
        predicted[:crop] = (predicted[:crop] + 1) % 3
        result = summarise_confusion(confusion_matrix(TRUTH, predicted, 3), WORDS) | extra | {"crop": True}
        (folder / "eval" / f"{split}-crop.json").write_text(json.dumps(result))
    return folder


def shown(found: compare.Comparison) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(*compare_text.tables(found))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_runs_on_the_same_clips_are_sorted_and_tested_against_the_best(tmp_path: Path) -> None:
    best = make(tmp_path / "best", "tc_resnet8", [0, 1, 2], crop=2)
    other = make(tmp_path / "other", "resnet32", [2, 3, 4, 5, 6, 7, 8, 9])
    found = compare.compare([other, best])
    ((first, second),) = found.groups
    assert (first.run, second.run) == (best, other)
    assert first.mcnemar is None
    assert second.mcnemar == compare.McNemar(best, 2, 7, mcnemar_p(2, 7))  # 0, 1 against 3 to 9
    assert first.crop is not None
    assert first.crop["accuracy"] == 58 / 60
    assert second.crop is None
    assert first.hours == 1.0
    assert (first.clips_per_s, first.hardware) == (700.0, "2 x cpu")
    texts = dict(zip(compare_text.COLUMNS, compare_text.cells(first), strict=True))
    assert texts["parameters"] == "66,272"
    assert (texts["mult-adds"], texts["accuracy %"], texts["with crops %"]) == ("1.6 M", "95.00", "96.67")
    assert texts["95 %"] == "86.30 to 98.29"
    text = shown(found)
    assert "test of corpus cccccccc: 60 clips, task words, 3 classes" in text
    assert text.index("tc_resnet8") < text.index("resnet32")
    assert f"{mcnemar_p(2, 7):.4f}" in text
    assert any("McNemar" in note for note in compare_text.notes(found))


@pytest.mark.parametrize(
    "facts", [{"corpus_id": "d" * 32}, {"classes": ["a", "b", "x"]}, {"n": 61}, {"task_digest": "d"}]
)
def test_runs_on_different_clips_are_not_compared(tmp_path: Path, facts: dict[str, Any]) -> None:
    runs = [make(tmp_path / "one", "tc_resnet8", [0]), make(tmp_path / "two", "resnet32", [1, 2], **facts)]
    found = compare.compare(runs)
    assert [len(group) for group in found.groups] == [1, 1]
    assert all(line.mcnemar is None for (line,) in found.groups)
    assert any("2 different test sets" in note for note in compare_text.notes(found))
    assert [row["test_set"] for row in found.as_json()] == [1, 2]
    assert compare_text.markdown(found).count("### ") == 2


def test_clip_results_that_do_not_fit_the_summary_are_not_tested(tmp_path: Path) -> None:
    runs = [make(tmp_path / "one", "tc_resnet8", [0]), make(tmp_path / "two", "resnet32", [1, 2])]
    (tmp_path / "two" / "eval" / "test.clips.npz").unlink()
    assert "no McNemar's test" in " ".join(compare_text.notes(compare.compare(runs)))
    make(tmp_path / "three", "resnet32", [1, 2, 3])
    (tmp_path / "three" / "eval" / "test.clips.npz").rename(tmp_path / "two" / "eval" / "test.clips.npz")
    ((_, second),) = compare.compare(runs).groups
    assert second.mcnemar is None
    (tmp_path / "two" / "eval" / "test.clips.npz").write_bytes(b"PK\x03\x04 half")
    assert f"kws evaluate {runs[0]} {runs[1]}" in " ".join(compare_text.notes(compare.compare(runs)))


def test_runs_without_an_evaluation_are_listed_with_the_command_to_type(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done, bare = make(tmp_path / "done", "tc_resnet8", [0]), make(tmp_path / "bare", "tc_resnet8", [0])
    (bare / "eval" / "test.json").unlink()
    assert cli.main(["compare", str(done), str(bare)]) == cli.FAILED
    out, err = capsys.readouterr()
    assert "98.33" in out
    assert f"kws evaluate {bare}\n" in err
    with pytest.raises(UsageError, match=f"kws evaluate {bare} --split valid"):
        compare.compare([bare], "valid")
    with pytest.raises(UsageError, match=str(tmp_path)):
        compare.compare([done, tmp_path])


def test_a_better_checkpoint_than_the_evaluated_one_is_noted(tmp_path: Path) -> None:
    run = make(tmp_path / "run", "tc_resnet8", [0], crop=1)
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "best_accuracy").write_text("step-20\n")
    assert not compare.compare([run]).groups[0][0].stale
    (run / "checkpoints" / "best_accuracy").write_text("step-30\n")
    found = compare.compare([run])
    assert any(f"kws evaluate {run}" in note for note in compare_text.notes(found))
    crop = json.loads((run / "eval" / "test-crop.json").read_text())
    (run / "eval" / "test-crop.json").write_text(json.dumps(crop | {"checkpoint": "step-10"}))
    assert compare.compare([run]).groups[0][0].crop is None  # of other weights


@pytest.mark.parametrize(
    ("task", "clips", "wanted"),
    [("v1-12-full", 6835, (97.937, 97.922)), ("v1-12-full", 6834, None), ("v1-30", 6835, None), ("v2-12", 4890, None)],
)
def test_a_published_accuracy_is_shown_only_for_the_same_task(
    task: str, clips: int, wanted: tuple[float, float] | None
) -> None:
    found = compare.published.published_accuracy("wrn_28_10", task, clips)
    assert (found and found[:2]) == wanted


def test_the_test_sizes_of_published_accuracies_are_those_of_the_tasks() -> None:
    known = compare.published.TEST_CLIPS
    assert {name: tasks.load(name).clips["test"] for name in known} == known
    assert {task for _, task in compare.published.PUBLISHED} == set(known)


def test_runs_of_two_tasks_are_two_tables(tmp_path: Path) -> None:
    runs = [make(tmp_path / task, "tc_resnet8", [0], task=task) for task in ("v1-12", "mine", "v1-12 again")]
    found = compare.compare([*runs, make(tmp_path / "more", "res8", [1], task="mine")])
    assert sorted(len(group) for group in found.groups) == [1, 1, 2]
    assert len({compare_text.title(group) for group in found.groups}) == 3


def test_every_published_network_is_in_the_registry() -> None:
    from kws.models import registry

    assert {name for name, _ in compare.published.PUBLISHED} <= set(registry.MODELS)


def test_markdown_csv_and_picture_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make(tmp_path / "one|two", "tc_resnet8", [0], crop=1), make(tmp_path / "x" / HOSTILE, "tc_resnet8", [1, 2])]
    out = tmp_path / "new" / "folder"
    assert cli.main(["compare", *map(str, runs), "--json", "--out", str(out)]) == cli.OK
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["accuracy"] for row in rows] == [59 / 60, 58 / 60]
    assert rows[1]["mcnemar"] == {"against": str(runs[0]), "only_this": 1, "only_other": 2, "p": 1.0}
    assert sorted(path.name for path in out.iterdir()) == sorted(compare_text.FILES)
    text = (out / "comparison.md").read_text()
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert "<img" not in text
    with (out / "comparison.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["run"] for line in lines] == list(map(str, runs))
    assert (lines[0]["crop_accuracy"], lines[1]["mcnemar_only_other"]) == (str(59 / 60), "2")
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, file = make(tmp_path / "run", "tc_resnet8", [0]), tmp_path / "file"
    file.touch()
    assert cli.main(["compare", str(run), "--out", str(file / "below")]) == cli.USAGE
    assert f"{file}/below" in capsys.readouterr().err


def test_compare_does_not_import_torch(tmp_path: Path) -> None:
    run = make(tmp_path / "run", "tc_resnet8", [0])
    code = f"import sys; from kws import cli; cli.main(['compare', {str(run)!r}]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
