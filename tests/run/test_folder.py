import dataclasses
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from kws import settings_file
from kws.config import Config, DataConfig, TrainConfig
from kws.corpus import tasks
from kws.errors import UsageError
from kws.run import folder as run_folder
from kws.run import lock
from tests.conftest import require

DESCRIPTION = {"corpus_id": "abc", "threads": 2, "world_size": 1, "task": tasks.load("v2-12").tree()}


def start(run: Path, config: Config | None = None, **changes: object) -> None:
    """What an attempt does at its start."""
    run_folder.check_settings(run, config or Config(), {**DESCRIPTION, **changes})
    run_folder.record_settings(run, config or Config(), {**DESCRIPTION, **changes})


def start_and_save(run: Path, config: Config | None = None, **changes: object) -> None:
    """A run with a checkpoint: from then on its settings are fixed."""
    start(run, config, **changes)
    (run / "checkpoints" / "step-00000001").mkdir(parents=True)


def refusal(run: Path, config: Config | None = None, **changes: object) -> str:
    with pytest.raises(UsageError) as caught:
        start(run, config, **changes)
    return str(caught.value)


def test_a_new_folder_has_the_resolved_settings_and_the_description(tmp_path: Path) -> None:
    run = tmp_path / "deep" / "run"
    config = Config(data=DataConfig(shards="/mnt/😀"), train=TrainConfig(lr=0.25))
    start(run, config)
    assert run_folder.read_config(run) == config
    assert json.loads((run / "run.json").read_text()) == DESCRIPTION
    assert sorted(path.name for path in run.iterdir()) == ["config.toml", "run.json"]


def test_the_same_run_may_resume_and_allowed_changes_are_recorded(tmp_path: Path) -> None:
    start(tmp_path)
    moved = Config(data=DataConfig(shards="elsewhere", workers=3), train=TrainConfig(processes=2))
    start(tmp_path, moved, world_size=2)
    assert run_folder.read_config(tmp_path) == moved
    assert json.loads((tmp_path / "run.json").read_text())["world_size"] == 2


def test_a_run_that_never_saved_may_start_with_other_settings(tmp_path: Path) -> None:
    start(tmp_path, Config(train=TrainConfig(lr=100.0)))
    start(tmp_path, Config(train=TrainConfig(lr=0.1)))
    assert run_folder.read_config(tmp_path).train.lr == 0.1


def test_other_settings_and_corpus_are_refused_with_every_difference(tmp_path: Path) -> None:
    start_and_save(tmp_path)
    message = refusal(tmp_path, Config(train=TrainConfig(seed=1, lr=0.5)), corpus_id="xyz")
    for part in (str(tmp_path), "train.seed: 0 there, 1 now", "train.lr", "corpus_id: abc there, xyz now", "--run"):
        assert part in message
    assert run_folder.read_config(tmp_path) == Config()


def test_deterministic_may_only_change_where_it_is_allowed_and_older_runs_did_without(tmp_path: Path) -> None:
    start_and_save(tmp_path)
    recorded = tmp_path / "config.toml"
    lines = recorded.read_text().splitlines()
    recorded.write_text("\n".join(line for line in lines if not line.startswith("deterministic")))
    start(tmp_path)
    deterministic = TrainConfig(deterministic=True)
    assert "train.deterministic: False there, True now" in refusal(tmp_path, Config(train=deterministic))
    start(tmp_path, Config(train=dataclasses.replace(deterministic, allow_change="deterministic")))
    assert "train.deterministic: True there, False now" in refusal(tmp_path)


def test_other_threads_are_refused_and_the_setting_offered_works(tmp_path: Path) -> None:
    """As when a run on two ranks with automatic threads resumes on one."""
    start_and_save(tmp_path, threads=1)
    assert "threads: 1 there, 2 now (--set train.threads=1)" in refusal(tmp_path, threads=2)
    start(tmp_path, Config(train=TrainConfig(threads=1)), threads=1)


@pytest.mark.parametrize("text", ["", "[1]", '{"corpus_id": ', "null"])
def test_a_damaged_run_json_is_a_usage_error(tmp_path: Path, text: str) -> None:
    start_and_save(tmp_path)
    (tmp_path / "run.json").write_text(text)
    assert refusal(tmp_path).startswith(f"{tmp_path}/run.json: damaged")


def test_a_run_json_without_corpus_id_is_refused(tmp_path: Path) -> None:
    start_and_save(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    assert "corpus_id: None there, abc now" in refusal(tmp_path)


@pytest.mark.parametrize("text", ["[train\n", "[train]\nepoch = 1\n"])
def test_a_damaged_config_is_a_usage_error(tmp_path: Path, text: str) -> None:
    start_and_save(tmp_path)
    (tmp_path / "config.toml").write_text(text)
    assert "config.toml" in refusal(tmp_path)


def test_a_file_where_the_folder_should_be_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("in the way")
    assert str(tmp_path / "run") in refusal(tmp_path / "run")


def test_a_folder_without_config_is_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"config\.toml"):
        run_folder.read_config(tmp_path)


def test_attempts_are_counted_and_a_ledger_without_checkpoint_is_removed(tmp_path: Path) -> None:
    (tmp_path / "ledger").mkdir()
    assert run_folder.begin_attempt(tmp_path, step=0) == 1
    assert not (tmp_path / "ledger").exists()
    rows = [{"event": "start", "step": 0}, {"event": "step", "step": 1}, {"event": "start", "step": 1}]
    (tmp_path / "metrics.jsonl").write_bytes("\n".join(map(json.dumps, rows)).encode() + b'\n{"event": "st\xff')
    (tmp_path / "ledger").mkdir()
    assert run_folder.begin_attempt(tmp_path, step=1) == 3
    assert (tmp_path / "ledger").exists()


def test_status_json_has_the_keys_that_scripts_read(tmp_path: Path) -> None:
    run_folder.write_status(tmp_path, "running", 3)
    run_folder.write_status(tmp_path, "preempted", 7, 75, signal=15, rank=0)
    status = json.loads((tmp_path / "status.json").read_text())
    assert status == {"state": "preempted", "code": 75, "step": 7, "signal": 15, "rank": 0}
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_stragglers_are_noted_only_while_the_run_is_running(tmp_path: Path) -> None:
    run_folder.note_stragglers(tmp_path, ["rank 1"])
    assert not (tmp_path / "status.json").exists()
    run_folder.write_status(tmp_path, "running", 3)
    run_folder.note_stragglers(tmp_path, ["rank 1"])
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["step"], status["stragglers"]) == ("running", 3, ["rank 1"])
    run_folder.write_failure(tmp_path, 4, 1, rank=0)
    run_folder.note_stragglers(tmp_path, ["rank 2"])
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["state"] == "failed"
    assert "stragglers" not in status


def test_the_first_failure_of_a_run_is_kept(tmp_path: Path) -> None:
    run_folder.write_status(tmp_path, "running", 3)
    run_folder.write_failure(tmp_path, 5, 2, rank=1, why="a mistake")
    run_folder.write_failure(tmp_path, 5, 1, rank=0)  # an error that rank 1 caused
    status = json.loads((tmp_path / "status.json").read_text())
    assert status == {"state": "failed", "code": 2, "step": 5, "rank": 1, "why": "a mistake"}
    run_folder.write_failure(tmp_path / "missing", 5, 1, rank=0)  # does not raise


def test_checkpoints_without_config_are_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"config\.toml.*--run"):
        run_folder.check_settings(tmp_path, Config(), {"corpus_id": "a", "threads": 1, "task": {}})


def test_only_the_settings_in_allow_change_may_change(tmp_path: Path) -> None:
    description = {"corpus_id": "a", "threads": 1, "task": {}}
    run_folder.record_settings(tmp_path, Config(), description)
    (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    more = dataclasses.replace(Config().train, epochs=99, lr=0.5)
    with pytest.raises(UsageError, match=r"train\.epochs: 30.*99.*train\.allow_change=epochs"):
        run_folder.check_settings(tmp_path, dataclasses.replace(Config(), train=more), description)
    for names in ("epochs,lr", "train.epochs, lr"):
        train = dataclasses.replace(more, allow_change=names)
        run_folder.check_settings(tmp_path, dataclasses.replace(Config(), train=train), description)
    some = dataclasses.replace(Config(), train=dataclasses.replace(more, allow_change="epochs"))
    with pytest.raises(UsageError, match=r"train\.lr: 0\.003.*0\.5"):
        run_folder.check_settings(tmp_path, some, description)
    for never in ("seed", "micro_batch", "model.name", "nonsense"):
        wrong = dataclasses.replace(Config(), train=dataclasses.replace(more, allow_change=never))
        with pytest.raises(UsageError, match=r"train\.allow_change"):
            run_folder.check_settings(tmp_path, wrong, description)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """A small disk at tmp_path/disk, and a function that fills it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    require("root", mounted, "only root can mount a small disk")

    def fill() -> None:
        with suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    yield fill
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_failure_is_written_on_a_full_disk(full_disk: Callable[[], None], tmp_path: Path) -> None:
    run = tmp_path / "disk"
    run_folder.write_status(run, "running", 0, rank=0, signal=None)
    full_disk()
    before = {path.name for path in run.iterdir()}
    run_folder.write_failure(run, 7, 2, 0, "no room")
    status = json.loads((run / "status.json").read_text())
    assert status == {"state": "failed", "code": 2, "step": 7, "rank": 0, "why": "no room"}
    with pytest.raises(UsageError, match="No space left"):
        lock.acquire(run)
    assert {path.name for path in run.iterdir()} - before <= {".lock"}


def test_another_task_is_refused_with_what_differs(tmp_path: Path) -> None:
    start_and_save(tmp_path)
    other = tasks.load("v2-12").tree() | {"unknown": {"share": 0.2}, "about": "what it is about may change"}
    message = refusal(tmp_path, task=other)
    assert "task's unknown: {'share': 0.1} there, {'share': 0.2} now" in message
    assert "task's classes" not in message
    fewer = refusal(tmp_path, task=tasks.load("v2-12").tree() | {"classes": ["unknown", "silence", "yes", "maybe"]})
    assert "task's classes: no up down left right on off stop go there, maybe now" in fewer
    start(tmp_path, task=tasks.load("v2-12").tree() | {"clips": {}, "corpus": ""})


def test_a_resumed_run_keeps_the_clip_length_that_it_took_from_the_corpus(tmp_path: Path) -> None:
    took = Config(data=DataConfig(clip_seconds=3.3))
    start(tmp_path, took)
    assert run_folder.keep_clips(tmp_path, Config()) == Config(), "not yet saved: may take another"
    start_and_save(tmp_path, took)
    assert run_folder.keep_clips(tmp_path, Config()) == took
    other = Config(data=DataConfig(clip_seconds=1.0, excerpt="middle"))
    message = refusal(tmp_path, run_folder.keep_clips(tmp_path, other))
    assert "data.clip_seconds: 3.3 there, 1.0 now" in message
    assert "data.excerpt" in message


def test_a_run_from_before_excerpts_keeps_the_start_of_longer_recordings(tmp_path: Path) -> None:
    start_and_save(tmp_path, Config(data=DataConfig(clip_seconds=1.0)))
    path = tmp_path / "config.toml"
    path.write_text(path.read_text().replace('excerpt = "loudest"\n', ""))
    made = Config(data=DataConfig(clip_seconds=1.0, excerpt="start"))
    assert run_folder.read_config(tmp_path) == made
    assert run_folder.keep_clips(tmp_path, Config()) == made
    start(tmp_path, made)
    assert run_folder.read_config(tmp_path) == run_folder.keep_clips(tmp_path, Config()) == made


def test_a_task_file_may_move(tmp_path: Path) -> None:
    start_and_save(tmp_path, Config(data=DataConfig(task="here/mine.toml")))
    start(tmp_path, Config(data=DataConfig(task="there/mine.toml")))


def test_a_task_file_may_be_deleted(tmp_path: Path) -> None:
    start_and_save(tmp_path)
    assert run_folder.recorded_task(tmp_path, str(tmp_path / "v2-12.toml")) == tasks.load("v2-12")
    for other in ("v2-12", str(tmp_path / "another.toml")):
        assert run_folder.recorded_task(tmp_path, other) is None
    (tmp_path / "v2-12.toml").touch()
    assert run_folder.recorded_task(tmp_path, str(tmp_path / "v2-12.toml")) is None


def test_a_run_json_without_task_is_refused(tmp_path: Path) -> None:
    start_and_save(tmp_path, task=None)
    assert "task's name: None there, v2-12 now" in refusal(tmp_path)


def test_a_folder_that_is_no_run_says_what_is_there_and_which_run_is_near(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KWS_RUNS", str(tmp_path / "runs"))
    run = tmp_path / "runs" / "quick"
    run_folder.record_settings(run, Config(), {})
    (run / "eval").mkdir()
    (tmp_path / "corpus" / "index").mkdir(parents=True)
    (tmp_path / "corpus" / "index" / "index.json").write_text("{}")
    for wrong, said in {
        tmp_path / "runs" / "qiuck": f"did you mean {run}?",
        tmp_path / "quick": f"did you mean {run}?",
        run / "eval": f"did you mean {run}?",
        tmp_path / "runs": str(run),
        tmp_path / "corpus": "packed corpus",
        run / "config.toml": "file",
    }.items():
        with pytest.raises(UsageError) as error:
            run_folder.read_config(wrong)
        assert str(error.value).startswith(f"{wrong}: ")
        assert said in str(error.value)


def test_relative_paths_of_a_run_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    for folder in (project / "data" / "mine", elsewhere / "data"):
        folder.mkdir(parents=True)
    (project / "own.toml").touch()
    words = [f"data.shards={Path('data/mine')}", "data.task=own.toml", "train.init=none"]
    config = settings_file.from_overrides(words)
    for number, recorded in enumerate(({"started_in": str(project)}, {})):  # the second as by an older version
        run = project / "runs" / str(number)
        run_folder.record_settings(run, config, recorded)
        monkeypatch.chdir(elsewhere)
        found = run_folder.read_config(run)
        assert Path(found.data.shards) == project / "data" / "mine"
        assert Path(found.data.task) == project / "own.toml"
        assert found.train.init == "none"  # is nowhere
        monkeypatch.chdir(project)
        assert run_folder.read_config(run) == config


def test_a_tilde_in_a_setting_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    assert settings_file.from_overrides(["data.shards=~/mine"]).data.shards == "/home/anna/mine"
    assert settings_file.from_overrides(["data.shards=a~b"]).data.shards == "a~b"
