"""Speed and memory of every network on this machine's device: forward and backward pass of a batch.

    python benchmarks/models.py [--quick] [--only 'wrn*' ...] [--batch N] [--seconds S]

One row per network, each measured in its own process: clips/s in float32, with bfloat16 autocast, with channels_last,
with both and, with --compile, compiled; and the peak memory of a step in float32, without what was used before. The
multiply-adds of a step are taken as three times those of the forward pass; `share` compares their rate with that of a
matrix product on the same device: the rest is memory traffic and overhead. The product is computed as convolutions are:
in float32, on GPUs that have TF32 in TF32, which cuDNN uses there; `bf16 share` is that of bfloat16 with channels_last,
of a product in bfloat16. A network with slow steps is measured over fewer steps, and in float32 only.

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
BOTH = "bf16 channels_last"
MODES = ("fp32", "bf16", "channels_last", BOTH, "compile")
SLOW_STEP_S = 2.0


def device() -> torch.device:
    """The GPU, if there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def settle() -> None:
    """Waits until the device has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def matmul_rate(kind: torch.dtype, seconds: float) -> float:
    """Multiply-adds per second of a product of square matrices; float32 as in convolutions, so TF32 on a GPU."""
    side = 8192 if device().type == "cuda" else 1024
    one, other = (torch.randn(side, side, device=device()).to(kind) for _ in range(2))
    products: Any = torch.backends.cuda.matmul
    before, products.fp32_precision = products.fp32_precision, "tf32"  # does nothing on a CPU
    try:
        return side**3 / best_time(lambda: one @ other, seconds)
    finally:
        products.fp32_precision = before


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
    layout = torch.channels_last if "channels_last" in mode else torch.contiguous_format
    network, inputs = network.to(memory_format=layout), inputs.to(memory_format=layout)  # type: ignore[call-overload]
    run: Callable[[Tensor], Tensor] = torch.compile(network) if mode == "compile" else network

    def autocast() -> AbstractContextManager[Any]:
        return torch.autocast(inputs.device.type, torch.bfloat16) if "bf16" in mode else nullcontext()

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


def show(rows: list[dict[str, Any]], rates: dict[str, float], batch: int) -> None:
    """Prints the table."""
    names = [mode.replace("channels_last", "NHWC") for mode in MODES]
    table = Table("network", "parameters", "mult-adds", *names, "peak MB", "share", "bf16 share",
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
            f"{row['bf16_share']:.0%}" if "bf16_share" in row else "",
        )  # fmt: skip
    table.caption = f"a matrix product of this device does {rates['fp32'] / 1e9:,.0f} G multiply-adds/s in float32"
    if "bf16" in rates:
        table.caption += f" (TF32), {rates['bf16'] / 1e9:,.0f} G in bfloat16"
    Console(width=140).print(table)


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
    rates = {"fp32": matmul_rate(torch.float32, seconds)}
    if device().type == "cuda":  # a CPU without bfloat16 takes 15 s for one such product
        rates["bf16"] = matmul_rate(torch.bfloat16, seconds)
    for row in rows:
        for key, mode, kind in (("share", "fp32", "fp32"), ("bf16_share", BOTH, "bf16")):
            if mode in row and kind in rates:
                row[key] = 3 * row["multiply_adds"] * row[mode] / rates[kind]
    show(rows, rates, batch)
    facts = {"device": device().type, "matmul_multiply_adds_per_s": rates["fp32"], "batch": batch, "rows": rows}
    print(json.dumps(facts | {"bf16_matmul_multiply_adds_per_s": rates.get("bf16")}))


if __name__ == "__main__":
    main()
