"""Word and speaker from file names (`--names`), and invalid patterns."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from kws.audio import codec
from kws.corpus.name_pattern import NameFields, NamePattern
from kws.corpus.source import NOISE_FOLDER, Sources
from kws.errors import UsageError
from tests.conftest import tone


@pytest.mark.parametrize(
    ("pattern", "stem", "said"),
    [
        ("{word}_{speaker}_{}", "7_jackson_32", NameFields("7", "jackson")),
        ("{word}_{speaker}_{}", "7_jackson_b_32", NameFields("7", "jackson")),
        ("{speaker}-{word}", "f001-turn left", NameFields("turn left", "f001")),
        ("{speaker}({})", "anna(2)", NameFields("", "anna")),
        ("{}.{word}", "x.y.yes", NameFields("y.yes", "")),
        ("{word}_{speaker}_{}", "7_32", None),
        ("{word}_{speaker}_{}", "_jackson_3", None),
        ("take{}_{word}", "Take1_yes", None),
    ],
)
def test_word_and_speaker_of_a_name(pattern: str, stem: str, said: NameFields | None) -> None:
    assert NamePattern(pattern).parse(stem) == said


@pytest.mark.parametrize("pattern", ["{}", "word_speaker", "{wrod}_{}", "{word}_{word}", "{word", "word}", "{{word}}"])
def test_an_invalid_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match=r"^--names '.*': .*\{word\}.*\{speaker\}"):
        NamePattern(pattern)


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    folder = tmp_path / "flat"
    for number, name in enumerate(("7_ann_0", "7_bob_0", "3_ann_0", "readme-voice", f"{NOISE_FOLDER}/hum")):
        path = folder / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(codec.wav_bytes(tone(200 + 50 * number, 4000)))
    return folder


@pytest.mark.parametrize("archived", [False, True])
def test_a_flat_folder_is_read_by_names_and_others_are_reported(flat: Path, archived: bool) -> None:
    path = flat
    if archived:
        path = flat.with_suffix(".tar")
        with tarfile.open(path, "w") as tar:
            tar.add(flat, "recordings")
    corpus = Sources([path], "{word}_{speaker}_{}")
    assert {(recording.name, recording.speaker) for recording in corpus} == {
        ("7/7_ann_0.wav", "ann"), ("7/7_bob_0.wav", "bob"), ("3/3_ann_0.wav", "ann"), (f"{NOISE_FOLDER}/hum.wav", ""),
    }  # fmt: skip
    assert len(corpus.ignored) == 1
    assert "readme-voice.wav: " in corpus.ignored[0]
    assert "--names" in corpus.ignored[0]


def test_the_folder_gives_the_word_where_the_pattern_does_not(tmp_path: Path) -> None:
    (tmp_path / "yes").mkdir()
    (tmp_path / "yes" / "ann-1.wav").write_bytes(codec.wav_bytes(tone(300, 4000)))
    assert [(r.name, r.speaker) for r in Sources([tmp_path], "{speaker}-{}")] == [("yes/ann-1.wav", "ann")]


def test_a_pattern_that_no_name_matches_is_refused_with_an_example(flat: Path) -> None:
    (flat / NOISE_FOLDER / "hum.wav").unlink()
    with pytest.raises(UsageError, match=r"--names '\{word\}=\{\}' \(such as .*wav\)"):
        list(Sources([flat], "{word}={}"))


def test_a_flat_folder_without_a_pattern_is_refused_with_the_option(flat: Path) -> None:
    (flat / NOISE_FOLDER / "hum.wav").unlink()
    with pytest.raises(UsageError, match=r"--names '\{word\}_\{\}'"):
        list(Sources([flat]))
