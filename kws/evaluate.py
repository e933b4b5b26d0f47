"""A network on a split: every clip once, the same bits on any number of processes.

clip ids 0..n-1 -> fixed batches, dealt whole to the ranks -> logits -> gathered, ordered by batch -> counts
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kws import metrics
from kws.audio.codec import SAMPLE_RATE_HZ
from kws.config import Config
from kws.corpus import tasks
from kws.corpus.tasks import Task
from kws.data import index as index_file
from kws.data import silence
from kws.data.index import Index
from kws.data.plan import Slot
from kws.data.store import USUAL, Caching
from kws.data.stream import Batch, Reader, stream
from kws.errors import UsageError
from kws.runfolder import write_json
from kws.runtime import Runtime
from kws.trained import Trained

BATCH = 64
"""Clips a batch. Fixed: the last bits of a clip's logits hang on the batch it is in."""
TOP = 5


@dataclasses.dataclass(frozen=True)
class Result:
    """A split's outcome, the clips in order of id: ids and truth (n,), probabilities (n, C), mean loss in nats."""

    clips: npt.NDArray[np.int64]
    truth: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    loss: float

    @property
    def prediction(self) -> npt.NDArray[np.int64]:
        """The most probable class, (n,)."""
        best: npt.NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return best

    @property
    def accuracy(self) -> float:
        """Fraction of the clips."""
        return float((self.prediction == self.truth).mean())

    def top(self, count: int = TOP) -> npt.NDArray[np.int64]:
        """The `count` most probable classes of each clip, best first, (n, count)."""
        return np.argsort(-self.probabilities, axis=1, kind="stable")[:, :count]


class Stopped(Exception):  # noqa: N818  # no error
    """An evaluation that was asked to end before its last batch."""


def evaluate_split(
    model: nn.Module, features: nn.Module, index: Index, split: str, task: Task, samples: int, runtime: Runtime,
    workers: int = 0, caching: Caching = USUAL, go_on: Callable[[], bool] = lambda: True,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Result:  # fmt: skip
    """The network (in whatever mode it is; put back after) on every clip of the split that the task has.

    `go_on` is asked before each batch; `told` hears how many of this rank's are done, of how many. Every rank returns
    the whole result. Raises UsageError where the split has no such clip; Stopped on every rank where one was not to
    go on.
    """
    clips = clips_of(index, split, task)
    reader = Reader(index, split, task.class_of, samples, caching=caching)
    mine = functools.partial(_batches, clips, runtime.rank, runtime.world_size)
    was_training = model.training
    model.eval()
    with torch.inference_mode(), closing(stream(mine, reader, workers if len(clips) > 32 * BATCH else 0)) as batches:
        taken = _counted(itertools.takewhile(lambda _: go_on(), batches), sum(1 for _ in mine()), told)
        parts = runtime.together(lambda: [_outcome(model, features, batch, runtime.device) for batch in taken])
    model.train(was_training)
    if not all(runtime.gather(go_on())):
        raise Stopped
    gathered = sorted((part for parts in runtime.gather(parts) for part in parts), key=lambda part: part[0])
    result = Result(
        np.concatenate([part[1] for part in gathered]),
        np.concatenate([part[2] for part in gathered]),
        np.concatenate([part[3] for part in gathered]),
        sum(part[4] for part in gathered) / len(clips),
    )
    assert np.array_equal(result.clips, clips), f"{split}: every clip once, in order"
    return result


def clips_of(index: Index, split: str, task: Task) -> npt.NDArray[np.int64]:
    """Ids of the split's clips that the task has, (n,). Raises UsageError where there is none."""
    if split == "noise":
        raise UsageError(f"{index.root}: split noise has no words to recognise; use --split test, valid or train")
    labels = np.asarray(task.class_of)[index.split(split).columns["word"].astype(np.int64)]
    clips = np.flatnonzero(labels >= 0)
    if len(clips) == 0:
        raise UsageError(f"{index.root}: split {split} has no clip of the classes {', '.join(task.classes)}")
    return clips


def _batches(clips: npt.NDArray[np.int64], rank: int, world_size: int) -> Iterator[Slot]:
    for number in range(rank, -(-len(clips) // BATCH), world_size):
        ids = clips[number * BATCH : (number + 1) * BATCH]
        yield Slot(number, 0, ids, ids)


def _counted(batches: Iterable[Batch], total: int, told: Callable[[int, int], None]) -> Iterator[Batch]:
    for done, batch in enumerate(batches):
        told(done, total)
        yield batch


_Outcome = tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32], float]


def _outcome(model: nn.Module, features: nn.Module, batch: Any, device: torch.device) -> _Outcome:
    logits = model(features(batch.wave.to(device))).float()
    logs = torch.log_softmax(logits.double(), dim=1).cpu()
    loss = -logs.gather(1, batch.labels[:, None]).sum().item()
    return batch.step, batch.clips.numpy(), batch.labels.numpy(), logs.exp().float().numpy(), loss


def evaluate_run(run: Path, split: str, checkpoint: str, shards: Path | None, runtime: Runtime) -> dict[str, Any]:
    """Evaluates a run's checkpoint on a split; rank 0 writes RUN/eval/SPLIT.json and SPLIT.clips.npz.

    `shards`: where the corpus lies now, if it moved; its content must be the run's. Raises UsageError otherwise.
    """
    trained = runtime.together(lambda: Trained.from_run(run, checkpoint, runtime.device))
    config, state = trained.config, trained.checkpoint.state
    index = runtime.together(lambda: _corpus(config, shards))
    if index.content_id != state["corpus_id"]:
        raise UsageError(
            f"{index.root}: corpus {index.content_id}, {run} was trained on {state['corpus_id']}; "
            "give the folder of that one with --shards"
        )
    task = tasks.onto(trained.classes, index.words)
    result = evaluate_split(
        trained.network, trained.features, index, split, task, trained.samples, runtime, config.data.workers,
        Caching.of(config.data),
    )  # fmt: skip
    facts = {
        "network": config.model.name,
        "checkpoint": trained.checkpoint.path.name,
        "weights": trained.weights,
        "step": state["step"],
        "epoch": state["epoch"],
    }
    summary = summarise(result, split, trained.classes, facts)
    runtime.on_main(lambda: write(run / "eval", split, result, summary))
    return summary


def _corpus(config: Config, shards: Path | None) -> Index:
    """The run's corpus as it was trained on."""
    index = index_file.load(shards or Path(config.data.shards))
    return silence.add(index, config.data.silence, round(config.data.clip_seconds * SAMPLE_RATE_HZ))


def summarise(result: Result, split: str, classes: Sequence[str], facts: dict[str, Any]) -> dict[str, Any]:
    """The dict of `eval/SPLIT.json`: counts and figures, with `facts` (which network, which checkpoint) beside."""
    counts = metrics.confusion(result.truth, result.prediction, len(classes))
    inside = (result.top() == result.truth[:, None]).any(axis=1)
    figures = {"loss": result.loss, f"top{TOP}": float(inside.mean()), **metrics.summary(counts, classes)}
    return {"split": split, **facts, **figures}


def write(folder: Path, split: str, result: Result, summary: dict[str, Any]) -> None:
    """`eval/SPLIT.json`, and every clip in `eval/SPLIT.clips.npz` (clips, truth, top5, probabilities, classes)."""
    folder.mkdir(exist_ok=True)
    partial = folder / f".{split}.clips.npz"
    np.savez_compressed(
        partial, clips=result.clips, truth=result.truth, top5=result.top(),
        probabilities=result.probabilities, classes=np.array(summary["classes"]),
    )  # fmt: skip
    partial.replace(folder / f"{split}.clips.npz")
    write_json(folder / f"{split}.json", summary)
