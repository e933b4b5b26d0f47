"""A user's own recordings: files of any rate packed into shards, a trained network, and its predictions for them."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

from kws import cli
from kws.audio import codec
from kws.corpus.source import NOISE_FOLDER, Sources, split_by_hash
from tests.conftest import REAL, require, tone, train_here

MINI = REAL / "speech_commands_mini.tar.gz"
Capture = pytest.CaptureFixture[str]


def write(path: Path, samples: codec.Pcm, rate: int, channels: int = 1) -> None:
    """Writes the samples at another rate and half as loud; of several channels the last is the loudest."""
    wave = soxr.resample(samples / 32768, codec.SAMPLE_RATE_HZ, rate)
    path.parent.mkdir(parents=True, exist_ok=True)
    loudness = np.linspace(0.3, 0.7, channels) if channels > 1 else 0.5
    soundfile.write(path, wave[:, None] * loudness, rate, subtype="PCM_16")


def samples_in(shards: Path) -> Iterator[tuple[str, dict[str, Any], bytes]]:
    """Split, label and audio of every clip, read with tarfile only."""
    for path in sorted(shards.rglob("*.tar")):
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        for name in members:
            if name.endswith(".json"):
                yield path.parent.name, json.loads(members[name]), members[name[:-5] + ".wav"]


def pack(*arguments: object) -> int:
    return cli.main(["pack", *map(str, arguments)])


def train(folder: Path, epochs: int) -> Path:
    settings = (f"data.shards={folder / 'shards'}", f"train.epochs={epochs}", "train.global_batch=16", "train.lr=0.01")
    code, output = train_here(folder / "run", *settings)
    assert code == 0, output
    return folder / "run"


def predictions(capsys: Capture, run: Path, *paths: Path) -> dict[Path, dict[str, Any]]:
    """The prediction for each file."""
    capsys.readouterr()
    assert cli.main(["predict", str(run), *map(str, paths), "--json", "--top", "99"]) == cli.OK
    return {Path(row["path"]): row for row in map(json.loads, capsys.readouterr().out.splitlines())}


@pytest.mark.slow
def test_a_flat_folder_of_8_khz_digits_named_by_word_and_speaker(tmp_path: Path, capsys: Capture) -> None:
    speakers = {"george": "train", "nicolas": "train", "theo": "train", "jackson": "train"}
    speakers |= {name: split_by_hash(name) for name in ("lucas", "yweweler", "dora", "emil")}
    for number, speaker in enumerate(speakers):
        for digit in range(5):
            for take in range(3):
                pcm = tone(250 * 1.5**digit * (1 + 0.01 * number), 6400 + 800 * take, seed=100 * number + take)
                write(tmp_path / "recordings" / f"{digit}_{speaker}_{take}.wav", pcm, 8000)
    (tmp_path / "recordings" / "test-of-the-microphone.wav").write_bytes(codec.wav_bytes(tone(99)))
    code = pack(tmp_path / "recordings", tmp_path / "shards", "--names", "{word}_{speaker}_{}")
    assert code == cli.FAILED, "a file was left out"
    assert "test-of-the-microphone.wav" in capsys.readouterr().err
    found = list(samples_in(tmp_path / "shards"))
    assert len(found) == 8 * 5 * 3
    assert all(split_by_hash(label["speaker"]) == split for split, label, _ in found)
    assert {label["word"] for _, label, _ in found} == set("01234")

    (tmp_path / "recordings" / "test-of-the-microphone.wav").unlink()
    run = train(tmp_path, epochs=12)
    for _, label, audio in found:
        clip = tmp_path / "clips" / Path(label["source"]).name
        clip.parent.mkdir(exist_ok=True)
        clip.write_bytes(audio)
    rows = predictions(capsys, run, tmp_path / "recordings", tmp_path / "clips")
    assert len(rows) == 2 * len(found)
    files = [path for path in rows if path.parent.name == "recordings"]
    right = sum(rows[path]["words"][0]["word"] == path.name[0] for path in files)
    assert right > len(files) * 0.75, f"{right} of {len(files)}: five tones are easy to tell apart"
    for path in files:  # the file and its packed clip are decoded alike
        of_file, of_clip = (
            {w["word"]: w["probability"] for w in rows[p]["words"]} for p in (path, tmp_path / "clips" / path.name)
        )
        assert of_file == pytest.approx(of_clip, abs=1e-5)


@pytest.mark.slow
def test_a_folder_of_44_khz_stereo_of_real_speech(tmp_path: Path, capsys: Capture) -> None:
    require("real", MINI.exists(), f"the real clips are not at {REAL} (set KWS_REAL_DATA)")
    words = {"cat", "right"}
    real = [recording for recording in Sources([MINI]) if recording.word in words]
    for recording in real:
        write(tmp_path / "recordings" / recording.name, recording.decode(), 44100, channels=2)
    assert pack(tmp_path / "recordings", tmp_path / "shards") == cli.OK
    found = {label["source"]: (split, codec.decode(audio)) for split, label, audio in samples_in(tmp_path / "shards")}
    assert set(found) == {recording.name for recording in real}
    for recording in real:
        split, pcm = found[recording.name]
        was = recording.decode()
        assert split == split_by_hash(recording.speaker)
        assert abs(len(pcm) - len(was)) <= 1
        # Resampling to 44.1 kHz and back loses what is near 8 kHz, and 16 bits lose half a step near 0 Hz.
        wanted = spectrum(was)[1:3500] / 2
        assert spectrum(pcm)[1:3500] == pytest.approx(wanted, rel=0.05, abs=wanted.max() / 100)

    run = train(tmp_path, epochs=1)
    rows = predictions(capsys, run, tmp_path / "recordings")
    assert len(rows) == len(real)
    assert all(row["truth"] == path.parent.name for path, row in rows.items())


def spectrum(pcm: codec.Pcm) -> np.ndarray:
    """Magnitude spectrum up to 8 kHz, 1 Hz per bin."""
    return np.abs(np.fft.rfft(np.resize(pcm[:15000], 15000), 16000))


def test_a_long_recording_with_a_label_track_is_packed_as_its_clips(tmp_path: Path) -> None:
    pitches = {"low": 200, "mid": 600, "high": 1800}
    for day, speaker in enumerate(("monday", "tuesday", "dora_nohash_0", "anna_nohash_0")):
        whole, lines = tone(50, 30 * 16000, level=0.0, seed=day), []
        for number in range(12):
            word, at = list(pitches)[number % 3], 1.0 + 2.25 * number
            sound = tone(pitches[word], 4800, seed=number + 100 * day)
            whole[round(at * 16000) :][:4800] = sound
            lines.append(f"{at:.6f}\t{at + 0.3:.6f}\t{word}\n\\\t100.000000\t2000.000000\n")
        lines.append("28.500000\t29.900000\tnoise\n")
        write(tmp_path / "days" / f"{speaker}.flac", whole, 44100, channels=2)
        (tmp_path / "days" / f"{speaker}.txt").write_text("".join(lines))
    assert pack(tmp_path / "days", tmp_path / "shards") == cli.OK
    found = list(samples_in(tmp_path / "shards"))
    assert len(found) == 4 * 13
    split_of = dict[str, str]()
    for split, label, audio in found:
        pcm = codec.decode(audio)
        if label["word"] == NOISE_FOLDER:
            assert (split, len(pcm)) == ("noise", 22400)
            continue
        assert split_of.setdefault(label["speaker"], split) == split
        assert len(pcm) == 16000
        assert abs(int(spectrum(pcm).argmax()) - pitches[label["word"]]) <= 2
        loud = np.flatnonzero(np.abs(pcm.astype(int)) > 3000)
        assert abs((loud[0] + loud[-1]) / 2 - 8000) < 100, "the word is in the middle"
    assert split_of.keys() == {"monday", "tuesday", "dora", "anna"}
    assert set(split_of.values()) == {"train", "valid", "test"}
