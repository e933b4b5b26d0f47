"""A network on a split: every clip once, the same bits on any number of processes.

clip ids 0..n-1 -> fixed batches, dealt whole to the ranks -> one view of each clip, or four (crops) -> logits ->
probabilities, mean over the views -> gathered, ordered by batch -> counts
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from kws import files, metrics, models
from kws.config import TrainConfig
from kws.corpus.tasks import Task
from kws.data import index as index_file
from kws.data import selection
from kws.data.index import Index
from kws.data.plan import Slot
from kws.data.reader import Reader
from kws.data.store import DEFAULT_CACHE, CacheSettings
from kws.data.stream import Batch, SlotReader, stream_batches
from kws.distributed.ranks import Ranks
from kws.errors import UsageError
from kws.evaluation import mistakes
from kws.evaluation.trained import Trained
from kws.models.cost import multiply_adds
from kws.run import folder as run_folder

BATCH = 64
"""Clips a batch. Fixed: the last bits of a clip's logits hang on the batch it is in."""
TOP = 5
Views = Callable[[Tensor], Sequence[Tensor]]
"""Features (B, 1, F, N) -> what of them the network is shown, each of the same shape."""


def whole(features: Tensor) -> Sequence[Tensor]:
    """The clip as it is."""
    return (features,)


def crops(features: Tensor) -> Sequence[Tensor]:
    """The clip, and its three crops of N - 2 frames at offsets 0, 1 and 2, each brought back to N by repeating its
    first and its last frame. Raises UsageError below 3 frames."""
    frames = features.shape[-1]
    if frames < 3:
        raise UsageError(f"--crop: the features have {frames} frames, wanted 3 or more; leave --crop out")
    cut = [features[..., at : at + frames - 2] for at in range(3)]
    return (features, *(nn.functional.pad(part, (1, 1, 0, 0), mode="replicate") for part in cut))


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

    @property
    def calibration_error(self) -> float:
        """Expected calibration error, a fraction."""
        return metrics.calibration_error(self.probabilities.max(axis=1), self.prediction == self.truth)


class Stopped(Exception):  # noqa: N818  # no error
    """An evaluation that was asked to end before its last batch."""


def evaluate_split(
    model: nn.Module, features: nn.Module, index: Index, split: str, task: Task, samples: int, runtime: Ranks,
    workers: int = 0, caching: CacheSettings = DEFAULT_CACHE, go_on: Callable[[], bool] = lambda: True,
    told: Callable[[int, int], None] = lambda done, total: None, views: Views = whole,
) -> Result:  # fmt: skip
    """The network (in whatever mode it is; put back after) on every clip of the split that the task has.

    A clip's probabilities are the mean over its `views`, its loss that of this mean. `go_on` is asked before each
    batch; `told` hears how many of this rank's are done, of how many. Every rank returns the whole result. Raises
    UsageError where the split has no such clip; Stopped on every rank where one was not to go on.
    """
    clips = clips_of(index, split, task)
    reader = SlotReader(Reader(index, split, cache_settings=caching), task.class_of, samples)
    mine = functools.partial(_batches, clips, runtime.rank, runtime.world_size)
    was_training = model.training
    model.eval()
    with (
        torch.inference_mode(),
        closing(stream_batches(mine, reader, workers if len(clips) > 32 * BATCH else 0)) as batches,
    ):
        taken = _counted(itertools.takewhile(lambda _: go_on(), batches), sum(1 for _ in mine()), told)
        parts = runtime.on_all(lambda: [_outcome(model, features, views, batch, runtime.device) for batch in taken])
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
    found, labels = index.split(split), np.asarray(task.class_of)
    rows = (found.rows(number) for number in range(len(found.shards)))  # shard by shard: silence comes with each
    clips = np.sort(np.concatenate([some[labels[found.values("word", some)] >= 0] for some in rows]))
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


def _outcome(model: nn.Module, features: nn.Module, views: Views, batch: Any, device: torch.device) -> _Outcome:
    # View by view: so the clip as it is gets the same bits, whether there are crops beside it or not.
    seen = [model(view).float().double() for view in views(features(batch.wave.to(device)))]
    softmaxes = torch.stack([torch.log_softmax(logits, dim=1) for logits in seen])
    logs = (torch.logsumexp(softmaxes, dim=0) - math.log(len(seen))).cpu()
    loss = -logs.gather(1, batch.labels[:, None]).sum().item()
    return batch.step, batch.clips.numpy(), batch.labels.numpy(), logs.exp().float().numpy(), loss


def settings_of(runs: Sequence[Path]) -> TrainConfig:
    """How the processes start that evaluate these runs: of any number, and without a GPU what one trained."""
    settings = [run_folder.read_config(run).train for run in runs]
    device: Literal["cpu", "auto"] = "cpu" if all(each.device == "cpu" for each in settings) else "auto"
    threads = run_folder.recorded_threads(runs[0])
    return dataclasses.replace(settings[0], processes=0, threads=threads, device=device)


def evaluate_run(
    run: Path, split: str, checkpoint: str, shards: Path | None, runtime: Ranks, crop: bool = False,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:  # fmt: skip
    """Evaluates a run's checkpoint on a split; rank 0 writes RUN/eval/SPLIT.json, SPLIT.clips.npz and
    SPLIT.mistakes.npz, or SPLIT-crop.*.

    `shards`: where the corpus lies now, if it moved; its content must be the run's. `crop`: the mean over the clip and
    its crops. `told` hears of batches as in evaluate_split. Raises UsageError otherwise.
    """
    trained = runtime.on_all(lambda: Trained.from_run(run, checkpoint, runtime.device))
    # The last bits hang on them, and each of several runs began with its own.
    torch.set_num_threads(run_folder.recorded_threads(run) or runtime.threads)
    config, state = trained.config, trained.checkpoint.state
    index = runtime.on_all(lambda: index_file.load(shards or Path(config.data.shards)))
    if index.content_id != state["corpus_id"]:
        raise UsageError(
            f"{index.root}: corpus {index.content_id}, {run} was trained on {state['corpus_id']}; "
            "give the folder of that one with --shards"
        )
    chosen = runtime.on_all(lambda: selection.apply_task(index, trained.task, trained.samples))
    result = evaluate_split(
        trained.network, trained.features, chosen.index, split, chosen.task, trained.samples, runtime,
        config.data.workers, CacheSettings.from_config(config.data), told=told, views=crops if crop else whole,
    )  # fmt: skip
    summary = summarise(result, split, trained.classes, {"crop": crop, **facts_of(trained)})
    stem = run / "eval" / file_stem(split, crop)

    def save() -> None:
        stem.parent.mkdir(exist_ok=True)
        kept = stem.with_name(f"{stem.name}.mistakes.npz")
        mistakes.write(kept, trained, chosen.index, split, result.clips, result.truth, result.probabilities)
        write(stem, result, summary)

    runtime.on_main(save)
    return summary


def facts_of(trained: Trained) -> dict[str, Any]:
    """What was evaluated: network and its cost, task and corpus, checkpoint and its weights."""
    config, state = trained.config, trained.checkpoint.state
    return {
        "network": config.model.name,
        "parameters": models.count_parameters(trained.network),
        "multiply_adds": multiply_adds(trained.network, trained.features.shape(trained.samples)),
        "task": trained.task.name,
        "task_digest": trained.task.digest,
        "corpus_id": state["corpus_id"],
        "checkpoint": trained.checkpoint.path.name,
        "weights": trained.weights,
        "step": state["step"],
        "epoch": state["epoch"],
    }


def file_stem(split: str, crop: bool) -> str:
    """Of a result's files in RUN/eval."""
    return f"{split}-crop" if crop else split


def summarise(result: Result, split: str, classes: Sequence[str], facts: dict[str, Any]) -> dict[str, Any]:
    """The dict of `eval/SPLIT.json`: counts and figures, with `facts` (which network, which checkpoint) beside."""
    counts = metrics.confusion_matrix(result.truth, result.prediction, len(classes))
    inside = (result.top() == result.truth[:, None]).any(axis=1)
    figures = {
        "loss": result.loss,
        f"top{TOP}": float(inside.mean()),
        "calibration_error": result.calibration_error,
        **metrics.summarise_confusion(counts, classes),
    }
    return {"split": split, **facts, **figures}


def write(stem: Path, result: Result, summary: dict[str, Any]) -> None:
    """STEM.json, and every clip in STEM.clips.npz (clips, truth, top5, probabilities, classes)."""
    partial = stem.with_name(f".{stem.name}.clips.npz")
    np.savez_compressed(
        partial, clips=result.clips, truth=result.truth, top5=result.top(),
        probabilities=result.probabilities, classes=np.array(summary["classes"]),
    )  # fmt: skip
    partial.replace(stem.with_name(f"{stem.name}.clips.npz"))
    files.write_json(stem.with_name(f"{stem.name}.json"), summary)
