"""Acceptance run on one GPU: is kws right and fast here? Under ten minutes, without network or installed package.

    python benchmarks/gpu.py [--data DIR] [--budget SECONDS] [--only 3,11] [--out DIR]     or: make gpu
    python benchmarks/gpu.py --device cpu --quick                                          self-test without a GPU
    python benchmarks/gpu.py --networks MINUTES --data DIR                                 the nine networks, measured

Needs the project's tree, Python 3.11 or later, torch 2.9 or later and the packages of setup.cfg; not an installed kws.
Each check runs in a process of its own with a limit of its own: those of correctness up to four at a time, those of
speed alone. Checks for which no time is left are skipped. --out gets the whole output of each check (NUMBER.txt), and
its row as soon as it ends (rows.jsonl), so that a run that is killed loses nothing.

--data is a packed corpus of real clips (kws pack); without one, speed is measured on noise. --check N runs one check in
this process. Verdicts: passed, failed, skipped; on a CPU `self-test`, which shows only that the check's code runs.

Exit code 0: no check failed. 1: a check failed. 2: no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# For this process and those that it starts: this tree's kws, whatever is installed.
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))

from benchmarks.gpu_checks import runner  # noqa: E402
from benchmarks.gpu_checks.catalogue import CHECKS  # noqa: E402


def main() -> int:
    """Runs the checks; prints a growing table, and as the last line one JSON object."""
    arguments = parse_arguments()
    if arguments.device == "cuda" and (reason := why_no_gpu()):
        print(f"gpu.py: {reason}; a self-test without a GPU: --device cpu --quick", file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    context = runner.context_of(arguments, arguments.budget)
    if arguments.networks is not None:
        from benchmarks.gpu_checks import nine_networks

        facts = nine_networks.measure(context, arguments.networks)
    elif arguments.check is not None:
        facts = runner.run_here(CHECKS[arguments.check], context)
    else:
        facts = run_all(arguments)
    print(json.dumps(facts), flush=True)
    return int(facts.get("verdict") == "failed" or bool(facts.get("failed")))


def run_all(arguments: argparse.Namespace) -> dict[str, object]:
    """All checks, or those of --only; returns the facts for the last line."""
    began = time.monotonic()
    checks = [check for check in CHECKS if not arguments.only or check.number in (0, *arguments.only)]
    rows = runner.Runner(arguments).run(checks)
    count = Counter(row["verdict"] for row in rows)
    return {
        "passed": count["passed"], "failed": count["failed"], "skipped": count["skipped"],
        "self_test": count["self-test"], "device": arguments.device, "seconds": round(time.monotonic() - began, 1),
        "out": str(arguments.out), "rows": rows,
    }  # fmt: skip


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a packed corpus of real clips; default: noise")
    parser.add_argument("--budget", type=float, default=570.0, metavar="SECONDS", help="for all checks (default 570)")
    parser.add_argument("--only", type=numbers, default=(), metavar="N,N", help="only these checks, and 0")
    parser.add_argument("--out", type=Path, help="folder of the results (default: a new temporary one)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes: for the self-test on a CPU")
    parser.add_argument("--check", type=int, choices=range(len(CHECKS)), metavar="N", help="run this check here")
    parser.add_argument(
        "--networks", type=float, metavar="MINUTES",
        help="train each of the nine networks for so long: clips/s, MFU, memory, hours",
    )  # fmt: skip
    arguments = parser.parse_args()
    arguments.out = (arguments.out or Path(tempfile.mkdtemp(prefix="kws-gpu-"))).resolve()
    arguments.data = arguments.data.resolve() if arguments.data else None
    if arguments.device == "cpu":  # several processes on few cores: more threads would wait for one another
        os.environ["OMP_NUM_THREADS"] = "1"
    return arguments


def numbers(text: str) -> tuple[int, ...]:
    """The value of --only."""
    found = tuple(int(part) for part in text.split(","))
    if not set(found) <= set(range(len(CHECKS))):
        raise argparse.ArgumentTypeError(f"wanted numbers from 0 to {len(CHECKS) - 1}, such as 3,11")
    return found


def why_no_gpu() -> str:
    """Why there is no GPU to check; "" where there is one."""
    import torch

    if torch.cuda.is_available():
        return ""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA"
    return f"torch {torch.__version__} (CUDA {torch.version.cuda}) sees no GPU"


if __name__ == "__main__":
    sys.exit(main())
