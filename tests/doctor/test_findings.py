"""One thing wrong at a time, on answers made up: which row says so, with which verdict, and which ranks it names."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kws.doctor.answers import Answers, ranks_text
from kws.doctor.examination import findings
from kws.doctor.findings import Finding
from tests.doctor.made_answers import GPU, alone, healthy

Fault = Callable[[Answers], object]
NODE2 = "node2 (ranks 2-3)"


def row(answers: Answers, check: str) -> Finding:
    (found,) = [row for row in findings(answers) if row.check == check]
    return found


def on_node2(change: Callable[[dict], object]) -> Fault:  # type: ignore[type-arg]
    def apply(answers: Answers) -> None:
        for rank in (2, 3):
            change(answers.machine[rank])

    return apply


def test_healthy_nodes_have_no_problem_and_no_warning() -> None:
    assert {row.check: row.verdict for row in findings(healthy()) if row.verdict != "ok"} == {}


def test_one_process_is_fine_and_what_needs_several_is_not_checked() -> None:
    verdicts = {row.check: row.verdict for row in findings(alone())}
    assert set(verdicts.values()) == {"ok", "not checked"}
    assert verdicts["all-reduce in a step"] == "not checked"
    assert "one run folder" not in verdicts


@pytest.mark.parametrize(
    ("check", "fault", "text"),
    [
        ("Python", on_node2(lambda machine: machine.update(python="3.10.2")), "3.10.2"),
        ("kws", on_node2(lambda machine: machine.update(kws="0.1.0 (code 0)")), "code 0"),
        ("torch", on_node2(lambda machine: machine["torch"].update(torch="2.9.0")), "2.9.0"),
        ("torch", on_node2(lambda machine: machine.update(torch={"error": "ImportError: libcudart"})), "libcudart"),
        ("torchaudio", on_node2(lambda machine: machine["torch"].update(torchaudio_error="no such file")), "no such"),
        ("packages", on_node2(lambda machine: machine["packages"].update(numpy="")), "numpy missing"),
        ("host names", on_node2(lambda machine: machine["addresses"].update(node1="unknown")), "node1"),
        ("host names", on_node2(lambda machine: machine["addresses"].update(node2=["127.0.1.1"])), "127.0.1.1"),
        ("GPUs", on_node2(lambda machine: machine["torch"].update(fault="GPU 0 of 1 does not work")), "GPU 0"),
        ("one run folder", on_node2(lambda machine: machine.update(run="/other/a")), "/other/a"),
    ],
)
def test_a_wrong_node_is_a_problem_that_names_its_ranks(check: str, fault: Fault, text: str) -> None:
    answers = healthy()
    fault(answers)
    found = row(answers, check)
    assert (found.verdict, found.ranks) == ("problem", (2, 3))
    assert NODE2 in found.found
    assert text in found.found
    assert found.advice


def test_other_threads_and_cores_are_a_warning() -> None:
    answers = healthy()
    answers.machine[2]["omp_threads"] = "7"
    found = row(answers, "threads")
    assert (found.verdict, found.ranks) == ("warning", (2,))
    assert "node2 (rank 2)" in found.found
    assert "OMP_NUM_THREADS=7" in found.found


def test_more_threads_than_bound_cores_are_a_warning() -> None:
    answers = healthy()
    for rank in range(4):
        answers.machine[rank] |= {"cores": [0], "usable_cores": 1}
    found = row(answers, "threads")
    assert found.verdict == "warning"
    assert "4 threads on 1 core" in found.found


@pytest.mark.parametrize(("seconds", "verdict"), [(0.5, "ok"), (4.0, "warning"), (61.0, "problem"), (-61.0, "problem")])
def test_a_clock_is_named_with_its_node_and_how_far_it_is_off(seconds: float, verdict: str) -> None:
    answers = healthy()
    answers.clocks["node2"] = (seconds, 0.001)
    found = row(answers, "clocks")
    assert found.verdict == verdict
    if verdict != "ok":
        assert found.ranks == (2, 3)
        assert f"{NODE2}: clock {abs(seconds):.3g} s {'ahead' if seconds > 0 else 'behind'}" in found.found


def test_ranks_that_did_not_answer_are_named_and_the_group_is_not_checked() -> None:
    answers = healthy()
    answers.lost = {2: "ended before all was checked", 3: "did not connect within 60 s"}
    del answers.hosts[3]
    answers.training = {}
    found = row(answers, "ranks")
    assert (found.verdict, found.ranks) == ("problem", (2, 3))
    assert "node2 (rank 2)" in found.found
    assert "rank 3" in found.found
    assert row(answers, "process group").verdict == "not checked"
    assert "ranks 2-3" in row(answers, "process group").found


def test_a_run_folder_that_is_not_shared_names_who_does_not_see_it() -> None:
    answers = healthy()
    answers.folders[2]["look"]["sees"] = answers.folders[3]["look"]["sees"] = False
    answers.collected["seen"] = [0, 1]
    found = row(answers, "one run folder")
    assert (found.verdict, found.ranks) == ("problem", (2, 3))
    answers = healthy()
    answers.collected["seen"] = [0, 1, 2]  # each sees the marker, but rank 0 does not see what rank 3 wrote
    assert row(answers, "one run folder").ranks == (3,)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"free": 10**6}, "problem"), ({"free_files": 0}, "problem"), ({"bytes_s": 1e6}, "warning"),
        ({"type": "tmpfs"}, "warning"), ({"error": "no answer within 60 s"}, "problem"),
    ],
)  # fmt: skip
def test_a_bad_run_folder(change: dict[str, object], verdict: str) -> None:
    answers = healthy()
    answers.folders[0]["write"] |= change
    found = row(answers, "run folder")
    assert (found.verdict, found.ranks) == (verdict, (0,))


def test_a_driver_older_than_the_wheel_and_a_wheel_for_cpus() -> None:
    answers = healthy()
    for rank in range(4):
        answers.machine[rank]["nvidia"] |= {"driver": "535.104", "cuda": "12.2"}
    assert row(answers, "GPU driver").verdict == "ok", "the GPUs are hidden on purpose"
    for rank in range(4):
        answers.machine[rank]["torch"]["fault"] = "train.device: auto, and 1 GPU is there"
    assert row(answers, "GPU driver").verdict == "problem"
    for rank in range(4):
        answers.machine[rank]["torch"]["cuda"] = "12.8"
    assert row(answers, "GPU driver").verdict == "ok", "a driver runs all CUDA versions of its major one"
    answers.machine[3]["torch"]["cuda"] = "13.0"
    found = row(answers, "GPU driver")
    assert (found.verdict, found.ranks) == ("problem", (3,))


def test_shared_memory_matters_where_a_node_has_several_gpus() -> None:
    answers = healthy()
    answers.machine[2]["shared_memory"]["free"] = 1 << 26
    assert row(answers, "/dev/shm").verdict == "ok"
    for rank in range(4):
        answers.machine[rank]["torch"] |= {"devices": [GPU], "device": "cuda:0"}
    assert (row(answers, "/dev/shm").verdict, row(answers, "/dev/shm").ranks) == ("warning", (2,))


def test_few_open_files_and_little_locked_memory_for_infiniband() -> None:
    answers = healthy()
    answers.machine[1]["open_files"] = [256, 4096]
    assert (row(answers, "ulimit -n").verdict, row(answers, "ulimit -n").ranks) == ("warning", (1,))
    answers.machine[1] |= {"infiniband": ["mlx5_0"], "locked_memory": [65_536, 65_536]}
    assert row(answers, "ulimit -l").verdict == "warning"


def test_a_group_that_fails_shows_why_and_no_speed() -> None:
    answers = healthy()
    error = "rank {} on x: cannot connect to the other ranks ([enforce fail at /a/b.cc:84] no address); see theirs"
    answers.training = {rank: {"group": {"error": error.format(rank)}} for rank in range(4)}
    found = row(answers, "process group")
    assert (found.verdict, found.found) == ("problem", "cannot connect to the other ranks (no address)")
    assert "GLOO_SOCKET_IFNAME" in found.advice
    assert row(answers, "all-reduce").verdict == "not checked"
    assert row(answers, "step").verdict == "not checked"


def test_a_group_that_is_refused_shows_the_fix_of_that_error() -> None:
    answers = healthy()
    error = "2 processes and 1 GPU on node1: ranks 0 and 1 both use GPU 0; start 1 there"
    answers.training = {rank: {"group": {"error": error}} for rank in range(4)}
    assert row(answers, "process group").advice == "start 1 there"


def test_sockets_although_infiniband_is_there_are_a_warning() -> None:
    answers = healthy()
    for rank in range(4):
        answers.training[rank]["group"] |= {"network": "Socket", "device": "cuda:0", "backend": "nccl"}
    assert row(answers, "process group").verdict == "ok"
    answers.machine[3]["infiniband"] = ["mlx5_0"]
    assert (row(answers, "process group").verdict, row(answers, "process group").ranks) == ("warning", (3,))


def test_a_slow_link_is_a_warning_with_its_ranks() -> None:
    answers = healthy()
    for rank in (0, 2):
        answers.training[rank]["all_reduce"]["nodes"]["seconds"] = 1.0  # 10 MB in a second
    found = row(answers, "all-reduce between nodes")
    assert (found.verdict, found.ranks) == ("warning", (0, 2))


def test_an_all_reduce_of_more_than_a_tenth_of_a_step_is_a_warning() -> None:
    answers = healthy()
    for found in answers.training.values():
        found["step"] |= {"gradient_bytes": 10**8, "all_reduce_s": 0.3}
    found_row = row(answers, "all-reduce in a step")
    assert found_row.verdict == "warning"
    assert "from 2 ranks on" in found_row.found


def test_a_slow_rank_of_a_step_is_named() -> None:
    answers = healthy()
    answers.training[0]["step"]["slot_s"][3] = 0.2
    found = row(answers, "step")
    assert (found.verdict, found.ranks) == ("warning", (3,))
    assert "2.0 x the median" in found.found


def test_shards_that_differ_are_slow_or_missing() -> None:
    answers = healthy()
    answers.shards[2]["read"]["seconds"] = answers.shards[3]["read"]["seconds"] = 1e6
    assert (row(answers, "shards").verdict, row(answers, "shards").ranks) == ("warning", (2, 3))
    answers.shards[3]["read"]["corpus_id"] = "d" * 32
    assert (row(answers, "shards").verdict, row(answers, "shards").ranks) == ("problem", (3,))
    answers.shards[3]["read"] = {"error": "no packed corpus there"}
    assert (row(answers, "shards").verdict, row(answers, "shards").ranks) == ("problem", (3,))


def test_a_cache_that_does_not_fit_is_a_warning() -> None:
    answers = healthy()
    answers.shards[2]["cache"] = {
        "folder": "/local", "free": 10**9, "free_files": 5, "type": "xfs", "bytes_s": 1e9, "needed": 5 * 10**10
    }  # fmt: skip
    assert (row(answers, "cache").verdict, row(answers, "cache").ranks) == ("warning", (2,))


def test_another_number_of_processes_than_the_config_wants_is_a_problem() -> None:
    assert row(healthy(processes=8), "ranks").verdict == "problem"


@pytest.mark.parametrize("stages", range(4))
def test_what_was_checked_before_a_stop_is_shown(stages: int) -> None:
    answers = healthy()
    for name in ("machine", "folders", "shards", "training")[stages:]:
        setattr(answers, name, {})
    answers.stopped = "stopped by SIGTERM"
    verdicts = {row.check: row.verdict for row in findings(answers)}
    assert [check for check, verdict in verdicts.items() if verdict == "problem"] == ["examination"]
    assert ("Python" in verdicts, "run folder" in verdicts) == (stages >= 1, stages >= 2)


@pytest.mark.parametrize("stage", ["machine", "folders", "shards", "training"])
def test_a_stage_that_some_ranks_did_not_answer_leaves_the_others(stage: str) -> None:
    answers = healthy()
    for rank in (2, 3):
        del getattr(answers, stage)[rank]
        answers.lost[rank] = "no answer"
    assert [row.check for row in findings(answers) if row.verdict == "problem"] == ["ranks"]


@pytest.mark.parametrize(
    ("ranks", "text"), [([1], "rank 1"), ([0, 1], "ranks 0-1"), ([0, 2, 3, 4, 9], "ranks 0, 2-4, 9")]
)
def test_ranks_are_listed_as_ranges(ranks: list[int], text: str) -> None:
    assert ranks_text(ranks) == text
