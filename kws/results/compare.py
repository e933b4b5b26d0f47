"""Compares runs: cost of the networks, accuracy, training speed and time, and McNemar's test.

RUN/{config.toml, run.json, metrics.jsonl, eval/SPLIT*.json, eval/SPLIT.clips.npz} -> ComparedRun, in groups

Accuracies are comparable only between runs evaluated on the same clips. So runs are grouped by test set, and within a
group each run is tested against the best one.
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

from kws import metrics
from kws.config import Config
from kws.errors import UsageError
from kws.renamed import current_value
from kws.results import published, records
from kws.results.published import Published
from kws.results.records import Row
from kws.results.seed_groups import SeedGroup, seed_groups
from kws.run import folder as run_folder


@dataclasses.dataclass(frozen=True)
class McNemar:
    """McNemar's test of a run against the best run of its group."""

    against: Path
    """The best run of the group."""
    only_this: int
    """Clips that only this run recognised."""
    only_other: int
    """Clips that only the best run recognised."""
    p: float
    """Two-sided p-value of the exact test."""


@dataclasses.dataclass(frozen=True)
class ComparedRun:
    """One run in a comparison; None where a value is not known."""

    run: Path
    config: Config
    result: Row
    """Summary of its evaluation."""
    crop: Row | None
    """Summary of its evaluation with crops, of the same checkpoint."""
    clips_per_s: float | None
    """Median over the epochs of training."""
    hours: float
    """Time of all attempts."""
    hardware: str
    """Number of processes and their device, such as `2 x cpu`."""
    reported: Published | None
    """Published accuracy of the network on this task."""
    stale: bool
    """Whether best_accuracy is another checkpoint by now than the evaluated one."""
    mcnemar: McNemar | None = None
    untested: str = ""
    """The reason where McNemar's test was not possible; "" otherwise."""

    @property
    def network(self) -> str:
        """Name of its network."""
        return self.config.model.name

    @property
    def accuracy(self) -> float:
        """Fraction of the clips that it recognised."""
        return float(self.result["accuracy"])

    @property
    def test_set(self) -> tuple[object, ...]:
        """Equal for runs evaluated on the same clips of the same task."""
        return tuple(self.result.get(key) for key in ("split", "corpus_id", "task", "task_digest", "n")) + tuple(
            self.result["classes"]
        )


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Compared runs, grouped by test set."""

    groups: tuple[tuple[ComparedRun, ...], ...]
    """Each group sorted by accuracy, best first."""
    seeds: tuple[tuple[SeedGroup[ComparedRun], ...], ...]
    """For each group, its runs that differ in their seed alone."""
    missing: tuple[str, ...]
    """For each run without an evaluation, a line with the command to type."""

    def as_json(self) -> list[Row]:
        """One object per run. Runs that differ in their seed alone have the same object `seeds`."""
        return [
            {"test_set": place, **_json_of(line), **_json_of_seeds(line, seeds)}
            for place, (group, seeds) in enumerate(zip(self.groups, self.seeds, strict=True), 1)
            for line in group
        ]


# --- reading ---------------------------------------------------------------------------------------------------


def compare(runs: Sequence[Path], split: str = "test") -> Comparison:
    """Compares runs on a split. Raises UsageError for a folder that is not a run, and where no run is evaluated."""
    lines, missing = [], []
    for run in dict.fromkeys(runs):
        config = run_folder.read_config(run)
        result = records.read_json(run / "eval" / f"{split}.json")
        if records.is_complete(result) and "corpus_id" in result:
            result["task"] = current_value("data.task", result.get("task", "words"))  # groups old and new runs
            lines.append(_line(run, config, result, split))
        else:
            option = "" if split == "test" else f" --split {split}"
            missing.append(f"{run}: not evaluated on {split} yet; type kws evaluate {run}{option}")
    if not lines:
        raise UsageError("; ".join(missing))
    groups: dict[tuple[object, ...], list[ComparedRun]] = {}
    for line in sorted(lines, key=lambda line: -line.result["accuracy"]):
        groups.setdefault(line.test_set, []).append(line)
    found = tuple(map(_tested, groups.values()))
    return Comparison(found, tuple(seed_groups(group, _recognised) for group in found), tuple(missing))


def _recognised(line: ComparedRun) -> npt.NDArray[np.bool_] | None:
    clips = _clip_results(line)
    return None if clips is None else clips[1]


def _line(run: Path, config: Config, result: Row, split: str) -> ComparedRun:
    lines = records.read_lines(run / "metrics.jsonl")
    speeds = [row["clips_per_s"] for row in records.rows_of(lines, "epoch") if row.get("clips_per_s")]
    crop = records.read_json(run / "eval" / f"{split}-crop.json")
    same = records.is_complete(crop) and crop.get("checkpoint") == result.get("checkpoint")
    return ComparedRun(
        run=run,
        config=config,
        result=result,
        crop=crop if same else None,
        clips_per_s=median(speeds) if speeds else None,
        hours=sum(attempt.seconds for attempt in records.attempts(lines)) / 3600,
        hardware=_hardware(records.read_json(run / "run.json")),
        reported=published.published_accuracy(config.model.name, str(result.get("task")), result["n"])
        if split == "test"
        else None,
        stale=records.checkpoint_name(run, "best_accuracy") not in (None, result.get("checkpoint")),
    )


def _hardware(facts: Row) -> str:
    """Number of processes and device of the first, such as `2 x cpu`."""
    ranks = facts.get("ranks") or [{}]
    return f"{len(ranks)} x {ranks[0].get('device', '?')}"


def _tested(group: Sequence[ComparedRun]) -> tuple[ComparedRun, ...]:
    """Adds McNemar's test of each run against the first."""
    if len(group) == 1:
        return tuple(group)
    best, best_clips = group[0], _clip_results(group[0])
    found = [best]
    for line in group[1:]:
        clips = _clip_results(line)
        if best_clips is None or clips is None or not np.array_equal(best_clips[0], clips[0]):
            reason = "the results of the single clips are missing or do not match; type kws evaluate"
            found.append(dataclasses.replace(line, untested=f"{reason} {best.run} {line.run}"))
            continue
        only_this, only_other = int((clips[1] & ~best_clips[1]).sum()), int((best_clips[1] & ~clips[1]).sum())
        test = McNemar(best.run, only_this, only_other, metrics.mcnemar_p(only_this, only_other))
        found.append(dataclasses.replace(line, mcnemar=test))
    return tuple(found)


def _clip_results(line: ComparedRun) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]] | None:
    """Ids and truths (2, n), and which clips were recognised (n,); None where the file does not fit the summary."""
    path = line.run / "eval" / f"{line.result['split']}.clips.npz"
    try:
        with path.open("rb") as file, np.load(file) as clips:  # opened here: numpy leaves a damaged file open
            ids_and_truth = np.stack([clips["clips"], clips["truth"]])
            right = clips["probabilities"].argmax(axis=1) == clips["truth"]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    return (ids_and_truth, right) if int(right.sum()) == int(np.trace(line.result["confusion"])) else None


def _json_of(line: ComparedRun) -> Row:
    result, crop = line.result, line.crop or {}
    same = ("split", "corpus_id", "n", "parameters", "multiply_adds", "accuracy", "interval95", "macro_accuracy")
    found: Row = {"run": str(line.run), "network": line.network, "classes": len(result["classes"])}
    found |= {key: result.get(key) for key in same} | {f"crop_{key}": crop.get(key) for key in same[5:7]}
    found |= {"clips_per_s": line.clips_per_s, "hours": line.hours, "hardware": line.hardware, "stale": line.stale}
    if line.mcnemar:
        found["mcnemar"] = dataclasses.asdict(line.mcnemar) | {"against": str(line.mcnemar.against)}
    if line.reported:
        found["reported"] = line.reported._asdict()
    return found


def _json_of_seeds(line: ComparedRun, groups: Sequence[SeedGroup[ComparedRun]]) -> Row:
    for place, group in enumerate(groups, 1):
        if line in group.runs:
            own: Row = {"group": place, "n": len(group.runs), "mean": group.mean, "deviation": group.deviation}
            if group.difference:
                own |= {"difference": group.difference.value}
                own |= {"difference_low": group.difference.low, "difference_high": group.difference.high}
            return {"seed": line.config.train.seed, "seeds": own}
    return {"seed": line.config.train.seed}
