"""Long recordings with label tracks: one second around each label where there is room, and no overlap."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from praatio import textgrid

from kws.audio import codec
from kws.corpus import label_track
from kws.corpus.label_track import Label
from kws.corpus.source import NOISE_FOLDER, Sources, split_by_hash, split_key
from kws.errors import UsageError
from tests.conftest import tone

LENGTH_S = 10.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "days").mkdir()
    (tmp_path / "days" / "monday.wav").write_bytes(codec.wav_bytes(tone(440, int(LENGTH_S * 16000))))
    return tmp_path


def track(folder: Path, text: str) -> Path:
    path = folder / "days" / "monday.txt"
    path.write_bytes(text.encode())
    return path


def labels(*times: tuple[float, float, str]) -> list[Label]:
    return [Label(f"t:{number}", *label) for number, label in enumerate(times)]


def spans(*times: tuple[float, float, str]) -> list[tuple[str, float, float]]:
    cuts = label_track.clip_spans(labels(*times), LENGTH_S)
    return [(word, pytest.approx(start), pytest.approx(end)) for word, (start, end) in cuts]  # type: ignore[misc]


def test_an_excerpt_is_one_second_around_the_middle_of_its_label() -> None:
    assert spans((5.0, 5.4, "yes")) == [("yes", 4.7, 5.7)]
    assert spans((5.0, 5.0, "yes")) == [("yes", 4.5, 5.5)]


def test_an_excerpt_ends_where_the_recording_does() -> None:
    assert spans((0.1, 0.3, "yes"), (9.8, 10.0, "no")) == [("yes", 0.0, 0.7), ("no", 9.4, 10.0)]


def test_an_excerpt_ends_half_way_to_its_neighbours() -> None:
    assert spans((4.0, 4.4, "a"), (4.6, 5.0, "b"), (5.2, 5.2, "")) == [("a", 3.7, 4.5), ("b", 4.5, 5.1)]


def test_long_labels_and_noise_keep_their_length() -> None:
    assert spans((2.0, 3.5, "a"), (5.0, 5.2, NOISE_FOLDER)) == [("a", 2.0, 3.5), (NOISE_FOLDER, 5.0, 5.2)]


def test_overlapping_labels_keep_their_length() -> None:
    assert spans((2.0, 2.6, "a"), (2.4, 2.8, "b")) == [("a", 1.8, 2.6), ("b", 2.4, 3.1)]


@given(st.lists(st.tuples(st.floats(0, LENGTH_S), st.floats(0, LENGTH_S)), max_size=12))
def test_an_excerpt_covers_its_own_label_and_no_other(pairs: list[tuple[float, float]]) -> None:
    times = sorted((min(pair), max(pair), "w") for pair in pairs)
    found = list(label_track.clip_spans(labels(*times), LENGTH_S))
    assert len(found) == len(times)
    for number, ((start, end, _), (_, span)) in enumerate(zip(times, found, strict=True)):
        assert 0 <= span[0] <= start <= end <= span[1] <= LENGTH_S
        assert span[1] - span[0] <= max(1.0, end - start) + 1e-9
        assert all(span[1] <= from_s + 1e-9 for from_s, _, _ in times[number + 1 :] if from_s >= end)
        assert all(span[0] >= to_s - 1e-9 for _, to_s, _ in times[:number] if to_s <= start)


AUDACITY = (
    "0.500000\t0.900000\tyes\r\n\\\t120.000000\t3000.000000\r\n2.0\t2.0\tno\r\n\r\n4,5\t4,8\tturn left\r\n"
    "6.000000\t6.500000\t\r\n7.0\t9.0\tnoise\r\n"
)


def test_a_recording_with_a_label_track_gives_its_excerpts(folder: Path) -> None:
    path = track(folder, AUDACITY)
    corpus = Sources([folder])
    found = {recording.name: recording for recording in corpus}
    assert set(found) == {
        "yes/days/monday-0000200-0001200.wav", "no/days/monday-0001500-0002500.wav",
        "turn left/days/monday-0004150-0005150.wav", f"{NOISE_FOLDER}/days/monday-0007000-0009000.wav",
    }  # fmt: skip
    assert [line.partition(": ")[0] for line in corpus.ignored] == [f"{path}:6"]
    whole = codec.decode((folder / "days" / "monday.wav").read_bytes())
    assert found["no/days/monday-0001500-0002500.wav"].decode().tolist() == whole[24000:40000].tolist()


def test_all_excerpts_of_a_recording_are_in_one_split(folder: Path) -> None:
    track(folder, "".join(f"{second}.2\t{second}.4\tyes\n" for second in range(10)))
    for name, speaker in (("monday", "monday"), ("anna_nohash_3", "anna")):
        for ending in (".wav", ".txt"):
            next((folder / "days").glob(f"*{ending}")).rename(folder / "days" / f"{name}{ending}")
        found = list(Sources([folder]))
        assert {recording.speaker for recording in found} == {speaker}
        assert len(found) == 10
        assert len({split_by_hash(split_key(recording.name, recording.speaker)) for recording in found}) == 1


def praat(folder: Path, tiers: dict[str, list[tuple[float, float, str]]], form: str = "long_textgrid") -> Path:
    grid, path = textgrid.Textgrid(), folder / "days" / "monday.TextGrid"
    for name, entries in tiers.items():
        grid.addTier(textgrid.IntervalTier(name, entries, 0, LENGTH_S))
    grid.save(str(path), format=form, includeBlankSpaces=True)
    return path


@pytest.mark.parametrize("form", ["long_textgrid", "short_textgrid"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("tiers", [["mine"], ["phones", "Words"]])
def test_textgrids_of_praat_are_label_tracks(folder: Path, form: str, encoding: str, tiers: list[str]) -> None:
    (folder / "days" / "monday.txt").write_text("what is said there")
    entries = [(0.5, 0.9, "yes"), (4.5, 4.8, "grün"), (7.0, 9.0, "noise")]
    path = praat(folder, {name: [] for name in tiers} | {tiers[-1]: entries}, form)
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    corpus = Sources([folder])
    assert [recording.name for recording in corpus] == [
        "yes/days/monday-0000200-0001200.wav", "grün/days/monday-0004150-0005150.wav",
        f"{NOISE_FOLDER}/days/monday-0007000-0009000.wav",
    ]  # fmt: skip
    assert corpus.ignored == []


def test_a_damaged_or_ambiguous_textgrid_is_refused(folder: Path) -> None:
    path = praat(folder, {"anna": [(1, 2, "yes")], "bert": [(1, 2, "no")]})
    with pytest.raises(UsageError, match=rf"{path}: .*anna, bert.* words"):
        list(Sources([folder]))
    for damaged in (path.read_text()[:300], "", "yes"):
        path.write_text(damaged)
        with pytest.raises(UsageError, match=rf"{path}: not a readable TextGrid"):
            list(Sources([folder]))
    praat(folder, {"words": [(1, 2, "a/b"), (3, 4, "_")]})
    with pytest.raises(UsageError) as caught:
        list(Sources([folder]))
    assert [line[:line.index(";")] for line in str(caught.value).splitlines()] == [
        f"{path}: at 1 s: the word 'a/b'", f"{path}: at 3 s: the word '_'",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["the words that are said\nin 3 takes\n", "", "2 apples\n"])
def test_other_text_beside_a_recording_is_no_label_track(folder: Path, text: str) -> None:
    track(folder, text)
    assert [recording.name for recording in Sources([folder])] == ["days/monday.wav"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("1.0 1.5 yes", "found '1.0 1.5 yes'"),
        ("1.0\tyes", "the time 'yes'"),
        ("x\t1.0\tyes", "the time 'x'"),
        ("2.0\t1.0\tyes", "from 2 to 1 s"),
        ("-1\t1.0\tyes", "from -1 to 1 s"),
        ("9.5\t10.5\tyes", "to 10.5 s"),
        ("3\t4\ta/b", "the word 'a/b'"),
        ("3\t3\tnoise", "a point label for noise"),
    ],
)
def test_a_damaged_track_names_file_and_line(folder: Path, line: str, says: str) -> None:
    path = track(folder, f"0.5\t1.0\tyes\n{line}\n5\t4\tno\n")
    with pytest.raises(UsageError) as caught:
        list(Sources([folder]))
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{path}:2: {says}")
    assert second.startswith(f"{path}:3: from 5 to 4 s")


def test_a_damaged_long_recording_is_left_out(folder: Path) -> None:
    track(folder, AUDACITY)
    (folder / "days" / "sunday.wav").write_bytes(b"no sound")
    (folder / "days" / "sunday.txt").write_text("1\t2\tyes\n")
    corpus = Sources([folder])
    assert len(list(corpus)) == 4
    assert any("days/sunday.wav: not readable as audio" in line for line in corpus.ignored)


@given(st.text("0123456789.,-\t\n\\ayn\u00fc ", max_size=80))
def test_any_text_gives_labels_or_a_usage_error(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.txt"
        path.write_text(text, newline="")
        with contextlib.suppress(UsageError):
            for _, (start, end) in label_track.clip_spans(label_track.read(path, LENGTH_S), LENGTH_S):
                assert 0 <= start < end <= LENGTH_S
