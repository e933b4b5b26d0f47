"""Predictions of audio files: the part of long ones, agreement with evaluation, formats, and the command."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch

import kws
from kws import cli
from kws.audio import codec
from kws.audio.audio_files import SkippedFile
from kws.data import index
from kws.data.reader import Reader
from kws.distributed.ranks import Ranks
from kws.errors import UsageError
from kws.evaluation import evaluate, predict
from kws.evaluation.evaluate import RunEvaluation
from kws.evaluation.predict import Prediction, PredictionCounts, Recognizer

pytestmark = pytest.mark.xdist_group("tones_run")  # the shared fixtures are made once


@pytest.fixture(scope="module")
def run(tones_run: Path) -> Path:
    return tones_run


@pytest.fixture(scope="module")
def recognizer(run: Path) -> Recognizer:
    return kws.load(run)


def clip(tones: index.Index, number: int = 0) -> codec.Pcm:
    return Reader(tones, "test").read(number)


def write(path: Path, pcm: codec.Pcm) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(codec.wav_bytes(pcm))
    return path


# --- a trained network ----------------------------------------------------------------------------------------


def test_a_recognizer_gives_every_word_once_best_first(recognizer: Recognizer, tones: index.Index) -> None:
    words = recognizer(clip(tones))
    assert sorted(word for word, _ in words) == sorted(tones.words) == list(recognizer.classes)
    chances = [p for _, p in words]
    assert chances == sorted(chances, reverse=True)
    assert sum(chances) == pytest.approx(1.0, abs=1e-5)


def test_floats_and_another_rate_are_the_same_sound(recognizer: Recognizer, tones: index.Index) -> None:
    pcm = clip(tones)
    wanted = dict(recognizer(pcm))
    assert dict(recognizer(pcm / 32768)) == wanted
    assert dict(recognizer((pcm / 32768).astype(np.float32), 16000)) == wanted
    assert dict(recognizer(list(pcm / 32768))) == wanted
    doubled = np.repeat(pcm / 32768, 2)
    assert dict(recognizer(doubled, 32000)) == pytest.approx(wanted, abs=0.1)


@pytest.mark.parametrize(
    ("wave", "rate", "says"),
    [
        (np.zeros(0, np.int16), 16000, r"shape \(0,\)"),
        (np.zeros((100, 2), np.int16), 16000, "2 channels"),
        (np.zeros((2, 3, 100), np.int16), 16000, "for a batch"),
        (np.zeros(100, np.int32), 16000, "type int32, wanted int16, or float"),
        (np.full(100, np.nan), 16000, "not finite"),
        (np.zeros(100), 0, "0 Hz"),
    ],
)
def test_an_array_that_is_no_waveform_is_refused(
    recognizer: Recognizer, wave: np.ndarray, rate: int, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        recognizer(wave, rate)


def test_a_batch_gives_the_answers_of_its_waves(recognizer: Recognizer, tones: index.Index) -> None:
    waves = [clip(tones, number)[:16000] for number in range(3)]
    wanted = [dict(recognizer(wave)) for wave in waves]  # type: ignore[arg-type]
    shorter = [waves[0], waves[1][:9000] / 32768, waves[2]]
    for found in (recognizer(np.stack(waves)), recognizer(waves)):
        assert [dict(row) for row in found] == [pytest.approx(row, abs=1e-5) for row in wanted]  # type: ignore[arg-type]
    assert len(recognizer(shorter)) == 3
    rows = recognizer.probabilities(np.stack(waves))
    assert rows.shape == (3, len(recognizer.classes))
    assert rows[1].tolist() == pytest.approx([wanted[1][word] for word in recognizer.classes], abs=1e-5)
    assert recognizer.probabilities(waves[0]).shape == (1, len(recognizer.classes))
    assert recognizer(np.zeros((0, 16000))) == []


def test_prediction_and_evaluation_agree(run: Path, recognizer: Recognizer, tones: index.Index) -> None:
    alone = Ranks(0, 1, torch.device("cpu"), 1, None)
    summary = evaluate.evaluate_run(RunEvaluation(run=run), alone)
    saved = np.load(run / "eval" / "test.clips.npz")
    assert summary["n"] == len(tones.split("test")) == len(saved["clips"])
    assert json.loads((run / "eval" / "test.json").read_text())["accuracy"] == summary["accuracy"]
    losses = -np.log(saved["probabilities"][np.arange(summary["n"]), saved["truth"]])
    assert summary["loss"] == pytest.approx(losses.mean(), abs=1e-4)
    for number, chances in zip(saved["clips"], saved["probabilities"], strict=True):
        found = dict(recognizer(clip(tones, int(number))))
        assert [found[word] for word in recognizer.classes] == pytest.approx(chances.tolist(), abs=1e-5)


def test_a_moved_corpus_is_accepted_and_another_is_refused(run: Path, tones: index.Index, tmp_path: Path) -> None:
    alone = Ranks(0, 1, torch.device("cpu"), 1, None)
    moved, other = tmp_path / "moved", tmp_path / "other"
    moved.symlink_to(tones.root)
    assert evaluate.evaluate_run(RunEvaluation(run=run, split="valid", shards=moved), alone)["split"] == "valid"
    shutil.copytree(tones.root, other)
    head = json.loads((other / "index" / "index.json").read_text())
    (other / "index" / "index.json").write_text(json.dumps({**head, "content_id": "0" * 32}))
    with pytest.raises(UsageError, match=r"corpus 0+.*--shards"):
        evaluate.evaluate_run(RunEvaluation(run=run, shards=other), alone)


@pytest.mark.parametrize(("split", "says"), [("noise", "no words to recognise"), ("tset", "splits with clips: train")])
def test_a_split_without_words_is_refused(run: Path, split: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        evaluate.evaluate_run(RunEvaluation(run=run, split=split), Ranks(0, 1, torch.device("cpu"), 1, None))


def test_files_in_several_batches_keep_their_order_and_probabilities(
    recognizer: Recognizer, tones: index.Index, tmp_path: Path
) -> None:
    clips = [clip(tones, number % len(tones.split("test"))) for number in range(predict.BATCH + 3)]
    paths = [write(tmp_path / f"{number:03}.wav", pcm) for number, pcm in enumerate(clips)]
    skipped: list[SkippedFile] = []
    found = list(recognizer.files(paths, skipped))
    assert [item.path for item in found] == paths
    assert not skipped
    for item, pcm in list(zip(found, clips, strict=True))[:: predict.BATCH]:
        assert dict(item.words) == pytest.approx(dict(recognizer(pcm)), abs=1e-5)


def test_files_that_cannot_be_read_are_left_out_with_the_reason(recognizer: Recognizer, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("hello")
    (tmp_path / "folder.wav").mkdir()
    skipped: list[SkippedFile] = []
    assert not list(recognizer.files([tmp_path / "text.wav", tmp_path / "folder.wav", tmp_path / "gone.wav"], skipped))
    assert [item.reason.partition(" (")[0] for item in skipped] == [
        "not readable as audio",
        "Is a directory",
        "No such file or directory",
    ]


def test_of_a_long_recording_the_loudest_part_is_used(
    recognizer: Recognizer, tones: index.Index, tmp_path: Path
) -> None:
    long = np.concatenate([np.zeros(8000, np.int16), clip(tones), np.zeros(21234, np.int16)])
    (found,) = recognizer.files([write(tmp_path / "long.wav", long)], [])
    assert found.start_s == pytest.approx(0.5, abs=0.03)
    start = round(found.start_s * 16000)
    assert dict(found.words) == pytest.approx(dict(recognizer(long[start : start + 16000])), abs=1e-5)
    assert dict(recognizer(long)) == pytest.approx(dict(found.words), abs=1e-5)
    assert found.note == f"longer than 1 s: used from {found.start_s:.1f} s"


def test_mixed_lengths_keep_their_order_and_probabilities(
    recognizer: Recognizer, tones: index.Index, tmp_path: Path
) -> None:
    lengths = [1.0, 3.7, 0.4, 9.0, 1.05, 1.2, 0.1, 2.0]
    pcms = [np.tile(clip(tones, number), 9)[: round(16000 * s)] for number, s in enumerate(lengths)]
    paths = [write(tmp_path / f"{number}.wav", pcm) for number, pcm in enumerate(pcms)]
    (tmp_path / "3x.wav").write_text("no sound")
    skipped: list[SkippedFile] = []
    found = list(recognizer.files([*paths[:4], tmp_path / "3x.wav", *paths[4:]], skipped))
    assert [item.path for item in found] == paths
    assert [item.path.name for item in skipped] == ["3x.wav"]
    assert [item.note is not None for item in found] == [s > 1.0 for s in lengths]
    for item, pcm in zip(found, pcms, strict=True):
        assert dict(item.words) == pytest.approx(dict(recognizer(pcm)), abs=1e-5)


def test_closing_the_iterator_stops_reading_files(
    recognizer: Recognizer, tones: index.Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = write(tmp_path / "a.wav", clip(tones)), []
    monkeypatch.setattr(codec, "decode", lambda data: read.append(data) or clip(tones))
    files = recognizer.files([path] * 5000, [])
    next(files)
    files.close()
    assert 0 < len(read) < 2000


@pytest.mark.parametrize(
    ("kind", "subtype", "rate", "channels"),
    [("WAV", "PCM_24", 48000, 2), ("WAV", "FLOAT", 32000, 1), ("FLAC", "PCM_16", 44100, 1), ("OGG", "VORBIS", 22050, 2),
     ("OGG", "OPUS", 48000, 1), ("MP3", "MPEG_LAYER_III", 44100, 1), ("AIFF", "PCM_U8", 16000, 1)],
)  # fmt: skip
def test_every_format_and_rate_gives_the_same_word(
    recognizer: Recognizer, tones: index.Index, tmp_path: Path, kind: str, subtype: str, rate: int, channels: int
) -> None:
    wave = soxr.resample(clip(tones) / 32768, 16000, rate)
    soundfile.write(tmp_path / "sound", np.tile(wave[:, None], channels), rate, format=kind, subtype=subtype)
    skipped: list[SkippedFile] = []
    (found,) = recognizer.files([tmp_path / "sound"], skipped)
    assert found.words[0][0] == recognizer(clip(tones))[0][0]


# --- counts ---------------------------------------------------------------------------------------------------


def prediction(number: int, truth: str | None, word: str) -> Prediction:
    return Prediction(Path(str(number)), ((word, 0.5),), truth, 0.0, None)


def test_counts_include_only_known_truths_and_examples_prefer_mistakes() -> None:
    counts = PredictionCounts(3)
    for number, (truth, word) in enumerate([("a", "a"), (None, "b"), ("a", "b"), ("a", "a"), ("b", "a")]):
        counts.add(prediction(number, truth, word))
    assert (counts.files, counts.known, counts.right) == (5, 4, 2)
    assert [item.path.name for item in counts.examples()] == ["0", "2", "4"]
    assert counts.line().startswith("2 of 4 ")
    assert "15.00% to 85.00%" in counts.line()


# --- the command ----------------------------------------------------------------------------------------------


@pytest.fixture
def recordings(tones: index.Index, tmp_path: Path) -> Path:
    """Folders of known words and another one, a file without audio, and names that are hostile to HTML or terminals."""
    write(tmp_path / "low" / "a.wav", clip(tones, 0))
    write(tmp_path / "high" / "b.wav", clip(tones, 1))
    write(tmp_path / "mine" / "<img src=x onerror=alert(1)>.wav", clip(tones, 2))
    write(tmp_path / "mine" / "long.wav", np.tile(clip(tones, 2), 3))
    write(tmp_path / "mine" / os.fsdecode(b"\xff\xfe.wav"), clip(tones, 2))
    (tmp_path / "mine" / "broken.wav").write_bytes(b"RIFF")
    return tmp_path


def test_predict_prints_the_truth_of_known_folders_and_lists_unreadable_files(
    run: Path, recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["predict", str(run), str(recordings)]) == cli.FAILED
    out, err = capsys.readouterr()
    by_name = {line.partition("  ")[0].rpartition("/")[2]: line for line in out.splitlines()}
    assert all(
        by_name[name].endswith(("  right", f"  wrong, is {word}"))
        for name, word in (("a.wav", "low"), ("b.wav", "high"))
    )
    assert by_name["<img src=x onerror=alert(1)>.wav"].endswith("%")
    assert "longer than 1 s" in by_name["long.wav"]
    assert "\\udcff\\udcfe.wav" in by_name
    assert " of 2 files in folders of known words" in out
    assert f"{recordings}/mine/broken.wav" in err


def test_predict_as_json_is_an_object_a_line(run: Path, recordings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", str(run), str(recordings / "low"), "--json", "--top", "2"]) == cli.OK
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (row["path"], row["truth"], row["note"], len(row["words"])) == (f"{recordings}/low/a.wav", "low", None, 2)
    assert row["start_s"] == 0.0


def test_predict_as_json_lists_unreadable_files_and_draws_a_grid(
    run: Path, recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = recordings / "grid.png"
    assert cli.main(["predict", str(run), str(recordings), "--json", "--grid", str(picture)]) == cli.FAILED
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 6
    assert rows[-1]["path"] == f"{recordings}/mine/broken.wav"
    assert rows[-1]["error"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_grid_without_readable_files_is_refused(
    run: Path, recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = str(recordings / "mine" / "broken.wav")
    assert cli.main(["predict", str(run), broken, "--grid", str(recordings / "grid.png")]) == cli.USAGE
    assert "--grid" in capsys.readouterr().err


def test_an_unknown_checkpoint_is_refused_with_the_existing_ones(
    run: Path, recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["predict", str(run), str(recordings / "low"), "--checkpoint", "best"]) == cli.USAGE
    assert "best_accuracy, best_loss, last, step-" in capsys.readouterr().err


def test_report_of_a_run_is_a_page(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(run)]) == cli.OK
    assert "report.html" in capsys.readouterr().out
    assert (run / "report.html").stat().st_size > 1000
