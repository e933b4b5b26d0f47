import dataclasses
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from kws import files
from kws.config import Config, DataConfig, TrainConfig
from kws.corpus import tasks
from kws.errors import UsageError
from kws.run import folder as run_folder
from kws.run import lock
from tests.conftest import require

FACTS = {"corpus_id": "abc", "threads": 2, "world_size": 1, "task": tasks.load("v2-12").tree()}


def claimed(run: Path, config: Config | None = None, **facts: object) -> None:
    """As a start does it."""
    run_folder.check_settings(run, config or Config(), {**FACTS, **facts})
    run_folder.record_settings(run, config or Config(), {**FACTS, **facts})


def begun(run: Path, config: Config | None = None, **facts: object) -> None:
    """A run that has saved: from then on its settings hold."""
    claimed(run, config, **facts)
    (run / "checkpoints" / "step-00000001").mkdir(parents=True)


def refusal(run: Path, config: Config | None = None, **facts: object) -> str:
    with pytest.raises(UsageError) as caught:
        claimed(run, config, **facts)
    return str(caught.value)


def test_a_new_folder_holds_the_resolved_settings_and_facts(tmp_path: Path) -> None:
    run = tmp_path / "deep" / "run"
    config = Config(data=DataConfig(shards="/mnt/😀"), train=TrainConfig(lr=0.25))
    claimed(run, config)
    assert run_folder.read_config(run) == config
    assert json.loads((run / "run.json").read_text()) == FACTS
    assert sorted(path.name for path in run.iterdir()) == ["config.toml", "run.json"]


def test_the_same_again_is_taken_and_what_may_change_is_written_down(tmp_path: Path) -> None:
    claimed(tmp_path)
    moved = Config(data=DataConfig(shards="elsewhere", workers=3), train=TrainConfig(processes=2))
    claimed(tmp_path, moved, world_size=2)
    assert run_folder.read_config(tmp_path) == moved
    assert json.loads((tmp_path / "run.json").read_text())["world_size"] == 2


def test_a_run_that_never_saved_may_start_with_other_settings(tmp_path: Path) -> None:
    claimed(tmp_path, Config(train=TrainConfig(lr=100.0)))
    claimed(tmp_path, Config(train=TrainConfig(lr=0.1)))
    assert run_folder.read_config(tmp_path).train.lr == 0.1


def test_other_settings_and_corpus_are_refused_with_every_difference_and_what_to_type(tmp_path: Path) -> None:
    begun(tmp_path)
    message = refusal(tmp_path, Config(train=TrainConfig(seed=1, lr=0.5)), corpus_id="xyz")
    for part in (str(tmp_path), "train.seed: 0 there, 1 now", "train.lr", "corpus_id: abc there, xyz now", "--run"):
        assert part in message
    assert run_folder.read_config(tmp_path) == Config()


def test_other_threads_are_refused_and_what_is_to_be_typed_then_works(tmp_path: Path) -> None:
    """As when a run of two processes with automatic threads goes on as one."""
    begun(tmp_path, threads=1)
    assert "threads: 1 there, 2 now (--set train.threads=1)" in refusal(tmp_path, threads=2)
    claimed(tmp_path, Config(train=TrainConfig(threads=1)), threads=1)


@pytest.mark.parametrize("text", ["", "[1]", '{"corpus_id": ', "null"])
def test_a_damaged_run_json_is_a_usage_error(tmp_path: Path, text: str) -> None:
    begun(tmp_path)
    (tmp_path / "run.json").write_text(text)
    assert refusal(tmp_path).startswith(f"{tmp_path}/run.json: damaged")


def test_a_run_json_that_lacks_a_fact_is_refused_not_a_traceback(tmp_path: Path) -> None:
    begun(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    assert "corpus_id: None there, abc now" in refusal(tmp_path)


@pytest.mark.parametrize(("text", "says"), [("[train\n", "not TOML"), ("[train]\nepoch = 1\n", "unknown key")])
def test_a_damaged_config_is_a_usage_error(tmp_path: Path, text: str, says: str) -> None:
    begun(tmp_path)
    (tmp_path / "config.toml").write_text(text)
    assert says in refusal(tmp_path)


def test_a_file_where_the_folder_should_be_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("in the way")
    assert "cannot be written" in refusal(tmp_path / "run")


def test_no_run_folder_says_what_was_wanted(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"not a run folder \(no config\.toml\)"):
        run_folder.read_config(tmp_path)


def test_attempts_count_the_starts_and_forget_what_was_drawn_before(tmp_path: Path) -> None:
    (tmp_path / "ledger").mkdir()
    assert run_folder.begin_attempt(tmp_path, step=0) == 1
    assert not (tmp_path / "ledger").exists(), "draws of a start that nothing is left of"
    rows = [{"event": "start", "step": 0}, {"event": "step", "step": 1}, {"event": "start", "step": 1}]
    (tmp_path / "metrics.jsonl").write_bytes("\n".join(map(json.dumps, rows)).encode() + b'\n{"event": "st\xff')
    (tmp_path / "ledger").mkdir()
    assert run_folder.begin_attempt(tmp_path, step=1) == 3
    assert (tmp_path / "ledger").exists()


def test_the_status_is_what_scripts_read(tmp_path: Path) -> None:
    run_folder.write_status(tmp_path, "running", 3)
    run_folder.write_status(tmp_path, "preempted", 7, 75, signal=15, rank=0)
    status = json.loads((tmp_path / "status.json").read_text())
    assert status == {"state": "preempted", "code": 75, "step": 7, "signal": 15, "rank": 0}
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_the_first_failure_of_a_run_stays(tmp_path: Path) -> None:
    run_folder.write_status(tmp_path, "running", 3)
    run_folder.write_failure(tmp_path, 5, 2, rank=1, why="a mistake")
    run_folder.write_failure(tmp_path, 5, 1, rank=0)  # whose connection to rank 1 broke
    status = json.loads((tmp_path / "status.json").read_text())
    assert status == {"state": "failed", "code": 2, "step": 5, "rank": 1, "why": "a mistake"}
    run_folder.write_failure(tmp_path / "gone", 5, 1, rank=0)  # hides no error by one of its own


def test_what_cannot_be_said_in_json_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"a": dataclasses.Field})
    assert json.loads(path.read_text()) == {"a": 1}


def test_checkpoints_without_settings_are_nobodys(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"has checkpoints, and no config\.toml that tells whose; use --run"):
        run_folder.check_settings(tmp_path, Config(), {"corpus_id": "a", "threads": 1, "task": {}})


def test_what_allow_change_names_may_change_and_nothing_else(tmp_path: Path) -> None:
    facts = {"corpus_id": "a", "threads": 1, "task": {}}
    run_folder.record_settings(tmp_path, Config(), facts)
    (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    more = dataclasses.replace(Config().train, epochs=99, lr=0.5)
    with pytest.raises(UsageError, match=r"train\.epochs: 30 there, 99 now \(train\.allow_change=epochs allows it\)"):
        run_folder.check_settings(tmp_path, dataclasses.replace(Config(), train=more), facts)
    for names in ("epochs,lr", "train.epochs, lr"):
        train = dataclasses.replace(more, allow_change=names)
        run_folder.check_settings(tmp_path, dataclasses.replace(Config(), train=train), facts)
    some = dataclasses.replace(Config(), train=dataclasses.replace(more, allow_change="epochs"))
    with pytest.raises(UsageError, match=r"train\.lr: 0\.003 there, 0\.5 now"):
        run_folder.check_settings(tmp_path, some, facts)
    for never in ("seed", "micro_batch", "model.name", "nonsense"):
        wrong = dataclasses.replace(Config(), train=dataclasses.replace(more, allow_change=never))
        with pytest.raises(UsageError, match=r"train\.allow_change: .* cannot change in a run; wanted of"):
            run_folder.check_settings(tmp_path, wrong, facts)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """A small disk at tmp_path/disk; called, it has no room any more."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    require("root", mounted, "only root may make a small disk")

    def fill() -> None:
        with suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    yield fill
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_failure_is_written_on_a_full_disk_too(full_disk: Callable[[], None], tmp_path: Path) -> None:
    run = tmp_path / "disk"
    run_folder.write_status(run, "running", 0, rank=0, signal=None)
    full_disk()
    before = {path.name for path in run.iterdir()}
    run_folder.write_failure(run, 7, 2, 0, "no room")
    status = json.loads((run / "status.json").read_text())
    assert status == {"state": "failed", "code": 2, "step": 7, "rank": 0, "why": "no room"}
    with pytest.raises(UsageError, match="No space left"):
        lock.acquire(run)
    assert {path.name for path in run.iterdir()} - before <= {".lock"}, "nothing half-written is left"


def test_a_task_that_decides_otherwise_is_refused_with_what_differs(tmp_path: Path) -> None:
    begun(tmp_path)
    other = tasks.load("v2-12").tree() | {"unknown": {"share": 0.2}, "about": "what it is about may change"}
    message = refusal(tmp_path, task=other)
    assert "task's unknown: {'share': 0.1} there, {'share': 0.2} now" in message
    assert "task's classes" not in message
    fewer = refusal(tmp_path, task=tasks.load("v2-12").tree() | {"classes": ["unknown", "silence", "yes", "maybe"]})
    assert "task's classes: no up down left right on off stop go there, maybe now" in fewer
    claimed(tmp_path, task=tasks.load("v2-12").tree() | {"clips": {}, "corpus": ""})


def test_a_tasks_file_may_move(tmp_path: Path) -> None:
    begun(tmp_path, Config(data=DataConfig(task="here/mine.toml")))
    claimed(tmp_path, Config(data=DataConfig(task="there/mine.toml")))


def test_a_tasks_file_may_go(tmp_path: Path) -> None:
    begun(tmp_path)
    assert run_folder.recorded_task(tmp_path, str(tmp_path / "v2-12.toml")) == tasks.load("v2-12")
    for other in ("v2-12", str(tmp_path / "another.toml")):
        assert run_folder.recorded_task(tmp_path, other) is None
    (tmp_path / "v2-12.toml").touch()
    assert run_folder.recorded_task(tmp_path, str(tmp_path / "v2-12.toml")) is None


def test_a_run_that_kept_no_task_is_refused_without_a_traceback(tmp_path: Path) -> None:
    begun(tmp_path, task=None)
    assert "task's name: None there, v2-12 now" in refusal(tmp_path)
