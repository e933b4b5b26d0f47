"""Check 2: a training from its start to its results, as a user types it. Check 5: the same by torchrun, with NCCL."""

from __future__ import annotations

import json

from benchmarks.gpu_checks import corpora
from benchmarks.gpu_checks.check import Context, Finding
from benchmarks.gpu_checks.runs import Run, accelerate, torchrun, unequal


def check(context: Context) -> Finding:
    """Trains through launch/gpu1.yaml, without and with workers; evaluates, predicts, verifies."""
    finding = Finding()
    runs = [
        Run(context, f"workers{count}", data__workers=count, train__epochs=6) for count in (2, 0)[: context.sized(2, 1)]
    ]
    for run in runs:
        run.train(accelerate("gpu1.yaml"))
    apart = max(abs(a - b) for a, b in zip(runs[0].losses(), runs[-1].losses(), strict=True))
    finding.add(f"losses with 0 and 2 workers differ by {apart:.1e}", workers_apart=apart)
    finding.expect(apart <= 1e-3, f"losses with 0 and 2 workers differ by {apart:.1e}")
    run = runs[0]
    run.command("evaluate", run.folder)
    accuracy = float(json.loads((run.folder / "eval" / "test.json").read_text())["accuracy"])
    finding.add(f"accuracy {accuracy:.1%} on tones", accuracy=accuracy)
    finding.expect(accuracy > 0.95, f"accuracy {accuracy:.1%}")
    _predict(context, run, finding)
    run.command("verify", run.folder)
    finding.add("the ledger is the plan")
    return finding


def _predict(context: Context, run: Run, finding: Finding) -> None:
    """The words of WAV files, whose folders name the truth."""
    files = corpora.recordings(context, 16)
    lines = run.command("predict", run.folder, files, "--json").output.splitlines()
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    right = sum(row["truth"] == row["words"][0]["word"] for row in rows)
    finding.add(f"predict: {right} of {len(rows)} files right", predicted=right)
    finding.expect(right >= 15, f"predict: only {right} of {len(rows)} files right")


def check_nccl(context: Context) -> Finding:
    """torchrun with one rank: DDP and, on a GPU, NCCL. Its bits must be those of a run without them."""
    finding = Finding()
    plain, ranked = (Run(context, name, train__epochs=2, train__deterministic="true") for name in ("alone", "torchrun"))
    commands = [plain.start(), ranked.start(torchrun(1))]
    for command in commands:
        ended = command.finish(context.seconds_left)
        finding.expect(ended.code == 0, f"exit code {ended.code}: {ended.lines[-1:]}")
    if not finding.faults:
        other = unequal(plain, ranked)
        finding.expect(not other, f"{len(other)} tensors differ, such as {other[:1]}")
        finding.add(f"{len(plain.losses())} steps, equal bits")
    return finding
