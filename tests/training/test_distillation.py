"""train.teacher: the loss against its formula in float64, what the teachers hear, refusals, resuming, and a device."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kws import settings_file
from kws.audio.augment import AugmentationChain
from kws.audio.features import Features
from kws.config import FrontEndConfig, TrainConfig, preset
from kws.data.index import Index
from kws.data.reader import read_noise
from kws.data.training_set import TrainingSet
from kws.errors import UsageError
from kws.evaluation.trained import Trained
from kws.run.checkpoint import Checkpoints
from kws.training.distillation import Teachers
from tests.conftest import train_here
from tests.training.test_step import CPU, EPOCH, SEED, Run

pytestmark = pytest.mark.xdist_group("distillation")  # the teachers are trained once
ORDER = ("mid", "high", "low")
"""Classes of the second teacher; the students have them in the order of the alphabet."""


@pytest.fixture(scope="module")
def teachers(tones: Index, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Runs: one with mel32 and averaged weights; one with mfcc40 of its own normalisation, and its classes in ORDER."""
    folder = tmp_path_factory.mktemp("teachers")
    task = folder / "turned.toml"
    task.write_text(f'classes = {json.dumps(ORDER)}\nothers = "drop"\n')
    common = (f"data.shards={tones.root}", "data.epoch_clips=64", "frontend.augment=none")
    other = ("frontend.features=mfcc40", "frontend.normalise=corpus", f"data.task={task}")
    assert train_here(folder / "same", *common, "train.ema=0.5")[0] == 0
    assert train_here(folder / "other", *common, *other)[0] == 0
    return str(folder / "same"), str(folder / "other")


def student_of(tones: Index, names: tuple[str, ...], frontend: FrontEndConfig, **train: Any) -> Run:
    return Run(tones, frontend, teacher=names, **train)


def softmax(logits: Tensor, temperature: float) -> np.ndarray:
    """Of logits (B, C), in float64."""
    powers = np.exp(logits.detach().double().numpy() / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


# --- the loss -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "weight", "mix"), [(2.0, 0.9, 0.7), (4.0, 0.3, 0.0), (1.0, 1.0, 0.0)])
def test_the_loss_of_a_step_is_that_of_the_formula(
    tones: Index, teachers: tuple[str, str], temperature: float, weight: float, mix: float
) -> None:
    frontend = preset("none", features="mel32", mixup_probability=mix)
    settings = {"teacher_temperature": temperature, "teacher_weight": weight, "label_smoothing": 0.1}
    run, plain = student_of(tones, teachers, frontend, **settings), Run(tones, frontend, label_smoothing=0.1)
    same, other = (Trained.from_run(Path(name), "best_accuracy", CPU) for name in teachers)
    assert same.weights == "ema"
    order = [other.classes.index(name) for name in run.training_set.task.classes]
    assert order != [0, 1, 2]
    divergence = 0.0
    for slot, batch in enumerate(run.batches):
        heard = other.features(batch.wave)
        with torch.no_grad():
            theirs = other.network(run.mixup(slot).features(heard) if mix else heard)
            ours = same.network(run.network.inputs[slot])
        target = (softmax(ours, temperature) + softmax(theirs, temperature)[:, order]) / 2
        student = softmax(run.network.logits[slot], temperature)
        divergence += float((target * np.log(target / student)).sum())
    wanted = (1 - weight) * plain.outcome.loss + weight * temperature**2 * divergence
    assert run.outcome.loss == pytest.approx(wanted, rel=2e-5)
    assert (run.outcome.correct, run.outcome.clips) == (plain.outcome.correct, plain.outcome.clips)


def test_the_gradient_reaches_the_student_alone(tones: Index, teachers: tuple[str, str]) -> None:
    run = student_of(tones, teachers, preset("none", features="mel32"), teacher_weight=1.0)
    members = Teachers.load(run.training_set, CPU)
    assert members is not None
    probabilities = members.probabilities([f(run.batches[0].wave) for f in members.features])
    assert not probabilities.requires_grad
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(len(probabilities)))
    assert not any(m.trained.network.training for m in members.members)
    assert all(p.grad is None for m in members.members for p in m.trained.network.parameters())
    logits = torch.zeros(2, 3, requires_grad=True)
    members.loss(logits, torch.tensor([[1.0, 0.0, 0.0], [1 / 3] * 3]), torch.zeros(())).backward()
    # T^2 x (softmax - target) / T, with T = 2.
    torch.testing.assert_close(logits.grad, 2 * torch.tensor([[-2 / 3, 1 / 3, 1 / 3], [0.0] * 3]))


# --- what teachers hear ---------------------------------------------------------------------------------------


class Listening(torch.nn.Module):
    """Keeps what a teacher hears."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network, self.heard = network, list[Tensor]()

    def forward(self, features: Tensor) -> Tensor:
        self.heard.append(features)
        logits: Tensor = self.network(features)
        return logits


def test_teachers_hear_the_draws_of_the_student(
    tones: Index, teachers: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    built = Trained.from_run

    def listening(*arguments: Any) -> Trained:
        trained = built(*arguments)
        trained.network = Listening(trained.network).eval()
        return trained

    monkeypatch.setattr(Trained, "from_run", listening)
    run = student_of(tones, teachers, preset("modern", features="mel32"))
    members = run.stepper._teachers
    assert members is not None
    same, other = (member.trained for member in members.members)
    assert isinstance(same.network, Listening)
    assert isinstance(other.network, Listening)
    # By a chain of its own: band masks of up to 6 of 32 bands are up to 8 of 40.
    frontend = preset("modern", features="mfcc40", band_mask_bands=8)
    chain = AugmentationChain(frontend, other.features, SEED, read_noise(tones, "train"), 16000, CPU)
    for slot, batch in enumerate(run.batches):
        assert same.network.heard[slot] is run.network.inputs[slot]
        wanted = chain(batch.wave, batch.lengths.numpy(), batch.draws.numpy(), EPOCH)
        assert torch.equal(other.network.heard[slot], wanted)


COARSE, FINE = Features("mel40"), Features("logmel40")  # hops of 32 and 10 ms


def both_chains(**settings: Any) -> tuple[AugmentationChain, AugmentationChain]:
    """Chains with the same settings, for COARSE, in whose frames these count, and FINE."""
    chain = AugmentationChain(preset("none", features="mel40", **settings), COARSE, SEED, [], 16000, CPU)
    return chain, chain.with_features(FINE)


def test_shifts_by_frames_have_the_same_length_in_ms_with_other_features() -> None:
    draws, click = np.arange(32), torch.zeros(32, 16000)
    click[:, 8000] = 1.0
    chains = both_chains(frame_shift_probability=1.0)
    coarse, fine = (
        chain(click, np.full(32, 16000), draws, EPOCH)[:, 0].mean(dim=1).argmax(dim=1).numpy() * features.spec.hop
        for chain, features in zip(chains, (COARSE, FINE), strict=True)
    )
    assert np.ptp(coarse) > 3000  # the settings allow 8 frames of 512 samples, to both sides
    assert np.abs(coarse - fine).max() <= 2048  # the window of COARSE: the click is in four of its frames
    assert np.corrcoef(coarse, fine)[0, 1] > 0.97


def test_time_masks_have_the_same_place_in_ms_with_other_features() -> None:
    draws, places = np.arange(200), []
    for chain, features in zip(both_chains(time_masks=1), (COARSE, FINE), strict=True):
        masked = chain.masks(draws, EPOCH, 40, features.spec.num_frames(16000)).frames
        assert masked is not None
        times = np.arange(masked.shape[1]) * features.spec.hop
        hidden = masked.numpy()
        assert 0.15 * 16000 < hidden.sum(axis=1).max() * features.spec.hop <= 0.21 * 16000
        places.append((hidden * times).sum(axis=1) / np.maximum(hidden.sum(axis=1), 1))
    both = (places[0] > 0) & (places[1] > 0)
    assert both.sum() > 100
    assert np.abs(places[0] - places[1])[both].max() <= 2 * COARSE.spec.hop


# --- refusals and resuming ------------------------------------------------------------------------------------


def refused(tones: Index, *settings: str) -> str:
    """The message about teachers that these settings name."""
    training_set = TrainingSet(settings_file.from_overrides([f"data.shards={tones.root}", *settings]))
    with pytest.raises(UsageError, match=r"train\.teacher") as error:
        Teachers.load(training_set, CPU)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_runs_that_cannot_teach_are_refused(tones: Index, teachers: tuple[str, str], tmp_path: Path) -> None:
    same, _ = teachers
    two = tmp_path / "two.toml"
    two.write_text('classes = ["low", "high"]\nothers = "drop"\n')
    assert "mid" in refused(tones, f"train.teacher={same}", f"data.task={two}")
    assert "unknown" in refused(tones, f"train.teacher={same}", "data.task=unknown,low,high")
    assert "1.5" in refused(tones, f"train.teacher={same}", "data.clip_seconds=1.5")
    assert "nowhere" in refused(tones, f"train.teacher={same}, nowhere")
    young = shutil.copytree(same, tmp_path / "young")
    (young / "checkpoints" / "best_accuracy").unlink()
    assert "evaluated" in refused(tones, f"train.teacher={young}")


@pytest.mark.parametrize("setting", ["teacher=3", "teacher=[1]", "teacher_temperature=0", "teacher_weight=1.5"])
def test_values_that_are_not_settings_of_a_teacher_are_refused(setting: str) -> None:
    with pytest.raises(UsageError, match=rf"train: teacher|train\.{setting.partition('=')[0]}"):
        settings_file.from_overrides([f"train.{setting}"])


def test_a_list_and_a_text_with_commas_name_the_same_teachers() -> None:
    for text in ('["a", "b c"]', "a, b c", '"a,b c"'):
        assert settings_file.from_overrides([f"train.teacher={text}"]).train.teacher == ("a", "b c")
    assert settings_file.from_overrides(["train.teacher="]).train == TrainConfig()
    home = settings_file.from_overrides(["train.teacher=~/a"]).train.teacher
    assert home == (str(Path.home() / "a"),)


def test_a_run_resumes_with_the_weights_of_its_teacher_and_no_others(
    tones: Index, teachers: tuple[str, str], tmp_path: Path
) -> None:
    teacher, run = shutil.copytree(teachers[0], tmp_path / "teacher"), tmp_path / "run"
    common = (f"data.shards={tones.root}", "frontend.augment=none", "data.epoch_clips=64")
    more = ("train.epochs=2", "train.allow_change=epochs")
    code, output = train_here(run, *common, f"train.teacher={teacher}")
    assert code == 0
    (recorded,) = json.loads((run / "run.json").read_text())["teachers"]
    assert f"{recorded['valid_accuracy']:.2%}" in output
    moved = teacher.rename(tmp_path / "moved")
    with pytest.raises(UsageError, match=r"train\.teacher: .* none now"):
        train_here(run, *common, *more)
    # The teacher has trained on: its best checkpoint is another one.
    checkpoints = Checkpoints(moved)
    first = checkpoints.find("best_accuracy")
    weights = {name: value + 1 for name, value in first.model().items()}
    better = checkpoints.save(weights, first.optimizer(), first.state, "step-00000099", ema=weights)
    checkpoints.move_pointer("best_accuracy", better)
    assert train_here(run, *common, f"train.teacher={moved}", *more)[0] == 0
    assert json.loads((run / "run.json").read_text())["teachers"][0]["sha256"] == recorded["sha256"]
    shutil.rmtree(first.path)
    with pytest.raises(UsageError, match=r"train\.teacher: .* there, .*step-00000099"):
        train_here(run, *common, f"train.teacher={moved}", *more)


@pytest.mark.slow
def test_a_teacher_of_another_corpus_is_noted(
    tones: Index, noisy: Index, teachers: tuple[str, str], tmp_path: Path
) -> None:
    settings = ("data.clip_seconds=1.0", "frontend.augment=none", f"train.teacher={teachers[0]}")
    code, output = train_here(tmp_path / "run", f"data.shards={noisy.root}", "data.epoch_clips=32", *settings)
    assert code == 0
    assert tones.content_id[:12] in output
