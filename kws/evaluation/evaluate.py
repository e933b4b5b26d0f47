"""Evaluates a network on a split: every clip once, with the same bits on any number of processes.

clip ids 0..n-1 -> fixed batches, distributed over the ranks -> one view of each clip, or four (crops) -> logits ->
probabilities, mean over the views -> gathered and ordered by batch -> confusion matrix and figures
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from kws.config import TrainConfig
from kws.corpus.tasks import Task
from kws.data import index as index_file
from kws.data import selection
from kws.data.excerpt import Excerpt
from kws.data.index import Index
from kws.data.other_sounds import OtherSounds
from kws.data.plan import Slot
from kws.data.reader import Reader
from kws.data.selection import TaskSplit
from kws.data.store import DEFAULT_CACHE, CacheSettings
from kws.data.stream import CPU, Batch, SlotReader, stream_batches
from kws.distributed.arithmetic import full_float32
from kws.distributed.ranks import Ranks
from kws.errors import UsageError
from kws.evaluation import mistakes, open_set
from kws.evaluation.split_result import SplitResult, file_stem
from kws.evaluation.trained import Trained, check_corpus
from kws.models.cost import count_parameters, multiply_adds
from kws.run import folder as run_folder
from kws.transfers import Download, to_device

BATCH = 64
"""Clips per batch. Fixed, because the last bits of a clip's logits depend on the batch that contains it."""
Views = Callable[[Tensor], Sequence[Tensor]]
"""Test-time augmentation: features (B, 1, F, N) -> variants of them, each of the same shape."""
Progress = Callable[[int, int], None]
"""Called with the number of batches that this rank has done, and their total."""


def no_progress(done: int, total: int) -> None:
    """Shows nothing."""


def whole_clip(features: Tensor) -> Sequence[Tensor]:
    """The features unchanged, as the only view."""
    return (features,)


def crops(features: Tensor) -> Sequence[Tensor]:
    """The features, and their three crops of N - 2 frames at offsets 0, 1 and 2.

    Each crop is padded to N frames by repeating its first and its last frame. Raises UsageError below 3 frames.
    """
    frames = features.shape[-1]
    if frames < 3:
        raise UsageError(f"--crop: the features have {frames} frames, wanted 3 or more; leave --crop out")
    cut = [features[..., at : at + frames - 2] for at in range(3)]
    return (features, *(nn.functional.pad(part, (1, 1, 0, 0), mode="replicate") for part in cut))


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationData:
    """The clips to evaluate on, and how they are read and shown to the network.

    Made once for all evaluations of a run: it keeps one reader, with its threads, open shards and noise.
    """

    index: Index
    split: str
    task: Task
    excerpt: Excerpt
    """Which part of a recording is its clip."""
    workers: int = 0
    """Threads per rank that read ahead (data.workers)."""
    device: torch.device = CPU
    cache_settings: CacheSettings = DEFAULT_CACHE
    views: Views = whole_clip

    @functools.cached_property
    def reader(self) -> SlotReader:
        """Made by the first evaluation."""
        reader = Reader(self.index, self.split, cache_settings=self.cache_settings)
        return SlotReader(reader, self.task.class_of, self.excerpt, workers=self.workers, device=self.device)

    def close(self) -> None:
        """Ends the reader's threads."""
        if "reader" in self.__dict__:
            self.reader.close()


class EvaluationStopped(Exception):  # noqa: N818  # not an error
    """A stop was requested before the last batch of the evaluation."""


def evaluate_split(
    model: nn.Module, features: nn.Module, data: EvaluationData, ranks: Ranks,
    should_stop: Callable[[], bool] = lambda: False, on_progress: Progress = no_progress,
) -> SplitResult:  # fmt: skip
    """Evaluates the network on every clip of the split that the task selects; every rank returns the whole result.

    The network runs in eval mode, which is restored afterwards, and without TF32. A clip's probabilities are the mean
    over its views, and its loss is computed from this mean. `should_stop` is called before each batch. Raises
    UsageError where the split has no such clip, and EvaluationStopped on every rank where `should_stop` returned True
    on any.
    """
    clips = selected_clips(data.index, data.split, data.task)
    own_batches = functools.partial(_batches_of_rank, clips, ranks.rank, ranks.world_size)
    was_training = model.training
    model.eval()
    with torch.inference_mode(), full_float32(), closing(stream_batches(own_batches, data.reader)) as batches:
        until_stop = itertools.takewhile(lambda _: not should_stop(), batches)
        counted = _count_batches(until_stop, sum(1 for _ in own_batches()), on_progress)
        submit = functools.partial(_submit, model, features, data.views, ranks.device)
        outputs = ranks.on_all(lambda: list(_outputs(counted, submit)))
    model.train(was_training)
    if any(ranks.gather(should_stop())):
        raise EvaluationStopped
    result = _joined([output for of_rank in ranks.gather(outputs) for output in of_rank])
    assert np.array_equal(result.clips, clips), f"{data.split}: not every clip once, in order"
    return result


def selected_clips(index: Index, split: str, task: Task) -> npt.NDArray[np.int64]:
    """Ids of the split's clips that the task selects, (n,). Raises UsageError where there is none."""
    if split == "noise":
        raise UsageError(f"{index.root}: the noise split has no words to recognise; use --split test, valid or train")
    found, labels = index.split(split), np.asarray(task.class_of)
    rows = (found.rows(number) for number in range(len(found.shards)))  # by shard: each lists its silence clips too
    clips = np.sort(np.concatenate([some[labels[found.values("word", some)] >= 0] for some in rows]))
    if isinstance(found, TaskSplit):
        clips = np.concatenate([clips, found.evaluated_windows()])
    if len(clips) == 0:
        raise UsageError(f"{index.root}: split {split} has no clip of the classes {', '.join(task.classes)}")
    return clips


def _batches_of_rank(clips: npt.NDArray[np.int64], rank: int, world_size: int) -> Iterator[Slot]:
    for number in range(rank, -(-len(clips) // BATCH), world_size):
        ids = clips[number * BATCH : (number + 1) * BATCH]
        yield Slot(number, 0, ids, ids)


def _count_batches(batches: Iterable[Batch], total: int, on_progress: Progress) -> Iterator[Batch]:
    for done, batch in enumerate(batches):
        on_progress(done, total)
        yield batch


class _BatchOutput(NamedTuple):
    number: int
    clips: npt.NDArray[np.int64]
    truth: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    loss: float
    """Sum over the clips, in nats."""


@dataclasses.dataclass(frozen=True)
class _Submitted:
    """A batch that the device computes: its results are on the way to the host."""

    batch: Batch
    probabilities: Download
    """(B, C) float32."""
    loss: Download
    """() float64."""

    def output(self) -> _BatchOutput:
        """Waits for the results, and copies them out of pinned memory, so that this is used again."""
        truth, probabilities = self.batch.labels.numpy().copy(), self.probabilities.wait().numpy().copy()
        loss = float(self.loss.wait().numpy())
        return _BatchOutput(self.batch.step, self.batch.clips.numpy(), truth, probabilities, loss)


def _outputs(batches: Iterable[Batch], submit: Callable[[Batch], _Submitted]) -> Iterator[_BatchOutput]:
    """The results of all batches. The device computes a batch while the host takes the results of the one before."""
    before: _Submitted | None = None
    for batch in batches:
        submitted = submit(batch)
        if before:
            yield before.output()
        before = submitted
    if before:
        yield before.output()


def _submit(model: nn.Module, features: nn.Module, views: Views, device: torch.device, batch: Batch) -> _Submitted:
    wave, labels = to_device(batch.wave, device), to_device(batch.labels, device)
    # One view at a time, so that the unchanged clip has the same bits with and without crops.
    logits = [model(view).float().double() for view in views(features(wave))]
    log_softmaxes = torch.stack([torch.log_softmax(of_view, dim=1) for of_view in logits])
    log_mean = torch.logsumexp(log_softmaxes, dim=0) - math.log(len(logits))
    loss = -log_mean.gather(1, labels[:, None]).sum()
    return _Submitted(batch, Download(log_mean.exp().float()), Download(loss))


def _joined(outputs: Iterable[_BatchOutput]) -> SplitResult:
    ordered = sorted(outputs, key=lambda output: output.number)
    clips = np.concatenate([output.clips for output in ordered])
    return SplitResult(
        clips,
        np.concatenate([output.truth for output in ordered]),
        np.concatenate([output.probabilities for output in ordered]),
        sum(output.loss for output in ordered) / len(clips),
    )


# --- of a run --------------------------------------------------------------------------------------------------


def process_settings(runs: Sequence[Path]) -> TrainConfig:
    """The settings with which processes start to evaluate these runs: any number of processes, the first run's
    threads, the CPU where all runs were trained with device = "cpu", deterministic where one of them was."""
    settings = [run_folder.read_config(run).train for run in runs]
    device: Literal["cpu", "auto"] = "cpu" if all(each.device == "cpu" for each in settings) else "auto"
    threads = run_folder.recorded_threads(runs[0])
    deterministic = any(each.is_deterministic for each in settings)
    return dataclasses.replace(settings[0], processes=0, threads=threads, device=device, deterministic=deterministic)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunEvaluation:
    """Which checkpoint of which run is evaluated on what."""

    run: Path
    split: str = "test"
    checkpoint: str = "best_accuracy"
    shards: Path | None = None
    """Folder of the corpus, if it was moved after training; None: the folder in the run's settings."""
    crop: bool = False
    """Average the probabilities over the clip and its crops."""


def evaluate_run(wanted: RunEvaluation, ranks: Ranks, on_progress: Progress = no_progress) -> dict[str, Any]:
    """Evaluates a run's checkpoint on a split and returns the summary.

    Rank 0 writes RUN/eval/SPLIT.json, SPLIT.clips.npz and SPLIT.mistakes.npz, or SPLIT-crop.* with `crop`. Raises
    UsageError where there is no such run, checkpoint or split, and where the corpus is not the run's.
    """
    run = wanted.run
    trained = ranks.on_all(lambda: Trained.from_run(run, wanted.checkpoint, ranks.device))
    # The last bits of a result depend on the number of threads, and each of several runs was trained with its own.
    torch.set_num_threads(run_folder.recorded_threads(run) or ranks.threads)
    config = trained.config
    index = ranks.on_all(lambda: _load_corpus(wanted, Path(config.data.shards)))
    check_corpus(index, trained.checkpoint, "give the folder of that corpus with --shards")
    chosen = ranks.on_all(lambda: selection.apply_task(index, trained.task, trained.samples, config.data.negatives))
    data = EvaluationData(
        index=chosen.index, split=wanted.split, task=chosen.task, excerpt=trained.excerpt, workers=config.data.workers,
        device=ranks.device, cache_settings=CacheSettings.from_config(config.data),
        views=crops if wanted.crop else whole_clip,
    )  # fmt: skip
    with closing(data):
        result = evaluate_split(trained.network, trained.features, data, ranks, on_progress=on_progress)
        figures = open_set.measure(
            trained, index, wanted.split, result, functools.partial(_evaluate_others, trained, data, ranks)
        )
    summary = result.summary(wanted.split, trained.classes, {"crop": wanted.crop, **provenance(trained)})
    summary["open_set"] = figures
    stem = run / "eval" / file_stem(wanted.split, wanted.crop)

    def save() -> None:
        stem.parent.mkdir(exist_ok=True)
        mistakes.write_mistakes(stem.with_name(f"{stem.name}.mistakes.npz"), trained, data.reader.reader, result)
        result.write(stem, summary)

    ranks.on_main(save)
    return summary


def _evaluate_others(trained: Trained, data: EvaluationData, ranks: Ranks, sounds: OtherSounds) -> SplitResult:
    """The result of the sounds that are no word, read as the clips of `data` are."""
    with closing(dataclasses.replace(data, index=sounds.index, task=sounds.task)) as others:
        return evaluate_split(trained.network, trained.features, others, ranks)


def _load_corpus(wanted: RunEvaluation, recorded: Path) -> Index:
    """The index of the corpus to evaluate on. Raises UsageError where it is not where the run had it."""
    if wanted.shards is None and not recorded.exists():
        raise UsageError(
            f"{recorded}: the corpus of {wanted.run} is not there any more; give its folder with --shards DIR"
        )
    return index_file.load(wanted.shards or recorded)


def provenance(trained: Trained) -> dict[str, Any]:
    """What was evaluated: network and its cost, task, corpus, checkpoint, and which of its weights."""
    config, state = trained.config, trained.checkpoint.state
    return {
        "network": config.model.name,
        "parameters": count_parameters(trained.network),
        "multiply_adds": multiply_adds(trained.network, trained.features.shape(trained.samples)),
        "task": trained.task.name,
        "task_digest": trained.task.digest,
        "corpus_id": state["corpus_id"],
        "checkpoint": trained.checkpoint.path.name,
        "weights": trained.weights,
        "step": state["step"],
        "epoch": state["epoch"],
    }
