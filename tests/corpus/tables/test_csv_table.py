"""CSV files of recordings are read in all usual forms; all mistakes are reported together, each with its line."""

from __future__ import annotations

import contextlib
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kws.audio import codec
from kws.corpus.source import NOISE_FOLDER, Sources
from kws.corpus.tables import finding
from kws.corpus.tables.clips import Clip, Clips, LeftOut
from kws.errors import UsageError
from tests.conftest import tone


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four recordings, two of one name, and a long one."""
    for number, name in enumerate(("anna/take.wav", "bert/take.wav", "c_nohash_0.wav", "grün, ja.wav")):
        path = tmp_path / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(codec.wav_bytes(tone(200 + 50 * number, 4000)))
    (tmp_path / "clips" / "long.wav").write_bytes(codec.wav_bytes(tone(440, 80000)))
    return tmp_path


def table(folder: Path, *lines: str, end: str = "\n", encoding: str = "utf-8") -> Path:
    path = folder / "clips.csv"
    path.write_bytes("".join(line + end for line in lines).encode(encoding))
    return path


def read(path: Path, left_out: list[LeftOut] | None = None) -> list[Clip]:
    """The clips of a table; rows that are left out are added to the list."""
    return list(Clips(finding.open_table(path)).read([].append if left_out is None else left_out.append))


LINES = (
    "path,word,speaker,split", "clips/anna/take.wav,yes,anna,train", "clips/c_nohash_0.wav,no,,test",
    '"clips/grün, ja.wav",ja,dora,dev',
)  # fmt: skip


def test_rows_become_recordings_with_word_speaker_and_split(folder: Path) -> None:
    corpus = Sources([table(folder, *LINES)])
    found = {recording.name: recording for recording in corpus}
    assert {name: recording.split for name, recording in found.items()} == {
        "yes/take.wav": "train",
        "no/c_nohash_0.wav": "test",
        "ja/grün, ja.wav": "valid",
    }
    assert {name: recording.speaker for name, recording in found.items()} == {
        "yes/take.wav": "anna", "no/c_nohash_0.wav": "c", "ja/grün, ja.wav": "dora",
    }  # fmt: skip
    assert len(found["yes/take.wav"].decode()) == 4000
    assert corpus.total_bytes == sum(recording.size for recording in found.values())


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize(
    ("end", "encoding"), [("\n", "utf-8"), ("\r\n", "utf-8-sig"), ("\n\n", "utf-8"), ("\r", "utf-8")]
)
def test_all_separators_line_ends_and_encodings_are_read(folder: Path, separator: str, end: str, encoding: str) -> None:
    lines = [line.replace('"', "").split(",") for line in (*LINES[:3], "clips/bert/take.wav,yes,bert,validation")]
    quoted = [separator.join(f'"{value}"' for value in [*line, "more"]) for line in lines]
    wanted = read(table(folder, *LINES[:3], "clips/bert/take.wav,yes,bert,validation"))
    found = read(table(folder, quoted[0].upper(), *quoted[1:], end=end, encoding=encoding))
    assert found == wanted


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        *(("train", "train"), ("Training", "train"), ("valid", "valid"), ("validation", "valid")),
        *(("val", "valid"), ("DEV", "valid"), ("test", "test"), ("testing", "test")),
    ],
)
def test_usual_names_of_the_splits_are_read(folder: Path, written: str, meant: str) -> None:
    assert read(table(folder, "word,split,path", f"a,{written},clips/long.wav"))[0].split == meant


def test_files_of_the_same_name_are_distinguished_by_their_folders(folder: Path) -> None:
    lines = [f"clips/{name},yes" for name in ("anna/take.wav", "bert/take.wav", "c_nohash_0.wav")]
    wanted = {"yes/anna/take.wav", "yes/bert/take.wav", "yes/c_nohash_0.wav"}
    for seed in range(4):
        random.Random(seed).shuffle(lines)
        assert {recording.name for recording in Sources([table(folder, "path,word", *lines)])} == wanted
    assert {r.name for r in Sources([table(folder, "path,word", lines[0].replace("yes", "no"), *lines[1:])])} != wanted


def test_excerpts_of_a_recording_have_one_speaker(folder: Path) -> None:
    path = table(folder, "path;word;start;end", "clips/long.wav;yes;0,5;1,25", "clips/long.wav;noise;2;4.5")
    yes, noise = Sources([path])
    assert (yes.name, noise.name) == ("yes/long-0000500-0001250.wav", f"{NOISE_FOLDER}/long-0002000-0004500.wav")
    assert {yes.speaker, noise.speaker} == {"long"}
    whole = codec.decode((folder / "clips" / "long.wav").read_bytes())
    assert yes.decode().tolist() == whole[8000:20000].tolist()
    assert noise.decode().tolist() == whole[32000:72000].tolist()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (",yes,,,,", "no path"),
        ("clips/long.wav,,,,,", "no word"),
        ("clips/long.wav,a/b,,,,", "the word 'a/b'"),
        ("clips/long.wav,_x,,,,", "the word '_x'"),
        ("clips/long.wav,yes,,trial,,", "the split 'trial'; wanted train, valid or test"),
        ("clips/long.wav,yes,,,1,", "only one of start and end"),
        ("clips/long.wav,yes,,,x,2", "the time 'x'"),
        ("clips/long.wav,yes,,,nan,2", "the time 'nan'"),
        ("clips/long.wav,yes,,,2,1", "from 2 to 1 s"),
        ("clips/long.wav,yes,,,1,2,,x", "8 values, 6 columns"),
        ('clips/long.wav,"yes,,,1,2', "unexpected end of data"),
        ("clips/anna/take.wav,yes,,,,", "take.wav is already in line 2;"),
        ("clips/anna/take.wav,no,,,,", "take.wav is already in line 2, as 'yes'"),
    ],
)
def test_a_mistake_names_its_line(folder: Path, line: str, says: str) -> None:
    path = table(folder, "path,word,speaker,split,start,end", "clips/anna/take.wav,yes,,,,", line)
    with pytest.raises(UsageError, match=rf"^\S+/clips.csv:3: {says}"):
        read(path)


@pytest.mark.parametrize(
    ("written", "reason"),
    [("clips/gone.wav", "no such file"), (f"{'a' * 400}.wav", "no such file"), ("clips.csv", "not a supported format")],
)
def test_a_row_without_its_audio_is_left_out_as_a_fault(folder: Path, written: str, reason: str) -> None:
    left_out: list[LeftOut] = []
    path = table(folder, "path,word", "clips/anna/take.wav,yes", f"{written},yes")
    assert [clip.name for clip in read(path, left_out)] == ["yes/take.wav"]
    assert [(row.where, row.audio, row.is_fault) for row in left_out] == [(f"{path}:3", written, True)]
    assert reason in left_out[0].reason


def test_a_table_of_which_no_file_is_there_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"clips.csv:2: gone/take_of_no_folder_1.wav: no such file"):
        read(table(folder, "path,word", "gone/take_of_no_folder_1.wav,yes", "gone/take_of_no_folder_2.wav,no"))


def test_at_most_ten_mistakes_are_reported_together(folder: Path) -> None:
    path = table(folder, "path,word", *(f"clips/{number}.wav," for number in range(30)))
    with pytest.raises(UsageError) as caught:
        read(path)
    lines = str(caught.value).splitlines()
    assert [line.partition(": ")[0] for line in lines[:10]] == [f"{path}:{number}" for number in range(2, 12)]
    assert lines[10:] == ["and 20 more mistakes"]


def test_a_split_is_needed_in_every_line_or_in_none_except_noise(folder: Path) -> None:
    lines = ["path,word,split", "clips/anna/take.wav,yes,test", "clips/long.wav,noise,", "clips/bert/take.wav,yes,"]
    assert len(read(table(folder, *lines[:3]))) == 2
    with pytest.raises(UsageError, match=r"clips.csv:4: no split"):
        read(table(folder, *lines))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", r"1: .*path and word"),
        (b"clips/long.wav,yes\n", r"1: found 'clips/long.wav,yes'; .*path and word"),
        (b"x" * 200_000, r"1: found 'x+'"),
        (b"path,word,word\nx,y,z\n", r"1: column word appears twice"),
        (b"path,word\n\xfcbel.wav,yes\n", r"2: .*UTF-8"),
    ],
)
def test_a_file_that_is_no_such_csv_is_refused(folder: Path, data: bytes, says: str) -> None:
    (folder / "clips.csv").write_bytes(data)
    with pytest.raises(UsageError, match=rf"clips.csv:{says}"):
        read(folder / "clips.csv")


def test_a_csv_without_clips_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"clips.csv: no clips"):
        list(Sources([table(folder, "path,word")]))


@given(st.one_of(st.binary(max_size=80), st.text('path,word;"\n\tstar0.5x/', max_size=80).map(str.encode)))
def test_any_bytes_give_rows_or_a_usage_error(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clips.csv"
        for whole in (data, b"path,word,start,end\n" + data):
            path.write_bytes(whole)
            with contextlib.suppress(UsageError):
                assert read(path) == []
