"""Speed and memory of every network on this machine's device: forward and backward pass of a batch.

    python benchmarks/models.py [--quick] [--only 'wrn*' ...] [--batch N] [--seconds S]

One row per network, each measured in its own process: clips/s in float32, with bfloat16 autocast, with channels_last
and, with --compile, compiled; and the peak memory of a step in float32, without what was used before. The multiply-adds
of a step are taken as three times those of the forward pass; `share` compares their rate with that of a float32 matrix
product on the same device: the rest is memory traffic and overhead. A network with slow steps is measured over fewer
steps, and in float32 only.

On a CPU with one thread and batches of 16; on a GPU with batches of 256.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from kws.commands import catalogue
from kws.errors import UsageError
from kws.machine import keep_freed_memory
from kws.models import registry
from kws.models.cost import count_parameters, multiply_adds

CLASSES = 35
QUICK = ("resnet32", "tc_resnet8", "matchboxnet_3x1x64", "bcresnet_1", "wrn_40_2_b131")
MODES = ("fp32", "bf16", "channels_last", "compile")
SLOW_STEP_S = 2.0


def device() -> torch.device:
    """The GPU, if there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def settle() -> None:
    """Waits until the device has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def matmul_rate(seconds: float) -> float:
    """Multiply-adds per second of a product of square matrices in float32."""
    side = 8192 if device().type == "cuda" else 1024
    one, other = torch.randn(side, side, device=device()), torch.randn(side, side, device=device())
    return side**3 / best_time(lambda: one @ other, seconds)


def best_time(way: Callable[[], Any], seconds: float) -> float:
    """Seconds of the fastest call, after one call to warm up."""
    way()
    settle()
    best, until = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        way()
        settle()
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() > until:
            return best


def step_of(network: nn.Module, inputs: Tensor, mode: str) -> Callable[[], None]:
    """A function that runs the forward and backward pass of one batch."""
    labels = torch.arange(len(inputs), device=inputs.device) % CLASSES
    if mode == "channels_last":
        network, inputs = network.to(memory_format=torch.channels_last), inputs.to(memory_format=torch.channels_last)
    run: Callable[[Tensor], Tensor] = torch.compile(network) if mode == "compile" else network

    def autocast() -> AbstractContextManager[Any]:
        return torch.autocast(inputs.device.type, torch.bfloat16) if mode == "bf16" else nullcontext()

    def step() -> None:
        network.zero_grad()
        with autocast():
            loss = nn.functional.cross_entropy(run(inputs).float(), labels)
        loss.backward()

    return step


def peak_bytes(step: Callable[[], None]) -> int:
    """The peak memory of a step, without what was used before it."""
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the present value
    step()
    return resident("VmHWM") - before


def resident(field: str) -> int:
    """The resident memory of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measure(name: str, batch: int, seconds: float, modes: Sequence[str], answer: Any) -> None:
    """Measures one network; run in its own process."""
    torch.set_num_threads(1)
    keep_freed_memory()
    shape = catalogue.network_row(name)["input"]
    found: dict[str, Any] = {"name": name, "input": shape}
    torch.manual_seed(0)
    network = registry.build_model(name, CLASSES, shape).to(device())
    inputs = torch.randn(batch, *shape, device=device())
    found["parameters"] = count_parameters(network)
    found["multiply_adds"] = multiply_adds(network, shape)
    step = step_of(network, inputs, "fp32")
    found["peak_bytes"] = peak_bytes(step)
    for mode in modes:
        if mode != "fp32" and batch / found["fp32"] > SLOW_STEP_S:
            break
        found[mode] = batch / best_time(step_of(network, inputs, mode), seconds)
    answer.send(found)


def in_own_process(name: str, batch: int, seconds: float, modes: Sequence[str]) -> dict[str, Any]:
    """The row of a network; only its name and an error where its process failed."""
    context = multiprocessing.get_context("forkserver")  # new processes with torch already imported
    context.set_forkserver_preload(["torch", "kws.commands.catalogue"])
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(name, batch, seconds, modes, send))
    process.start()
    send.close()
    try:
        found: dict[str, Any] = receive.recv()
    except EOFError:
        found = {"name": name, "error": "failed"}
    process.join()
    return found


def show(rows: list[dict[str, Any]], rate: float, batch: int) -> None:
    """Prints the table."""
    table = Table("network", "parameters", "mult-adds", *MODES, "peak MB", "share",
                  title=f"clips/s, forward and backward, batches of {batch}, {device().type}")  # fmt: skip
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        if "error" in row:
            table.add_row(row["name"], row["error"])
            continue
        speeds = [f"{row[mode]:,.3g}" if mode in row else "" for mode in MODES]
        table.add_row(
            row["name"], f"{row['parameters']:,}", f"{row['multiply_adds'] / 1e6:,.1f} M", *speeds,
            f"{row['peak_bytes'] / 1e6:,.0f}", f"{row['share']:.0%}",
        )  # fmt: skip
    table.caption = f"a matrix product of this device does {rate / 1e9:,.0f} G multiply-adds/s in float32"
    Console(width=120).print(table)


def main() -> None:
    """Prints the table, and as the last line one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="five small networks: under a minute")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="names of networks; * matches any characters (default: all)"
    )
    parser.add_argument("--batch", type=int, help="clips per batch (default 16; 256 on a GPU)")
    parser.add_argument("--seconds", type=float, help="seconds per network and mode (default 1; 0.5 with --quick)")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="also measure torch.compile, which needs a C++ compiler and takes minutes",
    )
    parser.add_argument("--data", type=Path, help="not used: the clips are random numbers")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        names = catalogue.find_names(arguments.only or (QUICK if arguments.quick else ()))
    except UsageError as error:
        parser.error(str(error))
    batch = arguments.batch or (256 if torch.cuda.is_available() else 16)
    seconds = arguments.seconds or (0.5 if arguments.quick else 1.0)
    modes = MODES if arguments.compile else MODES[:-1]
    rows = [in_own_process(name, batch, seconds, modes) for name in track(names, console=Console(stderr=True))]
    rate = matmul_rate(seconds)
    for row in rows:
        if "error" not in row:
            row["share"] = 3 * row["multiply_adds"] * row["fp32"] / rate
    show(rows, rate, batch)
    print(json.dumps({"device": device().type, "matmul_multiply_adds_per_s": rate, "batch": batch, "rows": rows}))


if __name__ == "__main__":
    main()
