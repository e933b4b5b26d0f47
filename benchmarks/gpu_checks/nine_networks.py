"""--networks MINUTES: the nine networks of slurm/array.sbatch, each trained by its own config: clips/s, MFU, memory.

For what is "estimated" in configs/: `hours` is the time of the whole config on this GPU, at the speed measured.
"""

from __future__ import annotations

import json
import time
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.gpu_checks import corpora
from benchmarks.gpu_checks.check import ROOT, Context
from benchmarks.gpu_checks.runs import ALONE, Command, Run
from benchmarks.gpu_checks.wide_networks import CLASSES, product_flops
from kws import settings_file
from kws.commands import catalogue

NINE = (
    "vgg19_bn", "resnet32", "wrn_28_10", "wrn_28_10_dropout", "wrn_52_10", "resnext29_8x64", "dpn92",
    "densenet_bc_100_12", "densenet_bc_190_40",
)  # fmt: skip
EPOCH_CLIPS = 84_843
"""Train split of Speech Commands v0.02, for which hours are computed."""
Row = dict[str, Any]


def measure(context: Context, minutes: float) -> Row:
    """Trains each network for so many minutes; prints a table and returns its rows."""
    gpu = torch.cuda.get_device_name(0) if context.on_gpu else "CPU"
    product = product_flops(torch.device(context.device), context.sized(8192, 128))
    rows: list[Row] = []
    for name in NINE[: context.sized(9, 1)]:
        rows.append(_network(context, name, 60.0 * minutes, product))
        print(json.dumps(rows[-1]), flush=True)  # so that a measurement that is ended early loses nothing
    _show(rows, f"{gpu}, bf16 product {product / 1e12:,.3g} TFLOP/s")
    return {"device": gpu, "product_tflops": product / 1e12, "rows": rows}


def _network(context: Context, name: str, seconds: float, product: float) -> Row:
    config = settings_file.load(ROOT / "configs" / f"{name}.toml")
    run = Run(context, f"nine-{name}")
    changes = {
        "data.shards": corpora.clips(context), "train.device": context.device, "train.log_steps": 1,
        "train.save_minutes": 1000,
    }  # fmt: skip
    words = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    command = Command(
        [*ALONE, "train", ROOT / "configs" / f"{name}.toml", "--run", run.folder, *words],
        run.folder.parent / f"nine-{name}.log",
    )
    try:
        command.wait_until(lambda: run.steps_done() >= 2, 600.0)
        until = time.monotonic() + seconds
        command.wait_until(lambda: time.monotonic() > until, seconds + 60.0)
    except RuntimeError as error:
        return {"name": name, "error": str(error)[-200:]}
    finally:
        command.kill()
    steps = run.events("step")
    rates = [row["clips_per_s"] for row in steps[len(steps) // 3 :]]
    clips_per_s, cost = median(rates), catalogue.network_row(name, CLASSES)["multiply_adds"]
    return {
        "name": name, "precision": config.train.precision, "micro_batch": config.train.micro_batch, "steps": len(steps),
        "clips_per_s": clips_per_s, "mfu": clips_per_s * 6.0 * cost / product, "loss": steps[-1]["loss"],
        "gpu_gb": max(row.get("gpu_gb", 0.0) for row in steps),
        "hours": EPOCH_CLIPS * config.train.epochs / clips_per_s / 3600.0,
    }  # fmt: skip


def _show(rows: list[Row], caption: str) -> None:
    table = Table(
        "network",
        "precision",
        "a slot",
        "clips/s",
        "MFU",
        "GB",
        "hours",
        title="training by its config",
        caption=caption,
    )
    for row in rows:
        if "error" in row:
            table.add_row(row["name"], row["error"])
            continue
        table.add_row(
            row["name"], row["precision"], str(row["micro_batch"]), f"{row['clips_per_s']:,.0f}", f"{row['mfu']:.0%}",
            f"{row['gpu_gb']:.1f}", f"{row['hours']:.2f}",
        )  # fmt: skip
    Console(width=110).print(table)
