"""Findings on the ranks together: which answered, host names, clocks, and whether all write to one run folder."""

from __future__ import annotations

from kws.doctor.answers import Answers, ranks_text
from kws.doctor.findings import SITE, Finding, not_checked, ok, problem, size_text, warning

_CLOCK_WARNING_S, _CLOCK_PROBLEM_S = 1.0, 30.0
_FREE_BYTES, _SLOW_BYTES_S = 10**9, 10e6
_LOOPBACK = ("127.", "::1")


def rank_rows(answers: Answers) -> list[Finding]:
    """Who answered, names and clocks."""
    return [_ranks(answers), _names(answers), *([_clocks(answers)] if answers.world_size > 1 else [])]


def _ranks(answers: Answers) -> Finding:
    world, hosts = answers.world_size, len(answers.nodes)
    if answers.lost:
        parts = [f"{answers.where(ranks)}: {why}" for why, ranks in answers.groups(answers.lost)]
        found = f"{world - len(answers.lost)} of {world} answered; {'; '.join(parts)}"
        advice = "look at the output of those ranks and at their nodes (scontrol show node); check the network"
        return problem("ranks", found, f"all {world}", advice, answers.lost)
    wanted = answers.config.train.processes if answers.config else 0
    found = f"{world} processes on {hosts} node{'s' if hosts > 1 else ''}" if world > 1 else "one process"
    if wanted not in (0, world):
        # Alone it may be a first look at the machine; started by a launcher, the training would be refused.
        verdict = warning if world == 1 else problem
        return verdict(
            "ranks", found, f"train.processes = {wanted}",
            "start kws doctor as the training will be started: accelerate launch, torchrun or srun",
        )  # fmt: skip
    if world == 1:
        more = "one process, so no clocks, no shared run folder and no all-reduce are checked"
        return not_checked("ranks", more, "for several, start it as a training: torchrun, accelerate launch, srun")
    return ok("ranks", found)


def _names(answers: Answers) -> Finding:
    """Whether each host resolves its own name and that of rank 0's. gloo listens on the address of the own name, so
    across nodes a loopback address will not do."""
    failed: dict[int, str] = {}
    for rank, found in answers.machine.items():
        for name, addresses in found["addresses"].items():
            if isinstance(addresses, str):
                failed[rank] = f"{name} does not resolve ({addresses})"
            elif _must_be_reachable(answers, rank, name) and all(item.startswith(_LOOPBACK) for item in addresses):
                failed[rank] = f"{name} is {addresses[0]}, which other nodes cannot reach"
    if not failed:
        names = {name for found in answers.machine.values() for name in found["addresses"]}
        text = ", ".join(sorted(names)[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        return ok("host names", f"{text} resolve{'s' if len(names) == 1 else ''}")
    advice = (
        "correct /etc/hosts or the name server there (getent hosts NAME); or set GLOO_SOCKET_IFNAME and "
        f"NCCL_SOCKET_IFNAME to the network's interface in {SITE}"
    )
    return problem("host names", answers.by_value(failed), "each node finds itself and rank 0", advice, failed)


def _must_be_reachable(answers: Answers, rank: int, name: str) -> bool:
    return len(answers.nodes) > 1 and name == answers.hosts.get(rank)


def _clocks(answers: Answers) -> Finding:
    if not answers.clocks:
        return not_checked("clocks", "no other node answered" if answers.lost else "one machine")
    off = {
        host: seconds for host, (seconds, error) in answers.clocks.items() if abs(seconds) - error > _CLOCK_WARNING_S
    }
    wanted = f"less than {_CLOCK_WARNING_S:g} s apart"
    if not off:
        most = max(abs(seconds) + error for seconds, error in answers.clocks.values())
        return ok("clocks", f"less than {max(most, 0.001):.3f} s apart", wanted)
    first = answers.hosts[0]
    texts = [f"{answers.host_with_ranks(host)}: {_ahead(seconds)} {first}" for host, seconds in off.items()]
    ranks = [rank for host in off for rank in answers.nodes[host]]
    advice = "synchronise the clocks (chronyc tracking; timedatectl): log times and S3 signatures depend on them"
    worst = max(abs(seconds) for seconds in off.values())
    row = problem if worst >= _CLOCK_PROBLEM_S else warning
    return row("clocks", "; ".join(texts[:4]), wanted, advice, ranks)


def _ahead(seconds: float) -> str:
    return f"clock {abs(seconds):.3g} s {'ahead of' if seconds > 0 else 'behind'}"


# --- run folder --------------------------------------------------------------------------------------------------


def folder_rows(answers: Answers) -> list[Finding]:
    """The run folder as rank 0 writes it, and whether it is the same on all ranks."""
    if not answers.folders and answers.stopped:
        return []
    return [_run_folder(answers), *([_one_folder(answers)] if answers.world_size > 1 else [])]


def _run_folder(answers: Answers) -> Finding:
    write = answers.folders.get(0, {}).get("write")
    if not write or "error" in write:
        why = (write or {}).get("error") or answers.marker.get("error") or "not reached"
        return problem(
            "run folder", f"{answers.run}: {why}", "can be written", "use --run ANOTHER_FOLDER, or check its disk", [0]
        )
    kind = f" ({write['type']})" if write["type"] else ""
    speed = f"written at {size_text(write['bytes_s'])}/s" if write["bytes_s"] else "too full to measure"
    found = f"{answers.run}: {size_text(write['free'])} free, {speed}{kind}"
    needed = _FREE_BYTES + checkpoint_bytes(answers)
    if write["free"] < needed:
        return problem("run folder", found, f"{size_text(needed)} free", "free space, or use --run ANOTHER_FOLDER", [0])
    if write["free_files"] == 0:
        return problem("run folder", f"{found}; no more files allowed", "free inodes", "remove files (df -i)", [0])
    if write["bytes_s"] < _SLOW_BYTES_S:
        return warning(
            "run folder", found, f"{size_text(_SLOW_BYTES_S)}/s", "saving will be slow; use another disk", [0]
        )
    if write["type"] == "tmpfs":
        return warning("run folder", found, "a disk", "this folder is memory and is lost at a restart; use a disk", [0])
    return ok("run folder", found, f"{size_text(needed)} free")


def checkpoint_bytes(answers: Answers) -> int:
    """Disk that the checkpoints which a run keeps take; 0 where the network was not built."""
    step = answers.training.get(0, {}).get("step", {})
    if answers.config is None or "gradient_bytes" not in step:
        return 0
    train = answers.config.train
    copies = 1 + (2 if train.optimizer == "adamw" else int(train.momentum > 0.0)) + int(train.ema > 0.0)
    return int(step["gradient_bytes"]) * copies * (train.keep + 3)  # two that pointers name, and the one being written


def _one_folder(answers: Answers) -> Finding:
    check, wanted = "one run folder", "the same for all ranks"
    paths = {rank: found["run"] for rank, found in answers.machine.items()}
    if len(answers.groups(paths)) > 1:
        advice = "give --run an absolute path, and start all ranks in one folder (srun --chdir)"
        return problem(check, answers.by_value(paths), wanted, advice, paths.keys() - set(answers.groups(paths)[0][1]))
    if "folder" not in answers.marker:
        return not_checked(check, "rank 0 cannot write there")
    looks = {rank: found.get("look", {"error": "no answer"}) for rank, found in answers.folders.items()}
    seen = answers.collected.get("seen", list(looks))
    bad = {rank: "rank 0 does not see its files there" for rank in looks if rank not in seen}
    bad |= {rank: "another folder than rank 0's" for rank, look in looks.items() if not look.get("sees", True)}
    bad |= {rank: look["error"] for rank, look in looks.items() if "error" in look}
    if not bad and len(looks) == 1:
        return not_checked(check, missing_ranks(answers) if answers.lost else "rank 0 alone answered")
    if not bad:
        kinds = sorted({look["type"] for look in looks.values() if look["type"]})
        who = "all that answered" if answers.lost else "all ranks"
        return ok(check, f"{answers.marker['folder']}, seen by {who} ({', '.join(kinds)})", wanted)
    advice = "use --run on a file system that all nodes mount (df RUN on each), at the same path"
    return problem(check, answers.by_value(bad), wanted, advice, bad)


def missing_ranks(answers: Answers) -> str:
    """ "ranks 2-3 did not answer", for what needs all ranks."""
    return f"{ranks_text(answers.lost)} did not answer"
