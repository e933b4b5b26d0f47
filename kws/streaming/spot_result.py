"""Writes RUN/spot/NAME, which `kws report` shows, and the thresholds that were chosen for the run."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kws import files
from kws.errors import UsageError, cannot_write
from kws.results.det_plot import DetCurve, det_png
from kws.streaming import event_files, moments, thresholds
from kws.streaming.moments import Moment
from kws.streaming.spot_evaluation import COLUMNS, SpotEvaluation

FOLDER = "spot"


def check_name(name: str) -> None:
    """Raises UsageError for a name that is no name of a folder."""
    if not name or "/" in name or name.startswith(".") or not name.isprintable():
        raise UsageError(f"--name {name!r}: wanted a name for a folder, without / and not starting with a dot")


def write(run: Path, evaluation: SpotEvaluation, result: Mapping[str, Any], found: Sequence[Moment]) -> Path:
    """Writes the folder of an evaluation, with its `result`, and the thresholds that were chosen.

    It replaces an earlier folder of its name. Returns the folder. Raises UsageError where it cannot be written.
    """
    folder = run / FOLDER / evaluation.data.name
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
    try:
        moments.write_clips(partial / "clips", found)
        event_files.write_csv(partial / "events.csv", evaluation.rows(), COLUMNS)
        (partial / "det.png").write_bytes(_det(evaluation))
        files.write_json(partial / "result.json", dict(result))
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        if evaluation.chosen:
            thresholds.save(run / thresholds.FILE, evaluation.chosen)
    except OSError as error:
        raise UsageError(cannot_write(folder, error, "the run folder must be writable")) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _det(evaluation: SpotEvaluation) -> bytes:
    curve = evaluation.curve
    steps = [(count, missed) for count, _, missed in curve.staircase()]
    return det_png([DetCurve(evaluation.data.name, steps, int(curve.spoken.sum()), curve.hours)])
