"""Leaks between splits are found in the columns, described with examples, and refused by packing."""

from __future__ import annotations

import json
import re
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kws import cli
from kws.audio import codec
from kws.data.index import Index
from kws.errors import UsageError
from kws.packing import leaks, pack
from tests.conftest import REAL, require, tone, write_corpus

SPEAKERS = ["", "anna", "ben", "cleo"]
Row = tuple[str, int, int, int]
"""Split, word, speaker, sound."""


def parts(rows: list[Row]) -> list[leaks.ClipColumns]:
    found = []
    for split in ("train", "valid", "test"):
        table = np.array([row[1:] for row in rows if row[0] == split], np.uint64).reshape(-1, 3)
        word, speaker, sound = table[:, 0].astype(np.uint32), table[:, 1].astype(np.uint32), table[:, 2]
        found.append(leaks.ClipColumns(split, word, speaker, sound, np.full(len(table), 100, np.uint32)))
    return found


def test_digital_silence_is_no_leak() -> None:
    silence = codec.pcm_hash(np.zeros(100, np.int16))
    assert not leaks.find_leaks(parts([("train", 0, 1, silence), ("test", 1, 2, silence)]), SPEAKERS)
    assert leaks.find_leaks(parts([("train", 0, 1, 7), ("test", 1, 2, 7)]), SPEAKERS)


def test_each_kind_is_counted_and_described_by_an_example() -> None:
    rows: list[Row] = [
        ("train", 0, 1, 11), ("train", 0, 2, 12), ("train", 1, 2, 13), ("train", 1, 0, 14),
        ("valid", 0, 3, 15), ("valid", 2, 3, 15), ("test", 1, 1, 13), ("test", 1, 0, 16),
    ]  # fmt: skip
    found = leaks.find_leaks(parts(rows), SPEAKERS)
    assert found.counts == {"speakers_in_two_splits": 1, "audio_in_two_splits": 1, "audio_under_two_words": 1}
    names = {0: "a", 1: "b", 2: "c"}
    assert leaks.describe(found, parts(rows), lambda place: f"{names[place[0]]}{place[1]}") == [
        "1 speaker is in more than one split (anna: train and test)",
        "1 recording is in more than one split (train: a2 = test: c0)",
        "1 recording is under more than one word (b0 = b1)",
    ]


def test_unknown_speakers_and_copies_within_a_split_are_no_leaks() -> None:
    found = leaks.find_leaks(parts([("train", 0, 0, 1), ("train", 0, 0, 1), ("test", 0, 0, 2)]), SPEAKERS)
    assert not found
    assert leaks.describe(found, [], str) == []


def test_three_examples_are_shown() -> None:
    rows: list[Row] = [(split, 0, 0, sound) for split in ("train", "test") for sound in range(1000, 3000)]
    found = leaks.find_leaks(parts(rows), SPEAKERS)
    (line,) = leaks.describe(found, parts(rows), lambda place: str(place[1]))
    assert line == (
        "2,000 recordings are in more than one split (train: 0 = test: 0, train: 1 = test: 1, train: 2 = test: 2, ...)"
    )


clip_rows = st.lists(
    st.tuples(st.sampled_from(["train", "valid", "test"]), st.integers(0, 2), st.integers(0, 3), st.integers(0, 8)),
    max_size=40,
)


@given(clip_rows)
def test_the_counts_equal_those_of_a_simple_search(rows: list[Row]) -> None:
    splits, words, homes = defaultdict(set), defaultdict(set), defaultdict(set)
    for split, word, speaker, sound in rows:
        splits[sound].add(split)
        words[sound].add(word)
        homes[SPEAKERS[speaker]].add(split)
    assert list(leaks.find_leaks(parts(rows), SPEAKERS).counts.values()) == [
        sum(len(kinds) > 1 for name, kinds in homes.items() if name),
        sum(len(kinds) > 1 for kinds in splits.values()),
        sum(len(kinds) > 1 for kinds in words.values()),
    ]


# --- a corpus -------------------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "wav", {"yes": 24, "no": 20}, speakers=44, samples=2000, noise_seconds=1)


def clip(source: Path, name: str, seed: int) -> str:
    path = source / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(codec.wav_bytes(tone(555, 2000, seed=9000 + seed)))
    return name


LEAKS = {
    "speaker": (
        [("yes/anna_nohash_0.wav", 0), ("yes/anna_nohash_1.wav", 1)],
        r"1 speaker is in more than one split \(anna: train and test\)",
    ),
    "splits": (
        [("yes/ben_nohash_0.wav", 0), ("yes/cleo_nohash_1.wav", 0)],
        r"1 recording is in more than one split \(train: yes/ben_nohash_0.wav = test: yes/cleo_nohash_1.wav\)",
    ),
    "words": (
        [("no/dora_nohash_0.wav", 0), ("yes/dora_nohash_0.wav", 0)],
        r"1 recording is under more than one word \((yes|no)/dora_nohash_0.wav = (yes|no)/dora_nohash_0.wav\)",
    ),
}


@pytest.mark.parametrize("kind", LEAKS)
def test_packing_refuses_a_leak_unless_allowed(source: Path, tmp_path: Path, kind: str) -> None:
    made, told = LEAKS[kind]
    names = [clip(source, name, seed) for name, seed in made]
    (source / "testing_list.txt").write_text(names[1] if kind != "words" else "")
    (source / "validation_list.txt").write_text(f"no/{min(path.name for path in (source / 'no').iterdir())}")
    with pytest.raises(UsageError, match=rf"{tmp_path}/out: {told}; .*--allow-leaks"):
        pack.pack([source], tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".packing"}
    corpus, report = pack.pack([source], tmp_path / "out", pack.PackOptions(allow_leaks=True))
    assert "47 of 47 recordings" in report.notes[0]
    assert sum(line.startswith("1 ") and "more than one" in line for line in report.notes) == 1
    assert sum(leaks.leaks_in_index(corpus).counts.values()) == 1


def test_a_recipe_may_allow_leaks(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in LEAKS["words"][0]:
        clip(source, name, seed)
    shutil.rmtree(source / "_background_noise_")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('allow_leaks = true\nwords = ["yes", "no"]\n[clips]\nnoise = 0\n')
    command = ["pack", str(source), str(tmp_path / "out"), "--processes", "1"]
    assert cli.main(command) == cli.USAGE
    assert "--allow-leaks" in capsys.readouterr().err
    assert cli.main([*command, "--recipe", str(recipe)]) == cli.OK
    assert "note: 1 recording is under more than one word" in capsys.readouterr().out
    recipe.write_text('allow_leaks = "yes"\nwords = []\n[clips]\n')
    assert cli.main([*command, "--recipe", str(recipe)]) == cli.USAGE
    assert "allow_leaks = 'yes'" in capsys.readouterr().err


def test_inspect_and_index_report_leaks(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in LEAKS["words"][0]:
        clip(source, name, seed)
    corpus, _ = pack.pack([source], tmp_path / "out", pack.PackOptions(allow_leaks=True))
    told = r"1 recording is under more than one word \((train|valid|test)/\d+ = (train|valid|test)/\d+\)"
    assert cli.main(["inspect", str(corpus.root)]) == cli.OK
    inspected = capsys.readouterr().out
    assert [line for line in inspected.splitlines() if "more than one" in line] == leaks.describe_index(corpus)
    (line,) = leaks.describe_index(corpus)
    assert re.fullmatch(told, line)
    assert cli.main(["inspect", str(corpus.root), "--json"]) == cli.OK
    assert json.loads(capsys.readouterr().out)["leaks"]["audio_under_two_words"] == 1
    assert cli.main(["index", str(corpus.root), "--out", str(tmp_path / "again")]) == cli.OK
    assert f"note: {line}" in capsys.readouterr().out


@pytest.mark.slow
def test_leaks_between_parts_are_found_by_indexing(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for number in range(20):  # some of the pairs are in different parts
        sound = codec.wav_bytes(rng.integers(-9000, 9000, 2000).astype(np.int16))
        for word in ("yes", "no"):
            (source / word / f"twin{number}_nohash_{number}.wav").write_bytes(sound)
    for number in (1, 2):
        pack.pack(
            [source], tmp_path / "out" / f"part-{number}-of-2", pack.PackOptions(part=(number, 2), allow_leaks=True)
        )
    assert cli.main(["index", str(tmp_path / "out")]) == cli.OK
    assert "note: 20 recordings are under more than one word" in capsys.readouterr().out


def test_noise_is_not_audited(source: Path, tmp_path: Path) -> None:
    shutil.copy(source / "_background_noise_" / "hiss.wav", source / "yes" / "hiss_nohash_0.wav")
    corpus, _ = pack.pack([source], tmp_path / "out")
    assert not leaks.leaks_in_index(corpus)


@pytest.mark.slow
def test_real_clips_do_not_leak_but_copies_of_them_do(real_mini: Index, tmp_path: Path) -> None:
    assert not leaks.leaks_in_index(real_mini)
    require("real", (REAL / "speech_commands_mini.tar.gz").exists(), "no real clips")
    shutil.unpack_archive(REAL / "speech_commands_mini.tar.gz", tmp_path / "mini")
    tested = (tmp_path / "mini" / "testing_list.txt").read_text().split()
    for name in tested[:2]:  # as if it were another speaker's, in training; and under another word
        shutil.copy(tmp_path / "mini" / name, tmp_path / "mini" / name.replace("_nohash_", "x_nohash_"))
    shutil.copy(tmp_path / "mini" / tested[2], tmp_path / "mini" / "bed" / "else_nohash_0.wav")
    with pytest.raises(UsageError, match=r"3 recordings are in more than one split .*1 recording is under more than"):
        pack.pack([tmp_path / "mini"], tmp_path / "out")
