"""`kws spot`: events of files and pipes in all formats, figures where there are labels, and mistakes of the user."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from kws import cli
from kws.audio import codec
from kws.data import index
from tests.conftest import tone, train_here

pytestmark = pytest.mark.xdist_group("spot")
HZ = {"low": 200, "mid": 400, "high": 600}
SPOKEN = [("low", 2.0), ("high", 6.0), ("mid", 9.5), ("low", 13.0)]


@pytest.fixture(scope="module")
def run(tones: index.Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder: one epoch on three tones."""
    folder = tmp_path_factory.mktemp("run") / "tiny"
    assert train_here(folder, f"data.shards={tones.root}", "frontend.augment=none", "train.lr=0.01")[0] == 0
    return folder


def stream(seconds: float, spoken: list[tuple[str, float]], seed: int = 0) -> codec.Pcm:
    """Weak noise with tones of a second that begin at these times."""
    wave = np.random.default_rng(seed).normal(0, 3, round(seconds * 16_000))
    for word, at in spoken:
        wave[round(at * 16_000) :][:16_000] += tone(HZ[word], seed=seed)
    return wave.astype(np.int16)


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """A folder with a labelled recording for the choice of thresholds, valid/, and another, test/."""
    for seed, name in enumerate(("valid", "test")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "day.wav").write_bytes(codec.wav_bytes(stream(16, SPOKEN, seed)))
        lines = [f"{at}\t{at + 1}\t{word}\n" for word, at in SPOKEN]
        (tmp_path / name / "day.txt").write_text("".join(lines))
    return tmp_path


def spot(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    capsys.readouterr()
    code = cli.main(["spot", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_events_are_the_same_as_table_json_csv_label_track_and_from_a_pipe(
    run: Path, audio: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    day = audio / "test" / "day.wav"
    outputs = ("--csv", audio / "e.csv", "--labels")
    code, out, _ = spot(capsys, run, audio / "test", "--json", "--threshold", 0.35, *outputs)
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, {row["file"] for row in rows}) == (cli.OK, {str(day)})
    assert len(rows) >= 2
    with (audio / "e.csv").open() as file:
        assert [(row["word"], float(row["time_s"])) for row in csv.DictReader(file)] == [
            (row["word"], row["time_s"]) for row in rows
        ]
    track = [line.split("\t") for line in (audio / "test" / "day.wav.events.txt").read_text().splitlines()]
    assert [(word, float(end)) for _, end, word in track] == [(row["word"], row["time_s"]) for row in rows]
    assert all(float(end) - float(start) == pytest.approx(min(1.0, float(end))) for start, end, _ in track)
    assert f"{len(rows)} event" in spot(capsys, run, day, "--threshold", 0.35)[1]
    raw = io.BytesIO(codec.decode(day.read_bytes()).tobytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(raw)))  # type: ignore[arg-type]
    code, out, _ = spot(capsys, run, "-", "--json", "--threshold", 0.35)
    assert (code, [json.loads(line) for line in out.splitlines()]) == (cli.OK, [{**row, "file": "-"} for row in rows])


def test_thresholds_are_chosen_on_one_set_and_used_on_another(
    run: Path, audio: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    valid, test = audio / "valid", audio / "test"
    code, _, err = spot(capsys, run, test, "--at", 1)
    assert (code, "--truth" in err) == (cli.USAGE, True)
    code, out, err = spot(capsys, run, valid, "--truth", valid, "--at", 3000, "--json")
    assert code == cli.OK, err
    chosen = json.loads(out)
    assert (code, chosen["figures"]["spoken"]) == (cli.OK, 4)
    assert chosen["figures"]["false_accepts"] <= 13  # in 16 s
    code, out, _ = spot(capsys, run, test, "--truth", test, "--name", "second", "--json")
    result = json.loads(out)
    assert (code, result["threshold"], result["at_from"]) == (cli.OK, chosen["threshold"], "stored")
    assert result == json.loads((run / "spot" / "second" / "result.json").read_text())
    assert "day.wav" in result["threshold_source"]
    code, _, err = spot(capsys, run, valid, "--truth", valid)
    assert (code, "same audio" in err) == (cli.USAGE, True)
    code, out, _ = spot(capsys, run, test, "--truth", test, "--threshold", 0.5)
    assert code == cli.OK
    assert "all words" in out
    assert cli.main(["report", str(run)]) == cli.OK
    page = (run / "report.html").read_text()
    assert all(f"Continuous audio: {name}" in page for name in ("valid", "second", "test"))


def test_damaged_recordings_are_left_out_with_a_line_each(
    run: Path, audio: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = audio / "test"
    (test / "empty.wav").touch()
    whole = codec.wav_bytes(tone(300))
    (test / "cut.wav").write_bytes(whole[:-9000])
    (test / "noise.wav").write_bytes(b"no sound")
    code, out, err = spot(capsys, run, test, "--json")
    left_out = [line for line in err.splitlines() if line.startswith("left out")]
    assert (code, len(left_out)) == (cli.FAILED, 3)
    assert all(name in " ".join(left_out) for name in ("empty.wav: empty", "cut.wav: ends early", "noise.wav"))
    errors = [json.loads(line)["error"] for line in out.splitlines() if '"error"' in line]
    assert len(errors) == 3
    code, out, err = spot(capsys, run, test, "--truth", test, "--json")
    assert code == cli.FAILED
    assert sum("left out" in note for note in json.loads(out.splitlines()[0])["notes"]) == 3


def test_sound_of_8_khz_and_words_that_the_network_lacks_are_said_with_their_number(
    run: Path, audio: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = audio / "test"
    stereo = np.stack([stream(4, [("low", 1.0)])] * 2, axis=1)
    soundfile.write(test / "call.wav", stereo[::2], 8_000)
    (test / "call.txt").write_text("1.0\t2.0\tlow\n2.5\t3.0\tdog\n3.0\t3.5\tdog\n")
    code, _, err = spot(capsys, run, test, "--truth", test)
    assert code == cli.OK
    (line,) = [line for line in err.splitlines() if "8 kHz" in line]
    assert "2 channels" in line
    (line,) = [line for line in err.splitlines() if "dog" in line]
    assert "2 labels" in line


@pytest.mark.parametrize(("arguments", "says"), [
    (("nowhere.wav",), "nowhere.wav"), (("day.wav", "--truth", "nowhere"), "nowhere"),
    (("day.wav", "--preset", "nobody"), "--preset"), (("day.wav", "--hop-ms", "0"), "hop"),
    (("day.wav", "-"), "alone"), (("day.wav", "--truth", "day.txt", "--name", "a/b"), "--name"),
    (("day.wav", "--scorer", "stream"), "stream"), (("day.wav", "--threshold", "low=0.5,mid=0.5"), "high"),
])  # fmt: skip
def test_mistakes_are_one_line(
    run: Path, audio: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    paths = [audio / "test" / word if word.endswith((".wav", ".txt")) else word for word in arguments]
    code, _, err = spot(capsys, run, *paths)
    assert code == cli.USAGE
    assert says in err
    assert "Traceback" not in err
