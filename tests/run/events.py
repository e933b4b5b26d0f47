"""Events of a run, as training logs them."""

from __future__ import annotations

from pathlib import Path

from kws.config import Config
from kws.run.display import RunLength
from kws.run.log import RunLog, make_console

LENGTH = RunLength(epochs=2, steps_per_epoch=4)
STEP = {"epoch": 0, "loss": 1.5, "accuracy": 0.25, "lr": 0.1, "clips_per_s": 900.0, "data_wait": 0.05, "seconds": 2.0}
EPOCH = {
    "epoch": 0, "lr": 0.1, "train_loss": 1.25, "train_accuracy": 0.5, "valid_loss": 1.0, "valid_accuracy": 0.75,
    "ema_valid_loss": 0.5, "ema_valid_accuracy": 0.875, "eval_seconds": 3.0,
}  # fmt: skip
START = {"attempt": 1, "epoch": 0, "world_size": 1, "best": None}


def write_run(
    run: Path, first: int, last: int, config: Config | None = None, loss: float = 1.5, show: bool = False
) -> None:
    """Logs one attempt of a run: an event for each of its steps, an epoch, a save."""
    run.mkdir(exist_ok=True)
    with RunLog(run, config or Config(), LENGTH, first, make_console(show), active=True) as log:
        log.event("start", first, **START)
        for step in range(first + 1, last + 1):
            log.advance(step)
            log.event("step", step, **{**STEP, "loss": loss})
        log.event("epoch", last, **EPOCH)
        log.event("save", last, checkpoint="step-00000004", seconds=0.5)
        log.event("end", last, state="finished")
