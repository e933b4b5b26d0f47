"""The curves of a run: which numbers of its events they are, drawn by TensorBoard and, on request, Weights & Biases.

event -> scalars(): {"train/loss": 0.4, ...} -> TensorBoard, files in RUN/tensorboard
                                             -> queue -> a thread -> wandb, which may be slow or away
"""

from __future__ import annotations

import importlib.util
import queue
import secrets
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from kws.errors import UsageError

_TAGS = {
    "step": {
        "loss": "train/loss", "accuracy": "train/accuracy", "lr": "train/lr",
        "clips_per_s": "speed/clips_per_s", "data_wait": "speed/data_wait", "gpu_gb": "speed/gpu_gb",
    },
    "epoch": {
        "train_loss": "train/epoch_loss", "train_accuracy": "train/epoch_accuracy",
        "valid_loss": "valid/loss", "valid_accuracy": "valid/accuracy",
        "ema_valid_loss": "valid_averaged/loss", "ema_valid_accuracy": "valid_averaged/accuracy",
        "eval_seconds": "speed/eval_seconds",
    },
    "save": {"seconds": "speed/save_seconds"},
}  # fmt: skip
_TOGETHER = {
    "curves": {
        name: ["Multiline", [f"train/epoch_{name}", f"valid/{name}", f"valid_averaged/{name}"]]
        for name in ("loss", "accuracy")
    }
}
_WAIT_S = 30.0
"""The longest that the end of a run waits for Weights & Biases: a job that is stopped has about two minutes in all."""


def scalars(kind: str, values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an event that are curves, by tag; train and valid under the same last name."""
    return {tag: float(values[name]) for name, tag in _TAGS.get(kind, {}).items() if name in values}


class TensorBoard:
    """Event files. Its page "custom scalars" has train and valid in one chart."""

    def __init__(self, run: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        # What an earlier start drew beyond `step` is done again: purged.
        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)
        self._writer.add_custom_scalars(_TOGETHER)

    def add(self, found: Mapping[str, float], step: int, epoch: float) -> None:
        """Points at `step`."""
        for tag, value in found.items():
            self._writer.add_scalar(tag, value, step)

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()


class WeightsAndBiases:
    """A run at W&B, the same one for all starts of a run: its id stays in RUN/wandb/id.

    A thread talks to it, so that training never waits. Where W&B does not answer, points go to RUN/wandb as with
    WANDB_MODE=offline, which `wandb sync` uploads later; whatever else fails there is said once and ends the points.
    """

    def __init__(self, run: Path, project: str, settings: Mapping[str, Any], say: Callable[[str], None]) -> None:
        self._run, self._project, self._settings, self._say = run, project, settings, say
        self._points: queue.SimpleQueue[dict[str, float] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="wandb", daemon=True)
        self._thread.start()

    def add(self, found: Mapping[str, float], step: int, epoch: float) -> None:
        """Points at `step`."""
        if found:
            self._points.put({"step": step, "epoch": epoch, **found})

    def close(self) -> None:
        """Waits until all is handed over, but not long."""
        self._points.put(None)
        self._thread.join(_WAIT_S)

    def _serve(self) -> None:
        try:
            there = self._open()
            # Not W&B's own step, which cannot go back: a resumed run does some steps again.
            there.define_metric("*", step_metric="step")
            for point in iter(self._points.get, None):
                there.log(point)
            there.finish()
        except Exception as error:  # noqa: BLE001  # whatever it is: no reason to stop a training
            self._say(f"W&B: {_first_line(error)}; training goes on without it")

    def _open(self) -> Any:
        try:
            there = self._init(None)
        except Exception as error:  # noqa: BLE001  # its errors have no common class
            self._say(f"W&B: {_first_line(error)}; kept in {self._run}/wandb instead: wandb sync uploads it later")
            _forget_failed_start()
            return self._init("offline")
        self._say(f"W&B: {there.url}" if there.url else f"W&B: offline, in {self._run}/wandb")
        return there

    def _init(self, mode: Literal["offline"] | None) -> Any:
        import wandb

        settings = wandb.Settings(
            console="off", silent=True, disable_git=True, save_code=False,
            init_timeout=_WAIT_S / 2, login_timeout=_WAIT_S / 2, finish_timeout=_WAIT_S / 2,
        )  # fmt: skip
        return wandb.init(
            project=self._project, id=_kept_id(self._run), name=self._run.resolve().name, dir=str(self._run),
            resume="allow", mode=mode, config=dict(self._settings), settings=settings,
        )  # fmt: skip


def _forget_failed_start() -> None:
    """W&B's helper process would refuse the id that it failed to start: another is begun."""
    import wandb

    wandb.teardown()


def _kept_id(run: Path) -> str:
    path = run / "wandb" / "id"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text(secrets.token_hex(4) + "\n")
    return path.read_text().strip()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".: ")


def require_wandb(project: str) -> None:
    """Raises UsageError where a project is set and the package is not there."""
    if project and importlib.util.find_spec("wandb") is None:
        raise UsageError(
            f"train.wandb: {project}, but the package wandb is not installed here; type pip install wandb, "
            "or leave the setting out"
        )
