"""The rules of a run folder: when a run starts, goes on, or is refused; who runs; how it ended.

RUN/config.toml  run.json  status.json  metrics.jsonl  checkpoints/  eval/  tensorboard/  ledger/  stop
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kws import config as settings_file
from kws import files
from kws.config import Config
from kws.corpus import tasks
from kws.corpus.tasks import Definition
from kws.errors import UsageError


def read_config(run: Path) -> Config:
    """The settings of a run folder. Raises UsageError where there is none."""
    path = run / "config.toml"
    if not path.is_file():
        raise UsageError(f"{run}: not a run folder (no config.toml); wanted the --run of a kws train")
    return settings_file.load(path)


def check_settings(run: Path, config: Config, facts: dict[str, Any]) -> None:
    """Whether a run that has a checkpoint was made with the same settings, corpus and threads.

    Without one there is nothing to go on from, and any settings may start. Raises UsageError with every difference
    and what to type.
    """
    changed: list[str] = []
    if any((run / "checkpoints").glob("step-*")):
        if not (run / "config.toml").exists():
            raise UsageError(f"{run}: has checkpoints, and no config.toml that tells whose; use --run ANOTHER_FOLDER")
        changed = settings_file.differences(read_config(run), config)
        changed += _other_facts(run / "run.json", facts)
    if changed:
        listed = "; ".join(changed)
        raise UsageError(
            f"{run}: made with other settings ({listed}); use those, or --run ANOTHER_FOLDER for a new run"
        )


def record_settings(run: Path, config: Config, facts: dict[str, Any]) -> None:
    """Writes the settings to config.toml and `facts` to run.json; makes the folder where it is new."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        files.write_text(run / "config.toml", settings_file.to_toml(config))
        files.write_json(run / "run.json", facts)
    except OSError as error:
        raise UsageError(f"{run}: cannot be written ({error.strerror}); use --run ANOTHER_FOLDER") from error


def recorded_threads(run: Path) -> int:
    """torch threads a process that the run began with, on which the last bits hang; 0 where nothing is recorded."""
    try:
        return int(json.loads((run / "run.json").read_text(encoding="utf-8"))["threads"])
    except (OSError, KeyError, TypeError, ValueError):
        return 0


def _other_facts(path: Path, facts: dict[str, Any]) -> list[str]:
    """What must not change beside the settings: corpus, task, and the threads, on which the last bits hang."""
    if not path.exists():
        return []
    old = _facts(path)
    mend = {"corpus_id": "", "threads": f" (--set train.threads={old.get('threads')})"}
    return [
        f"{key}: {old.get(key)} there, {facts[key]} now{how}" for key, how in mend.items() if old.get(key) != facts[key]
    ] + tasks.differences(old.get("task"), facts["task"])


def recorded_task(run: Path, task: str) -> Definition | None:
    """The task that a run with checkpoints keeps, where it had it from the file `task`, which is gone; else None."""
    file, path = Path(task), run / "run.json"
    if file.suffix != ".toml" or file.exists() or not path.exists() or not any((run / "checkpoints").glob("step-*")):
        return None
    kept = _facts(path).get("task")
    return tasks.parse(kept, str(path)) if isinstance(kept, dict) and kept.get("name") == file.stem else None


def _facts(path: Path) -> dict[str, Any]:
    """run.json."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: damaged ({error}); put it back, or --run ANOTHER_FOLDER for a new run") from error


def begin_attempt(run: Path, step: int) -> int:
    """The number of this start, from 1. Where it begins at step 0, the ledger of an earlier start, perhaps of other
    settings, is removed: it no longer counts."""
    path = run / "metrics.jsonl"
    if step == 0:
        shutil.rmtree(run / "ledger", ignore_errors=True)
    return 1 + (path.read_text(errors="replace").count('"event": "start"') if path.exists() else 0)


def skipped_clips(run: Path) -> list[int]:
    """The training clips that `data.on_bad=skip` left out as damaged."""
    try:
        return [int(clip) for clip in json.loads((run / "left_out.json").read_text(encoding="utf-8"))["train"]]
    except FileNotFoundError:
        return []


def add_skipped_clips(run: Path, clips: Iterable[int]) -> int:
    """Adds to them, whatever start of the run met them; returns how many are new."""
    known = skipped_clips(run)
    every = sorted({*known, *clips})
    if len(every) > len(known):
        files.write_json(run / "left_out.json", {"train": every})
    return len(every) - len(known)


def write_failure(run: Path, step: int, code: int, rank: int, why: str = "") -> None:
    """status.json of a failed run. The first rank to fail is heard: what the others meet then comes of it."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # a status that cannot be read says nothing
        if json.loads((run / "status.json").read_text(encoding="utf-8"))["state"] == "failed":
            return
    status = _status("failed", step, code, rank=rank, why=why)
    with contextlib.suppress(OSError):  # the error itself must be seen
        try:
            files.write_json(run / "status.json", status)
        except OSError:  # such as a full disk: over the old one then, which needs no room and would say "running"
            with (run / "status.json").open("r+", encoding="utf-8") as file:
                file.write(files.json_text(status))
                file.truncate()


def write_status(run: Path, state: str, step: int, code: int | None = None, **more: Any) -> None:
    """status.json: running, preempted, finished or failed; by it scripts decide, since launchers hide exit codes."""
    files.write_json(run / "status.json", _status(state, step, code, **more))


def _status(state: str, step: int, code: int | None, **more: Any) -> dict[str, Any]:
    return {"state": state, "code": code, "step": step, **more}
