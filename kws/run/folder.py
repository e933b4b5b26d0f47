"""The rules of a run folder: when a run starts, resumes or is refused; run.json, status.json and left_out.json.

RUN/config.toml  run.json  status.json  metrics.jsonl  checkpoints/  eval/  tensorboard/  ledger/  stop
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kws import files, settings_file
from kws.config import Config, DataConfig
from kws.corpus import tasks
from kws.corpus.tasks import Definition
from kws.errors import UsageError, cannot_write, close_names, unreadable


def read_config(run: Path) -> Config:
    """The settings of a run folder, with the paths in them found from any folder. Raises UsageError if it has none."""
    config = settings_file.load_recorded(find_settings(run))
    data, train = config.data, config.train
    task = _find_path(run, data.task) if data.task.endswith(".toml") else data.task  # else a name
    return dataclasses.replace(
        config,
        data=dataclasses.replace(data, shards=_find_path(run, data.shards), task=task),
        train=dataclasses.replace(
            train,
            init=_find_path(run, train.init),
            valid_stream=_find_path(run, train.valid_stream),
            teacher=tuple(_find_path(run, teacher) for teacher in train.teacher),
        ),
    )


def _find_path(run: Path, path: str) -> str:
    """A relative path as the run meant it: seen from the folder where it was started, else from this one, else from one
    above the run folder (runs that recorded no folder, or were moved together with their corpus)."""
    if not path or Path(path).is_absolute():
        return path
    with contextlib.suppress(OSError, ValueError, AttributeError):
        started_in = json.loads((run / "run.json").read_text(encoding="utf-8")).get("started_in", "")
        if started_in and (Path(started_in) / path).exists():
            # Short where it is this folder, as the user typed it.
            return path if Path(started_in) == Path.cwd() else str(Path(started_in) / path)
    if Path(path).exists():
        return path
    above = (folder / path for folder in run.resolve().parents)
    return next((str(found) for found in above if found.exists()), path)


def find_settings(run: Path) -> Path:
    """The config.toml of a run folder. Raises UsageError, which names what is there instead, if it has none."""
    path = run / "config.toml"
    if not path.is_file():
        raise UsageError(f"{run}: not a run folder (no config.toml); {_what_is_there(run)}")
    return path


def _what_is_there(run: Path) -> str:
    """What a folder is that is no run folder, and which one may be meant."""
    if run.is_file():
        return "it is a file; wanted the --run of a kws train, before any other files"
    if (run / "index" / "index.json").is_file():
        return "it is a packed corpus; wanted the --run of a kws train"
    if (run.parent / "config.toml").is_file():
        return f"did you mean {run.parent}?"
    runs = _runs_in(run)
    if runs:
        more = f" and {len(runs) - 5} more" if len(runs) > 5 else ""
        return f"it holds the run folders {', '.join(runs[:5])}{more}: name one, such as {run / runs[0]}"
    found = "nothing is there" if not run.exists() else "wanted the --run of a kws train"
    root = Path(os.environ.get("KWS_RUNS", "runs"))
    known = [str(folder / name) for folder in dict.fromkeys((run.parent, root)) for name in _runs_in(folder)]
    near = close_names(str(run), known) or [
        path for path in known if Path(path).name in close_names(run.name, [Path(path).name])
    ]
    return found + (f"; did you mean {' or '.join(near[:3])}?" if near else "")


def _runs_in(folder: Path) -> list[str]:
    """Names of the run folders in a folder, sorted."""
    return sorted(path.parent.name for path in folder.glob("*/config.toml"))


def check_settings(run: Path, config: Config, description: dict[str, Any]) -> None:
    """Checks that a run with checkpoints resumes with the settings, corpus, task and threads that it began with.

    `description`: what run.json would hold. A run without checkpoints may start with any settings. Raises UsageError
    that lists every difference and what to type.
    """
    if not _has_checkpoints(run):
        return
    if not (run / "config.toml").exists():
        raise UsageError(f"{run}: has checkpoints but no config.toml to compare with; use --run ANOTHER_FOLDER")
    changed = settings_file.differences(read_config(run), config)
    changed += _description_differences(run / "run.json", description)
    if changed:
        listed = "; ".join(changed)
        raise UsageError(
            f"{run}: made with other settings ({listed}); use those, or --run ANOTHER_FOLDER for a new run"
        )


def record_settings(run: Path, config: Config, description: dict[str, Any]) -> None:
    """Writes `config` to config.toml and `description` to run.json; creates the folder if it does not exist."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        files.write_text(run / "config.toml", settings_file.to_toml(config))
        files.write_json(run / "run.json", description)
    except OSError as error:
        raise UsageError(cannot_write(run, error, "use --run ANOTHER_FOLDER")) from error


def recorded_threads(run: Path) -> int:
    """Torch threads per process that the run began with, because the last bits depend on them; 0 if not recorded."""
    try:
        return int(json.loads((run / "run.json").read_text(encoding="utf-8"))["threads"])
    except (OSError, KeyError, TypeError, ValueError):
        return 0


def recorded_description(run: Path) -> dict[str, Any]:
    """The contents of run.json; {} where there is none."""
    path = run / "run.json"
    return _read_description(path) if path.exists() else {}


def recorded_task(run: Path, task: str) -> Definition | None:
    """The task in run.json, if the run has checkpoints and began with the file `task`, which no longer exists; else
    None."""
    file, path = Path(task), run / "run.json"
    if file.suffix != ".toml" or file.exists() or not path.exists() or not _has_checkpoints(run):
        return None
    recorded = _read_description(path).get("task")
    if not isinstance(recorded, dict) or recorded.get("name") != file.stem:
        return None
    return tasks.parse(recorded, str(path))


def recorded_teachers(run: Path) -> list[dict[str, Any]]:
    """What run.json says of the teachers (kws/training/distillation.py), if the run has checkpoints; else []."""
    path = run / "run.json"
    return list(_read_description(path).get("teachers", ())) if path.exists() and _has_checkpoints(run) else []


def keep_clips(run: Path, config: Config) -> Config:
    """The settings with which a run resumes: the clip length that it began with instead of "auto", and its part of
    longer recordings instead of the default, which runs made before data.excerpt existed did not use. Unchanged for a
    run without checkpoints."""
    if not (run / "config.toml").exists() or not _has_checkpoints(run):
        return config
    began, data = read_config(run).data, config.data
    if data.clip_seconds == "auto":
        data = dataclasses.replace(data, clip_seconds=began.clip_seconds)
    if data.excerpt == DataConfig.excerpt:
        data = dataclasses.replace(data, excerpt=began.excerpt)
    return dataclasses.replace(config, data=data)


def _has_checkpoints(run: Path) -> bool:
    return any(name.startswith("step-") for name in files.names_in(run / "checkpoints"))


def _description_differences(path: Path, description: dict[str, Any]) -> list[str]:
    """Differences in what must not change beside the settings: corpus, threads (for the last bits), task and the
    teachers' weights."""
    if not path.exists():
        return []
    recorded = _read_description(path)
    how_to_fix = {"corpus_id": "", "threads": f" (--set train.threads={recorded.get('threads')})"}
    return [
        f"{key}: {recorded.get(key)} there, {description[key]} now{how}"
        for key, how in how_to_fix.items()
        if recorded.get(key) != description[key]
    ] + [*tasks.differences(recorded.get("task"), description["task"]), *_teacher_differences(recorded, description)]


def _teacher_differences(recorded: dict[str, Any], description: dict[str, Any]) -> list[str]:
    """A line where the teachers or their weights differ; their folders may have moved."""
    was, now = recorded.get("teachers", []), description.get("teachers", [])
    if [row["sha256"] for row in was] == [row["sha256"] for row in now]:
        return []
    there, here = (
        ", ".join(f"{row['run']} {row['checkpoint']} ({row['sha256'][:12]})" for row in rows) or "none"
        for rows in (was, now)
    )
    return [f"train.teacher: {there} there, {here} now"]


def _read_description(path: Path) -> dict[str, Any]:
    """The contents of run.json."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise unreadable(error, path) from error
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}: damaged ({error}); put it back, or --run ANOTHER_FOLDER for a new run") from error


def begin_attempt(run: Path, step: int) -> int:
    """Number of the attempt that begins at `step`, counted from 1.

    If it begins at step 0, the ledger of earlier attempts is removed: their settings may have been others.
    """
    path = run / "metrics.jsonl"
    if step == 0:
        shutil.rmtree(run / "ledger", ignore_errors=True)
    return 1 + (path.read_text(encoding="utf-8", errors="replace").count('"event": "start"') if path.exists() else 0)


def skipped_clips(run: Path) -> list[int]:
    """The damaged training clips that `data.on_bad=skip` skipped, from left_out.json."""
    try:
        return [int(clip) for clip in json.loads((run / "left_out.json").read_text(encoding="utf-8"))["train"]]
    except FileNotFoundError:
        return []


def add_skipped_clips(run: Path, clips: Iterable[int]) -> int:
    """Adds clips to those of all attempts in left_out.json. Returns how many are new."""
    known = skipped_clips(run)
    every = sorted({*known, *clips})
    if len(every) > len(known):
        files.write_json(run / "left_out.json", {"train": every})
    return len(every) - len(known)


def write_status(run: Path, state: str, step: int, code: int | None = None, **more: Any) -> None:
    """Writes status.json: running, preempted, finished or failed. Scripts decide by it, because launchers hide exit
    codes."""
    files.write_json(run / "status.json", _status(state, step, code, **more))


def note_stragglers(run: Path, stragglers: list[str]) -> None:
    """Writes the lines about present stragglers into status.json, while its state is "running"."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        status = json.loads((run / "status.json").read_text(encoding="utf-8"))
        if status["state"] == "running":
            files.write_json(run / "status.json", status | {"stragglers": stragglers})


def write_failure(run: Path, step: int, code: int, rank: int, why: str = "") -> None:
    """Writes status.json of a failed run, unless a rank has already done so: the first error causes the others.

    Never raises OSError, because the error that ends the run must be the one that is shown.
    """
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # no status.json, or not a readable one
        if json.loads((run / "status.json").read_text(encoding="utf-8"))["state"] == "failed":
            return
    status = _status("failed", step, code, rank=rank, why=why)
    with contextlib.suppress(OSError):
        try:
            files.write_json(run / "status.json", status)
        except OSError:  # a full disk: overwrite the old file in place, which needs no space, with "running"
            with (run / "status.json").open("r+", encoding="utf-8") as file:
                file.write(files.json_text(status))
                file.truncate()


def _status(state: str, step: int, code: int | None, **more: Any) -> dict[str, Any]:
    return {"state": state, "code": code, "step": step, **more}
