"""Task files: the frozen tasks, users' own tasks, renamed tasks, and mistakes in them."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from kws import settings_file
from kws.corpus import recipe, tasks
from kws.corpus.tasks import Definition
from kws.errors import UsageError
from kws.run import folder
from tests.corpus import official

ROOT = Path(__file__).parent.parent.parent
FROZEN = ("v1-12", "v1-12-full", "v1-30", "v2-12", "v2-35")
TWELVE = ["unknown", "silence", "yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"]
SEEDS = (
    "zero yes wow visual up two tree three stop six sheila seven right one on off no nine marvin left learn house "
    "happy go four forward follow five eight down dog cat bird bed backward"
)
OWN = """
classes = ["unknown", "silence", "left", "right"]
others = "unknown"
[unknown]
share = 0.5
[silence]
share = 0.25
of = "all"
kind = "zeros"
"""


def own(folder: Path, text: str = OWN, name: str = "mine") -> str:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return str(path)


# --- the frozen ones ------------------------------------------------------------------------------------------


def test_the_frozen_tasks_are_listed() -> None:
    assert tuple(tasks.names()) == FROZEN


@pytest.mark.parametrize("name", FROZEN)
def test_a_definition_survives_a_checkpoint(name: str) -> None:
    found = tasks.load(name)
    assert found.name == name
    assert tasks.parse(json.loads(json.dumps(found.tree())), "state.json") == found


def test_the_order_of_the_classes() -> None:
    seeds = SEEDS.split()
    assert list(tasks.load("v2-35").classes) == seeds
    later = {"visual", "learn", "forward", "follow", "backward"}
    assert list(tasks.load("v1-30").classes) == [word for word in seeds if word not in later]
    for name in ("v1-12", "v2-12", "v1-12-full"):
        assert list(tasks.load(name).classes) == TWELVE
        assert tasks.load(name).wanted == tuple(TWELVE[2:]) == official.COMMANDS


def test_the_classes_of_a_whole_corpus_are_its_words() -> None:
    words = recipe.load(ROOT / "shards" / "speech_commands_v0.02.toml").words
    assert set(tasks.load("v2-35").classes) == words == set(official.CORPORA["v0.02"].words)
    assert set(tasks.load("v1-30").classes) == set(official.CORPORA["v0.01"].words)


# --- words to classes -----------------------------------------------------------------------------------------


def test_other_words_are_unknown_or_left_out() -> None:
    words = ["bed", "left", "right", "silence"]
    definition = Definition(name="x", classes=("right", "unknown", "left"), others="unknown")
    assert tasks.resolve(definition, words).class_of == (1, 2, 0, 1)
    assert list(map(definition.is_other, words)) == [True, False, False, True]
    dropping = Definition(name="x", classes=("right", "left"))
    assert tasks.resolve(dropping, words).class_of == (-1, 1, 0, -1)
    assert not any(map(dropping.is_other, words))


def test_a_class_called_unknown_is_a_word_where_others_are_dropped() -> None:
    assert Definition(name="x", classes=("left", "unknown")).wanted == ("left", "unknown")


def test_the_task_words_has_every_word_in_alphabetical_order() -> None:
    definition = tasks.words_task(["tree", "bed", "wow"], 0.1)
    assert definition.classes == ("bed", "silence", "tree", "wow")
    assert definition.wanted == ("bed", "tree", "wow")
    assert tasks.resolve(definition, ["tree", "bed", "wow", "silence"]).class_of == (2, 0, 3, 1)


def test_missing_words_of_a_corpus_are_named() -> None:
    with pytest.raises(UsageError, match=r"data\.task=v2-12: .*no word no, go,.*FILE\.toml"):
        tasks.resolve(tasks.load("v2-12"), [word for word in TWELVE if word not in ("no", "go")])


@pytest.mark.parametrize(
    ("share", "count", "wanted"),
    [(0.1, 30769, 3077), (0.1, 10, 1), (0.1, 11, 2), (0.1, 0, 0), (0.07, 100, 7), (1, 9, 9)],
)
def test_a_share_is_rounded_up_in_decimal(share: float, count: int, wanted: int) -> None:
    assert tasks.rounded_share(share, count) == wanted


# --- one's own ------------------------------------------------------------------------------------------------


def test_a_task_file_is_named_after_the_file(tmp_path: Path) -> None:
    found = tasks.load(own(tmp_path))
    assert (found.name, found.wanted, found.unknown_share) == ("mine", ("left", "right"), 0.5)
    assert found.silence == tasks.Silence(share=0.25, of="all", kind="zeros")


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        tasks.load("v3-12")
    assert all(f" {name}" in str(caught.value) for name in ("'v3-12'", "words", *FROZEN))


@pytest.mark.parametrize("name", ["v2-12", "words"])
def test_a_file_cannot_have_the_name_of_another_task(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} is the name of another task"):
        tasks.load(own(tmp_path, name=name))


def test_a_copy_of_a_frozen_task_may_keep_its_name(tmp_path: Path) -> None:
    text = (ROOT / "shards" / "tasks" / "v2-12.toml").read_text()
    assert tasks.load(own(tmp_path, text, "v2-12")) == tasks.load("v2-12")


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('"left", "right"', '"left", "left"', "classes"),
        ('"left", "right"', "1, 2", "classes"),
        ('others = "unknown"', 'others = "left"', 'others: wanted "unknown" or "drop"'),
        ('others = "unknown"', 'others = "drop"', 'others = "unknown"'),
        ('"unknown", "silence"', '"silence"', "wanted unknown among the classes"),
        ('"unknown", "silence"', '"unknown"', "wanted silence among the classes"),
        ("share = 0.5", "share = 0", "unknown: wanted a share"),
        ("share = 0.5", "share = true", "unknown: wanted a share"),
        ("share = 0.25", "", "silence: wanted a share"),
        ("share = 0.25", "share = 0.25\nloud = 1", "silence.loud"),
        ('of = "all"', 'of = "them"', 'silence.of: wanted "wanted" or "all"'),
        ('kind = "zeros"', "", 'silence.kind: wanted "noise" or "zeros"'),
        ('kind = "zeros"', 'kind = "zeros"\nsplits = ["noise"]', "silence.splits: wanted some of train, valid, test"),
        ('kind = "zeros"', 'kind = "zeros"\n[clips]\ntrain = "many"', "clips: wanted numbers of train, valid, test"),
        ('others = "unknown"', 'others = "unknown"\nclass = 3', "unknown key class"),
        ('others = "unknown"', 'others = "unknown"\nabout = 3', "about: wanted text"),
        ("[unknown]", "[unknown", "not TOML"),
    ],
)
def test_mistakes_in_a_file_are_reported(tmp_path: Path, old: str, new: str, key: str) -> None:
    assert old in OWN
    with pytest.raises(UsageError) as caught:
        tasks.load(own(tmp_path, OWN.replace(old, new)))
    assert str(caught.value).startswith(f"data.task: {tmp_path}/mine.toml: ")
    assert key in str(caught.value)


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.task: .*none\.toml: cannot be read"):
        tasks.load(str(tmp_path / "none.toml"))


# --- installed ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("where", ["target", "environment"])
def test_an_installed_kws_finds_its_tasks_without_a_checkout(tmp_path: Path, where: str) -> None:
    wheels, place = tmp_path / "wheels", tmp_path / "place"
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", wheels, _source(tmp_path)], check=True)
    (wheel,) = wheels.glob("*.whl")
    if where == "target":
        subprocess.run([*pip, "install", "--no-deps", "--target", place, wheel], check=True)
        python, path = sys.executable, str(place)
    else:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
        python, path = str(place / "bin" / "python"), sysconfig.get_paths()["purelib"]
        subprocess.run([*pip, "--python", python, "install", "--no-deps", wheel], check=True)
    say = "import kws.corpus.tasks as t; print(t.__file__, *t.names(), len(t.load('v2-12').classes))"
    # The fresh environment has kws alone; what kws imports comes from the environment of the tests.
    done = subprocess.run([python, "-c", say], cwd=tmp_path, env={"PYTHONPATH": path}, capture_output=True, text=True)
    file, *found = done.stdout.split()
    assert Path(file).is_relative_to(place), done.stderr
    assert found == [*FROZEN, "12"]


def _source(folder: Path) -> Path:
    """What an install is built from; setuptools leaves its files in it."""
    copy = folder / "source"
    copy.mkdir()
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in tracked.split("\0")[:-1]:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    return copy


def test_the_digest_differs_for_other_labels() -> None:
    tree = tasks.load("v2-12").tree()
    same = tasks.parse(tree | {"about": "another text", "clips": {}}, "here")
    assert same.digest == tasks.load("v2-12").digest
    for other in ({"classes": tree["classes"][::-1]}, {"unknown": {"share": 0.2}},
                  {"silence": tree["silence"] | {"kind": "zeros"}}):  # fmt: skip
        assert tasks.parse(tree | other, "here").digest != same.digest


# --- renamed --------------------------------------------------------------------------------------------------

OLD_TREE = tasks.load("v1-12-full").tree() | {"name": "seed-12"}
"""As runs of earlier versions have stored it in run.json and in their checkpoints."""


def test_a_renamed_task_is_read_by_its_old_name_with_a_note(tmp_path: Path) -> None:
    notes: list[str] = []
    assert tasks.load("seed-12", notes.append) == tasks.load("v1-12-full", notes.append)
    assert len(notes) == 1
    assert "v1-12-full" in notes[0]
    config = tmp_path / "config.toml"
    config.write_text('[data]\ntask = "seed-12"\n')
    assert settings_file.load(config, note=notes.append).data.task == "v1-12-full"
    assert len(notes) == 2


def test_a_renamed_task_equals_the_one_of_an_old_run() -> None:
    current = tasks.load("v1-12-full")
    assert tasks.parse(OLD_TREE, "state.json") == current
    assert tasks.differences(OLD_TREE, current.tree()) == []
    assert tasks.differences(OLD_TREE | {"silence": None}, current.tree())


def test_a_renamed_task_keeps_its_digest_and_hash_name() -> None:
    """So evaluations of old and new runs are compared, and the same clips are selected."""
    assert tasks.load("v1-12-full").digest == "49c32f09d7fef5bc"
    assert tasks.load("v2-12").digest == "fd310f961c112111"
    assert [tasks.load(name).hash_name for name in ("v1-12-full", "v2-12")] == ["seed-12", "v2-12"]


def test_an_old_run_folder_may_resume_with_the_new_name(tmp_path: Path) -> None:
    config = settings_file.from_overrides(["data.task=v1-12-full"])
    description = {"corpus_id": "1", "threads": 1, "task": OLD_TREE}
    folder.record_settings(tmp_path, config, description)
    text = (tmp_path / "config.toml").read_text()
    (tmp_path / "config.toml").write_text(text.replace("v1-12-full", "seed-12"))
    (tmp_path / "checkpoints" / "step-1").mkdir(parents=True)
    folder.check_settings(tmp_path, config, description | {"task": tasks.load("v1-12-full").tree()})


def test_classes_between_commas_are_a_task() -> None:
    found = tasks.load("unknown, silence,tree,bed,wow")
    assert found.classes == ("unknown", "silence", "tree", "bed", "wow")
    assert found.wanted == ("tree", "bed", "wow")
    assert found.others == "unknown"
    assert found.unknown_share is None
    assert found.silence is not None
    assert tasks.rounded_share(found.silence.share, 300) == 100
    assert tasks.parse(found.tree(), "state") == found
    dropping = tasks.load("tree,bed")
    assert (dropping.others, dropping.silence) == ("drop", None)
    with pytest.raises(UsageError, match=r"tree.*bedd|bedd.*tree"):
        tasks.resolve(tasks.load("unknown,bedd,tree"), ("tree", "bed"))
    for wrong in ("unknown,silence", "tree,", "tree,tree"):
        with pytest.raises(UsageError, match=r"data\.task"):
            tasks.load(wrong)
