"""The curves of a run: which numbers of its events become curves, in TensorBoard and, on request, Weights & Biases.

event -> scalars(): {"train/loss": 0.4, ...} -> TensorBoard, files in RUN/tensorboard
                                             -> queue -> a thread -> wandb, which may be slow or unreachable
"""

from __future__ import annotations

import importlib.util
import queue
import secrets
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from kws import files
from kws.errors import UsageError
from kws.run.step_parts import shares
from kws.run.stragglers import compare_ranks

_TAGS = {
    "step": {
        "loss": "train/loss", "accuracy": "train/accuracy", "lr": "train/lr",
        "clips_per_s": "speed/clips_per_s", "data_wait": "speed/data_wait", "gpu_gb": "speed/gpu_gb",
    },
    "epoch": {
        "train_loss": "train/epoch_loss", "train_accuracy": "train/epoch_accuracy",
        "valid_loss": "valid/loss", "valid_accuracy": "valid/accuracy",
        "valid_stream_false_accepts_per_hour": "valid/false_accepts_per_hour",
        "valid_stream_missed_share": "valid/missed_share",
        "ema_valid_loss": "valid_averaged/loss", "ema_valid_accuracy": "valid_averaged/accuracy",
        "eval_seconds": "speed/eval_seconds",
    },
    "save": {"seconds": "speed/save_seconds"},
}  # fmt: skip
_COMBINED_CHARTS = {
    "curves": {
        name: ["Multiline", [f"train/epoch_{name}", f"valid/{name}", f"valid_averaged/{name}"]]
        for name in ("loss", "accuracy")
    }
}
WANDB_TIMEOUT_S = 30.0
"""How long the end of a run waits for Weights & Biases: a job that is preempted has about two minutes in all."""


def scalars(kind: str, values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an event that are curves, by tag. Tags of train and valid have the same last part."""
    found = {tag: float(values[name]) for name, tag in _TAGS.get(kind, {}).items() if name in values}
    if kind == "step":
        found |= {f"time/{part}": share for part, share in shares(values.get("parts", {})).items()}
    if kind == "ranks":
        found["ranks/slowest_to_median"] = max(share.ratio for share in compare_ranks(values["seconds"]))
    return found


class TensorBoard:
    """Writes event files. The page "custom scalars" has train and valid in one chart."""

    def __init__(self, run: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        # The steps after `step` are trained again, so their points from an earlier attempt are purged.
        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)
        self._writer.add_custom_scalars(_COMBINED_CHARTS)

    def add(self, points: Mapping[str, float], step: int, epoch: float) -> None:
        """Adds one point at `step` to each curve in `points`."""
        for tag, value in points.items():
            self._writer.add_scalar(tag, value, step)

    def close(self) -> None:
        """Writes the remaining points."""
        self._writer.close()


class WeightsAndBiases:
    """A run at W&B; all attempts of a run share one, whose id is kept in RUN/wandb/id.

    A thread sends the points, so that training never waits. If W&B does not answer, points go to RUN/wandb as with
    WANDB_MODE=offline, and `wandb sync` uploads them later. Any later error is shown once with `print_line`, and no
    more points are sent.
    """

    def __init__(self, run: Path, project: str, settings: Mapping[str, Any], print_line: Callable[[str], None]) -> None:
        self._run, self._project, self._settings, self._print_line = run, project, settings, print_line
        self._points: queue.SimpleQueue[dict[str, float] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send, name="wandb", daemon=True)
        self._thread.start()

    def add(self, points: Mapping[str, float], step: int, epoch: float) -> None:
        """Adds one point at `step` to each curve in `points`."""
        if points:
            self._points.put({"step": step, "epoch": epoch, **points})

    def close(self) -> None:
        """Waits until all points are handed over, but at most WANDB_TIMEOUT_S."""
        self._points.put(None)
        self._thread.join(WANDB_TIMEOUT_S)

    def _send(self) -> None:
        try:
            wandb_run = self._open()
            # Not W&B's own step, which cannot decrease: a resumed run trains some steps again.
            wandb_run.define_metric("*", step_metric="step")
            for point in iter(self._points.get, None):
                wandb_run.log(point)
            wandb_run.finish()
        except Exception as error:  # noqa: BLE001  # no error of W&B is a reason to stop a training
            self._print_line(f"W&B: {_first_line(error)}; training continues without it")

    def _open(self) -> Any:
        try:
            wandb_run = self._init(None)
        except Exception as error:  # noqa: BLE001  # W&B's errors have no common class
            kept = f"kept in {self._run}/wandb instead: wandb sync uploads it later"
            self._print_line(f"W&B: {_first_line(error)}; {kept}")
            _restart_wandb_service()
            return self._init("offline")
        self._print_line(f"W&B: {wandb_run.url}" if wandb_run.url else f"W&B: offline, in {self._run}/wandb")
        return wandb_run

    def _init(self, mode: Literal["offline"] | None) -> Any:
        import wandb

        half = WANDB_TIMEOUT_S / 2
        settings = wandb.Settings(
            console="off", silent=True, disable_git=True, save_code=False,
            init_timeout=half, login_timeout=half, finish_timeout=half,
        )  # fmt: skip
        return wandb.init(
            project=self._project, id=_kept_id(self._run), name=self._run.resolve().name, dir=str(self._run),
            resume="allow", mode=mode, config=dict(self._settings), settings=settings,
        )  # fmt: skip


def _restart_wandb_service() -> None:
    """W&B's helper process refuses a run id after one failed start, so the next start gets a new process."""
    import wandb

    wandb.teardown()


def _kept_id(run: Path) -> str:
    path = run / "wandb" / "id"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        files.write_text(path, secrets.token_hex(4) + "\n")
    return path.read_text(encoding="utf-8").strip()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".: ")


def require_wandb(project: str) -> None:
    """Raises UsageError if a project is set but the package wandb is not installed."""
    if project and importlib.util.find_spec("wandb") is None:
        raise UsageError(
            f"train.wandb: {project}, but the package wandb is not installed here; type pip install wandb, "
            "or leave the setting out"
        )
