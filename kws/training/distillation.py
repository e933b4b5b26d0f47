"""Knowledge distillation: the trained networks that train.teacher names, and the student's loss with them.

    augmented features of a slot, those that the student gets -> every teacher, in evaluation mode, without gradient
    -> softmax(logits / T), in the order of the student's classes -> mean over the teachers, (B, C)
    loss of a clip = (1 - w) * cross entropy + w * T^2 * KL(teachers' probabilities || student's softmax(logits / T))

T is train.teacher_temperature, w train.teacher_weight. A slot's probabilities depend on its clips and the teachers
alone, so they are the same on any number of ranks and after a resume.

Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531, section 2.
Teachers that hear the very clip that the student hears: Beyer et al., "Knowledge distillation: A good teacher is
patient and consistent", CVPR 2022, arXiv 2106.05237.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kws.audio.features import Features
from kws.config import TrainConfig
from kws.data.training_set import TrainingSet
from kws.distributed.ranks import Ranks
from kws.errors import UsageError, unreadable
from kws.evaluation.trained import Trained
from kws.training.forward import ForwardPass, NoWatchdog

_SETTING = "train.teacher"


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A network that teaches. run: as in the settings. sha256: of the file with its weights. outputs: its output for
    each class of the student, (C,) on the device."""

    run: str
    trained: Trained
    sha256: str
    outputs: Tensor

    def describe(self) -> dict[str, Any]:
        """For run.json and --check."""
        trained = self.trained
        return {
            "run": self.run,
            "checkpoint": trained.checkpoint.name,
            "weights": trained.weights,
            "sha256": self.sha256,
            "network": trained.config.model.name,
            "parameters": sum(p.numel() for p in trained.network.parameters()),
            "features": trained.features.name,
            "valid_accuracy": trained.checkpoint.state["best_accuracy"],
        }


class Teachers:
    """One or more teachers, with what the settings say about them."""

    def __init__(
        self, members: Sequence[Teacher], settings: TrainConfig, device: torch.device, notes: Sequence[str] = ()
    ) -> None:
        self.members, self.notes = tuple(members), tuple(notes)
        self._temperature, self._weight = settings.teacher_temperature, settings.teacher_weight
        for teacher in members:
            teacher.trained.network.requires_grad_(False)
            if settings.channels_last:
                teacher.trained.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._networks = [ForwardPass(m.trained.network, settings, device, NoWatchdog()) for m in members]

    @classmethod
    def load(
        cls, training_set: TrainingSet, device: torch.device, recorded: Sequence[dict[str, Any]] = ()
    ) -> Teachers | None:
        """The teachers that the settings name; None where they name none.

        recorded: what the run that resumes recorded about its teachers (`describe`). A teacher may have trained on, so
        its recorded checkpoint is used for as long as it exists; run.json then shows whether the weights are the same.
        Raises UsageError for a run that cannot be read, and for one with other classes or another clip length.
        """
        settings = training_set.config.train
        if not settings.teacher:
            return None
        names = [str(row.get("checkpoint", "")) for row in recorded]
        if len(names) != len(settings.teacher):
            names = [""] * len(settings.teacher)
        members, notes = [], []
        for run, name in zip(settings.teacher, names, strict=True):
            trained, sha256 = _load(Path(run), name, device)
            _check(run, trained, training_set)
            order = [trained.classes.index(word) for word in training_set.task.classes]
            members.append(Teacher(run, trained, sha256, torch.tensor(order, device=device)))
            notes += _notes(run, trained, training_set)
        return cls(members, settings, device, notes)

    @property
    def features(self) -> list[Features]:
        """The features of each teacher."""
        return [teacher.trained.features for teacher in self.members]

    @torch.no_grad()
    def probabilities(self, inputs: Sequence[Tensor]) -> Tensor:
        """Features (B, 1, F, N) for each teacher -> mean of their probabilities at the temperature, (B, C) float32."""
        found = [
            torch.softmax(network(features) / self._temperature, dim=1).index_select(1, teacher.outputs)
            for network, teacher, features in zip(self._networks, self.members, inputs, strict=True)
        ]
        return torch.stack(found).mean(dim=0)

    def loss(self, logits: Tensor, probabilities: Tensor, cross_entropy: Tensor) -> Tensor:
        """The student's loss, summed over the clips, (): of its logits (B, C), the teachers' probabilities (B, C) and
        its own cross entropy, summed, ()."""
        student = nn.functional.log_softmax(logits / self._temperature, dim=1)
        divergence = nn.functional.kl_div(student, probabilities, reduction="sum")
        return (1.0 - self._weight) * cross_entropy + self._weight * self._temperature**2 * divergence

    def describe(self) -> list[dict[str, Any]]:
        """For run.json and --check."""
        return [teacher.describe() for teacher in self.members]

    def num_bytes(self) -> int:
        """Memory of the weights."""
        networks = [teacher.trained.network for teacher in self.members]
        return sum(value.numel() * value.element_size() for n in networks for value in n.state_dict().values())

    def refuse_unequal(self, ranks: Ranks) -> None:
        """Raises UsageError on all ranks where they found different checkpoints: a teacher that is being trained may
        move its best one meanwhile. All ranks call it together."""
        found = ranks.gather([teacher.sha256 for teacher in self.members])
        if any(other != found[0] for other in found):
            raise UsageError(f"{_SETTING}: a teacher's best checkpoint changed during the start; start the run again")


def teacher_line(row: dict[str, Any]) -> str:
    """A teacher that `describe` described, for people."""
    return (
        f"{row['run']}: {row['network']}, {row['parameters']:,} parameters, {row['features']}, "
        f"{row['valid_accuracy']:.2%} on its valid split ({row['checkpoint']})"
    )


def _load(run: Path, recorded: str, device: torch.device) -> tuple[Trained, str]:
    """The network of a run, and the sha256 of its weights: its recorded checkpoint, else the one with the best accuracy
    as for `kws evaluate`. The run is not locked: it may be training, and may delete the checkpoint later."""
    checkpoints = run / "checkpoints"
    name = recorded if recorded and (checkpoints / recorded).is_dir() else "best_accuracy"
    if (run / "config.toml").is_file() and not (checkpoints / name).exists():
        raise UsageError(f"{_SETTING}: {run}: no epoch has been evaluated yet; wanted a run with a best checkpoint")
    try:
        trained = Trained.from_run(run, name, device)
        return trained, trained.checkpoint.sha256(f"{trained.weights}.safetensors")
    except UsageError as error:
        raise UsageError(f"{_SETTING}: {error}") from error
    except OSError as error:
        raise unreadable(error, f"{_SETTING}: {run}", "wanted a run folder with a best checkpoint") from error


def _check(run: str, trained: Trained, training_set: TrainingSet) -> None:
    """Raises UsageError where the network cannot teach this student."""
    theirs, ours = set(trained.classes), set(training_set.task.classes)
    if theirs != ours:
        parts = {"lacks": ours - theirs, "also has": theirs - ours}
        found = " and ".join(f"{what} {', '.join(sorted(words))}" for what, words in parts.items() if words)
        raise UsageError(f"{_SETTING}: {run} {found}; wanted a run with the {len(ours)} classes of this one")
    if trained.samples != training_set.samples:
        length, own = trained.config.data.clip_seconds, training_set.config.data.clip_seconds
        raise UsageError(
            f"{_SETTING}: {run} was trained on clips of {length} s, this run has {own} s; wanted a teacher with clips "
            f"of {own} s, or --set data.clip_seconds={length}"
        )


def _notes(run: str, trained: Trained, training_set: TrainingSet) -> list[str]:
    corpus = trained.checkpoint.state["corpus_id"]
    if corpus == training_set.index.content_id:
        return []
    return [
        f"{_SETTING}: {run} was trained on another corpus ({corpus[:12]}): if its train split has speakers of this "
        "one's valid or test split, the student's scores there are too high"
    ]
