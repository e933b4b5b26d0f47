"""Evaluation: crops computed by hand, a network with a known confusion matrix, files written, several runs at once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kws import cli
from kws.corpus import tasks
from kws.data.excerpt import Excerpt
from kws.data.index import Index
from kws.distributed.ranks import Ranks
from kws.errors import UsageError
from kws.evaluation import evaluate
from kws.evaluation.evaluate import (
    EvaluationData,
    EvaluationStopped,
    RunEvaluation,
    crops,
    evaluate_split,
    whole_clip,
)
from kws.evaluation.trained import Trained
from kws.models.cost import count_parameters, multiply_adds
from tests.conftest import train_here

pytestmark = pytest.mark.xdist_group("evaluate")  # the shared fixtures are made once

CPU = torch.device("cpu")
ONE = Ranks(0, 1, CPU, 1, None)  # type: ignore[arg-type]


def test_crops_are_the_clip_and_three_shorter_ones_padded_with_their_edge_frames() -> None:
    clip = torch.arange(5.0).expand(1, 1, 2, 5)
    found = [view[0, 0, 1].tolist() for view in crops(clip)]
    assert found == [[0, 1, 2, 3, 4], [0, 0, 1, 2, 2], [1, 1, 2, 3, 3], [2, 2, 3, 4, 4]]
    assert [tuple(view.shape) for view in crops(torch.zeros(3, 1, 32, 32))] == [(3, 1, 32, 32)] * 4


def test_crops_of_too_few_frames_are_refused() -> None:
    with pytest.raises(UsageError, match="2 frames, wanted 3"):
        crops(torch.zeros(1, 1, 40, 2))


class ByFrame(nn.Module):
    """A network whose logits are the second frame of three bands."""

    def forward(self, features: Tensor) -> Tensor:
        return features[:, 0, :3, 1] + 1


class Ramp(nn.Module):
    """Features (B, 1, 3, 4) that depend only on frame and band."""

    def forward(self, wave: Tensor) -> Tensor:
        image = torch.arange(12.0).reshape(3, 4) * torch.tensor([[1.0], [0.5], [-0.2]])
        return image.expand(len(wave), 1, 3, 4)


def test_crops_average_the_softmaxes_of_the_four_views(tones: Index) -> None:
    task = tasks.resolve(tasks.words_task(tones.words), tones.words)
    data = EvaluationData(index=tones, split="test", task=task, excerpt=Excerpt(16000))
    plain = evaluate_split(ByFrame(), Ramp(), data, ONE)
    cropped = evaluate_split(ByFrame(), Ramp(), dataclasses.replace(data, views=crops), ONE)
    image = Ramp()(torch.zeros(1, 1))
    each = [torch.softmax(ByFrame()(view).double(), dim=1)[0].numpy() for view in crops(image)]
    np.testing.assert_allclose(plain.probabilities, np.tile(each[0], (len(plain.clips), 1)), rtol=1e-6)
    np.testing.assert_allclose(cropped.probabilities, np.tile(np.mean(each, 0), (len(plain.clips), 1)), rtol=1e-6)
    np.testing.assert_allclose(cropped.loss, -np.log(np.mean(each, 0))[cropped.truth].mean(), rtol=1e-6)
    assert not np.allclose(plain.probabilities, cropped.probabilities)


def test_the_whole_clip_is_one_view() -> None:
    clip = torch.rand(2, 1, 4, 6)
    (view,) = whole_clip(clip)
    assert view is clip


class Pitch(nn.Module):
    """A network that recognises `low` (200 Hz) and `high` (600 Hz), and confuses `mid` (400 Hz) with `high`."""

    def forward(self, power: Tensor) -> Tensor:
        found = power.argmax(dim=1)
        band = torch.bucketize(found, torch.tensor([300, 500]))
        return 4.0 * nn.functional.one_hot(torch.where(band == 1, 2, band), 3).float()


class Spectrum(nn.Module):
    """The magnitude spectrum of one second, 1 Hz per bin."""

    def forward(self, wave: Tensor) -> Tensor:
        return torch.fft.rfft(wave.float()).abs()


def test_a_network_with_known_answers_has_the_expected_figures(tones: Index) -> None:
    definition = tasks.Definition(name="by pitch", classes=("low", "mid", "high"))
    task = tasks.resolve(definition, tones.words)
    data = EvaluationData(index=tones, split="test", task=task, excerpt=Excerpt(16000))
    result = evaluate_split(Pitch(), Spectrum(), data, ONE)
    summary = result.summary("test", task.classes, {"network": "pitch"})
    low, mid, high = (int((result.truth == label).sum()) for label in range(3))
    assert min(low, mid, high) > 0
    assert summary["confusion"] == [[low, 0, 0], [0, 0, mid], [0, 0, high]]
    assert summary["accuracy"] == (low + high) / (low + mid + high)
    assert summary["top5"] == 1.0
    assert summary["most_confused"] == [{"truth": "mid", "predicted": "high", "clips": mid, "share": 1.0}]
    confidence = float(torch.softmax(torch.tensor([4.0, 0, 0]), 0)[0])
    assert summary["calibration_error"] == pytest.approx(abs(confidence - summary["accuracy"]), abs=1e-6)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


@pytest.mark.parametrize("stop_at", [0, 1])
def test_a_stopped_evaluation_raises_and_restores_the_mode(tones: Index, stop_at: int) -> None:
    task = tasks.resolve(tasks.words_task(tones.words), tones.words)
    data, model, asked = (
        EvaluationData(index=tones, split="train", task=task, excerpt=Excerpt(16000)),
        ByFrame().train(),
        [],
    )

    def should_stop() -> bool:
        asked.append(True)
        return len(asked) > stop_at

    with pytest.raises(EvaluationStopped):
        evaluate_split(model, Ramp(), data, ONE, should_stop)
    assert model.training


# --- of runs --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tones: Index, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of one epoch, with different networks."""
    folder = tmp_path_factory.mktemp("runs")
    names = ("tc_resnet8", "matchboxnet_3x1x64")
    for name in names:
        settings = (f"data.shards={tones.root}", f"model.name={name}", "frontend.augment=none")
        assert train_here(folder / name, *settings)[0] == 0
    return [folder / name for name in names]


@pytest.mark.slow
def test_several_runs_are_evaluated_one_after_the_other(
    runs: list[Path], tones: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", *map(str, runs), "--json"]) == cli.OK
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["network"] for row in rows] == ["tc_resnet8", "matchboxnet_3x1x64"]
    for run, row in zip(runs, rows, strict=True):
        assert row == json.loads((run / "eval" / "test.json").read_text())
        assert (row["corpus_id"], row["task"], row["crop"]) == (tones.content_id, "words", False)
        trained = Trained.from_run(run, "best_accuracy", CPU)
        assert row["parameters"] == count_parameters(trained.network)
        assert row["multiply_adds"] == multiply_adds(trained.network, (1, 32, 32))
        assert (run / "eval" / "test.png").stat().st_size > 5_000


def test_a_result_with_crops_is_written_beside_the_plain_one(
    runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs[0]
    plain = evaluate.evaluate_run(RunEvaluation(run=run), ONE)
    assert cli.main(["evaluate", str(run), "--crop"]) == cli.OK
    out = capsys.readouterr().out
    assert f"{run}: test, with crops: accuracy " in out
    assert "most confused" in out
    crop = json.loads((run / "eval" / "test-crop.json").read_text())
    assert (crop["split"], crop["crop"], crop["n"]) == ("test", True, plain["n"])
    assert crop["loss"] != plain["loss"]
    assert json.loads((run / "eval" / "test.json").read_text()) == plain
    saved = np.load(run / "eval" / "test-crop.clips.npz")
    assert saved["probabilities"].sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    assert (run / "eval" / "test-crop.png").stat().st_size > 5_000


def test_nothing_is_evaluated_where_one_folder_is_not_a_run(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", str(runs[0]), str(tmp_path), "--split", "valid"]) == cli.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert str(tmp_path) in err
    assert not (runs[0] / "eval" / "valid.json").exists()


def test_processes_start_on_the_cpu_only_where_every_run_was_trained_there(runs: list[Path], tmp_path: Path) -> None:
    text = (runs[0] / "config.toml").read_text()
    other = tmp_path / "gpu"
    other.mkdir()
    (other / "config.toml").write_text(text.replace('device = "cpu"', 'device = "cuda"'))
    assert evaluate.process_settings(runs).device == "cpu"
    found = evaluate.process_settings([*runs, other])
    assert (found.device, found.processes, found.threads) == ("auto", 0, 1)
