"""Several runs side by side: what each network costs, how well it does, how fast and how long it was trained.

RUN/{config.toml, run.json, metrics.jsonl, eval/SPLIT*.json, eval/SPLIT.clips.npz} -> lines, in groups

Only runs that were evaluated on the very same clips are set against each other: rows are grouped by test set, and
McNemar's test is made within a group, of each run against the group's best.
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
from kws.errors import UsageError
from kws.renamed import current_value
from kws.results import published, records
from kws.results.published import Published
from kws.results.records import Row
from kws.run import folder as run_folder


@dataclasses.dataclass(frozen=True)
class McNemar:
    """A run against the best of its group: clips that only one of them got right, and the test's probability."""

    against: Path
    only_this: int
    only_other: int
    p: float


@dataclasses.dataclass(frozen=True)
class Line:
    """One run. Accuracies are fractions, `interval` 95 %; None where nothing is known."""

    run: Path
    network: str
    result: Row
    crop: Row | None
    clips_per_s: float | None
    hours: float
    hardware: str
    reported: Published | None
    stale: bool
    """Whether the run has a better checkpoint than the one that was evaluated."""
    mcnemar: McNemar | None = None
    untested: str = ""
    """Why there is no McNemar's test, where one was due."""

    @property
    def test_set(self) -> tuple[object, ...]:
        """Equal for runs evaluated on the same clips of the same task."""
        return tuple(self.result.get(key) for key in ("split", "corpus_id", "task", "task_digest", "n")) + tuple(
            self.result["classes"]
        )


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Groups of runs on the same test set, the best first; and what to type for those that were left out."""

    groups: tuple[tuple[Line, ...], ...]
    missing: tuple[str, ...]

    def as_json(self) -> list[Row]:
        """An object a run."""
        return [{"test_set": place, **_json_of(line)} for place, group in enumerate(self.groups, 1) for line in group]


# --- reading ---------------------------------------------------------------------------------------------------


def compare(runs: Sequence[Path], split: str = "test") -> Comparison:
    """The runs' rows. Raises UsageError for a folder that is no run, and where no run has been evaluated."""
    lines, missing = [], []
    for run in dict.fromkeys(runs):
        network = run_folder.read_config(run).model.name
        result = records.read_json(run / "eval" / f"{split}.json")
        if records.is_whole(result) and "corpus_id" in result:
            result["task"] = current_value("data.task", result.get("task", "words"))  # groups old and new runs
            lines.append(_line(run, network, result, split))
        else:
            option = "" if split == "test" else f" --split {split}"
            missing.append(f"{run}: not evaluated on {split} yet; type: kws evaluate {run}{option}")
    if not lines:
        raise UsageError("; ".join(missing))
    groups: dict[tuple[object, ...], list[Line]] = {}
    for line in sorted(lines, key=lambda line: -line.result["accuracy"]):
        groups.setdefault(line.test_set, []).append(line)
    return Comparison(tuple(map(_tested, groups.values())), tuple(missing))


def _line(run: Path, network: str, result: Row, split: str) -> Line:
    lines = records.read_lines(run / "metrics.jsonl")
    speeds = [row["clips_per_s"] for row in records.rows_of(lines, "epoch") if row.get("clips_per_s")]
    crop = records.read_json(run / "eval" / f"{split}-crop.json")
    same = records.is_whole(crop) and crop.get("checkpoint") == result.get("checkpoint")
    return Line(
        run=run,
        network=network,
        result=result,
        crop=crop if same else None,
        clips_per_s=median(speeds) if speeds else None,
        hours=sum(attempt.seconds for attempt in records.attempts(lines)) / 3600,
        hardware=_hardware(records.read_json(run / "run.json")),
        reported=published.figure(network, str(result.get("task")), result["n"]) if split == "test" else None,
        stale=records.pointed_to(run, "best_accuracy") not in (None, result.get("checkpoint")),
    )


def _hardware(facts: Row) -> str:
    """Such as `2 x cpu`."""
    ranks = facts.get("ranks") or [{}]
    return f"{len(ranks)} x {ranks[0].get('device', '?')}"


def _tested(group: Sequence[Line]) -> tuple[Line, ...]:
    """The group with McNemar's test of each against the first."""
    if len(group) == 1:
        return tuple(group)
    best, first = group[0], _right_of(group[0])
    found = [best]
    for line in group[1:]:
        own = _right_of(line)
        if first is None or own is None or not np.array_equal(first[0], own[0]):
            why = "the clips' own results are missing or others; type: kws evaluate"
            found.append(dataclasses.replace(line, untested=f"{why} {best.run} {line.run}"))
            continue
        ours, theirs = int((own[1] & ~first[1]).sum()), int((first[1] & ~own[1]).sum())
        test = McNemar(best.run, ours, theirs, metrics.mcnemar_p(ours, theirs))
        found.append(dataclasses.replace(line, mcnemar=test))
    return tuple(found)


def _right_of(line: Line) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]] | None:
    """Every clip's (id, truth) and whether it was recognised; None where they are not those of the summary."""
    path = line.run / "eval" / f"{line.result['split']}.clips.npz"
    try:
        with path.open("rb") as file, np.load(file) as clips:  # numpy leaves a file open that is none of its own
            asked = np.stack([clips["clips"], clips["truth"]])
            right = clips["probabilities"].argmax(axis=1) == clips["truth"]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    return (asked, right) if int(right.sum()) == int(np.trace(line.result["confusion"])) else None


def _json_of(line: Line) -> Row:
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
