"""Findings on speed: process group and all-reduce, reading shards, a step of the config and its all-reduce."""

from __future__ import annotations

import re
from typing import Any

from kws.doctor.answers import Answers
from kws.doctor.cluster_findings import missing_ranks
from kws.doctor.findings import SITE, Finding, not_checked, ok, problem, seconds_text, size_text, warning
from kws.doctor.scaling import SHARE, Link, Work

_GPU_LINK_BYTES_S, _CPU_LINK_BYTES_S = 1e9, 50e6
_SLOW_RANK = 1.3
_INTERFACES = (
    f"set NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME in {SITE} to the interface that joins the nodes (ip -br addr)"
)


def rows(answers: Answers) -> list[Finding]:
    """All rows of this module."""
    found = [_group(answers), *(_all_reduces(answers) if answers.world_size > 1 else [])]
    if answers.config is None:
        why = "shards, cache and a step: no CONFIG given"
        return [*found, not_checked("config", why, "kws doctor CONFIG --set data.shards=DIR")]
    return [*found, _shards(answers), _cache(answers), _step(answers), _share(answers)]


# --- process group ---------------------------------------------------------------------------------------------


def _group(answers: Answers) -> Finding:
    if not answers.training:
        return not_checked("process group", _why_no_training(answers))
    failed = _errors(answers, "group")
    if failed:
        texts = {rank: _what_failed(text) for rank, text in failed.items()}
        advice = f"{_INTERFACES}; docs/cluster.md, Messages and what to do"
        if not any("connect" in text or text.startswith("no answer") for text in texts.values()):
            advice = next(iter(failed.values())).partition("; ")[2] or advice  # the error's own
        return problem("process group", answers.by_value(texts), "all ranks join", advice, failed)
    groups = {rank: found["group"] for rank, found in answers.training.items()}
    devices = {rank: group["device"].partition(":")[0] for rank, group in groups.items()}
    found = answers.by_value(devices)
    if answers.world_size == 1:
        return ok("process group", f"one process on {groups[0]['device']}")
    seconds = max(group["seconds"] for group in groups.values())
    texts = {
        rank: f"{group['backend']} over {group['network']}" if group["network"] else group["backend"]
        for rank, group in groups.items()
    }
    found = f"{answers.by_value(texts)}, joined in {seconds:.1f} s, device {found}"
    on_sockets = [
        rank for rank, group in groups.items()
        if group["network"] == "Socket" and answers.machine[rank]["infiniband"] and len(answers.nodes) > 1
    ]  # fmt: skip
    if on_sockets:
        advice = "see why: NCCL_DEBUG=INFO, ibstat, NCCL_IB_DISABLE, NCCL_IB_HCA; a container needs /dev/infiniband"
        return warning("process group", found, "InfiniBand, which is there", advice, on_sockets)
    return ok("process group", found)


def _what_failed(error: str) -> str:
    """The error of joining or connecting without the rank, which the row names, and without places in source files."""
    return re.sub(r"^rank \d+ on [^:]+: |\[enforce fail at [^]]*\] ", "", error).partition("; ")[0]


def _why_no_training(answers: Answers) -> str:
    if answers.lost:
        return missing_ranks(answers)
    return "stopped before" if answers.stopped else "torch does not work on all ranks"


def _errors(answers: Answers, name: str) -> dict[int, str]:
    found = {rank: answer.get(name, {}) for rank, answer in answers.training.items()}
    return {rank: str(answer["error"]) for rank, answer in found.items() if "error" in answer}


def _all_reduces(answers: Answers) -> list[Finding]:
    """One row each for inside nodes and between nodes, as far as there are such."""
    failed = _errors(answers, "all_reduce")
    if failed:
        return [problem("all-reduce", answers.by_value(failed), "an answer", _INTERFACES, failed)]
    measured = {rank: found["all_reduce"] for rank, found in answers.training.items() if "all_reduce" in found}
    if not measured:
        return [
            not_checked("all-reduce", "the process group failed" if answers.training else _why_no_training(answers))
        ]
    found = []
    for name, check in (("node", "all-reduce in nodes"), ("nodes", "all-reduce between nodes")):
        groups = {rank: of_rank[name] for rank, of_rank in measured.items() if of_rank.get(name)}
        if groups:
            found.append(_all_reduce(answers, check, groups))
    return found


def _all_reduce(answers: Answers, check: str, groups: dict[int, dict[str, Any]]) -> Finding:
    """The slowest group's bandwidth and latency."""
    links = {rank: link_of(group) for rank, group in groups.items()}
    slowest = min(links, key=lambda rank: links[rank].bandwidth)
    latency = max(group["latency_s"] for group in groups.values())
    members = groups[slowest]["ranks"]
    where = f", slowest in {answers.where(members)}" if check.endswith("in nodes") and len(answers.nodes) > 1 else ""
    found = f"{size_text(links[slowest].bandwidth)}/s, {seconds_text(latency)} latency{where}"
    on_gpu = answers.training[slowest]["group"]["device"].startswith("cuda")
    least = _GPU_LINK_BYTES_S if on_gpu else _CPU_LINK_BYTES_S
    wanted = f"{size_text(least)}/s or more"
    if links[slowest].bandwidth >= least:
        return ok(check, found, wanted)
    return warning(check, found, wanted, _INTERFACES, members)


def link_of(group: dict[str, Any]) -> Link:
    """The link that a measured group shows."""
    return Link.measured(len(group["ranks"]), group["bytes"], group["seconds"], group["latency_s"])


# --- shards ------------------------------------------------------------------------------------------------------


def _shards(answers: Answers) -> Finding:
    reads = {rank: found["read"] for rank, found in answers.shards.items() if "read" in found}
    failed = {rank: str(read["error"]) for rank, read in reads.items() if "error" in read}
    if failed:
        advice = "put the corpus where all nodes see it, or correct data.shards"
        return problem("shards", answers.by_value(failed), "read by all ranks", advice, failed)
    if not reads:
        return not_checked("shards", "stopped before")
    corpora = {rank: read["corpus_id"][:12] for rank, read in reads.items()}
    if len(answers.groups(corpora)) > 1:
        odd = [rank for _, ranks in answers.groups(corpora)[1:] for rank in ranks]
        found = f"different corpora: {answers.by_value(corpora)}"
        return problem("shards", found, "one corpus on all nodes", "copy the corpus and its index again", odd)
    speeds = {host: _speed(members, reads) for host, members in answers.nodes.items() if members[0] in reads}
    slow = min(speeds, key=lambda host: speeds[host])
    clip_bytes = reads[min(reads)]["bytes_of_clip"]
    where = f" on {slow}, the slowest node" if len(speeds) > 1 else ""
    found = f"{size_text(speeds[slow])}/s, {speeds[slow] / clip_bytes:,.0f} clips/s{where}"
    needed = _needed_bytes_s(answers, slow, clip_bytes)
    if needed is None:
        return ok("shards", found)
    wanted = f"{size_text(needed)}/s, for {needed / clip_bytes:,.0f} clips/s of a step"
    if speeds[slow] >= needed:
        return ok("shards", found, wanted)
    advice = "use --set data.cache_dir=DIR on a local disk; with FLAC shards (kws pack --format flac) half is read"
    return warning("shards", found, wanted, advice, answers.nodes[slow])


def _speed(members: list[int], reads: dict[int, dict[str, Any]]) -> float:
    """Bytes a second of a node: its ranks read at the same time."""
    return float(sum(reads[rank]["bytes"] / max(reads[rank]["seconds"], 1e-6) for rank in members if rank in reads))


def _needed_bytes_s(answers: Answers, host: str, clip_bytes: float) -> float | None:
    """Bytes a second that the measured slots of a node's ranks consume; None where they were not measured."""
    step = answers.training.get(0, {}).get("step", {})
    if "slot_s" not in step:
        return None
    clips_s = sum(step["micro_batch"] / step["slot_s"][rank] for rank in answers.nodes[host])
    return float(clips_s * clip_bytes)


def _cache(answers: Answers) -> Finding:
    caches = {rank: found["cache"] for rank, found in answers.shards.items() if found.get("cache")}
    if not caches:
        used = any("cache" in found for found in answers.shards.values())
        return ok("cache", "not used: shards are read where they are") if used else not_checked("cache", "no answer")
    failed = {rank: str(cache["error"]) for rank, cache in caches.items() if "error" in cache}
    if failed:
        advice = "use another --set data.cache_dir=..."
        return problem("cache", answers.by_value(failed), "can be written", advice, failed)
    least = min(caches, key=lambda rank: caches[rank]["free"])
    slow = min(caches, key=lambda rank: caches[rank]["bytes_s"] or 0.0)
    speed = caches[slow]["bytes_s"]
    found = (
        f"{caches[least]['folder']}: {size_text(caches[least]['free'])} free"
        + (f", written at {size_text(speed)}/s" if speed else ", too full to measure")
        + (f" ({caches[least]['type']})" if caches[least]["type"] else "")
        + (f" on {answers.hosts[least]}" if len(answers.nodes) > 1 else "")
    )
    wanted = f"{size_text(caches[least]['needed'])} (data.cache_gb)"
    small = [rank for rank, cache in caches.items() if cache["free"] < cache["needed"]]
    if small:
        return warning("cache", found, wanted, "use a smaller data.cache_gb, or another data.cache_dir", small)
    return ok("cache", found, wanted)


# --- a step --------------------------------------------------------------------------------------------------------


def _step(answers: Answers) -> Finding:
    failed = _errors(answers, "step")
    if failed:
        return problem(
            "step",
            answers.by_value(failed),
            "a few slots run",
            "kws train CONFIG --check shows more; or use a longer --timeout",
            failed,
        )
    step = answers.training.get(0, {}).get("step")
    if not step:
        return not_checked("step", "the process group failed" if answers.training else _why_no_training(answers))
    work = work_of(step)
    seconds = work.step_s(answers.world_size)
    clips = work.slots * step["micro_batch"]
    slots = work.slots // answers.world_size
    found = (
        f"{step['network']}: {seconds_text(seconds)}, {clips / seconds:,.0f} clips/s; "
        f"{slots} slot{'s' if slots > 1 else ''} of {seconds_text(work.slot_s)} on each rank"
    )
    usual = sorted(step["slot_s"])[len(step["slot_s"]) // 2]
    slow = [rank for rank, slot_s in enumerate(step["slot_s"]) if slot_s > _SLOW_RANK * usual]
    wanted = f"no rank over {_SLOW_RANK:g} x the median" if answers.world_size > 1 else ""
    if not slow:
        return ok("step", found, wanted)
    worst = max(slow, key=lambda rank: step["slot_s"][rank])
    found += f"; {answers.where(slow)}: up to {step['slot_s'][worst] / usual:.1f} x the median"
    return warning("step", found, wanted, "look for other programs there (top, nvidia-smi), and at the cores", slow)


def work_of(step: dict[str, Any]) -> Work:
    """The work of a step, at the speed of the slowest rank."""
    return Work(step["slots"], max(step["slot_s"]), max(step["update_s"]), step["gradient_bytes"])


def _share(answers: Answers) -> Finding:
    """The gradient's all-reduce against the step."""
    check, wanted = "all-reduce in a step", f"at most {SHARE:.0%} of a step"
    step = answers.training.get(0, {}).get("step", {})
    if "slot_s" not in step:
        return not_checked(check, "no step was measured")
    work = work_of(step)
    gradient = f"{size_text(work.gradient_bytes)} of gradient"
    link = _slowest_link(answers)
    if link is None:
        most = work.slots
        if most == 1:
            return ok(check, f"{gradient}; the step has one slot, so it runs on one process", wanted)
        needs = f"{size_text(work.bandwidth_for(most))}/s between {most} ranks"
        return not_checked(check, f"one process; {gradient}, which would need {needs}")
    seconds, here = step["all_reduce_s"], work.step_s(answers.world_size)
    share = seconds / (seconds + here)
    too_many = work.too_many(link)
    limit = f"over {SHARE:.0%} from {too_many} ranks on" if too_many else f"under {SHARE:.0%} up to {work.slots} ranks"
    found = f"{gradient} in {seconds_text(seconds)}, {share:.1%} of a step; {limit}"
    if share <= SHARE:
        return ok(check, found, wanted)
    advice = "use fewer ranks, or a larger train.global_batch in a new run; a faster network: see the rows above"
    return warning(check, found, wanted, advice)


def _slowest_link(answers: Answers) -> Link | None:
    """The link between nodes, or that inside a node where there is one node only."""
    found = [answer.get("all_reduce", {}) for answer in answers.training.values()]
    groups = [of_rank["nodes"] for of_rank in found if of_rank.get("nodes")]
    groups = groups or [of_rank["all"] for of_rank in found if of_rank.get("all")]
    return min((link_of(group) for group in groups), key=lambda link: link.bandwidth, default=None)
