"""Background sound from archives in the official layouts: which files are used, and their transcripts."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from kws.errors import UsageError
from kws.streaming.mixing import background
from kws.streaming.mixing.background import Source
from kws.streaming.mixing.known_layouts import LAYOUTS, layout_of, split_words
from tests.streaming.mixing import official_archives

STOP = (frozenset({"stop"}),)


def opened(path: Path, targets: Sequence[frozenset[str]] = STOP, unpacked: Path | None = None) -> Source:
    return background.open_source(
        path, background.Rules(targets), unpacked or path.parent / "unpacked", lambda *done: None
    )


def spans(source: Source) -> dict[str, list[tuple[float, float]]]:
    """Name of each recording -> its parts, in seconds."""
    found: dict[str, list[tuple[float, float]]] = {Path(name).name: [] for name in source.names}
    for recording, start, samples in source.parts.tolist():
        found[Path(source.names[recording]).name].append((start / 16_000, (start + samples) / 16_000))
    return found


def test_of_dipco_one_channel_is_used_without_the_utterances_of_the_words(tmp_path: Path) -> None:
    source = opened(official_archives.dipco(tmp_path / "DipCo.tgz"))
    assert spans(source) == {"S02_U01.CH1.wav": [(0, 3.5), (6.5, 12)], "S01_U01.CH1.wav": [(0, 12)]}
    assert source.with_words_s == pytest.approx(3.0)
    assert source.without_transcript == 0
    written = {path.name for path in (tmp_path / "unpacked" / "DipCo").rglob("*") if path.is_file()}
    assert {"S01.json", "LICENSE.txt"} < written
    assert not any("CH2" in name or "P05" in name for name in written)


def test_of_librispeech_the_utterances_with_the_words_are_left_out(tmp_path: Path) -> None:
    source = opened(official_archives.librispeech(tmp_path / "test-clean.tar.gz"))
    assert len(source.recordings) == 6
    assert [name for name, found in spans(source).items() if not found] == ["1221-135766-0001.flac"]
    assert source.licences == {"LibriSpeech": "CC BY 4.0"}
    assert not source.without_transcript


def test_of_musan_all_is_used_or_the_part_that_the_path_names(tmp_path: Path) -> None:
    archive = official_archives.musan(tmp_path / "musan.tar.gz")
    source = opened(archive)
    assert len(source.recordings) == source.without_transcript == source.corpora["MUSAN"] == 6
    assert any("no transcript" in note for note in source.notes())
    noise = opened(archive / "musan" / "noise", unpacked=tmp_path / "unpacked")
    assert sorted(spans(noise)) == ["noise-free-sound-0000.wav", "noise-sound-bible-0001.wav"]


def test_of_demand_the_first_channel_is_used_also_of_a_folder_of_its_archives(tmp_path: Path) -> None:
    (tmp_path / "demand").mkdir()
    for place in ("DKITCHEN", "PRESTO"):
        official_archives.demand(tmp_path / "demand" / f"{place}_16k.zip", place)
    source = opened(tmp_path / "demand")
    assert [Path(*path.parts[-2:]).as_posix() for path in source.recordings] == ["DKITCHEN/ch01.wav", "PRESTO/ch01.wav"]
    assert source.hours == pytest.approx(6 / 3600)


def test_a_folder_that_somebody_unpacked_gives_the_same(tmp_path: Path) -> None:
    with tarfile.open(official_archives.dipco(tmp_path / "DipCo.tgz")) as tar:
        tar.extractall(tmp_path / "mine", filter="data")
    source = opened(tmp_path / "mine" / "Dipco")
    assert spans(source)["S02_U01.CH1.wav"] == [(0, 3.5), (6.5, 12)]
    assert source.other_channels == 14
    assert any("channels" in note for note in source.notes())


def test_an_archive_is_unpacked_once_and_another_of_its_name_is_refused(tmp_path: Path) -> None:
    archive = official_archives.musan(tmp_path / "musan.tar.gz")
    (tmp_path / "unpacked" / "musan.partial" / "left").mkdir(parents=True)  # of a process that was killed
    opened(archive)
    file = next((tmp_path / "unpacked").rglob("music-hd-0001.wav"))
    written = file.stat().st_mtime_ns
    assert len(opened(archive).recordings) == 6
    assert file.stat().st_mtime_ns == written
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match="--unpacked"):
        opened(official_archives.dipco(tmp_path / "other" / "musan.tar.gz"), unpacked=tmp_path / "unpacked")


def test_damaged_archives_and_those_without_sound_are_refused(tmp_path: Path) -> None:
    whole = official_archives.musan(tmp_path / "whole.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    official_archives.write_tar(tmp_path / "text.tar.gz", {"a/README": b"x"})
    official_archives.write_tar(tmp_path / "up.tar.gz", {"../../a.wav": b"RIFF"})
    for name in ("cut", "text", "up"):
        with pytest.raises(UsageError, match=f"{name}.tar.gz"):
            opened(tmp_path / f"{name}.tar.gz")
        assert not (tmp_path / "unpacked" / name).exists()


def test_a_damaged_recording_is_left_out_and_named(sounds: Path) -> None:
    (sounds / "broken.flac").write_bytes((sounds / "long.flac").read_bytes()[:30])
    source = opened(sounds)
    assert len(source.recordings) == 3
    assert [fault.partition(":")[0] for fault in source.faults] == ["broken.flac"]


def test_shares_of_the_time_are_disjoint_and_together_all(tmp_path: Path) -> None:
    archive = official_archives.librispeech(tmp_path / "test-clean.tar.gz")

    def found(low: float, high: float) -> set[tuple[int, ...]]:
        rules = background.Rules((), share=(low, high))
        source = background.open_source(archive, rules, tmp_path / "unpacked", lambda *done: None)
        return set(map(tuple, source.parts.tolist()))

    parts = [found(0, 0.3), found(0.3, 0.9), found(0.9, 1)]
    assert [len(part) for part in parts] == [2, 3, 1]
    assert set.union(*parts) == found(0, 1)
    with pytest.raises(UsageError, match="--background"):
        found(0.3, 0.3)


def test_a_label_track_beside_a_recording_is_its_transcript(sounds: Path) -> None:
    (sounds / "long.txt").write_text("10\t11\tgo\n20.5\t21\tstop\n")
    assert spans(opened(sounds))["long.flac"] == [(0, 20), (21.5, 75)]


def test_a_label_of_two_words_is_said_where_both_are(tmp_path: Path) -> None:
    archive = official_archives.librispeech(tmp_path / "test-clean.tar.gz")
    assert len(opened(archive, (frozenset({"they", "stop"}),)).parts) == 5
    assert len(opened(archive, (frozenset({"they", "go"}),)).parts) == 6


def test_words_of_a_text_are_compared_without_case_and_marks() -> None:
    assert split_words("Stop, it's 'Über' [noise]!") == {"stop", "it's", "über", "noise"}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("Dipco/audio/eval/S08_U05.CH7.wav", "DiPCo"),
        ("LibriSpeech/test-clean/1089/134686/1089-134686-0000.flac", "LibriSpeech"),
        ("musan/music/jamendo/music-jamendo-0100.wav", "MUSAN"),
        ("TMETRO/ch16.wav", "DEMAND"),
        ("my/own/kitchen.wav", None),
    ],
)
def test_the_layout_is_known_by_the_path(name: str, wanted: str | None) -> None:
    layout = layout_of(name)
    assert (layout and layout.name) == wanted
    assert all(known.licence and known.address.startswith("https://") for known in LAYOUTS)


def test_an_archive_of_recordings_with_label_tracks_gives_the_same(sounds: Path, tmp_path: Path) -> None:
    (sounds / "long.txt").write_text("10\t11\tgo\n20.5\t21\tstop\n")
    archive = tmp_path / "archive" / "sounds.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(sounds, "sounds")
    assert spans(opened(archive)) == spans(opened(sounds))
    assert spans(opened(archive))["long.flac"] == [(0, 20), (21.5, 75)]
